//! Watches open studies: wakes when the ledger got something that may complete one, or when a timer runs
//! out, and asks the PACS for its count. No polling lies between the last image and the job.

use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, params};
use serde_json::json;
use tokio::sync::{Notify, Semaphore, watch};

use super::evidence::{self, CountedSeries, Says, Verdict};
use super::known::{self, Gathered, Open};
use super::policy::Policy;
use super::{Step, advance};
use crate::clock::SharedClock;
use crate::ingest::rules::RuleSet;
use crate::phi::Phi;
use crate::store::ledger::{Ledger, LedgerError};
use crate::store::priors;

/// The least pause between two looks: what comes in it is seen in one.
const PAUSE_MIN: Duration = Duration::from_millis(5);
/// The greatest one. Between the two it is three times as long as the last look took, so that a flood of
/// instances does not make looking the box's main work.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// Longest sleep: another process (a replay from the command line) may have written.
const SLEEP_MAX: Duration = Duration::from_secs(1);
/// Counts that are asked for at once.
const ASKING_MAX: usize = 4;
/// Wait before a PACS is asked again for the same study; it doubles with each try up to `BACKOFF_MAX_MS`.
const BACKOFF_MS: i64 = 2_000;
const BACKOFF_MAX_MS: i64 = 60_000;

/// What a PACS answered.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// Number of Study Related Instances, where it tells.
    pub instances: Option<u32>,
    /// By series.
    pub series: Vec<CountedSeries>,
}

/// Asks a PACS how many instances a study has. The error is a reason without patient data.
pub type AskCount =
    Arc<dyn Fn(Phi<String>) -> Pin<Box<dyn Future<Output = Result<Answer, String>> + Send>> + Send + Sync>;

/// What watching needs.
#[derive(Clone)]
pub struct Watcher {
    /// Where studies are.
    pub ledger: Ledger,
    /// For the timers.
    pub clock: SharedClock,
    /// When a study counts as complete.
    pub policy: Arc<Policy>,
    /// Where it goes then.
    pub rules: Arc<RuleSet>,
    /// Told when jobs were written.
    pub work: Arc<Notify>,
    /// Told when series are to be sent on, one for each destination.
    pub forwarded: Arc<Vec<Arc<Notify>>>,
    /// Told when priors are to be looked for.
    pub priors: Arc<Notify>,
    /// The peer that is asked for its count, and how.
    pub ask: Option<(String, AskCount)>,
}

/// What is to be done about a study.
struct Due {
    id: i64,
    stat: bool,
}

/// A look at all open studies.
#[derive(Default)]
struct Look {
    due: Vec<Due>,
    ask: Vec<(i64, Phi<String>, u32)>,
    /// When something will be due by itself.
    next: Option<i64>,
}

impl Look {
    fn wake_at(&mut self, at: i64) {
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }
}

