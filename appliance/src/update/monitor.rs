//! The plan's monitors: they watch what the active version says of live studies, and take it out of service by
//! themselves where the plan says so.
//!
//! Each reading is made from the ledger anew, so a restart changes nothing. A window begins with the version's
//! activation: what people bring back is judged by what it does from then on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lightbox_models::life_cycle::{Duties, Event, Facts};
use lightbox_models::plan::{Action, Alarm, Monitor, judge, reading};
use rusqlite::Connection;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::Managed;
use super::back::{Back, go_back_from};
use super::files::Folders;
use crate::store::ledger::{Ledger, LedgerError};
use crate::store::models::{self, Actor, VersionRow};

/// How often the ledger is asked whether a study has ended.
const TICK: Duration = Duration::from_millis(500);
/// The pause after a look, in times of its length: windows of many thousand studies must not be read all the time.
const PAUSE: u32 = 20;
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// What a version's note begins with where a monitor wrote it.
const MARK: &str = "monitor ";

/// Whether a version's note is a monitor's.
pub(super) fn is_told(note: &str) -> bool {
    note.starts_with(MARK)
}

/// The monitors of all models.
pub struct Monitors {
    pub(super) models: Vec<Managed>,
    pub(super) ledger: Ledger,
    pub(super) folders: Folders,
    /// Told when a job may run that could not before.
    pub(super) work: Arc<Notify>,
}

/// What one monitor says.
#[derive(Clone, Debug, PartialEq)]
struct Line {
    monitor: Monitor,
    /// None while there are too few studies.
    reading: Option<f64>,
    alarm: Alarm,
}

impl Line {
    /// In words.
    fn text(&self, plan: &str) -> String {
        let Monitor { id, metric, window_studies, warn, stop, action } = &self.monitor;
        let reading = self.reading.unwrap_or(f64::NAN);
        let (from, what) = match (self.alarm, action) {
            (Alarm::Stop(_), Action::Revert) => (stop, "the box goes back"),
            (Alarm::Stop(_), Action::Disable) => (stop, "the box takes it out of service"),
            _ => (warn, "people are told"),
        };
        format!(
            "{MARK}{id}: {} is {reading:.4} over the last {window_studies} studies; from {from} on {what} ({plan})",
            metric.name()
        )
    }
}

/// A look at a model.
struct Look {
    active: VersionRow,
    plan: String,
    lines: Vec<Line>,
}

/// What was looked at last: version, activation, its last study, plan.
type Seen = (String, u64, i64, String);

