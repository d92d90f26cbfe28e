//! How near a bundle's 16-bit network is to its 32-bit one, which is the reference: both are run here on the golden
//! cases. A bundle is ruled on as a whole, so this is asked of every one that carries a 16-bit network, whichever
//! of the two this box will run.

use std::collections::BTreeSet;
use std::sync::Arc;

use lightbox_models::Bundle;
use lightbox_models::manifest::{Label, Precision};
use lightbox_models::plan::{Equivalence, Tier};

use super::Updates;
use super::acceptance::{Unfinished, too_long};
use crate::infer;
use crate::infer::trial::{self, Input, Outcome};
use crate::raw::{RawDetection as Detection, RawOutput};

impl Updates {
    /// Runs both networks on each golden case; nothing where the bundle has only one. A case on which one of them did not
    /// run is not among the outcomes, and the plan's ruling wants all.
    pub(super) async fn run_equivalence(&self, bundle: &Arc<Bundle>) -> Result<Vec<Equivalence>, Unfinished> {
        let mut found = Vec::new();
        if bundle.manifest().network(Precision::Fp16).is_none() {
            return Ok(found);
        }
        infer::load_precision(bundle, Precision::Fp16, &self.engine)
            .await
            .map_err(|error| format!("the engine, 16-bit network: {error}"))?;
        let compared = self.compare_golden(bundle, &mut found).await;
        let gone = self.engine.unload(&infer::key(bundle, Precision::Fp16)).await;
        compared?;
        gone.map_err(|error| format!("the engine: {error}"))?;
        Ok(found)
    }

    async fn compare_golden(
        &self,
        bundle: &Arc<Bundle>,
        found: &mut Vec<Equivalence>,
    ) -> Result<(), Unfinished> {
        for case in &bundle.manifest().golden {
            let (reader, asked) = (bundle.clone(), case.clone());
            let read = tokio::task::spawn_blocking(move || reader.read_golden(&asked)).await;
            let (bytes, _) =
                read.map_err(|_| "interrupted".to_owned())?.map_err(|error| error.to_string())?;
            let mut outcomes = Vec::new();
            for precision in [Precision::Fp32, Precision::Fp16] {
                let input = Input::Dicom(bytes.clone(), case.frame);
                match trial::run_precision(bundle, precision, &self.behind, input).await {
                    Ok(outcome) => outcomes.push(outcome),
                    Err(why) => match too_long(&why, &case.name) {
                        Some(fails) => return Err(fails),
                        None => {
                            let (case, why) = (case.name.as_str(), why.to_string());
                            tracing::warn!(case, why, ?precision, "a golden case was not compared");
                        }
                    },
                }
            }
            if let [reference, other] = &outcomes[..] {
                found.push(compare(&bundle.manifest().label, &case.name, reference, other));
            }
        }
        Ok(())
    }
}

/// Compares what two networks say of one image.
fn compare(labels: &[Label], case: &str, reference: &Outcome, other: &Outcome) -> Equivalence {
    let mut outcome = Equivalence { name: case.to_owned(), score: 0.0, box_px: 0.0, flipped: false };
    match (&reference.output, &other.output) {
        (RawOutput::Scores(reference), RawOutput::Scores(other)) => {
            for label in labels {
                let score = |of: &[f64]| of.get(label.index as usize).copied().unwrap_or(0.0);
                judge(&mut outcome, label, score(reference), score(other));
            }
        }
        (RawOutput::Detections(one), RawOutput::Detections(two)) => {
            for label in labels {
                compare_boxes(
                    &mut outcome,
                    label,
                    reference.scale,
                    of_label(one, label),
                    of_label(two, label),
                );
            }
        }
        // The manifest says which of the two it is.
        _ => (outcome.score, outcome.flipped) = (f64::MAX, true),
    }
    outcome
}

fn of_label<'a>(found: &'a [Detection], label: &Label) -> Vec<&'a Detection> {
    found.iter().filter(|one| one.label == label.index).collect()
}

/// Pairs each box of the reference with the nearest one of the other; a box that is left over on either side
/// is compared with none, a score of 0.
fn compare_boxes(
    outcome: &mut Equivalence,
    label: &Label,
    scale: (f64, f64),
    reference: Vec<&Detection>,
    other: Vec<&Detection>,
) {
    let mut free: BTreeSet<usize> = (0..other.len()).collect();
    for one in reference {
        let apart = |at: &usize| shift(one, other[*at], scale);
        let nearest = free.iter().copied().min_by(|a, b| apart(a).total_cmp(&apart(b)));
        let Some(at) = nearest else {
            judge(outcome, label, one.score, 0.0);
            continue;
        };
        free.remove(&at);
        judge(outcome, label, one.score, other[at].score);
        // Where a finding of neither is shown, its place is nobody's matter.
        if [one.score, other[at].score].iter().any(|score| Tier::of(label, *score) > Tier::Suppressed) {
            outcome.box_px = worse(outcome.box_px, apart(&at));
        }
    }
    for at in free {
        judge(outcome, label, 0.0, other[at].score);
    }
}

