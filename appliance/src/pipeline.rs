//! Drives a closed study along the line: claims jobs, runs infer → structure → report, makes the outputs,
//! and hands them to the queues. The stages do not know of each other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lightbox_bootstrap::identity::{DeviceIdentity, uid_from_digest};
use lightbox_models::Bundle;
use lightbox_provisioning::site::{FailedRun, Site};
use rusqlite::Connection;
use sha2::{Digest, Sha256};
use tokio::sync::{Notify, watch};

use crate::audit::chain::hex;
use crate::clock::SharedClock;
use crate::config::chain;
use crate::deliver::context::{Device, ResultContext, ResultIds};
use crate::deliver::{hl7, sender, sr};
use crate::dicom::header;
use crate::finding::{Completeness, Finding, ModelResult};
use crate::infer::engine::EngineHandle;
use crate::infer::{self, StoredImage};
use crate::phi::Phi;
use crate::report;
use crate::store::jobs::{self, Claim, Ended, Instance, Made};
use crate::store::ledger::{Ledger, LedgerError};
use crate::store::models::{self, Reading};
use crate::store::objects::Objects;
use crate::store::results::Results;
use crate::structure;
use crate::update::registry::{Registry, Resolved};

/// Tries of a job before it counts as failed.
const ATTEMPTS_MAX: u32 = 3;
/// A job that is not ended after this long was lost with its worker.
const LEASE: Duration = Duration::from_secs(30 * 60);

/// What the line needs; clones share it.
#[derive(Clone)]
pub struct Pipeline {
    /// The site file.
    pub site: Arc<Site>,
    /// The models that may run.
    pub registry: Registry,
    /// The engine; `None` where the site has no models.
    pub engine: Option<EngineHandle>,
    /// The ledger.
    pub ledger: Ledger,
    /// The objects.
    pub objects: Objects,
    /// The results.
    pub results: Results,
    /// The device's identity.
    pub identity: Arc<DeviceIdentity>,
    /// The clock.
    pub clock: SharedClock,
    /// Told when a job was written.
    pub work: Arc<Notify>,
    /// Told when a delivery was queued, one for each destination.
    pub queued: Arc<Vec<Arc<Notify>>>,
    /// True while there is a job: work without a result gives way.
    pub busy: Arc<watch::Sender<bool>>,
}

/// A model that ran.
struct Ran {
    result: ModelResult,
    evidence: Vec<Instance>,
    reading: Option<Reading>,
}

/// Why a job failed, and whether trying again can help.
struct Failure {
    reason: String,
    cause: Cause,
}

/// What is written down of a job that was run.
#[derive(Clone)]
enum End {
    Ended(Box<Ended>),
    Again { reason: String, next_ms: i64 },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// The study, the model or the site file: trying again changes nothing.
    Lasting,
    /// The engine: a few tries.
    Engine,
    /// This box's disk or ledger: the study is not at fault, so it waits until there is room again.
    Box,
}

impl Failure {
    fn lasting(reason: impl Into<String>) -> Self {
        Failure { reason: reason.into(), cause: Cause::Lasting }
    }

    fn engine(error: &dyn std::error::Error) -> Self {
        Failure { reason: chain(error), cause: Cause::Engine }
    }

    fn of_box(error: &dyn std::error::Error) -> Self {
        Failure { reason: chain(error), cause: Cause::Box }
    }

    fn may_pass(&self, attempts: u32) -> bool {
        match self.cause {
            Cause::Lasting => false,
            Cause::Engine => attempts < ATTEMPTS_MAX,
            Cause::Box => true,
        }
    }
}

