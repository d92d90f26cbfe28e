//! Asks PACS for earlier studies and retrieves them, each wish by its deadline.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, timeout_at};

use super::choose::{self, Candidate};
use super::way::{Questions, Way, WayError, Ways};
use crate::config::chain;
use crate::dicom::query::Level;
use crate::dicom::retrieve::Wanted;
use crate::ingest::receive::Receiver;
use crate::phi::Phi;
use crate::store::entry::study_key;
use crate::store::ledger::LedgerError;
use crate::store::priors::{self, Fetch, NewPrior};

/// Wishes that are served at once.
const FETCHES_MAX: usize = 4;
/// Answers of one query.
const STUDIES_MAX: usize = 500;
const SERIES_MAX: usize = 500;
const INSTANCES_MAX: usize = 20_000;
/// Earlier studies whose series are looked at for one wish.
const CANDIDATES_MAX: usize = 20;
/// What is kept of the time, so that how it ended is written down before the models start.
const MARGIN: Duration = Duration::from_millis(500);
/// Another process may have written.
const SLEEP: Duration = Duration::from_secs(1);

/// What fetching needs; clones share it.
#[derive(Clone)]
pub struct Fetcher {
    /// Where what comes by C-GET and WADO-RS goes; also ledger, objects, device and clock.
    pub receiver: Receiver,
    /// The peers that can be asked.
    pub ways: Arc<Ways>,
    /// Told when a wish was written.
    pub wake: Arc<Notify>,
    /// Told when jobs may start.
    pub work: Arc<Notify>,
}