impl Monitors {
    /// Runs until `stop` turns true.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => {}
            () = self.turns() => {}
        }
    }

    async fn turns(&self) {
        let mut seen: BTreeMap<String, Seen> = BTreeMap::new();
        loop {
            let started = Instant::now();
            for model in &self.models {
                let before = seen.get(&model.name).cloned();
                match self.look(model, before).await {
                    Ok(Some(now)) => drop(seen.insert(model.name.clone(), now)),
                    Ok(None) => {}
                    Err(error) => {
                        let (model, reason) = (&model.name, error.to_string());
                        tracing::error!(model, reason, "the plan's monitors cannot be read");
                    }
                }
            }
            tokio::time::sleep((started.elapsed() * PAUSE).clamp(TICK, PAUSE_MAX)).await;
        }
    }

    async fn look(&self, model: &Managed, before: Option<Seen>) -> Result<Option<Seen>, LedgerError> {
        let slot = model.name.clone();
        let found = self.ledger.read(move |reader| look(reader, &slot, before.as_ref())).await?;
        let Some((seen, look)) = found else { return Ok(None) };
        for line in &look.lines {
            let labels = [("model", model.name.clone()), ("monitor", line.monitor.id.clone())];
            let alarm = match line.alarm {
                Alarm::None => 0.0,
                Alarm::Warn => 1.0,
                Alarm::Stop(_) => 2.0,
            };
            metrics::gauge!("lightbox_model_monitor_alarm", &labels).set(alarm);
            if let Some(reading) = line.reading {
                metrics::gauge!("lightbox_model_monitor_reading", &labels).set(reading);
            }
        }
        match look.lines.iter().find(|line| matches!(line.alarm, Alarm::Stop(_))) {
            Some(line) => self.act(model, &look, line).await?,
            None => self.tell(model, &look).await?,
        }
        Ok(Some(seen))
    }

    /// Writes what warns to the version's note, and takes it away when nothing does any more.
    async fn tell(&self, model: &Managed, look: &Look) -> Result<(), LedgerError> {
        let warnings: Vec<String> = look
            .lines
            .iter()
            .filter(|line| line.alarm == Alarm::Warn)
            .map(|line| line.text(&look.plan))
            .collect();
        let had = is_told(&look.active.note);
        if warnings.is_empty() && !had {
            return Ok(());
        }
        for line in look.lines.iter().filter(|line| line.alarm == Alarm::Warn && !had) {
            let (model, warning) = (&model.name, line.text(&look.plan));
            tracing::warn!(model, warning, "a monitor of the plan warns");
        }
        let (slot, digest, note) = (model.name.clone(), look.active.digest.clone(), warnings.join("; "));
        self.ledger.write(move |writer| models::note(writer, &slot, &digest, &note)).await
    }

    /// Does what the plan says. Where there is nothing to go back to, the model goes out of service.
    async fn act(&self, model: &Managed, look: &Look, line: &Line) -> Result<(), LedgerError> {
        let (active, why) = (&look.active, line.text(&look.plan));
        let mut reason = why.clone();
        if line.alarm == Alarm::Stop(Action::Revert) {
            let (ledger, folders, slot) = (self.ledger.clone(), self.folders.clone(), model.name.clone());
            let (from, evidence, actor) = (active.clone(), why.clone(), Actor::the_box(why.clone()));
            let back = tokio::task::spawn_blocking(move || {
                let from = (from.digest.as_str(), from.last_active);
                go_back_from(&ledger, &folders, &slot, Some(from), &evidence, actor)
            });
            match back.await.map_err(|_| LedgerError::Panicked)? {
                Ok(Back::To { to, .. }) => {
                    self.stopped(model, &active.digest, "revert", &why);
                    tracing::error!(model = model.name, digest = to, "the earlier version runs again");
                    return Ok(());
                }
                // An error, so that it is looked at again though no study has ended since.
                Ok(Back::Changed) => {
                    return Err(LedgerError::Illegal("the versions have changed meanwhile".into()));
                }
                Err(error) => {
                    let nowhere = error.chain().map(ToString::to_string).collect::<Vec<_>>().join(": ");
                    reason = format!("{why}; out of service, as there is nothing to go back to: {nowhere}");
                }
            }
        }
        let (slot, digest, activation) = (model.name.clone(), active.digest.clone(), active.last_active);
        let disabled = self
            .ledger
            .write(move |writer| {
                let now = models::active(writer.tx(), &slot)?;
                if !now.is_some_and(|now| now.digest == digest && now.last_active == activation) {
                    return Ok(false);
                }
                let facts = Facts { evidence: why, ..Facts::default() };
                let actor = Actor::the_box(reason);
                models::apply(writer, &slot, &digest, Event::Disable, &facts, &Duties::NONE, &actor, None)?;
                Ok(true)
            })
            .await?;
        if disabled {
            self.stopped(model, &active.digest, "disable", &line.text(&look.plan));
        }
        Ok(())
    }

    fn stopped(&self, model: &Managed, digest: &str, action: &'static str, why: &str) {
        metrics::counter!("lightbox_model_stops_total", "model" => model.name.clone(), "action" => action)
            .increment(1);
        tracing::error!(
            model = model.name,
            digest,
            why,
            "A MODEL WAS TAKEN OUT OF SERVICE by a monitor of its plan"
        );
        self.work.notify_waiters();
        self.work.notify_one();
    }
}

/// Reads every monitor of a slot's active version; none where nothing has changed since.
fn look(reader: &Connection, slot: &str, before: Option<&Seen>) -> Result<Option<(Seen, Look)>, LedgerError> {
    let (Some(active), Some(row)) = (models::active(reader, slot)?, models::plan_of_slot(reader, slot)?)
    else {
        return Ok(None);
    };
    let last = models::last_run(reader, slot, &active.digest)?;
    let seen = (active.digest.clone(), active.last_active, last, row.sha256.clone());
    if before == Some(&seen) {
        return Ok(None);
    }
    let plan = row.read()?;
    let most = plan.monitor.iter().map(|monitor| monitor.window_studies).max().unwrap_or(0);
    // Failures are passed over by some: enough of the others must be there all the same.
    let live = models::live(reader, slot, &active.digest, active.last_active, most.saturating_mul(2))?;
    let first = models::first(reader, slot, &active.digest, most)?;
    let lines = plan.monitor.iter().map(|monitor| {
        let reading = reading(monitor, &first, &live);
        let alarm = reading.map_or(Alarm::None, |reading| judge(monitor, reading));
        Line { monitor: monitor.clone(), reading, alarm }
    });
    let lines = lines.collect();
    Ok(Some((seen, Look { active, plan: format!("plan {} version {}", row.plan, row.version), lines })))
}

#[cfg(test)]
mod tests;
