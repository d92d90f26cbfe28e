//! One decoded frame to the input tensor, as the manifest asks, and the way back from the tensor's
//! coordinates to the frame's.

use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;
use lightbox_models::manifest::{Input, Intensity, Layout as Axes, Monochrome1, Resize};

use super::engine::{EngineError, Tensor, TensorData};
use super::image::{Frame, Image, Layout, Photometric, holder, numbers};
use super::resample::resample;
use crate::finding::Region;

/// The way from a frame's pixel coordinates to the tensor's: `tensor = source * scale + offset`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Transform {
    /// Tensor columns per source column, rows per row.
    pub scale: (f64, f64),
    /// Where the source's top left corner lies in the tensor, columns and rows.
    pub offset: (f64, f64),
}

impl Transform {
    /// A region of the tensor in the frame's coordinates.
    pub fn to_source(&self, tensor: Region) -> Region {
        let column = |x: f64| (x - self.offset.0) / self.scale.0;
        let row = |y: f64| (y - self.offset.1) / self.scale.1;
        Region {
            left: column(tensor.left),
            top: row(tensor.top),
            right: column(tensor.right),
            bottom: row(tensor.bottom),
        }
    }
}

/// Size of the resampled image, size of the tensor, and the way between source and tensor.
fn plan(input: &Input, columns: usize, rows: usize) -> ((usize, usize), (usize, usize), Transform) {
    let round = |length: usize, factor: f64| ((length as f64 * factor).round() as usize).max(1);
    let (image, tensor) = match input.resize {
        Resize::Native {} => ((columns, rows), (columns, rows)),
        Resize::Stretch { width, height } => {
            let tensor = (width as usize, height as usize);
            (tensor, tensor)
        }
        Resize::Fit { width, height } => {
            let tensor = (width as usize, height as usize);
            let factor = (tensor.0 as f64 / columns as f64).min(tensor.1 as f64 / rows as f64);
            ((round(columns, factor).min(tensor.0), round(rows, factor).min(tensor.1)), tensor)
        }
        Resize::LimitSide { side } => {
            let factor = (f64::from(side) / columns.max(rows) as f64).min(1.0);
            let image = (round(columns, factor), round(rows, factor));
            (image, image)
        }
    };
    let offset = ((tensor.0 - image.0) / 2, (tensor.1 - image.1) / 2);
    let transform = Transform {
        // The factor that rounding to whole pixels has left, so that the way back is exact.
        scale: (image.0 as f64 / columns as f64, image.1 as f64 / rows as f64),
        offset: (offset.0 as f64, offset.1 as f64),
    };
    (image, tensor, transform)
}

/// Makes the input tensor of a frame (numbered from 1) and the way back.
///
/// The tensor is `[1, channels, height, width]` or `[1, height, width, channels]`, 32-bit floats.
pub fn tensor(
    image: &Image,
    frame: &Frame,
    number: u32,
    input: &Input,
) -> Result<(Tensor, Transform), EngineError> {
    let calibrated = if frame.channels == 1 {
        grey(image, frame, number, input)
    } else {
        colour(frame, image.layout(), input)
    };
    let source_channels = if frame.channels == 3 && input.channels == 3 { 3 } else { 1 };
    let (size, (width, height), transform) = plan(input, frame.columns, frame.rows);
    let resized =
        resample(&calibrated, (frame.columns, frame.rows), source_channels, size, input.interpolation);
    let least = resized.iter().copied().fold(f32::INFINITY, f32::min);

    let channels = input.channels as usize;
    let normalise = &input.normalise;
    let per_channel = |values: &[f64], channel: usize, none: f64| {
        values.get(channel).or(values.first()).copied().unwrap_or(none)
    };
    let mut data = vec![0.0; width * height * channels];
    let (left, top) = (transform.offset.0 as usize, transform.offset.1 as usize);
    for channel in 0..channels {
        let (mean, std) =
            (per_channel(&normalise.mean, channel, 0.0), per_channel(&normalise.std, channel, 1.0));
        let finish = |value: f32| ((f64::from(value) * normalise.scale - mean) / std) as f32;
        let from = if source_channels == 3 { channel } else { 0 };
        for row in 0..height {
            for column in 0..width {
                let inside = (left..left + size.0).contains(&column) && (top..top + size.1).contains(&row);
                let value = if inside {
                    resized[((row - top) * size.0 + column - left) * source_channels + from]
                } else {
                    least
                };
                let at = match input.layout {
                    Axes::Nchw => (channel * height + row) * width + column,
                    Axes::Nhwc => (row * width + column) * channels + channel,
                };
                data[at] = finish(value);
            }
        }
    }
    if data.iter().any(|value| !value.is_finite()) {
        let problem = "has values that are not finite";
        return Err(EngineError::Tensor { name: input.tensor.clone(), problem });
    }
    let shape = match input.layout {
        Axes::Nchw => vec![1, channels, height, width],
        Axes::Nhwc => vec![1, height, width, channels],
    };
    Ok((Tensor::new(&input.tensor, shape, TensorData::F32(data))?, transform))
}

