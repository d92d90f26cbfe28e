//! A lesion that spans slices is one finding: detections that overlap on adjacent slices of a
//! series are joined, and the best slice speaks for them.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::{Candidate, place};
use crate::raw::{FrameOutput, Slice, overlap};

/// Slices farther apart than this many times the median distance are not adjacent: one is missing.
const GAP_MAX: f64 = 1.5;
/// Positions this close, in mm, are one place: a second image of the same slice.
const SAME_MM: f64 = 1e-3;

/// A stack of parallel slices: series and direction cosines.
type Stack<'a> = (&'a str, [i64; 6]);

fn stack(frame: &FrameOutput) -> Option<(Stack<'_>, f64)> {
    let Slice { orientation, position_mm } = frame.geometry.slice?;
    // Direction cosines to four digits: scanners write them with rounding.
    let direction = orientation.map(|cosine| (cosine * 1e4).round() as i64);
    Some(((frame.instance.series_uid.expose(), direction), position_mm))
}

/// Joins detections of one label on adjacent, parallel slices of a series whose boxes overlap by
/// at least `iou_min`. `frames` are all frames that were run: a slice on which nothing was found
/// parts what lies on either side. Frames without a place in the patient are left alone.
pub(super) fn merge<'a>(
    all: Vec<Candidate<'a>>,
    frames: &'a [FrameOutput],
    iou_min: f64,
) -> Vec<Candidate<'a>> {
    let mut stacks: BTreeMap<Stack<'_>, Vec<f64>> = BTreeMap::new();
    for (key, position) in frames.iter().filter_map(stack) {
        stacks.entry(key).or_default().push(position);
    }
    for positions in stacks.values_mut() {
        positions.sort_unstable_by(f64::total_cmp);
        positions.dedup_by(|next, kept| *next - *kept < SAME_MM);
    }
    // Each detection at its slice's rank in its stack.
    let mut slices: BTreeMap<(Stack<'_>, u32), BTreeMap<usize, Vec<usize>>> = BTreeMap::new();
    for (index, candidate) in all.iter().enumerate() {
        let Some((key, position)) = stack(candidate.frame) else { continue };
        let Some(positions) = stacks.get(&key) else { continue };
        let rank = positions.partition_point(|other| other + SAME_MM <= position);
        slices.entry((key, candidate.label)).or_default().entry(rank).or_default().push(index);
    }
    let mut groups = Groups((0..all.len()).collect());
    for ((key, _), ranks) in &slices {
        let Some(positions) = stacks.get(key) else { continue };
        let step = usual_step(positions);
        for (rank, below) in ranks {
            let Some(above) = ranks.get(&(rank + 1)) else { continue };
            if positions[rank + 1] - positions[*rank] > GAP_MAX * step {
                continue;
            }
            for (a, b) in below.iter().flat_map(|a| above.iter().map(move |b| (*a, *b))) {
                if let (Some(one), Some(other)) = (&all[a].region, &all[b].region)
                    && overlap(one, other) >= iou_min
                {
                    groups.join(a, b);
                }
            }
        }
    }
    let mut best: BTreeMap<usize, usize> = BTreeMap::new();
    for index in 0..all.len() {
        let held = best.entry(groups.root(index)).or_insert(index);
        if better(&all[index], &all[*held]) {
            *held = index;
        }
    }
    best.into_values().map(|index| all[index].clone()).collect()
}

/// The median distance of neighbours.
fn usual_step(positions: &[f64]) -> f64 {
    let mut steps: Vec<f64> = positions.windows(2).map(|pair| pair[1] - pair[0]).collect();
    steps.sort_unstable_by(f64::total_cmp);
    steps.get(steps.len() / 2).copied().unwrap_or(f64::INFINITY)
}

/// Higher score; of equals the larger area, then the place that comes first.
fn better(a: &Candidate<'_>, b: &Candidate<'_>) -> bool {
    let area = |c: &Candidate<'_>| c.region.map_or(0.0, |region| region.width() * region.height());
    let order = a.score.total_cmp(&b.score).then(area(a).total_cmp(&area(b)));
    order.then(place(b).partial_cmp(&place(a)).unwrap_or(Ordering::Equal)) == Ordering::Greater
}

/// Disjoint sets: each index names another of its group, the root itself.
struct Groups(Vec<usize>);

impl Groups {
    fn root(&mut self, index: usize) -> usize {
        let mut at = index;
        while self.0[at] != at {
            self.0[at] = self.0[self.0[at]];
            at = self.0[at];
        }
        at
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        self.0[b.max(a)] = b.min(a);
    }
}
