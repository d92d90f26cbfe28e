//! Resampling by separable filters: one list of weighted source pixels for each new column, one
//! for each new row. Corners map to corners: new pixel `i` covers `i/scale .. (i+1)/scale`.

use lightbox_models::manifest::Interpolation;

/// The source pixels that make one new pixel: the first one, and a weight each, in sum 1.
struct Taps {
    first: usize,
    weights: Vec<f32>,
}

/// Resamples `rows` x `columns` pixels of `channels` values each, row by row.
pub(super) fn resample(
    values: &[f32],
    (columns, rows): (usize, usize),
    channels: usize,
    (new_columns, new_rows): (usize, usize),
    interpolation: Interpolation,
) -> Vec<f32> {
    if (columns, rows) == (new_columns, new_rows) {
        return values.to_vec();
    }
    let across = taps(columns, new_columns, interpolation);
    let down = taps(rows, new_rows, interpolation);
    let mut wide: Vec<f32> = Vec::with_capacity(rows * new_columns * channels);
    for row in values.chunks_exact(columns * channels) {
        for taps in &across {
            for channel in 0..channels {
                let from = taps.first * channels + channel;
                let picked = row.iter().skip(from).step_by(channels);
                wide.push(picked.zip(&taps.weights).map(|(value, weight)| value * weight).sum());
            }
        }
    }
    let width = new_columns * channels;
    let mut new = vec![0.0; new_rows * width];
    for (target, taps) in new.chunks_exact_mut(width).zip(&down) {
        for (row, weight) in wide.chunks_exact(width).skip(taps.first).zip(&taps.weights) {
            for (to, from) in target.iter_mut().zip(row) {
                *to += from * weight;
            }
        }
    }
    new
}

fn taps(length: usize, new_length: usize, interpolation: Interpolation) -> Vec<Taps> {
    let step = length as f64 / new_length as f64;
    (0..new_length)
        .map(|index| {
            let (start, end) = (index as f64 * step, (index + 1) as f64 * step);
            let centre = f64::midpoint(start, end);
            let stretch = step.max(1.0);
            match interpolation {
                Interpolation::Nearest => {
                    Taps { first: (centre as usize).min(length - 1), weights: vec![1.0] }
                }
                Interpolation::Area => {
                    let overlap = |at: f64| (end.min(at + 1.0) - start.max(at)).max(0.0);
                    weigh(start, end, length, overlap)
                }
                Interpolation::Bilinear => {
                    let triangle = |at: f64| (1.0 - (at + 0.5 - centre).abs()).max(0.0);
                    weigh(centre - 1.0, centre + 1.0, length, triangle)
                }
                Interpolation::BilinearAntialias => {
                    let triangle = |at: f64| (1.0 - ((at + 0.5 - centre) / stretch).abs()).max(0.0);
                    weigh(centre - stretch, centre + stretch, length, triangle)
                }
                Interpolation::BicubicAntialias => {
                    let curve = |at: f64| cubic((at + 0.5 - centre) / stretch);
                    weigh(centre - 2.0 * stretch, centre + 2.0 * stretch, length, curve)
                }
            }
        })
        .collect()
}

/// Weights of the pixels between two places, cut at the image's edges and brought to the sum 1.
fn weigh(start: f64, end: f64, length: usize, weight: impl Fn(f64) -> f64) -> Taps {
    let first = (start.floor().max(0.0) as usize).min(length - 1);
    let last = (end.ceil() as usize).clamp(first + 1, length);
    let raw: Vec<f64> = (first..last).map(|at| weight(at as f64)).collect();
    let sum: f64 = raw.iter().sum();
    if sum.abs() < f64::EPSILON {
        return Taps { first, weights: vec![1.0] };
    }
    Taps { first, weights: raw.iter().map(|weight| (weight / sum) as f32).collect() }
}

/// Keys' cubic with a = -0.5, as Pillow's.
fn cubic(at: f64) -> f64 {
    let at = at.abs();
    if at < 1.0 {
        (1.5 * at - 2.5) * at * at + 1.0
    } else if at < 2.0 {
        ((-0.5 * at + 2.5) * at - 4.0) * at + 2.0
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_images_come_out_as_computed_by_hand() {
        let ramp: Vec<f32> = (0_u8..8).map(f32::from).collect();
        let halve = |interpolation| resample(&ramp, (8, 1), 1, (4, 1), interpolation);
        assert_eq!(halve(Interpolation::Area), [0.5, 2.5, 4.5, 6.5]);
        assert_eq!(halve(Interpolation::Bilinear), [0.5, 2.5, 4.5, 6.5]);
        assert_eq!(halve(Interpolation::Nearest), [1.0, 3.0, 5.0, 7.0]);
        let double = resample(&[0.0, 4.0], (2, 1), 1, (4, 1), Interpolation::Bilinear);
        assert_eq!(double, [0.0, 1.0, 3.0, 4.0]);
        // Two channels do not mix.
        let pairs = resample(&[0.0, 9.0, 2.0, 9.0], (2, 1), 2, (1, 1), Interpolation::Area);
        assert_eq!(pairs, [1.0, 9.0]);
    }

    #[test]
    fn a_flat_image_stays_flat_under_every_filter() {
        use Interpolation::{Area, BicubicAntialias, Bilinear, BilinearAntialias, Nearest};
        for interpolation in [Nearest, Bilinear, Area, BilinearAntialias, BicubicAntialias] {
            for size in [(1, 1), (3, 7), (10, 13), (40, 40)] {
                let new = resample(&[7.0; 130], (13, 10), 1, size, interpolation);
                assert_eq!(new.len(), size.0 * size.1);
                assert!(new.iter().all(|value| (value - 7.0).abs() < 1e-4), "{interpolation:?} {size:?}");
            }
        }
    }
}