fn judge(outcome: &mut Equivalence, label: &Label, reference: f64, other: f64) {
    outcome.score = worse(outcome.score, (reference - other).abs());
    outcome.flipped |= Tier::of(label, reference) != Tier::of(label, other);
}

/// Greatest shift of an edge, in pixels of the tensor.
fn shift(one: &Detection, other: &Detection, scale: (f64, f64)) -> f64 {
    let (a, b) = (&one.region, &other.region);
    let columns = worse((a.left - b.left).abs(), (a.right - b.right).abs()) * scale.0;
    let rows = worse((a.top - b.top).abs(), (a.bottom - b.bottom).abs()) * scale.1;
    worse(columns, rows)
}

/// The greater one; what is no number is the greatest there is. Evidence is kept as JSON, which knows no NaN.
fn worse(one: f64, other: f64) -> f64 {
    let finite = |value: f64| if value.is_finite() { value } else { f64::MAX };
    finite(one).max(finite(other))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Region;

    fn label() -> Label {
        let text = include_str!("../../../models/reference/phantom-detector/bundle/manifest.toml");
        let manifest: lightbox_models::manifest::Manifest = toml::from_str(text).expect("a manifest");
        manifest.label[0].clone()
    }

    fn found(boxes: &[(f64, f64)]) -> Outcome {
        let detection = |&(left, score): &(f64, f64)| Detection {
            region: Region { left, top: 0.0, right: left + 10.0, bottom: 10.0 },
            score,
            label: 0,
        };
        let output = RawOutput::Detections(boxes.iter().map(detection).collect());
        Outcome { tensors: Vec::new(), output, scale: (2.0, 2.0) }
    }

    fn compared(reference: &[(f64, f64)], other: &[(f64, f64)]) -> (f64, f64, bool) {
        let outcome = compare(&[label()], "case", &found(reference), &found(other));
        (outcome.score, outcome.box_px, outcome.flipped)
    }

    #[test]
    fn boxes_are_compared_with_their_nearest_in_pixels_of_the_tensor() {
        assert_eq!(compared(&[(0.0, 0.9), (50.0, 0.9)], &[(50.0, 0.9), (0.0, 0.9)]), (0.0, 0.0, false));
        // One frame column is two of the tensor.
        let (score, shift, flipped) = compared(&[(0.0, 0.9)], &[(1.0, 0.875)]);
        assert!((score - 0.025).abs() < 1e-12 && (shift - 2.0).abs() < 1e-12 && !flipped);
    }

    #[test]
    fn a_box_that_only_one_network_finds_counts_by_its_score() {
        assert_eq!(compared(&[(0.0, 0.9)], &[]), (0.9, 0.0, true));
        assert_eq!(compared(&[], &[(0.0, 0.9)]), (0.9, 0.0, true));
        // One that is never shown changes no tier.
        assert_eq!(compared(&[(0.0, 0.01)], &[]), (0.01, 0.0, false));
    }

    #[test]
    fn what_is_no_number_is_the_worst() {
        assert_eq!(compared(&[(0.0, 0.9)], &[(0.0, f64::NAN)]).0, f64::MAX);
        assert_eq!(compared(&[(0.0, 0.9)], &[(f64::NAN, 0.9)]).1, f64::MAX);
        let nothing =
            Outcome { tensors: Vec::new(), output: RawOutput::Scores(vec![0.5]), scale: (1.0, 1.0) };
        let outcome = compare(&[label()], "case", &found(&[]), &nothing);
        assert!(outcome.flipped && outcome.score == f64::MAX);
    }

    #[test]
    fn scores_are_compared_label_by_label() {
        let scores = |values: &[f64]| Outcome {
            tensors: Vec::new(),
            output: RawOutput::Scores(values.to_vec()),
            scale: (1.0, 1.0),
        };
        let outcome = compare(&[label()], "case", &scores(&[0.9]), &scores(&[0.1]));
        assert!((outcome.score - 0.8).abs() < 1e-12 && outcome.flipped && outcome.box_px == 0.0);
    }
}
