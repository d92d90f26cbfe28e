//! The run on this hardware: golden cases, then the plan's acceptance sets, through the very code and engine
//! that clinical images go through.
//!
//! A set is opened in memory, case by case: its plain bytes never touch the disk, and it is never among the
//! site's studies. A case that does not run has no row, and a set with a missing row proves nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use lightbox_models::Bundle;
use lightbox_models::acceptance::{
    AcceptanceRecord, Case, CaseInput, Hardware, Measured, Row, Run, SetReader, measure, seal,
};
use lightbox_models::manifest::Precision;
use lightbox_models::metrics::{BoxEdges, dice_of_boxes};
use lightbox_models::plan::{Comparator, GoldenOutcome, Plan, Tier, Verdict};
use tokio::sync::mpsc;

use super::evidence::Kept;
use super::{Managed, Updates};
use crate::infer;
use crate::infer::engine::EngineError;
use crate::infer::trial::{self, Input, NotRun};
use crate::raw::RawOutput;
use lightbox_models::trust::Verified;

/// Longest sealed set that is fetched.
const SET_BYTES_MAX: u64 = 64 << 30;
/// The purpose under which the device's key for acceptance sets is derived.
const PURPOSE: &str = "acceptance set";

/// The secret that acceptance sets are sealed to.
pub(super) fn secret(identity: &lightbox_bootstrap::identity::DeviceIdentity) -> [u8; 32] {
    identity.derive(PURPOSE, b"")
}

/// A version under acceptance, and what it is compared with.
pub(super) struct Candidates {
    pub(super) candidate: Arc<Bundle>,
    pub(super) compared: BTreeMap<Comparator, Arc<Bundle>>,
}

/// Why there is nothing to rule on.
pub(super) enum Unfinished {
    /// What is missing: nothing was proved or disproved.
    Waits(String),
    /// The candidate does not keep within its own limits: it would hold up this box's patients.
    Fails(String),
}

impl From<String> for Unfinished {
    fn from(why: String) -> Self {
        Unfinished::Waits(why)
    }
}

/// A candidate that takes too long does so again: it is not run on the next case.
pub(super) fn too_long(why: &NotRun, case: &str) -> Option<Unfinished> {
    let NotRun::Engine(error @ EngineError::TooLong(_)) = why else { return None };
    Some(Unfinished::Fails(format!("acceptance-run: case {case:?}: {error}")))
}

impl Updates {
    /// Runs everything that the plan asks for.
    pub(super) async fn run_acceptance(
        &self,
        verified: &Verified,
        model: &Managed,
        plan: &Plan,
        criteria: &BTreeSet<String>,
        bundles: &Candidates,
    ) -> Result<Kept, Unfinished> {
        self.load_apart(&bundles.candidate).await?;
        for bundle in bundles.compared.values().chain([&bundles.candidate]) {
            infer::load(bundle, &self.engine).await.map_err(|error| format!("the engine: {error}"))?;
        }
        let golden = self.run_golden(&bundles.candidate).await?;
        let equivalence = self.run_equivalence(&bundles.candidate).await?;
        let mut kept = Kept {
            engine_build: self.engine.describe().to_owned(),
            precision: Precision::Fp32,
            accelerated: false,
            golden,
            equivalence,
            runs: Vec::new(),
            compared: BTreeMap::new(),
        };
        let called: BTreeSet<&str> = plan
            .criterion
            .iter()
            .filter(|criterion| criteria.contains(&criterion.id))
            .map(|criterion| criterion.set_sha256.as_str())
            .collect();
        for set in called {
            let sealed = self.fetch_set(verified, model, set).await?;
            let done = self.run_set(&sealed, set, bundles).await;
            tokio::fs::remove_file(&sealed).await.map_err(|error| error.to_string())?;
            let mut runs = done?;
            kept.runs.extend(runs.remove(bundles.candidate.digest()));
            for (comparator, bundle) in &bundles.compared {
                let run = runs.get(bundle.digest()).cloned();
                kept.compared.entry(*comparator).or_default().extend(run);
            }
        }
        Ok(kept)
    }

    /// Loads a candidate in a process of its own. A runtime folds constants while it loads, nothing can stop it then,
    /// and in this process it would hold up every model's studies. Only whether it ends is asked: what it says, loading
    /// it here says again.
    async fn load_apart(&self, candidate: &Bundle) -> Result<(), Unfinished> {
        let seconds = self.site.file.updates.load_seconds;
        // This very program, also where a newer one has taken its place on the disk.
        let mut apart = tokio::process::Command::new("/proc/self/exe");
        apart.args(["bundle", "load"]).arg(candidate.folder()).kill_on_drop(true);
        if let Some(library) = &self.site.file.infer.onnxruntime {
            apart.arg("--onnxruntime").arg(library);
        }
        apart.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let failed = |error: std::io::Error| format!("a process that loads the candidate: {error}");
        let mut running = apart.spawn().map_err(failed)?;
        match tokio::time::timeout(Duration::from_secs(seconds), running.wait()).await {
            Ok(ended) => Ok(ended.map(drop).map_err(failed)?),
            Err(_) => {
                running.kill().await.map_err(failed)?;
                Err(Unfinished::Fails(format!(
                    "acceptance-run: its network takes longer than {seconds} s to load (updates.load_seconds)"
                )))
            }
        }
    }