impl Pipeline {
    /// Runs jobs one after another, until `stop` turns true. A job under way is finished first.
    pub async fn run_jobs(self, mut stop: watch::Receiver<bool>) {
        loop {
            if *stop.borrow() {
                return;
            }
            let owner = self.ledger.boot().to_owned();
            let lease_ms = LEASE.as_millis() as i64;
            match self.ledger.write(move |writer| jobs::claim(writer, &owner, lease_ms)).await {
                Ok(Some(claim)) => {
                    self.busy.send_replace(true);
                    self.run_job(claim).await;
                    continue;
                }
                Ok(None) => drop(self.busy.send_replace(false)),
                Err(error) => tracing::error!(reason = error.to_string(), "jobs cannot be claimed"),
            }
            tokio::select! {
                () = self.work.notified() => {}
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
                _ = stop.changed() => return,
            }
        }
    }

    async fn run_job(&self, claim: Claim) {
        let mut timings = BTreeMap::new();
        let ran = self.infer_and_structure(&claim, &mut timings).await;
        let (ended, reading) = match ran {
            Ok(Ran { result, evidence, reading }) => {
                (self.make_outputs(&claim, result, evidence, None, &mut timings).await, reading)
            }
            Err(failure) if failure.may_pass(claim.attempts) => (Err(failure), None),
            Err(failure) => {
                let reading = Reading::failed(&failure.reason);
                (self.make_failed_outputs(&claim, failure.reason, &mut timings).await, Some(reading))
            }
        };
        let (study, model) = (claim.study_key.clone(), claim.model.clone());
        let end = match ended {
            Ok(mut ended) => {
                ended.timings = timings;
                ended.reading = reading;
                End::Ended(Box::new(ended))
            }
            Err(failure) if failure.may_pass(claim.attempts) => {
                tracing::warn!(study, model, reason = failure.reason, "job will be tried again");
                let wait_ms = 5_000 * i64::from(claim.attempts.min(12));
                End::Again { reason: failure.reason, next_ms: self.clock.now_ms() + wait_ms }
            }
            Err(failure) => End::Ended(Box::new(Ended {
                outcome: None,
                error: Some(failure.reason),
                made: None,
                timings,
                reading,
            })),
        };
        self.write_end(&claim, &end).await;
        if let End::Ended(ended) = &end {
            let outcome = if ended.error.is_some() { "failed" } else { "done" };
            metrics::counter!("lightbox_jobs_total", "model" => model.clone(), "outcome" => outcome)
                .increment(1);
            match &ended.error {
                Some(reason) => tracing::error!(study, model, reason, "job failed"),
                None => tracing::info!(study, model, "job done"),
            }
            self.queued.iter().for_each(|queue| queue.notify_one());
        }
    }

