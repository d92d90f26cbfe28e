//! Real files of every common transfer syntax, against sums that pydicom computed from them
//! (pydicom 3.0.2 with pylibjpeg and pyjpegls, colours converted to RGB, first frame).

mod common;

use std::path::Path;

use lightbox::infer::image::{Image, ImageError, Limits};

/// Decodes the first frame; the sum of its values, and their sum weighted by `index % 251`.
fn sums(path: &Path) -> Result<(i64, i64), ImageError> {
    let frame = Image::open(path, &Limits::default())?.frame(1)?;
    let weighted = |(index, value): (usize, &i32)| i64::from(*value) * (index as i64 % 251);
    Ok((
        frame.values.iter().map(|value| i64::from(*value)).sum(),
        frame.values.iter().enumerate().map(weighted).sum(),
    ))
}

#[test]
fn lossless_files_decode_to_the_bit() {
    let samples = common::part("samples");
    for line in include_str!("fixtures/decoded-sums.txt").lines() {
        let [name, sum, weighted] = line.split(' ').collect::<Vec<_>>().try_into().unwrap();
        let expected = (sum.parse().unwrap(), weighted.parse().unwrap());
        assert_eq!(sums(&samples.join(name)), Ok(expected), "{name}");
    }
}

#[test]
fn lossy_jpegs_differ_by_rounding_only() {
    // Inverse cosine transforms and chroma filters differ by a step; the mean may not.
    let samples = common::part("samples");
    for (name, sum) in [
        ("pydicom/test_files/SC_jpeg_no_color_transform.dcm", 47_967_014),
        ("pydicom/test_files/SC_rgb_jpeg_app14_dcmd.dcm", 48_294_336),
        ("pydicom/test_files/SC_rgb_dcmtk_+eb+cr.dcm", 3_832_300),
        ("pydicom/test_files/SC_rgb_dcmtk_+eb+cy+s4.dcm", 3_832_000),
        ("pydicom/test_files/examples_ybr_color.dcm", 2_184_910),
        ("pydicom-data/color3d_jpeg_baseline.dcm", 8_810_383),
    ] {
        let (found, _) = sums(&samples.join(name)).unwrap();
        let difference = (found - sum) as f64 / sum as f64;
        assert!(difference.abs() < 1e-3, "{name}: {found} for {sum}");
    }
}

#[test]
fn what_does_not_decode_says_why() {
    let samples = common::part("samples/pydicom/test_files");
    for (name, reason) in [
        ("JPGExtended.dcm", "the image is of a kind that is not read: JPEG Extended of 12 bits"),
        ("examples_palette.dcm", "the image is of a kind that is not read: palette colour"),
        ("liver_1frame.dcm", "the image is of a kind that is not read: Bits Allocated other than 8 and 16"),
        ("rtdose.dcm", "the image is of a kind that is not read: Bits Allocated other than 8 and 16"),
        ("test-SR.dcm", "the object is not an image"),
        ("no_meta.dcm", "the stored file is not a DICOM Part 10 file"),
        ("MR_truncated.dcm", "the file is damaged: the data set does not parse"),
        ("badVR.dcm", "the file is damaged: Number of Frames is not a number"),
    ] {
        assert_eq!(sums(&samples.join(name)).unwrap_err().to_string(), reason, "{name}");
    }
}

#[test]
fn no_cut_or_changed_file_panics_or_asks_for_memory() {
    let samples = common::part("samples/pydicom/test_files");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged");
    let mut seed = 1_u32;
    let mut chance = |below: usize| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 8) as usize % below
    };
    let limits = Limits { frame_samples_max: 1 << 22, ..Limits::default() };
    for name in [
        "MR_small.dcm",
        "MR_small_RLE.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "SC_rgb_jpeg_gdcm.dcm",
        "SC_rgb_small_odd_jpeg.dcm",
        "MR_small_bigendian.dcm",
    ] {
        let whole = std::fs::read(samples.join(name)).unwrap();
        for _ in 0..150 {
            let mut bytes = whole.clone();
            for _ in 0..1 + chance(8) {
                let at = 132 + chance(bytes.len() - 132);
                bytes[at] = chance(256) as u8;
            }
            bytes.truncate(bytes.len() - chance(3) * chance(400));
            std::fs::write(&path, &bytes).unwrap();
            if let Ok(image) = Image::open(&path, &limits) {
                let _ = image.frame(1);
            }
        }
    }
}
