//! Deliveries in the ledger: the durable outbound queue of each destination.

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::json;

use super::forwards::dispatch_column;
use super::ledger::{LedgerError, Writer, json_column};
use crate::audit::{Event, EventKind, Outcome};
use crate::dicom::commitment::{Report, reason_words};
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

/// Claims the next delivery that is due, STAT studies first, then the oldest. A later result of the same
/// model on the same study (or the same series, where it looks at each by itself) waits for the earlier
/// one, so that a destination never gets a revision before its predecessor.
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
                JOIN jobs j ON j.id = r.job_id
             WHERE d.destination = ?1 AND d.state = ?2 AND d.next_at <= ?3 AND NOT EXISTS (
                SELECT 1 FROM deliveries e JOIN results q ON q.id = e.result_id JOIN jobs k ON k.id = q.job_id
                WHERE e.destination = d.destination AND q.study_id = r.study_id AND q.model = r.model
                    AND k.scope = j.scope AND q.id < r.id AND e.state IN (?2, ?4))
             ORDER BY s.priority DESC, d.id LIMIT 1",
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

/// A delivery that a destination is to commit to.
#[derive(Clone, Debug)]
pub struct ToCommit {
    /// Row of the delivery.
    pub id: i64,
    /// Key of the study, for logs.
    pub study_key: String,
    /// Requests so far, this one included.
    pub attempts: u32,
    /// SOP Instance UID of the SR.
    pub sr_instance_uid: Phi<String>,
    /// Transaction UID of this request.
    pub transaction_uid: Phi<String>,
}

/// Whether there is something that a destination is to be asked to commit to.
pub fn commitment_due(
    reader: &Connection,
    destination: &str,
    since_ms: i64,
    now_ms: i64,
) -> Result<bool, LedgerError> {
    Ok(reader
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM deliveries WHERE destination = ?1 AND state = ?2
                AND ((commit_state IS NULL AND delivered_at >= ?4)
                    OR (commit_state IN ('due', 'asked') AND commit_next_at <= ?3)))",
        )?
        .query_row(params![destination, DeliveryState::Delivered.as_str(), now_ms, since_ms], |row| {
            row.get(0)
        })?)
}

/// The next delivery that a destination has not been asked to commit to, or whose report did not come
/// in time. It is written down as asked, under a transaction UID of its own, before the request leaves,
/// as the report may come before its response. Deliveries older than `since_ms` are let be.
pub fn claim_commitment(
    writer: &Writer<'_>,
    destination: &str,
    since_ms: i64,
    report_by_ms: i64,
    transaction_uid: impl Fn(&str, u32) -> String,
) -> Result<Option<ToCommit>, LedgerError> {
    let (tx, now) = (writer.tx(), writer.now_ms());
    let found = tx
        .prepare_cached(
            "SELECT d.id, s.key, d.commit_attempts, r.sr_instance_uid
             FROM deliveries d JOIN results r ON r.id = d.result_id JOIN studies s ON s.id = r.study_id
             WHERE d.destination = ?1 AND d.state = ?2 AND d.delivered_at >= ?3 AND (d.commit_state IS NULL
                OR (d.commit_state IN ('due', 'asked') AND d.commit_next_at <= ?4))
             ORDER BY d.id LIMIT 1",
        )?
        .query_row(params![destination, DeliveryState::Delivered.as_str(), since_ms, now], |row| {
            let (attempts, uid): (u32, String) = (row.get::<_, u32>(2)? + 1, row.get(3)?);
            Ok(ToCommit {
                id: row.get(0)?,
                study_key: row.get(1)?,
                attempts,
                transaction_uid: Phi::new(transaction_uid(&uid, attempts)),
                sr_instance_uid: Phi::new(uid),
            })
        })
        .optional()?;
    if let Some(claim) = &found {
        tx.prepare_cached(
            "UPDATE deliveries SET commit_state = 'asked', commit_transaction = ?2, commit_attempts = ?3,
                commit_next_at = ?4 WHERE id = ?1",
        )?
        .execute(params![claim.id, claim.transaction_uid.expose(), claim.attempts, report_by_ms])?;
    }
    Ok(found)
}

