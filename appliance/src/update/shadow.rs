//! A candidate in shadow: it runs on every live study that the active version has ended on, after that
//! one's result is queued, and what it says stays here.
//!
//! It has no part in a job: what it runs on is a row of its own (`store::models::shadow`), it makes no output, and
//! between two frames it waits for as long as there is any job ([`EngineHandle::behind`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lightbox_models::Bundle;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Managed;
use super::registry::Registry;
use crate::config::chain;
use crate::finding::Completeness;
use crate::infer;
use crate::infer::engine::EngineHandle;
use crate::pipeline;
use crate::store::jobs;
use crate::store::ledger::{Ledger, LedgerError};
use crate::store::models::Reading;
use crate::store::models::shadow::{self, Begun, Turn};
use crate::store::objects::Objects;

/// How often the ledger is asked whether a study waits.
const TICK: Duration = Duration::from_millis(500);
/// How often the time in shadow is written down.
const NOTE_TIME: Duration = Duration::from_secs(2);
/// A candidate that does not load is tried again after this long.
const LOAD_AGAIN: Duration = Duration::from_secs(60);

/// The runs in shadow of all models.
pub struct Shadow {
    pub(super) models: Vec<Managed>,
    pub(super) ledger: Ledger,
    pub(super) objects: Objects,
    pub(super) registry: Registry,
    /// One that gives way.
    pub(super) engine: EngineHandle,
}

/// Why a candidate does not run, by its digest, and when it was found.
type Faults = Mutex<BTreeMap<String, (String, Instant)>>;

impl Shadow {
    /// Runs until `stop` turns true.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let faults = Faults::default();
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => {}
            () = self.note_times(&faults) => {}
            () = self.turns(&faults) => {}
        }
        // A try that is broken off on purpose is none.
        if let Err(error) = self.ledger.write(shadow::take_back).await {
            tracing::warn!(reason = error.to_string(), "a try in shadow cannot be taken back");
        }
    }

    /// Notes the time for which each candidate was ready.
    async fn note_times(&self, faults: &Faults) {
        loop {
            for model in &self.models {
                let slot = model.name.clone();
                let watched = self.ledger.read(move |reader| shadow::watched(reader, &slot)).await;
                let noted = match watched {
                    Ok(Some(watched)) => {
                        let fault = fault_of(faults, &watched.candidate).unwrap_or_default();
                        let (slot, boot) = (model.name.clone(), self.ledger.boot().to_owned());
                        self.ledger
                            .write(move |writer| shadow::note_time(writer, &slot, &watched, &boot, &fault))
                            .await
                    }
                    Ok(None) => Ok(()),
                    Err(error) => Err(error),
                };
                if let Err(error) = noted {
                    tracing::error!(reason = error.to_string(), "the time in shadow cannot be noted");
                }
            }
            tokio::time::sleep(NOTE_TIME).await;
        }
    }

    async fn turns(&self, faults: &Faults) {
        let mut loaded = BTreeSet::new();
        loop {
            let mut worked = false;
            for model in &self.models {
                match self.turn(model, faults, &mut loaded).await {
                    Ok(done) => worked |= done,
                    Err(error) => {
                        tracing::error!(reason = error.to_string(), "a run in shadow cannot be made");
                    }
                }
            }
            if !worked {
                tokio::time::sleep(TICK).await;
            }
        }
    }

    /// One study, if one waits. Yields whether there may be more.
    async fn turn(
        &self,
        model: &Managed,
        faults: &Faults,
        loaded: &mut BTreeSet<String>,
    ) -> Result<bool, LedgerError> {
        let slot = model.name.clone();
        let found = self
            .ledger
            .read(move |reader| {
                let Some(watched) = shadow::watched(reader, &slot)? else { return Ok(None) };
                Ok((shadow::waiting(reader, &slot, &watched)? > 0).then_some(watched))
            })
            .await?;
        let Some(watched) = found else { return Ok(false) };
        if fault_of(faults, &watched.candidate).is_some() || self.engine.turn().await.is_err() {
            return Ok(false);
        }
        // What does not load is no study's fault, so it is found before a study is taken.
        let is_new = !loaded.contains(&watched.candidate);
        let bundle = match self.open(&watched.candidate, is_new).await {
            Ok(bundle) => bundle,
            Err(why) => {
                tracing::error!(
                    model = model.name,
                    candidate = watched.candidate,
                    why,
                    "a candidate does not load"
                );
                let mut faults = faults.lock().unwrap_or_else(PoisonError::into_inner);
                faults.insert(watched.candidate, (why, Instant::now()));
                return Ok(false);
            }
        };
        loaded.insert(watched.candidate.clone());
        let slot = model.name.clone();
        let begun = self.ledger.write({
            let watched = watched.clone();
            move |writer| shadow::begin(writer, &slot, &watched)
        });
        match begun.await? {
            Begun::Nothing => Ok(false),
            Begun::Lost => {
                tracing::error!(
                    model = model.name,
                    candidate = watched.candidate,
                    "the daemon ended every time that a candidate ran on a study in shadow; it runs no more"
                );
                Ok(false)
            }
            Begun::Turn(turn) => {
                self.examine(model, &bundle, turn).await?;
                Ok(true)
            }
        }
    }

    async fn open(&self, digest: &str, load: bool) -> Result<Arc<Bundle>, String> {
        let (registry, digest) = (self.registry.clone(), digest.to_owned());
        let opened = tokio::task::spawn_blocking(move || registry.open(&digest)).await;
        let bundle = opened.map_err(|_| "interrupted".to_owned())?.map_err(|error| chain(&error))?;
        if load {
            infer::load(&bundle, &self.engine).await.map_err(|error| chain(&error))?;
        }
        Ok(bundle)
    }

    async fn examine(&self, model: &Managed, bundle: &Arc<Bundle>, turn: Turn) -> Result<(), LedgerError> {
        let job = turn.job_id;
        let (claim, evidence) = self
            .ledger
            .read(move |reader| {
                let claim = jobs::of(reader, job)?;
                let evidence = jobs::instances(reader, &claim)?;
                Ok((claim, evidence))
            })
            .await?;
        let said = pipeline::examine(bundle, &self.engine, &self.objects, &claim, &evidence).await;
        let (reading, may_pass) = match said {
            Ok(examined) => match (examined.reading, examined.result.completeness) {
                (Some(reading), _) => (reading, false),
                (None, completeness) => (Reading::failed(&why_not(&completeness)), false),
            },
            Err(error) => (Reading::failed(&chain(&error)), true),
        };
        let outcome = if reading.failed.is_some() { "failed" } else { "done" };
        metrics::counter!("lightbox_shadow_runs_total", "model" => model.name.clone(), "outcome" => outcome)
            .increment(1);
        if let Some(reason) = &reading.failed {
            tracing::warn!(
                model = model.name,
                study = claim.study_key,
                reason,
                "a candidate failed in shadow"
            );
        }
        self.ledger.write(move |writer| shadow::end(writer, &turn, &reading, may_pass)).await
    }
}

fn why_not(completeness: &Completeness) -> String {
    match completeness {
        Completeness::NotRun(why) => why.clone(),
        _ => "it said nothing".into(),
    }
}

fn fault_of(faults: &Faults, digest: &str) -> Option<String> {
    let faults = faults.lock().unwrap_or_else(PoisonError::into_inner);
    faults.get(digest).filter(|(_, at)| at.elapsed() < LOAD_AGAIN).map(|(why, _)| why.clone())
}