    /// Writes a job's end until it is written: with a full disk the work is done but not lost.
    async fn write_end(&self, claim: &Claim, end: &End) {
        loop {
            let (job, end) = (claim.clone(), end.clone());
            let written = self
                .ledger
                .write(move |writer| match &end {
                    // What was recalled or rolled back while it ran says nothing any more.
                    End::Ended(_) if was_stopped(writer.tx(), &job)? => {
                        let reason = "the model's version was taken out of service while it ran";
                        jobs::retry(writer, &job, reason, writer.now_ms())
                    }
                    End::Ended(ended) => jobs::end(writer, &job, ended),
                    End::Again { reason, next_ms } => jobs::retry(writer, &job, reason, *next_ms),
                })
                .await;
            match written {
                Ok(()) => return,
                Err(LedgerError::Closed) => return, // shutting down; the next start takes it back
                Err(error) => {
                    let (study, reason) = (&claim.study_key, error.to_string());
                    tracing::error!(study, reason, "the end of a job could not be written, trying on");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    async fn infer_and_structure(
        &self,
        claim: &Claim,
        timings: &mut BTreeMap<&'static str, u64>,
    ) -> Result<Ran, Failure> {
        let resolved = self.resolve(claim).await?;
        let engine = self.engine.as_ref().ok_or_else(|| Failure::lasting("no engine is running"))?;
        let evidence = self.evidence(claim).await?;
        let examined = examine(&resolved.bundle, engine, &self.objects, claim, &evidence).await;
        let Examined { mut result, reading, infer_ms, structure_ms } =
            examined.map_err(|error| Failure::engine(&error))?;
        timings.insert("infer", infer_ms);
        timings.insert("structure", structure_ms);
        result.model = resolved.identity();
        Ok(Ran { result, evidence, reading })
    }

    /// The version that a job runs with. Its files are this box's matter: where they cannot be read, the study
    /// waits.
    async fn resolve(&self, claim: &Claim) -> Result<Resolved, Failure> {
        let Some(pinned) = claim.pinned.clone() else {
            return Err(Failure::lasting(format!("the site file has no model \"{}\" any more", claim.model)));
        };
        let registry = self.registry.clone();
        tokio::task::spawn_blocking(move || registry.resolve(&pinned))
            .await
            .map_err(|_| Failure::lasting("opening the bundle failed in the code that does it"))?
            .map_err(|error| Failure::of_box(&error))
    }

    async fn evidence(&self, claim: &Claim) -> Result<Vec<Instance>, Failure> {
        let claim = claim.clone();
        self.ledger
            .read(move |reader| jobs::instances(reader, &claim))
            .await
            .map_err(|error| Failure::of_box(&error))
    }

    /// A model that could not run still speaks, unless the site wants silence: an SR that is
    /// PARTIAL and gives the reason. The job is failed either way, kept and shown.
    async fn make_failed_outputs(
        &self,
        claim: &Claim,
        reason: String,
        timings: &mut BTreeMap<&'static str, u64>,
    ) -> Result<Ended, Failure> {
        let Ok(resolved) = self.resolve(claim).await else {
            return Ok(Ended { error: Some(reason), ..Ended::default() });
        };
        let evidence = self.evidence(claim).await?;
        let result = ModelResult {
            model: resolved.identity(),
            // The reason may name files of this box; the peers get the fact, the admin page the why.
            completeness: Completeness::NotRun("the model could not be run".into()),
            findings: Vec::new(),
            examined: Vec::new(),
        };
        self.make_outputs(claim, result, evidence, Some(reason), timings).await
    }

    async fn make_outputs(
        &self,
        claim: &Claim,
        result: ModelResult,
        evidence: Vec<Instance>,
        error: Option<String>,
        timings: &mut BTreeMap<&'static str, u64>,
    ) -> Result<Ended, Failure> {
        let not_run = match &result.completeness {
            Completeness::NotRun(reason) => Some(reason.clone()),
            _ => None,
        };
        let error = error.or_else(|| not_run.clone());
        if not_run.is_some() && self.site.file.deliver.failed_run == FailedRun::None {
            return Ok(Ended { outcome: Some(result), error, ..Ended::default() });
        }
        let started = Instant::now();
        let draft = report::draft(&result, claim.revision);
        if let Some(rejected) = &draft.rejected {
            tracing::error!(study = claim.study_key, reason = %rejected, "the draft's text was rejected and replaced");
        }
        timings.insert("report", millis(started));
        let started = Instant::now();
        let context = self.context(claim, result, evidence, draft).await?;
        let this = self.clone();
        let destinations: Vec<String> = claim.deliver.keys().cloned().collect();
        let made = tokio::task::spawn_blocking(move || this.write_outputs(context, &destinations))
            .await
            .map_err(|_| Failure::lasting("building the outputs failed in the code that does it"))??;
        timings.insert("build", millis(started));
        Ok(Ended { outcome: Some(made.context.result.clone()), error, made: Some(made), ..Ended::default() })
    }

    /// Builds SR and messages and puts them on disk. Blocking.
    fn write_outputs(&self, context: ResultContext, destinations: &[String]) -> Result<Made, Failure> {
        let sr = sr::build(&context).map_err(|error| Failure::lasting(chain(&error)))?;
        let sr_file = self.results.keep(&sr, "dcm").map_err(|error| Failure::of_box(&error))?;
        let (mut oru_files, mut oru_faults) = (BTreeMap::new(), BTreeMap::new());
        for name in destinations {
            let settings =
                self.site.destination(name).and_then(|found| sender::oru_settings(&self.site, found));
            if let Some(settings) = settings {
                match hl7::build_oru(&context, &settings) {
                    Ok(message) => {
                        let file = self.results.keep(message.as_bytes(), "hl7");
                        oru_files.insert(name.clone(), file.map_err(|error| Failure::of_box(&error))?);
                    }
                    // What HL7 cannot say (a study without a Patient ID) does not keep the SR back.
                    Err(error) => {
                        oru_faults.insert(name.clone(), format!("no message can be made: {}", chain(&error)));
                    }
                }
            }
        }
        Ok(Made { context, sr_file, oru_files, oru_faults })
    }

    async fn context(
        &self,
        claim: &Claim,
        result: ModelResult,
        evidence: Vec<Instance>,
        draft: report::Draft,
    ) -> Result<ResultContext, Failure> {
        let first = evidence.first().ok_or_else(|| Failure::lasting("the revision has no instance"))?;
        let (objects, object) = (self.objects.clone(), first.object.clone());
        let header = tokio::task::spawn_blocking(move || {
            objects.read(&object).map(|(receipt, reader)| {
                let length = reader.length();
                header::scan(reader, length, &receipt.transfer_syntax).0.study_header()
            })
        })
        .await
        .map_err(|_| Failure::lasting("reading the study's header failed in the code that does it"))?
        .map_err(|error| Failure::of_box(&error))?;
        let job = claim.clone();
        let predecessor = self
            .ledger
            .read(move |reader| jobs::predecessor(reader, &job))
            .await
            .map_err(|error| Failure::of_box(&error))?;
        let device = device(&self.site, &self.identity);
        let evidence = evidence.into_iter().map(|instance| instance.reference).collect();
        let ids = result_ids(&device, claim, &result).map_err(|error| Failure::lasting(chain(&error)))?;
        Ok(ResultContext {
            device,
            header,
            study_uid: claim.study_uid.clone(),
            revision: claim.revision,
            evidence,
            completion_note: match claim.on_series {
                None => format!("Study taken as complete: {}.", claim.verdict),
                Some(_) => format!("Of one series, taken as complete: {}.", claim.verdict),
            },
            order: claim.order.clone(),
            result,
            findings_text: draft.findings,
            impression_text: draft.impression,
            // A result that is made again after a crash must not name itself as its predecessor.
            predecessor: predecessor.filter(|earlier| earlier.sop_instance_uid != ids.sr_instance_uid),
            ids,
        })
    }
}

/// What a version says of what a job sees.
pub struct Examined {
    /// In codes.
    pub result: ModelResult,
    /// In numbers; none where nothing was there for it to look at.
    pub reading: Option<Reading>,
    infer_ms: u64,
    structure_ms: u64,
}

/// Loads a version, runs it on what a job sees, and puts what it says into codes.
pub async fn examine(
    bundle: &Arc<Bundle>,
    engine: &EngineHandle,
    objects: &Objects,
    claim: &Claim,
    evidence: &[Instance],
) -> Result<Examined, infer::Error> {
    let given = || evidence.iter().filter(|instance| claim.series.contains(&instance.reference.series_uid));
    let images: Vec<StoredImage> = given()
        .filter(|instance| instance.readable)
        .map(|instance| StoredImage {
            instance: instance.reference.clone(),
            source: objects.source(&instance.object),
        })
        .collect();
    let unreadable = given().filter(|instance| !instance.readable).count();
    let started = Instant::now();
    infer::load(bundle, engine).await?;
    let (loaded, waited) = (Instant::now(), engine.waited());
    let limits = infer::image::Limits::default();
    let mut raw = infer::run(bundle, engine, &images, &limits).await?;
    // What gave way to others took no longer for that.
    let latency = loaded.elapsed().saturating_sub(engine.waited().saturating_sub(waited));
    let latency_ms = latency.as_secs_f64() * 1000.0;
    let infer_ms = millis(started);
    if unreadable > 0 {
        let reason = format!("{unreadable} images are damaged");
        raw.completeness = match raw.completeness {
            Completeness::Complete => Completeness::Partial(reason),
            Completeness::Partial(other) => Completeness::Partial(format!("{other}; {reason}")),
            Completeness::NotRun(other) => Completeness::NotRun(format!("{other}; {reason}")),
        };
    }
    let started = Instant::now();
    let result = structure::structure(bundle, &raw);
    let reading = Reading::of(bundle.manifest(), &result, latency_ms);
    Ok(Examined { result, reading, infer_ms, structure_ms: millis(started) })
}

fn was_stopped(reader: &Connection, claim: &Claim) -> Result<bool, LedgerError> {
    match &claim.pinned {
        Some(pinned) => models::is_stopped(reader, &claim.model, &pinned.digest),
        None => Ok(false),
    }
}

fn millis(since: Instant) -> u64 {
    since.elapsed().as_millis().try_into().unwrap_or(u64::MAX)
}

/// This box, as results name it.
pub fn device(site: &Site, identity: &DeviceIdentity) -> Device {
    Device {
        uid: identity.device_uid(),
        station: site.file.appliance.name.clone(),
        manufacturer: "Lightbox project".into(),
        model: "Lightbox".into(),
        serial: identity.fingerprint(),
        software: env!("CARGO_PKG_VERSION").into(),
    }
}

/// Identifiers of a result: from device, study, revision, model and content, so that making it again
/// after a crash makes the same objects. The time that it carries is content as well: it is the job's
/// first claim, fixed in the ledger, so one UID never stands for two contents.
fn result_ids(device: &Device, claim: &Claim, result: &ModelResult) -> Result<ResultIds, serde_json::Error> {
    let study = claim.study_uid.expose();
    let content = serde_json::to_string(&(&result.findings, &result.completeness, &result.examined))?;
    let (revision, made_at) = (claim.revision.to_string(), claim.started_ms.to_string());
    // Two series of a study may have the same content (none): the series tells their results apart.
    let series = claim.on_series.iter().map(|(series, _)| series.expose().as_str());
    let base: Vec<&str> = [device.uid.as_str(), study, &revision, &result.model.digest, &content, &made_at]
        .into_iter()
        .chain(series.clone())
        .collect();
    let order: Vec<&str> = [device.uid.as_str(), study, &result.model.id].into_iter().chain(series).collect();
    let digest = |purpose: &str, parts: &[&str]| -> [u8; 32] {
        let mut hasher = Sha256::new();
        for part in std::iter::once(&purpose).chain(parts) {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part.as_bytes());
        }
        hasher.finalize().into()
    };
    Ok(ResultIds {
        series_uid: Phi::new(uid_from_digest(&digest("series", &base))),
        sr_instance_uid: Phi::new(uid_from_digest(&digest("sr", &base))),
        tracking_uids: result
            .findings
            .iter()
            .map(|finding| uid_from_digest(&digest("tracking", &tracking(study, result, finding))))
            .collect(),
        message_control_id: hex(&digest("message", &base)[..10]),
        filler_order_number: hex(&digest("order", &order)[..8]),
        created_ms: claim.started_ms,
    })
}

/// A finding keeps its tracking UID over the revisions of a study for as long as model, label and
/// place stay the same.
fn tracking<'a>(study: &'a str, result: &'a ModelResult, finding: &'a Finding) -> [&'a str; 5] {
    [
        study,
        &result.model.digest,
        &finding.label,
        finding.source.instance.sop_instance_uid.expose(),
        &finding.tracking_id,
    ]
}
