//! Small images made by hand, through a phantom-like file, to known tensors.

use std::path::Path;

use dicom_core::{DataElement, PrimitiveValue, Tag, VR, dicom_value};
use dicom_dictionary_std::uids;
use dicom_object::FileMetaTableBuilder;
use lightbox_models::manifest::{Interpolation, Monochrome1, Normalise, Scope};

use super::*;
use crate::infer::image::Limits;

fn input(intensity: Intensity) -> Input {
    Input {
        tensor: "x".into(),
        layout: Axes::Nchw,
        channels: 1,
        scope: Scope::Image,
        resize: Resize::Native {},
        interpolation: Interpolation::Bilinear,
        intensity,
        normalise: Normalise::default(),
        monochrome1: Monochrome1::Invert,
    }
}

/// A one-row image of 8 stored bits (or, signed, of 16), with more elements put on top.
fn image(stored: &[i16], signed: bool, elements: &[(Tag, VR, PrimitiveValue)]) -> Image {
    let mut object = InMemDicomObject::new_empty();
    let text = |value: &str| PrimitiveValue::from(value);
    let number = |value: u16| dicom_value!(U16, [value]);
    let bits = if signed { 16 } else { 8 };
    let words: Vec<u16> = stored.iter().map(|value| value.cast_unsigned()).collect();
    let base = [
        (tags::SOP_CLASS_UID, VR::UI, text(uids::CT_IMAGE_STORAGE)),
        (tags::SOP_INSTANCE_UID, VR::UI, text("1.2.3")),
        (tags::SAMPLES_PER_PIXEL, VR::US, number(1)),
        (tags::PHOTOMETRIC_INTERPRETATION, VR::CS, text("MONOCHROME2")),
        (tags::ROWS, VR::US, number(1)),
        (tags::COLUMNS, VR::US, number(stored.len() as u16)),
        (tags::BITS_ALLOCATED, VR::US, number(16)),
        (tags::BITS_STORED, VR::US, number(bits)),
        (tags::HIGH_BIT, VR::US, number(bits - 1)),
        (tags::PIXEL_REPRESENTATION, VR::US, number(u16::from(signed))),
        (tags::PIXEL_DATA, VR::OW, PrimitiveValue::U16(words.into())),
    ];
    for (tag, vr, value) in base.iter().chain(elements) {
        object.put(DataElement::new(*tag, *vr, value.clone()));
    }
    let meta = FileMetaTableBuilder::new().transfer_syntax(uids::EXPLICIT_VR_LITTLE_ENDIAN);
    let file = tempfile::NamedTempFile::new().unwrap();
    object.with_meta(meta).unwrap().write_to_file(file.path()).unwrap();
    Image::open(file.path(), &Limits::default()).unwrap()
}

fn values(image: &Image, input: &Input) -> Vec<f32> {
    let frame = image.frame(1).unwrap();
    let (tensor, _) = tensor(image, &frame, 1, input).unwrap();
    let TensorData::F32(values) = tensor.data else { panic!() };
    values
}

fn text(tag: Tag, vr: VR, value: &str) -> (Tag, VR, PrimitiveValue) {
    (tag, vr, PrimitiveValue::from(value))
}

#[test]
fn modality_units_windows_and_percentiles() {
    let rescale = [text(tags::RESCALE_SLOPE, VR::DS, "2"), text(tags::RESCALE_INTERCEPT, VR::DS, "-100")];
    let signed = image(&[-10, 0, 60, 150], true, &rescale);
    assert_eq!(values(&signed, &input(Intensity::Modality {})), [-120.0, -100.0, 20.0, 200.0]);
    // Centre 50, width 201: from -50.5 to 149.5.
    let windowed = values(&signed, &input(Intensity::Window { centre: 50.0, width: 201.0 }));
    assert_eq!(windowed, [0.0, 0.0, 0.3525, 1.0]);
    assert_eq!(values(&signed, &input(Intensity::MinMax {})), [0.0, 0.0625, 0.4375, 1.0]);
    let middle = values(&signed, &input(Intensity::Percentile { low: 0.0, high: 50.0 }));
    assert_eq!(middle, [0.0, 0.25, 1.0, 1.0]);
    let own = [text(tags::WINDOW_CENTER, VR::DS, "50\\1"), text(tags::WINDOW_WIDTH, VR::DS, "200\\2")];
    let function = [text(tags::VOILUT_FUNCTION, VR::CS, "LINEAR_EXACT")];
    let exact = image(&[0, 50, 100, 150], true, &[&own[..], &function].concat());
    assert_eq!(values(&exact, &input(Intensity::ImageWindow {})), [0.25, 0.5, 0.75, 1.0]);
}