/// Gives up asking for commitment of what was delivered before `before_ms` and is not committed to.
/// Yields the keys of the studies.
pub fn give_up_commitments(
    writer: &Writer<'_>,
    destination: &str,
    before_ms: i64,
) -> Result<Vec<String>, LedgerError> {
    let given_up: Vec<(i64, String)> = writer
        .tx()
        .prepare_cached(
            "SELECT d.id, s.key FROM deliveries d JOIN results r ON r.id = d.result_id
             JOIN studies s ON s.id = r.study_id
             WHERE d.destination = ?1 AND d.commit_state IN ('due', 'asked') AND d.commit_next_at <= ?3
                AND d.delivered_at < ?2",
        )?
        .query_map(params![destination, before_ms, writer.now_ms()], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    for (id, key) in &given_up {
        let reason: Option<String> = writer.tx().query_row(
            "UPDATE deliveries SET commit_state = 'failed',
                commit_reason = coalesce(commit_reason, 'no report came') WHERE id = ?1 RETURNING commit_reason",
            [id],
            |row| row.get(0),
        )?;
        let detail = json!({ "destination": destination, "delivery": id, "reason": reason });
        let event = Event::new(EventKind::ResultCommitted, key.as_str(), detail);
        writer.audit(&event.with_outcome(Outcome::Serious))?;
    }
    Ok(given_up.into_iter().map(|(_, key)| key).collect())
}

/// Asks again later: the request for commitment did not come through. `reason` holds no patient data.
pub fn commitment_later(writer: &Writer<'_>, id: i64, next_ms: i64, reason: &str) -> Result<(), LedgerError> {
    writer
        .tx()
        .prepare_cached(
            "UPDATE deliveries SET commit_state = 'due', commit_next_at = ?2, commit_reason = ?3
             WHERE id = ?1 AND commit_state = 'asked'",
        )?
        .execute(params![id, next_ms, reason])?;
    Ok(())
}

/// Writes down what one of these destinations reports; false where the transaction is none of ours.
pub fn commitment_reported(
    writer: &Writer<'_>,
    destinations: &[String],
    report: &Report,
) -> Result<bool, LedgerError> {
    type Row = (i64, String, String, String, bool);
    let found: Option<Row> = writer
        .tx()
        .prepare_cached(
            "SELECT d.id, d.destination, s.key, r.sr_instance_uid, d.committed_at IS NOT NULL
             FROM deliveries d JOIN results r ON r.id = d.result_id JOIN studies s ON s.id = r.study_id
             WHERE d.commit_transaction = ?1",
        )?
        .query_row([report.transaction_uid.expose()], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
        })
        .optional()?;
    let Some((id, destination, key, uid, known)) = found else { return Ok(false) };
    if !destinations.contains(&destination) {
        return Ok(false);
    }
    if known {
        return Ok(true);
    }
    let committed = report.committed.iter().any(|reference| *reference.instance.expose() == uid);
    let reason = report
        .failed
        .iter()
        .find(|failure| *failure.reference.instance.expose() == uid)
        .map_or("the report does not name the instance".to_owned(), |failure| {
            format!("{} ({:#06x})", reason_words(failure.reason), failure.reason)
        });
    let (state, reason, at) =
        if committed { ("committed", None, Some(writer.now_ms())) } else { ("failed", Some(reason), None) };
    writer
        .tx()
        .prepare_cached(
            "UPDATE deliveries SET commit_state = ?2, commit_reason = ?3, committed_at = ?4 WHERE id = ?1",
        )?
        .execute(params![id, state, reason, at])?;
    let outcome = if committed { Outcome::Success } else { Outcome::Serious };
    let detail = json!({ "destination": destination, "delivery": id, "reason": reason });
    writer.audit(&Event::new(EventKind::ResultCommitted, key.as_str(), detail).with_outcome(outcome))?;
    match reason {
        None => tracing::info!(study = key, destination, "the destination has committed to the result"),
        Some(reason) => {
            tracing::error!(
                study = key,
                destination,
                reason,
                "the destination does not commit to the result"
            );
        }
    }
    Ok(true)
}