/// Why a wish was not fulfilled. `Display` holds no patient data.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("{0}")]
    Cannot(&'static str),
    #[error("the query failed")]
    Way(#[from] WayError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl Fetcher {
    /// Fetches until `stop` turns true.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let under_way: Arc<Mutex<HashSet<i64>>> = Arc::default();
        let places = Arc::new(Semaphore::new(FETCHES_MAX));
        loop {
            match self.receiver.ledger.read(priors::open).await {
                Ok(open) => {
                    for fetch in open {
                        self.clone().spawn(fetch, &under_way, &places);
                    }
                }
                Err(error) => tracing::error!(reason = error.to_string(), "priors cannot be looked for"),
            }
            tokio::select! {
                () = self.wake.notified() => {}
                () = tokio::time::sleep(SLEEP) => {}
                _ = stop.changed() => return,
            }
        }
    }

    fn spawn(self, fetch: Fetch, under_way: &Arc<Mutex<HashSet<i64>>>, places: &Arc<Semaphore>) {
        if !under_way.lock().unwrap_or_else(PoisonError::into_inner).insert(fetch.id) {
            return;
        }
        let (under_way, places) = (under_way.clone(), places.clone());
        let id = fetch.id;
        tokio::spawn(async move {
            let left = u64::try_from(fetch.until - self.receiver.clock.now_ms()).unwrap_or_default();
            let until = Instant::now() + Duration::from_millis(left).saturating_sub(MARGIN);
            let fetched = timeout_at(until, async {
                let _place = places.acquire().await;
                self.fetch(&fetch, until).await
            });
            let reason = match fetched.await {
                Ok(Ok(reason)) => reason,
                Ok(Err(fault)) => chain(&fault),
                Err(_) => "the deadline ran out".to_owned(),
            };
            self.end(fetch, reason).await;
            under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        });
    }

    async fn end(&self, fetch: Fetch, reason: String) {
        let (study, rule, peer) = (fetch.study_key.clone(), fetch.rule.clone(), fetch.peer.clone());
        if reason.is_empty() {
            tracing::info!(study, rule, peer, "priors are here");
        } else {
            tracing::warn!(study, rule, peer, reason, "not all priors are here; the models start without");
        }
        let ended = self.receiver.ledger.write(move |writer| priors::end(writer, &fetch, &reason)).await;
        if let Err(error) = ended {
            // The wish stays open and is ended at the next look; jobs start at their deadline all the same.
            tracing::error!(study, reason = error.to_string(), "the end of a fetch could not be written");
        }
        self.work.notify_one();
    }

    /// Yields why not all of it came; empty if all did.
    async fn fetch(&self, fetch: &Fetch, until: Instant) -> Result<String, Fault> {
        if let Some(why) = choose::cannot_ask(&fetch.ask) {
            return Err(Fault::Cannot(why));
        }
        let Some(way) = self.ways.to(&fetch.peer, fetch.ask.by()) else {
            return Err(Fault::Cannot("the site file names no such peer with an address any more"));
        };
        let chosen = self.choose(fetch, &way, until).await?;
        let mut reasons = Vec::new();
        for prior in chosen {
            let reason = self.retrieve(&prior, &way, until).await?;
            // What was acknowledged before now is in the index after this.
            self.receiver.objects.settled().await;
            let id = fetch.id;
            let counted = prior.clone();
            let held = self.receiver.ledger.read(move |reader| held(reader, &counted)).await?;
            let why = reason.clone();
            self.receiver.ledger.write(move |writer| priors::settle(writer, id, &prior, held, &why)).await?;
            if !reason.is_empty() && !reasons.contains(&reason) {
                reasons.push(reason);
            }
        }
        Ok(reasons.join("; "))
    }

    /// Asks which earlier studies there are, and chooses.
    async fn choose(&self, fetch: &Fetch, way: &Way, until: Instant) -> Result<Vec<NewPrior>, Fault> {
        let mut questions = way.open().await?;
        let found = self.ask(&mut questions, fetch, until).await;
        questions.end(found.as_ref().err()).await;
        let (fitting, chosen) = found?;
        let (fetch, written) = (fetch.clone(), chosen.clone());
        self.receiver.ledger.write(move |writer| priors::choose(writer, &fetch, fitting, &written)).await?;
        Ok(chosen)
    }

    async fn ask(
        &self,
        questions: &mut Questions,
        fetch: &Fetch,
        until: Instant,
    ) -> Result<(u32, Vec<NewPrior>), WayError> {
        let ask = &fetch.ask;
        let studies = questions.find(Level::Study, choose::study_keys(ask), STUDIES_MAX, until).await?;
        let candidates: Vec<Candidate> = choose::studies(ask, &studies.matches);
        let (mut chosen, wanted) = (Vec::new(), ask.latest as usize);
        for candidate in candidates.iter().take(CANDIDATES_MAX) {
            if chosen.len() >= wanted {
                break;
            }
            let keys = choose::series_keys(candidate);
            let answers = questions.find(Level::Series, keys, SERIES_MAX, until).await?;
            let mut series = choose::series(ask, candidate, &answers.matches);
            for one in series.iter_mut().filter(|one| one.instances.is_none()) {
                let keys = choose::instance_keys(candidate, one);
                // The PACS does not say how many there are: they are counted.
                let answers = questions.find(Level::Image, keys, INSTANCES_MAX, until).await?;
                one.instances = answers.complete.then_some(answers.matches.len() as u32);
            }
            if !series.is_empty() {
                chosen.push(NewPrior {
                    study_uid: candidate.study_uid.clone(),
                    study_key: study_key(&self.receiver.identity, candidate.study_uid.expose()),
                    date: candidate.date.clone(),
                    series: series.into_iter().map(|one| (one.series_uid, one.instances)).collect(),
                });
            }
        }
        Ok((chosen.len() as u32, chosen))
    }

    /// Retrieves the series of a prior that are not all here; yields why one did not come.
    async fn retrieve(&self, prior: &NewPrior, way: &Way, until: Instant) -> Result<String, LedgerError> {
        let uid = prior.study_uid.clone();
        let was_sent = self.receiver.ledger.read(move |reader| priors::was_sent(reader, &uid)).await?;
        for (series_uid, there) in &prior.series {
            let (study, series) = (prior.study_uid.clone(), series_uid.clone());
            let held = self.receiver.ledger.read(move |reader| priors::held(reader, &study, &series)).await?;
            if there.is_some_and(|there| there > 0 && held >= there) {
                continue;
            }
            if was_sent {
                return Ok("it was sent to this box before, and is not completed from elsewhere".into());
            }
            let wanted = Wanted {
                study_uid: prior.study_uid.clone(),
                series_uid: Some(series_uid.clone()),
                instance_uids: Vec::new(),
            };
            let within = until.saturating_duration_since(Instant::now());
            match way.clone().retrieve(&self.receiver, &wanted, within).await {
                Ok(0) => {}
                Ok(failed) => return Ok(format!("the peer could not send {failed} instances")),
                Err(error) => return Ok(chain(&error)),
            }
        }
        Ok(String::new())
    }
}

/// Instances of the wanted series that are here.
fn held(reader: &rusqlite::Connection, prior: &NewPrior) -> Result<u32, LedgerError> {
    let of = |series_uid: &Phi<String>| priors::held(reader, &prior.study_uid, series_uid);
    prior.series.iter().map(|(series_uid, _)| of(series_uid)).sum()
}