/// Colour pixels: as stored, or to 0..1 of what the bits can hold; to luma for one channel.
fn colour(frame: &Frame, layout: &Layout, input: &Input) -> Vec<f32> {
    let greatest = match input.intensity {
        Intensity::Modality {} => 1.0,
        _ => layout.range().1 as f32,
    };
    let scaled = frame.values.iter().map(|value| *value as f32 / greatest);
    if input.channels == 3 {
        return scaled.collect();
    }
    let scaled: Vec<f32> = scaled.collect();
    scaled.as_chunks().0.iter().map(|[red, green, blue]| 0.299 * red + 0.587 * green + 0.114 * blue).collect()
}

fn grey(image: &Image, frame: &Frame, number: u32, input: &Input) -> Vec<f32> {
    let (object, layout) = (image.object(), image.layout());
    let invert = layout.photometric == Photometric::Monochrome1 && input.monochrome1 == Monochrome1::Invert;
    let (least, greatest) = layout.range();
    let in_units = matches!(input.intensity, Intensity::Modality {});
    let padding = padding(object, layout);
    let is_padding = |value: i32| padding.is_some_and(|(low, high)| (low..=high).contains(&value));

    let rescale = Rescale::read(object, number);
    let units = |stored: i32| {
        // A mirrored range keeps units: what was darkest becomes what was brightest.
        let stored = if invert && in_units { greatest - (stored - least) } else { stored };
        rescale.apply(stored)
    };
    let mut values: Vec<f64> = frame.values.iter().map(|stored| units(*stored)).collect();
    let real = || values.iter().zip(&frame.values).filter(|(_, stored)| !is_padding(**stored));
    let floor = real().map(|(value, _)| *value).fold(f64::INFINITY, f64::min);
    let floor = if floor.is_finite() { floor } else { 0.0 };
    let ceiling = real().map(|(value, _)| *value).fold(floor, f64::max);

    let map = match input.intensity {
        Intensity::Modality {} => Map::Units,
        Intensity::Window { centre, width } => Map::window(centre, width),
        Intensity::MinMax {} => Map::Range(floor, ceiling),
        Intensity::Percentile { low, high } => {
            let mut sorted: Vec<f64> = real().map(|(value, _)| *value).collect();
            sorted.sort_unstable_by(f64::total_cmp);
            Map::Range(percentile(&sorted, low), percentile(&sorted, high))
        }
        Intensity::ImageWindow {} => Map::of_image(object, number).unwrap_or(Map::Range(floor, ceiling)),
    };
    for (value, stored) in values.iter_mut().zip(&frame.values) {
        // Padding is no tissue: it counts as the least value that the image has.
        let mapped = map.apply(if is_padding(*stored) { floor } else { *value });
        *value = if invert && !in_units { 1.0 - mapped } else { mapped };
    }
    values.into_iter().map(|value| value as f32).collect()
}

/// Stored values to modality units.
enum Rescale {
    Linear { slope: f64, intercept: f64 },
    Table(Table),
}

impl Rescale {
    fn read(object: &InMemDicomObject, frame: u32) -> Rescale {
        let table = object.get(tags::MODALITY_LUT_SEQUENCE).and_then(|element| element.value().items());
        if let Some(table) = table.and_then(|items| items.first()).and_then(Table::read) {
            return Rescale::Table(table);
        }
        let group = tags::PIXEL_VALUE_TRANSFORMATION_SEQUENCE;
        let value =
            |tag| holder(object, frame, group, tag).and_then(|item| numbers(item, tag).first().copied());
        let slope = value(tags::RESCALE_SLOPE).filter(|slope| *slope != 0.0).unwrap_or(1.0);
        Rescale::Linear { slope, intercept: value(tags::RESCALE_INTERCEPT).unwrap_or(0.0) }
    }