    async fn run_golden(&self, bundle: &Arc<Bundle>) -> Result<Vec<GoldenOutcome>, Unfinished> {
        let mut outcomes = Vec::new();
        for case in &bundle.manifest().golden {
            let (reader, asked) = (bundle.clone(), case.clone());
            let read = tokio::task::spawn_blocking(move || reader.read_golden(&asked)).await;
            let (bytes, expected) =
                read.map_err(|_| "interrupted".to_owned())?.map_err(|error| error.to_string())?;
            let deviations = match trial::run(bundle, &self.behind, Input::Dicom(bytes, case.frame)).await {
                Ok(found) => expected.compare(case, &found.tensors).iter().map(ToString::to_string).collect(),
                Err(why) => match too_long(&why, &case.name) {
                    Some(fails) => return Err(fails),
                    None => vec![format!("did not run: {why}")],
                },
            };
            outcomes.push(GoldenOutcome { name: case.name.clone(), deviations });
        }
        Ok(outcomes)
    }

    async fn fetch_set(&self, verified: &Verified, model: &Managed, sha256: &str) -> Result<PathBuf, String> {
        let names = model.sets(sha256, &self.identity.fingerprint());
        let name = names.iter().find(|name| verified.target(name).is_ok()).ok_or_else(|| {
            format!(
                "waits for the acceptance set: the repository has neither {} nor {}; remedy: the vendor seals it to \
                 this device (`lightbox models recipient`)",
                names[0], names[1]
            )
        })?;
        // It is opened in memory, case by case: on the disk it lies once.
        let target = verified.target(name).map_err(|refusal| refusal.to_string())?;
        self.has_room(target, 1).await.map_err(|error| error.to_string())?;
        let path = self.folders.incoming.join(format!("{sha256}.age"));
        let saved = verified.save_target(name, SET_BYTES_MAX, &path, &mut |_, _| {}).await;
        saved.map_err(|refusal| refusal.to_string())?;
        Ok(path)
    }

    /// Runs every bundle on every case of a set; by the bundles' digests.
    async fn run_set(
        &self,
        sealed: &Path,
        sha256: &str,
        bundles: &Candidates,
    ) -> Result<BTreeMap<String, Run>, Unfinished> {
        let (sender, mut cases) = mpsc::channel::<(Case, Vec<u8>)>(1);
        let (path, named, secret) = (sealed.to_owned(), sha256.to_owned(), secret(&self.identity));
        let reading = tokio::task::spawn_blocking(move || read_set(&path, &named, &secret, &sender));
        let all: BTreeMap<&str, &Arc<Bundle>> = bundles
            .compared
            .values()
            .chain([&bundles.candidate])
            .map(|bundle| (bundle.digest(), bundle))
            .collect();
        let mut rows: BTreeMap<&str, Vec<Row>> = all.keys().map(|digest| (*digest, Vec::new())).collect();
        let mut count = 0_u32;
        while let Some((case, bytes)) = cases.recv().await {
            count += 1;
            for (digest, bundle) in &all {
                let input = match &case.input {
                    CaseInput::Dicom { frame } => Input::Dicom(bytes.clone(), *frame),
                    CaseInput::Tensor { shape } => Input::Tensor(bytes.clone(), shape.clone()),
                };
                match trial::run(bundle, &self.behind, input).await {
                    Ok(found) => {
                        rows.entry(digest).or_default().extend(rows_of(bundle, &case, &found.output));
                    }
                    Err(why) => {
                        let fails = too_long(&why, &case.name);
                        if let Some(fails) = fails.filter(|_| *digest == bundles.candidate.digest()) {
                            return Err(fails);
                        }
                        let why = why.to_string();
                        tracing::warn!(case = case.name, digest, why, "an acceptance case did not run");
                    }
                }
            }
            if count.is_multiple_of(100) {
                tracing::info!(cases = count, "acceptance goes on");
            }
        }
        let names = reading.await.map_err(|_| "interrupted".to_owned())??;
        Ok(rows
            .into_iter()
            .map(|(digest, rows)| {
                let run = Run {
                    model: digest.to_owned(),
                    set_sha256: sha256.to_owned(),
                    cases: names.clone(),
                    rows,
                };
                (digest.to_owned(), run)
            })
            .collect())
    }