impl Watcher {
    /// Watches until `stop` turns true.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let since = self.clock.now_ms();
        let changed = self.ledger.evidence();
        let asking = Asking { studies: Arc::default(), places: Arc::new(Semaphore::new(ASKING_MAX)) };
        loop {
            let began = Instant::now();
            let next = match self.look(since, &asking).await {
                Ok(next) => next,
                Err(error) => {
                    tracing::error!(reason = error.to_string(), "studies cannot be closed");
                    None
                }
            };
            let pause = (began.elapsed() * 3).clamp(PAUSE_MIN, PAUSE_MAX);
            let wait = next.map_or(SLEEP_MAX, |next| {
                Duration::from_millis(u64::try_from(next - self.clock.now_ms()).unwrap_or_default())
            });
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = stop.changed() => return,
            }
            tokio::select! {
                () = changed.notified() => {}
                () = tokio::time::sleep(wait.min(SLEEP_MAX)) => {}
                _ = stop.changed() => return,
            }
        }
    }

    async fn look(&self, since: i64, asking: &Asking) -> Result<Option<i64>, LedgerError> {
        let (policy, rules, now) = (self.policy.clone(), self.rules.clone(), self.clock.now_ms());
        let asks = self.ask.is_some();
        let look = self.ledger.read(move |reader| look(reader, &policy, &rules, now, since, asks)).await?;
        // Each STAT study in a transaction of its own, so that none waits for the others' routing.
        let (stat, routine): (Vec<Due>, Vec<Due>) = look.due.into_iter().partition(|due| due.stat);
        let groups = stat.into_iter().map(|due| vec![due]).chain((!routine.is_empty()).then_some(routine));
        for group in groups {
            let (policy, rules) = (self.policy.clone(), self.rules.clone());
            let steps = self.ledger.write(move |writer| {
                group
                    .iter()
                    .map(|due| advance(writer, due.id, &policy, &rules, since))
                    .collect::<Result<Vec<_>, _>>()
            });
            self.tell(&steps.await?);
        }
        if let Some((peer, ask)) = &self.ask {
            for (id, uid, tries) in look.ask {
                asking.spawn(
                    self.ledger.clone(),
                    peer.clone(),
                    ask.clone(),
                    id,
                    uid,
                    tries,
                    self.clock.clone(),
                );
            }
        }
        Ok(look.next)
    }

    fn tell(&self, steps: &[Step]) {
        for study in steps.iter().filter_map(|step| step.closed.as_ref()) {
            tracing::info!(
                study = study.study_key,
                revision = study.revision,
                models = study.models.join(","),
                "study closed and routed"
            );
        }
        if steps.iter().any(|step| step.closed.is_some() || step.started > 0) {
            self.work.notify_one();
        }
        if steps.iter().any(|step| step.priors) {
            self.priors.notify_one();
        }
        if steps.iter().any(|step| step.closed.as_ref().is_some_and(|closed| closed.forwards > 0)) {
            self.forwarded.iter().for_each(|forwards| forwards.notify_one());
        }
    }
}

/// Judges every open study that may have come further.
fn look(
    reader: &Connection,
    policy: &Policy,
    rules: &RuleSet,
    now: i64,
    since: i64,
    asks: bool,
) -> Result<Look, LedgerError> {
    // A study of which nothing but instances is known is looked at when its shortest timer is over.
    let open: Vec<(i64, i64, bool)> = reader
        .prepare_cached(
            "SELECT s.id, s.last_at,
                EXISTS (SELECT 1 FROM procedure_steps p WHERE p.study_uid = s.study_uid)
                OR EXISTS (SELECT 1 FROM announcements a WHERE a.study_uid = s.study_uid)
                OR EXISTS (SELECT 1 FROM orders o WHERE o.study_uid = s.study_uid)
                OR EXISTS (SELECT 1 FROM orders o WHERE o.accession != '' AND o.accession = (
                    SELECT json_extract(i.attributes, '$.accession') FROM instances i WHERE i.study_id = s.id LIMIT 1))
             FROM studies s WHERE s.state = 'receiving' ORDER BY s.priority DESC, s.last_at",
        )?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let mut look = Look::default();
    for (id, last_at, has_evidence) in open {
        let earliest = last_at + policy.shortest_ms();
        if !has_evidence && !policy.starts_series() && !policy.wants_priors() && earliest > now {
            look.wake_at(earliest);
            continue;
        }
        let Some(study) = known::open(reader, id)? else { continue };
        let gathered = known::gather(reader, &study, policy, rules, now, since)?;
        judge(reader, &mut look, &study, &gathered, policy, now, asks)?;
    }
    Ok(look)
}

