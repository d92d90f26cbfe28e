//! What an operator changes in the ledger: dead letters and failed jobs get another try.
//!
//! The change and the audit record that names the operator commit together. All of these run on
//! the ledger's writer; beside a running daemon too, as SQLite lets one writer in at a time and the
//! audit chain is continued from what the transaction itself reads.

use rusqlite::{OptionalExtension, params};
use serde_json::json;

use super::forwards::{self, dispatch_column};
use super::ledger::{LedgerError, Writer};
use crate::audit::{Event, EventKind};
use crate::dispatch::Dispatch;
use crate::job::{DeliveryState, JobState, State, StudyState};

/// Who asks, as the audit log names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct By {
    /// Name of the operator in the site file, or `shell:` and the account.
    pub operator: String,
    /// Where: `page` or `command line`.
    pub through: &'static str,
}

/// Sends a dead letter again, at once and with all its tries. Yields the destination.
pub fn replay_delivery(writer: &Writer<'_>, id: i64, by: &By) -> Result<String, LedgerError> {
    let found: Option<(String, String, String, u32)> = writer
        .tx()
        .prepare_cached(
            "SELECT d.state, d.destination, s.key, d.attempts
             FROM deliveries d JOIN results r ON r.id = d.result_id JOIN studies s ON s.id = r.study_id
             WHERE d.id = ?1",
        )?
        .query_row([id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
        .optional()?;
    let (state, destination, study, attempts) = found.ok_or(LedgerError::NotFound("delivery"))?;
    // Sending may become queued too, but by the daemon, which holds its lease.
    if state != DeliveryState::Dead.as_str() || !DeliveryState::Dead.may_become(DeliveryState::Queued) {
        return Err(LedgerError::Illegal(format!(
            "delivery {id} is {state}: only a dead letter can be replayed"
        )));
    }
    // The time to give up counts from `queued_at`: without a new one, a letter that died of age
    // would die again at its first try.
    writer
        .tx()
        .prepare_cached(
            "UPDATE deliveries SET state = ?2, attempts = 0, queued_at = ?3, next_at = ?3, owner = NULL,
                lease_until = NULL WHERE id = ?1",
        )?
        .execute(params![id, DeliveryState::Queued.as_str(), writer.now_ms()])?;
    writer.audit(&Event::new(
        EventKind::OperatorAction,
        by.operator.as_str(),
        json!({
            "action": "replay-delivery", "through": by.through, "delivery": id, "destination": destination,
            "study": study, "attempts_before": attempts,
        }),
    ))?;
    Ok(destination)
}

/// Lets a held delivery go: at once, or when its hours begin. Yields the destination.
///
/// What was made in shadow mode stays: it was never meant to leave.
pub fn release_delivery(writer: &Writer<'_>, id: i64, by: &By) -> Result<String, LedgerError> {
    let tx = writer.tx();
    let (state, destination, study, dispatch) = tx
        .prepare_cached(
            "SELECT d.state, d.destination, s.key, d.dispatch
             FROM deliveries d JOIN results r ON r.id = d.result_id JOIN studies s ON s.id = r.study_id
             WHERE d.id = ?1",
        )?
        .query_row([id], |row| {
            let state: String = row.get(0)?;
            Ok((state, row.get::<_, String>(1)?, row.get::<_, String>(2)?, dispatch_column(row, 3)?))
        })
        .optional()?
        .ok_or(LedgerError::NotFound("delivery"))?;
    let held = state == DeliveryState::Held.as_str();
    if !held || !dispatch.hold || !DeliveryState::Held.may_become(DeliveryState::Queued) {
        let why = if held { "kept in shadow mode" } else { state.as_str() };
        return Err(LedgerError::Illegal(format!(
            "delivery {id} is {why}: only what a rule holds can be released"
        )));
    }
    let released = Dispatch { hold: false, ..dispatch };
    tx.prepare_cached(
        "UPDATE deliveries SET state = ?2, dispatch = ?3, queued_at = ?4, next_at = ?4 WHERE id = ?1",
    )?
    .execute(params![
        id,
        DeliveryState::Queued.as_str(),
        released.to_string(),
        released.due(writer.now_ms())
    ])?;
    writer.audit(&Event::new(
        EventKind::OperatorAction,
        by.operator.as_str(),
        json!({
            "action": "release-delivery", "through": by.through, "delivery": id, "destination": destination,
            "study": study,
        }),
    ))?;
    Ok(destination)
}

/// A delivery or a forward, as people name it: `17` or `f17`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outgoing {
    /// A result on its way.
    Delivery(i64),
    /// A series on its way.
    Forward(i64),
}

impl std::str::FromStr for Outgoing {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (forward, digits) = match text.strip_prefix('f') {
            Some(digits) => (true, digits),
            None => (false, text),
        };
        let id =
            digits.parse().map_err(|_| format!("\"{text}\" is no number of `queue list`, e.g. 17 or f17"))?;
        Ok(if forward { Outgoing::Forward(id) } else { Outgoing::Delivery(id) })
    }
}