    /// The record of a run, for the device to sign.
    pub(super) fn record(
        &self,
        plan: &Plan,
        bundle: &Bundle,
        kept: &Kept,
        verdict: &Verdict,
    ) -> AcceptanceRecord {
        AcceptanceRecord {
            schema: AcceptanceRecord::SCHEMA,
            at: crate::clock::utc_text(self.clock.now_ms()).replace(' ', "T"),
            model: bundle.manifest().model.id.clone(),
            model_digest: bundle.digest().to_owned(),
            plan: plan.plan.id.clone(),
            plan_version: plan.plan.version,
            sets: kept.runs.iter().map(|run| run.set_sha256.clone()).collect(),
            hardware: Hardware {
                device: self.identity.fingerprint(),
                processor: processor(),
                engine_build: kept.engine_build.clone(),
                precision: kept.precision,
                software: env!("CARGO_PKG_VERSION").to_owned(),
            },
            measured: measured(plan, kept),
            verdict: verdict.clone(),
        }
    }
}

/// Opens a sealed set and hands out its cases; yields their names once the whole file proved to be whole.
fn read_set(
    path: &Path,
    named: &str,
    secret: &[u8; 32],
    to: &mpsc::Sender<(Case, Vec<u8>)>,
) -> Result<Vec<String>, String> {
    let text = |error: &dyn std::error::Error| crate::config::chain(error);
    let sealed = File::open(path).map_err(|error| text(&error))?;
    let (plain, into) = std::io::pipe().map_err(|error| text(&error))?;
    std::thread::scope(|scope| {
        let opening = scope.spawn(|| seal::open(BufReader::new(sealed), into, secret));
        let read = || -> Result<Vec<String>, String> {
            let mut reader = SetReader::new(BufReader::new(plain), named).map_err(|error| text(&error))?;
            let names = reader.set().case.iter().map(|case| case.name.clone()).collect();
            while let Some(case) = reader.next_case().map_err(|error| text(&error))? {
                to.blocking_send(case).map_err(|_| "interrupted".to_owned())?;
            }
            Ok(names)
        };
        // What could not be opened explains best why nothing could be read.
        let names = read();
        match opening.join() {
            Ok(Ok(())) => names,
            Ok(Err(error)) => Err(match names {
                // The reader gave up first, and so the writer had nobody to write to.
                Err(why) if matches!(error, seal::SealError::Io(_)) => why,
                _ => format!("acceptance-set: {}", text(&error)),
            }),
            Err(_) => Err("opening the acceptance set failed in the code that does it".into()),
        }
    })
}

/// A row for each label.
fn rows_of(bundle: &Bundle, case: &Case, output: &RawOutput) -> Vec<Row> {
    let labels = bundle.manifest().label.iter();
    labels
        .map(|label| {
            let score = match output {
                RawOutput::Detections(found) => found
                    .iter()
                    .filter(|detection| detection.label == label.index)
                    .map(|detection| detection.score)
                    .fold(0.0, f64::max),
                RawOutput::Scores(scores) => scores.get(label.index as usize).copied().unwrap_or(0.0),
            };
            let shown = |score: f64| Tier::of(label, score) > Tier::Suppressed;
            let found: Vec<BoxEdges> = match output {
                RawOutput::Detections(found) => found
                    .iter()
                    .filter(|detection| detection.label == label.index && shown(detection.score))
                    .map(|detection| {
                        let region = &detection.region;
                        BoxEdges([region.left, region.top, region.right, region.bottom])
                    })
                    .collect(),
                RawOutput::Scores(_) => Vec::new(),
            };
            Row {
                case: case.name.clone(),
                label: label.name.clone(),
                score,
                tier: Tier::of(label, score),
                truth: case.truth.contains(&label.name),
                overlap: case.boxes.get(&label.name).and_then(|truth| overlap(truth, &found)),
                groups: case.groups.clone(),
            }
        })
        .collect()
}

/// For each true box the best of those that are shown, 0 where there is none; their mean.
fn overlap(truth: &[[f64; 4]], found: &[BoxEdges]) -> Option<f64> {
    let best = |edges: &[f64; 4]| {
        found
            .iter()
            .filter_map(|candidate| dice_of_boxes(&BoxEdges(*edges), candidate).ok())
            .fold(0.0, f64::max)
    };
    (!truth.is_empty()).then(|| truth.iter().map(best).sum::<f64>() / truth.len() as f64)
}

fn measured(plan: &Plan, kept: &Kept) -> Vec<(String, Measured)> {
    let of = |criterion: &lightbox_models::plan::Criterion| {
        let run = kept.runs.iter().find(|run| run.set_sha256 == criterion.set_sha256)?;
        let rows = run.of_label(&criterion.label).ok()?;
        Some((criterion.id.clone(), measure(criterion, &rows).ok()?))
    };
    plan.criterion.iter().filter_map(of).collect()
}

/// The processor's name, as Linux tells it.
fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_true_box_without_a_finding_counts_as_missed() {
        let square = [0.0, 0.0, 10.0, 10.0];
        let same = BoxEdges(square);
        assert_eq!(overlap(&[square], &[same]), Some(1.0));
        assert_eq!(overlap(&[square, [50.0, 50.0, 60.0, 60.0]], &[same]), Some(0.5));
        assert_eq!(overlap(&[square], &[]), Some(0.0));
        assert_eq!(overlap(&[], &[same]), None);
    }
}
