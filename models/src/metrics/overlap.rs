//! Dice's coefficient, `2 |A ∩ B| / (|A| + |B|)`, of masks and of boxes.

use super::{MetricError, finite};

/// A box's edges in pixels: left, top, right, bottom; right and bottom exclusive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BoxEdges(pub [f64; 4]);

impl BoxEdges {
    fn area(&self) -> f64 {
        let [left, top, right, bottom] = self.0;
        (right - left).max(0.0) * (bottom - top).max(0.0)
    }
}

/// Dice of two masks of the same size.
pub fn dice_of_masks(a: &[bool], b: &[bool]) -> Result<f64, MetricError> {
    if a.len() != b.len() {
        return Err(MetricError::Lengths(a.len(), b.len()));
    }
    let count = |mask: &[bool]| mask.iter().filter(|set| **set).count();
    let both = a.iter().zip(b).filter(|(a, b)| **a && **b).count();
    let sum = count(a) + count(b);
    if sum == 0 {
        return Err(MetricError::BothEmpty);
    }
    Ok(2.0 * both as f64 / sum as f64)
}

/// Dice of two boxes, by area.
pub fn dice_of_boxes(a: &BoxEdges, b: &BoxEdges) -> Result<f64, MetricError> {
    finite(&a.0)?;
    finite(&b.0)?;
    let sum = a.area() + b.area();
    if sum <= 0.0 {
        return Err(MetricError::BothEmpty);
    }
    let both = BoxEdges([a.0[0].max(b.0[0]), a.0[1].max(b.0[1]), a.0[2].min(b.0[2]), a.0[3].min(b.0[3])]);
    Ok(2.0 * both.area() / sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_and_masks_agree() {
        // 2x2 at the origin and 2x2 moved right by one: half of each is shared.
        let boxes = dice_of_boxes(&BoxEdges([0.0, 0.0, 2.0, 2.0]), &BoxEdges([1.0, 0.0, 3.0, 2.0]));
        let masks =
            dice_of_masks(&[true, true, false, true, true, false], &[false, true, true, false, true, true]);
        assert_eq!(boxes, Ok(0.5));
        assert_eq!(masks, Ok(0.5));
        assert_eq!(dice_of_boxes(&BoxEdges([0.0, 0.0, 1.0, 1.0]), &BoxEdges([5.0, 5.0, 6.0, 6.0])), Ok(0.0));
    }

    #[test]
    fn two_empty_masks_have_no_overlap_to_speak_of() {
        assert_eq!(dice_of_masks(&[false], &[false]), Err(MetricError::BothEmpty));
        let turned = BoxEdges([2.0, 2.0, 1.0, 1.0]);
        assert_eq!(dice_of_boxes(&turned, &turned), Err(MetricError::BothEmpty));
    }
}
