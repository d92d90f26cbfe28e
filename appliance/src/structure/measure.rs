//! Lengths of a detection, from its box and the size of a pixel.

use lightbox_models::manifest::Measure;

use crate::finding::{Code, Measurement, Region};
use crate::raw::Spacing;

/// Measures a region. Lengths are in mm where the pixel's size in the patient is known, else in
/// pixels: a length at the detector would be read as one in the patient.
pub(super) fn measure(asked: &[Measure], region: &Region, spacing: Spacing) -> Vec<Measurement> {
    let (column, row, unit) = match spacing {
        // Between columns for the width, between rows for the height: they differ in real images.
        Spacing::Patient { row_mm, column_mm } => (column_mm, row_mm, Code::new("mm", "UCUM", "millimeter")),
        Spacing::Unknown => (1.0, 1.0, Code::new("{pixels}", "UCUM", "pixels")),
    };
    let (width, height) = (region.width() * column, region.height() * row);
    let one = |measure: &Measure| {
        let (name, value) = match measure {
            Measure::LongAxis => (Code::new("103339001", "SCT", "Long axis"), width.max(height)),
            Measure::ShortAxis => (Code::new("103340004", "SCT", "Short axis"), width.min(height)),
            Measure::Diameter => (Code::new("81827009", "SCT", "Diameter"), f64::midpoint(width, height)),
        };
        Measurement { name, value, unit: unit.clone() }
    };
    asked.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn width_goes_by_the_distance_of_columns_and_height_by_that_of_rows() {
        let region = Region { left: 10.0, top: 20.0, right: 14.0, bottom: 30.0 };
        let asked = [Measure::LongAxis, Measure::ShortAxis, Measure::Diameter];
        let spacing = Spacing::Patient { row_mm: 0.5, column_mm: 2.0 };
        let lengths: Vec<f64> = measure(&asked, &region, spacing).iter().map(|m| m.value).collect();
        assert_eq!(lengths, [8.0, 5.0, 6.5]);
        let pixels = measure(&asked, &region, Spacing::Unknown);
        assert_eq!((pixels[0].value, pixels[0].unit.value.as_str()), (10.0, "{pixels}"));
    }
}