impl std::fmt::Display for Outgoing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Outgoing::Delivery(id) => write!(f, "{id}"),
            Outgoing::Forward(id) => write!(f, "f{id}"),
        }
    }
}

impl serde::Serialize for Outgoing {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Outgoing::Delivery(id) => serializer.serialize_i64(*id),
            Outgoing::Forward(_) => serializer.collect_str(self),
        }
    }
}

/// What an operator wants of something outgoing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// A dead letter sent again.
    Replay,
    /// Something held let go.
    Release,
}

impl Wish {
    /// Does it to one.
    pub fn act(self, writer: &Writer<'_>, outgoing: Outgoing, by: &By) -> Result<String, LedgerError> {
        match (self, outgoing) {
            (Wish::Replay, Outgoing::Delivery(id)) => replay_delivery(writer, id, by),
            (Wish::Replay, Outgoing::Forward(id)) => forwards::replay(writer, id, by),
            (Wish::Release, Outgoing::Delivery(id)) => release_delivery(writer, id, by),
            (Wish::Release, Outgoing::Forward(id)) => forwards::release(writer, id, by),
        }
    }

    /// Does it to everything to which it can be done, for one destination or for all.
    pub fn act_on_all(
        self,
        writer: &Writer<'_>,
        destination: Option<&str>,
        by: &By,
    ) -> Result<Vec<Outgoing>, LedgerError> {
        let state = match self {
            Wish::Replay => DeliveryState::Dead,
            Wish::Release => DeliveryState::Held,
        };
        let deliveries: Vec<i64> = writer
            .tx()
            .prepare_cached(
                "SELECT id FROM deliveries WHERE state = ?1 AND (?2 IS NULL OR destination = ?2)
                    AND (state != 'held' OR dispatch LIKE 'hold%') ORDER BY id",
            )?
            .query_map(params![state.as_str(), destination], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        let forwards = forwards::in_state(writer, state, destination)?;
        let all: Vec<Outgoing> = deliveries
            .into_iter()
            .map(Outgoing::Delivery)
            .chain(forwards.into_iter().map(Outgoing::Forward))
            .collect();
        for one in &all {
            self.act(writer, *one, by)?;
        }
        Ok(all)
    }
}

/// Runs a failed job again. Yields the study's key.
///
/// Refused for a job of an earlier revision, as its result would speak of a study that has since
/// changed. Where its failure has already been told to the destinations, the new result names that
/// one as its predecessor.
pub fn replay_job(writer: &Writer<'_>, id: i64, by: &By) -> Result<String, LedgerError> {
    let tx = writer.tx();
    let found: Option<(String, String, u32, i64, String, String, u32)> = tx
        .prepare_cached(
            "SELECT j.state, j.model, j.revision, s.id, s.key, s.state, s.revision
             FROM jobs j JOIN studies s ON s.id = j.study_id WHERE j.id = ?1",
        )?
        .query_row([id], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?))
        })
        .optional()?;
    let (state, model, revision, study_id, study, study_state, last_revision) =
        found.ok_or(LedgerError::NotFound("job"))?;
    let refuse = |why: String| Err(LedgerError::Illegal(why));
    if state != JobState::Failed.as_str() || !JobState::Failed.may_become(JobState::Waiting) {
        return refuse(format!("job {id} is {state}: only a failed job can be replayed"));
    }
    // A job on one series may be of the revision that is still open.
    if revision < last_revision {
        return refuse(format!(
            "job {id} is of revision {revision}, and the study is at revision {last_revision}: only jobs of the last revision can be replayed"
        ));
    }
    let study_state = StudyState::parse(&study_state)
        .ok_or_else(|| LedgerError::Illegal(format!("study state {study_state}")))?;
    match study_state {
        // The next revision is open, or other jobs still run: the study stays where it is.
        StudyState::Receiving | StudyState::Processing => {}
        done if done.may_become(StudyState::Processing) => {
            tx.prepare_cached("UPDATE studies SET state = ?2 WHERE id = ?1")?
                .execute(params![study_id, StudyState::Processing.as_str()])?;
        }
        other => return refuse(format!("a study that is {} has no job to run", other.as_str())),
    }
    tx.prepare_cached(
        "UPDATE jobs SET state = ?2, attempts = 0, next_at = ?3, owner = NULL, lease_until = NULL,
            started_at = NULL, finished_at = NULL, pinned_digest = NULL WHERE id = ?1",
    )?
    .execute(params![id, JobState::Waiting.as_str(), writer.now_ms()])?;
    writer.audit(&Event::new(
        EventKind::OperatorAction,
        by.operator.as_str(),
        json!({
            "action": "replay-job", "through": by.through, "job": id, "model": model, "study": study,
            "revision": revision,
        }),
    ))?;
    Ok(study)
}

#[cfg(test)]
mod tests;