fn judge(
    reader: &Connection,
    look: &mut Look,
    study: &Open,
    gathered: &Gathered,
    policy: &Policy,
    now: i64,
    asks: bool,
) -> Result<(), LedgerError> {
    let known = &gathered.known;
    let ordered_stat = gathered.order.as_ref().is_some_and(|order| order.is_stat());
    let due = Due { id: study.id, stat: study.stat || ordered_stat };
    let judged = evidence::study(known);
    let Verdict::Waiting { until, .. } = judged.verdict else {
        look.due.push(due);
        return Ok(());
    };
    look.wake_at(until);
    let mut acts = ordered_stat && !study.stat;
    acts |= !priors::all_wanted(reader, study.id, &gathered.routing)?;
    if policy.starts_series() {
        let mut routing = gathered.routing.clone();
        for start in policy.take_series_starts(&mut routing) {
            let found = known.series.iter().position(|series| series.uid == start.series);
            let Some(place) = found else { continue };
            if crate::store::jobs::covered(
                reader,
                study.id,
                &start.model,
                &start.series,
                gathered.through[place],
            )? {
                continue;
            }
            match evidence::series(known, &known.series[place]).verdict {
                Verdict::Complete { .. } => acts = true,
                Verdict::Waiting { until, .. } => look.wake_at(until),
            }
        }
    }
    if acts {
        look.due.push(due);
    }
    if asks && !known.series.is_empty() {
        let (at, tries) = ask_at(reader, study, gathered, policy)?;
        // What other evidence has already settled need not be asked for; what speaks against it the
        // PACS cannot refute.
        let open =
            judged.evidence.iter().all(|one| one.kind == evidence::Kind::Count || one.says == Says::Nothing);
        if open && at <= now {
            look.ask.push((study.id, study.uid.clone(), tries));
        } else if open {
            look.wake_at(at);
        }
    }
    Ok(())
}

/// When the PACS is to be asked for its count, and the number of tries so far since the last instance.
fn ask_at(
    reader: &Connection,
    study: &Open,
    gathered: &Gathered,
    policy: &Policy,
) -> Result<(i64, u32), LedgerError> {
    let known = &gathered.known;
    // Where models start with a series, the series' silence is enough to ask.
    let silent_since = if policy.starts_series() {
        known.series.iter().map(|series| series.last_at).min().unwrap_or(study.last_at)
    } else {
        study.last_at
    };
    let first = silent_since + policy.settle_ms;
    let Some(count) = &known.count else { return Ok((first, 0)) };
    let tries: u32 = reader
        .prepare_cached("SELECT tries FROM counts WHERE study_id = ?1")?
        .query_row([study.id], |row| row.get(0))?;
    if count.asked_at < study.last_at {
        return Ok(((study.last_at + policy.settle_ms).max(count.asked_at + policy.settle_ms), 0));
    }
    let backoff = BACKOFF_MS.saturating_mul(1 << tries.min(10)).min(BACKOFF_MAX_MS);
    Ok((count.asked_at + backoff, tries))
}

/// The questions under way.
#[derive(Clone)]
struct Asking {
    studies: Arc<Mutex<HashSet<i64>>>,
    places: Arc<Semaphore>,
}

impl Asking {
    #[expect(clippy::too_many_arguments, reason = "what a task takes along")]
    fn spawn(
        &self,
        ledger: Ledger,
        peer: String,
        ask: AskCount,
        id: i64,
        uid: Phi<String>,
        tries: u32,
        clock: SharedClock,
    ) {
        if !self.studies.lock().unwrap_or_else(PoisonError::into_inner).insert(id) {
            return;
        }
        let asking = self.clone();
        tokio::spawn(async move {
            if let Ok(_place) = asking.places.acquire().await {
                let asked_at = clock.now_ms();
                let answer = ask(uid).await;
                if let Err(reason) = &answer {
                    tracing::warn!(peer, reason, "the count of a study was not told");
                }
                let kept = ledger.write(move |writer| {
                    let (answer, fault) = match answer {
                        Ok(answer) => (answer, None),
                        Err(fault) => (Answer::default(), Some(fault)),
                    };
                    writer.tx().execute(
                        "INSERT INTO counts (study_id, peer, asked_at, tries, instances, series, fault)
                         VALUES (?1,?2,?3,?4,?5,?6,?7)
                         ON CONFLICT (study_id) DO UPDATE SET peer = ?2, asked_at = ?3, tries = ?4, instances = ?5,
                            series = ?6, fault = ?7",
                        params![id, peer, asked_at, tries + 1, answer.instances, json!(answer.series).to_string(), fault],
                    )?;
                    Ok(())
                });
                if let Err(error) = kept.await {
                    tracing::error!(reason = error.to_string(), "a count could not be kept");
                }
            }
            asking.studies.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        });
    }
}