#[test]
fn monochrome1_is_turned_and_padding_counts_as_the_least() {
    let negative = [text(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME1")];
    let film = image(&[0, 55, 255], false, &negative);
    assert_eq!(values(&film, &input(Intensity::Modality {})), [255.0, 200.0, 0.0]);
    let kept = Input { monochrome1: Monochrome1::Keep, ..input(Intensity::Modality {}) };
    assert_eq!(values(&film, &kept), [0.0, 55.0, 255.0]);
    assert_eq!(values(&film, &input(Intensity::Window { centre: 128.0, width: 256.0 }))[0], 1.0);

    let pad = [(tags::PIXEL_PADDING_VALUE, VR::SS, dicom_value!(I16, [-2000]))];
    let padded = image(&[-2000, -100, 0, 100], true, &pad);
    assert_eq!(values(&padded, &input(Intensity::MinMax {})), [0.0, 0.0, 0.5, 1.0]);
}

#[test]
fn channels_layout_and_normalisation() {
    let grey = image(&[10, 20], false, &[]);
    let normalise = Normalise { scale: 0.1, mean: vec![1.0, 0.0, 0.0], std: vec![1.0, 2.0, 1.0] };
    let three = Input { channels: 3, normalise, ..input(Intensity::Modality {}) };
    assert_eq!(values(&grey, &three), [0.0, 1.0, 0.5, 1.0, 1.0, 2.0]);
    let last = Input { layout: Axes::Nhwc, ..three };
    assert_eq!(values(&grey, &last), [0.0, 0.5, 1.0, 1.0, 1.0, 2.0]);
}

#[test]
fn the_way_back_is_exact_for_every_resize() {
    for resize in [
        Resize::Native {},
        Resize::Stretch { width: 240, height: 100 },
        Resize::Fit { width: 240, height: 240 },
        Resize::Fit { width: 33, height: 501 },
        Resize::LimitSide { side: 512 },
        Resize::LimitSide { side: 7 },
    ] {
        let input = Input { resize, ..input(Intensity::Modality {}) };
        let (columns, rows) = (1021, 757);
        let (size, tensor, transform) = plan(&input, columns, rows);
        assert!(size.0 <= tensor.0 && size.1 <= tensor.1, "{resize:?}");
        let whole = Region {
            left: transform.offset.0,
            top: transform.offset.1,
            right: transform.offset.0 + size.0 as f64,
            bottom: transform.offset.1 + size.1 as f64,
        };
        let back = transform.to_source(whole);
        assert!(back.left.abs() < 1e-9 && back.top.abs() < 1e-9, "{resize:?}");
        let off = (back.right - 1021.0).abs().max((back.bottom - 757.0).abs());
        assert!(off < 1e-9, "{resize:?}: {back:?}");
    }
}

#[test]
fn a_fitted_image_stands_in_the_middle_of_its_least_value() {
    let grey = image(&[10, 20, 30, 40], false, &[]);
    let fit = Input { resize: Resize::Fit { width: 4, height: 3 }, ..input(Intensity::Modality {}) };
    let expected = [[10.0; 4], [10.0, 20.0, 30.0, 40.0], [10.0; 4]].concat();
    assert_eq!(values(&grey, &fit), expected);
}

#[test]
fn a_folder_or_nothing_at_all_is_a_reason_not_a_panic() {
    let limits = Limits::default();
    assert!(Image::open(Path::new("/"), &limits).is_err());
    assert!(Image::open(Path::new("/nowhere"), &limits).is_err());
}