    fn apply(&self, stored: i32) -> f64 {
        match self {
            Rescale::Linear { slope, intercept } => f64::from(stored) * slope + intercept,
            Rescale::Table(table) => table.look_up(f64::from(stored)),
        }
    }
}

/// A lookup table (PS3.3 C.11.1, C.11.2).
struct Table {
    first: f64,
    entries: Vec<f64>,
    greatest: f64,
}

impl Table {
    fn read(item: &InMemDicomObject) -> Option<Table> {
        let descriptor = numbers(item, tags::LUT_DESCRIPTOR);
        let [_, first, bits] = *descriptor.as_slice() else { return None };
        // The entries that are there: the descriptor's own count only repeats it.
        let data = item.get(tags::LUT_DATA)?.value();
        let entries: Vec<f64> = data.to_multi_int::<u16>().ok()?.into_iter().map(f64::from).collect();
        let fits = !entries.is_empty() && (1.0..=16.0).contains(&bits);
        fits.then(|| Table { first, entries, greatest: 2_f64.powf(bits) - 1.0 })
    }

    fn look_up(&self, value: f64) -> f64 {
        let at = (value - self.first).clamp(0.0, (self.entries.len() - 1) as f64);
        self.entries[at as usize]
    }
}

/// Modality units to what the manifest's intensity asks for.
enum Map {
    Units,
    Range(f64, f64),
    Sigmoid { centre: f64, width: f64 },
    Table(Table),
}

impl Map {
    /// The linear window function of PS3.3 C.11.2.1.2.1.
    fn window(centre: f64, width: f64) -> Map {
        let (low, width) = (centre - 0.5 - (width - 1.0) / 2.0, width - 1.0);
        Map::Range(low, low + width)
    }

    /// The image's own VOI LUT, else its first window.
    fn of_image(object: &InMemDicomObject, frame: u32) -> Option<Map> {
        let tables = object.get(tags::VOILUT_SEQUENCE).and_then(|element| element.value().items());
        if let Some(table) = tables.and_then(|items| items.first()).and_then(Table::read) {
            return Some(Map::Table(table));
        }
        let item = holder(object, frame, tags::FRAME_VOILUT_SEQUENCE, tags::WINDOW_CENTER)?;
        let centre = *numbers(item, tags::WINDOW_CENTER).first()?;
        let width = *numbers(item, tags::WINDOW_WIDTH).first()?;
        match super::image::text(item, tags::VOILUT_FUNCTION).as_ref() {
            "SIGMOID" if width > 0.0 => Some(Map::Sigmoid { centre, width }),
            "LINEAR_EXACT" if width > 0.0 => Some(Map::Range(centre - width / 2.0, centre + width / 2.0)),
            "" | "LINEAR" if width >= 1.0 => Some(Map::window(centre, width)),
            _ => None,
        }
    }

    fn apply(&self, value: f64) -> f64 {
        match self {
            Map::Units => value,
            // A flat image or a window of width 1 is a step.
            Map::Range(low, high) if high <= low => f64::from(value > *low),
            Map::Range(low, high) => ((value - low) / (high - low)).clamp(0.0, 1.0),
            Map::Sigmoid { centre, width } => 1.0 / (1.0 + (-4.0 * (value - centre) / width).exp()),
            Map::Table(table) => (table.look_up(value) / table.greatest).clamp(0.0, 1.0),
        }
    }
}

/// Between the two nearest ranks, as NumPy does; 0 for no values.
fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let rank = percent / 100.0 * last as f64;
    let (low, high) = (rank.floor() as usize, (rank.ceil() as usize).min(last));
    sorted[low] + (sorted[high] - sorted[low]) * (rank - rank.floor())
}

/// Pixel Padding Value, or the range up to Pixel Padding Range Limit, in stored values.
fn padding(object: &InMemDicomObject, layout: &Layout) -> Option<(i32, i32)> {
    let value = |tag| {
        let value = object.get(tag)?.value().to_int::<i32>().ok()?;
        // Implicit VR does not say whether the value is signed; the pixels do.
        Some(if layout.signed && value > 0x7fff { value - 0x1_0000 } else { value })
    };
    let first = value(tags::PIXEL_PADDING_VALUE)?;
    let limit = value(tags::PIXEL_PADDING_RANGE_LIMIT).unwrap_or(first);
    Some((first.min(limit), first.max(limit)))
}

#[cfg(test)]
#[path = "preprocess_tests.rs"]
mod tests;
