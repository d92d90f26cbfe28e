//! Deliveries in the ledger: the durable outbound queue of each destination.

use rusqlite::{OptionalExtension, params};
use serde_json::json;

use super::forwards::dispatch_column;
use super::ledger::{LedgerError, Writer, json_column};
use crate::audit::{Event, EventKind, Outcome};
use crate::dispatch::Window;
use crate::job::{DeliveryState, State};
use crate::phi::Phi;

/// A delivery that this process is making.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Row of the delivery.
    pub id: i64,
    /// Key of the study, for logs.
    pub study_key: String,
    /// Destination, as the site file names it.
    pub destination: String,
    /// Tries, this one included.
    pub attempts: u32,
    /// When it was queued.
    pub queued_ms: i64,
    /// File of the SR.
    pub sr_file: String,
    /// SOP Instance UID of the SR.
    pub sr_instance_uid: Phi<String>,
    /// File of the ORU for this destination, if it is an HL7 one.
    pub oru_file: Option<String>,
    /// MSH-10 of the ORU.
    pub message_control_id: String,
    /// The hours in which it may be sent.
    pub window: Option<Window>,
}

/// Claims the oldest delivery that is due. A later result of the same model on the same study waits
/// for the earlier one, so that a destination never gets a revision before its predecessor.
pub fn claim(
    writer: &Writer<'_>,
    destination: &str,
    owner: &str,
    lease_ms: i64,
) -> Result<Option<Claim>, LedgerError> {
    let (tx, now) = (writer.tx(), writer.now_ms());
    let claim = tx
        .prepare_cached(
            "SELECT d.id, s.key, d.attempts, d.queued_at, r.sr_file, r.sr_instance_uid, r.oru_files,
                r.message_control_id, d.dispatch
             FROM deliveries d JOIN results r ON r.id = d.result_id JOIN studies s ON s.id = r.study_id
             WHERE d.destination = ?1 AND d.state = ?2 AND d.next_at <= ?3 AND NOT EXISTS (
                SELECT 1 FROM deliveries e JOIN results q ON q.id = e.result_id
                WHERE e.destination = d.destination AND q.study_id = r.study_id AND q.model = r.model
                    AND q.id < r.id AND e.state IN (?2, ?4))
             ORDER BY d.id LIMIT 1",
        )?
        .query_row(
            params![destination, DeliveryState::Queued.as_str(), now, DeliveryState::Sending.as_str()],
            |row| {
                let files: std::collections::BTreeMap<String, String> = json_column(row, 6)?;
                Ok(Claim {
                    id: row.get(0)?,
                    study_key: row.get(1)?,
                    destination: destination.to_owned(),
                    attempts: row.get::<_, u32>(2)? + 1,
                    queued_ms: row.get(3)?,
                    sr_file: row.get(4)?,
                    sr_instance_uid: Phi::new(row.get(5)?),
                    oru_file: files.get(destination).cloned(),
                    message_control_id: row.get(7)?,
                    window: dispatch_column(row, 8)?.window,
                })
            },
        )
        .optional()?;
    if let Some(claim) = &claim {
        move_to(writer, claim.id, DeliveryState::Sending)?;
        tx.prepare_cached(
            "UPDATE deliveries SET owner = ?2, lease_until = ?3, attempts = ?4, last_at = ?5 WHERE id = ?1",
        )?
        .execute(params![claim.id, owner, now + lease_ms, claim.attempts, now])?;
    }
    Ok(claim)
}

fn move_to(writer: &Writer<'_>, id: i64, next: DeliveryState) -> Result<(), LedgerError> {
    let tx = writer.tx();
    let now: String =
        tx.prepare_cached("SELECT state FROM deliveries WHERE id = ?1")?.query_row([id], |row| row.get(0))?;
    match DeliveryState::parse(&now) {
        Some(state) if state.may_become(next) => {
            tx.prepare_cached("UPDATE deliveries SET state = ?2 WHERE id = ?1")?
                .execute(params![id, next.as_str()])?;
            Ok(())
        }
        _ => Err(LedgerError::Illegal(format!("a delivery cannot go from {now} to {}", next.as_str()))),
    }
}

/// Queues again what earlier starts of the daemon were sending: the destination may have it, but
/// UIDs and message control ids are the same, so it can be sent again.
pub fn reclaim(writer: &Writer<'_>, owner: &str) -> Result<usize, LedgerError> {
    let held: Vec<i64> = writer
        .tx()
        .prepare("SELECT id FROM deliveries WHERE state = ?1 AND (owner != ?2 OR lease_until < ?3)")?
        .query_map(params![DeliveryState::Sending.as_str(), owner, writer.now_ms()], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for id in &held {
        move_to(writer, *id, DeliveryState::Queued)?;
    }
    Ok(held.len())
}

/// How a try ended.
#[derive(Clone, Debug)]
pub enum Try {
    /// The destination has it, with what it remarked.
    Delivered(Option<Phi<String>>),
    /// Try again at this time.
    Again {
        /// Why, in the peer's own words.
        reason: Phi<String>,
        /// Milliseconds since the epoch.
        next_ms: i64,
    },
    /// Given up.
    Dead {
        /// Why, in the peer's own words.
        reason: Phi<String>,
        /// The same as codes only, for log and audit.
        code: String,
    },
}

/// Writes down how a try ended.
pub fn end(writer: &Writer<'_>, claim: &Claim, ended: &Try) -> Result<(), LedgerError> {
    let (tx, now) = (writer.tx(), writer.now_ms());
    let (next, reason, next_ms) = match ended {
        Try::Delivered(remark) => (DeliveryState::Delivered, remark.as_ref(), now),
        Try::Again { reason, next_ms } => (DeliveryState::Queued, Some(reason), *next_ms),
        Try::Dead { reason, .. } => (DeliveryState::Dead, Some(reason), now),
    };
    move_to(writer, claim.id, next)?;
    let next_ms = claim.window.map_or(next_ms, |window| window.opens(next_ms));
    tx.prepare_cached(
        "UPDATE deliveries SET owner = NULL, lease_until = NULL, next_at = ?2, last_reason = ?3,
            delivered_at = CASE WHEN ?4 THEN ?5 END WHERE id = ?1",
    )?
    .execute(params![
        claim.id,
        next_ms,
        reason.map(Phi::expose),
        next == DeliveryState::Delivered,
        now
    ])?;
    let event = match ended {
        Try::Delivered(_) => Event::new(
            EventKind::ResultSent,
            claim.study_key.as_str(),
            json!({ "destination": claim.destination, "attempts": claim.attempts, "sr": claim.sr_file }),
        ),
        Try::Dead { code, .. } => Event::new(
            EventKind::ResultDeadLetter,
            claim.study_key.as_str(),
            json!({ "destination": claim.destination, "attempts": claim.attempts, "code": code }),
        )
        .with_outcome(Outcome::Serious),
        Try::Again { .. } => return Ok(()),
    };
    writer.audit(&event)
}
