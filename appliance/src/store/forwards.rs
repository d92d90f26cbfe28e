//! Forwards in the ledger: series of a revision on their way to a destination, as they were received.
//!
//! A forward keeps which of its instances the destination has, so that a crash or a broken
//! association costs at most the few that were under way. An instance goes once to a destination: a
//! late image's forward holds that image alone.

use lightbox_provisioning::site::Edits;
use rusqlite::{OptionalExtension, params};
use serde_json::json;

use super::deliveries::Try;
use super::ledger::{LedgerError, Writer, json_column};
use super::objects::ObjectId;
use super::replay::By;
use crate::audit::{Event, EventKind, Outcome};
use crate::dispatch::{Dispatch, Window};
use crate::ingest::rules::Forward;
use crate::job::{DeliveryState, State};
use crate::phi::Phi;

/// Forwards that one try takes at most.
const FORWARDS_AT_ONCE: u32 = 256;

/// Writes a forward of a revision that has just been closed. Yields its number of instances; with
/// none, because the destination has them all from earlier revisions, nothing is written.
///
/// Instances that came again with other bytes (conflicts) are left out, as models leave them out: the
/// study shows them to a person.
pub fn plan(
    writer: &Writer<'_>,
    study_id: i64,
    revision: u32,
    forward: &Forward,
) -> Result<usize, LedgerError> {
    let (tx, now) = (writer.tx(), writer.now_ms());
    let objects: Vec<String> = tx
        .prepare_cached(
            "SELECT i.object FROM instances i
             WHERE i.study_id = ?1 AND i.series_uid = ?2 AND i.state NOT IN ('conflict', 'missing')
                AND NOT EXISTS (SELECT 1 FROM forwards f JOIN forward_instances g ON g.forward_id = f.id
                    WHERE f.study_id = ?1 AND f.destination = ?3 AND g.object = i.object)
             ORDER BY i.id",
        )?
        .query_map(params![study_id, forward.series_uid.expose(), forward.destination], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    if objects.is_empty() {
        return Ok(0);
    }
    let dispatch = &forward.dispatch;
    let state = if dispatch.is_held() { DeliveryState::Held } else { DeliveryState::Queued };
    tx.prepare_cached(
        "INSERT INTO forwards (study_id, revision, series_uid, destination, rule, dispatch, state, created_at,
            queued_at, next_at, total, edits) VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?9,?10,?11)",
    )?
    .execute(params![
        study_id,
        revision,
        forward.series_uid.expose(),
        forward.destination,
        forward.rule,
        dispatch.to_string(),
        state.as_str(),
        now,
        dispatch.due(now),
        objects.len() as i64,
        json!(forward.set).to_string()
    ])?;
    let id = tx.last_insert_rowid();
    let mut insert = tx.prepare_cached(
        "INSERT INTO forward_instances (forward_id, object, state) VALUES (?1, ?2, 'waiting')",
    )?;
    for object in &objects {
        insert.execute(params![id, object])?;
    }
    Ok(objects.len())
}

/// One forward of a claim.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// Row of the forward.
    pub id: i64,
    /// Tries, this one included.
    pub attempts: u32,
    /// Since when it is tried.
    pub queued_ms: i64,
    /// The hours in which it may be sent.
    pub window: Option<Window>,
    /// When the rules made it: the time of changes to its instances.
    pub created_ms: i64,
    /// Elements that the rules change on the way.
    pub edits: Edits,
}

/// An instance that has yet to be sent.
#[derive(Clone, Debug)]
pub struct Item {
    /// Row of the instance in its forward.
    pub id: i64,
    /// The forward.
    pub forward: i64,
    /// The object; none if the index no longer has it.
    pub instance: Option<Instance>,
}

/// What an association must know of an instance.
#[derive(Clone, Debug)]
pub struct Instance {
    /// Its object.
    pub object: ObjectId,
    /// SOP class.
    pub sop_class_uid: String,
    /// SOP instance.
    pub sop_instance_uid: Phi<String>,
    /// Transfer syntax in which it was received.
    pub transfer_syntax: String,
}

/// Forwards of one study that this process sends to one destination.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Key of the study, for logs.
    pub study_key: String,
    /// Destination, as the site file names it.
    pub destination: String,
    /// The forwards.
    pub forwards: Vec<Claimed>,
    /// What they still have to send, those that broke an association last.
    pub items: Vec<Item>,
}

/// Claims all forwards of the study whose forward to this destination is the oldest that is due.
pub fn claim(
    writer: &Writer<'_>,
    destination: &str,
    owner: &str,
    lease_ms: i64,
) -> Result<Option<Claim>, LedgerError> {
    let (tx, now) = (writer.tx(), writer.now_ms());
    let queued = DeliveryState::Queued.as_str();
    let study: Option<(i64, String)> = tx
        .prepare_cached(
            "SELECT s.id, s.key FROM forwards f JOIN studies s ON s.id = f.study_id
             WHERE f.destination = ?1 AND f.state = ?2 AND f.next_at <= ?3 ORDER BY f.id LIMIT 1",
        )?
        .query_row(params![destination, queued, now], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((study_id, study_key)) = study else { return Ok(None) };
    let forwards: Vec<Claimed> = tx
        .prepare_cached(
            "SELECT id, attempts, queued_at, dispatch, created_at, edits FROM forwards
             WHERE study_id = ?1 AND destination = ?2 AND state = ?3 AND next_at <= ?4 ORDER BY id LIMIT ?5",
        )?
        .query_map(params![study_id, destination, queued, now, FORWARDS_AT_ONCE], |row| {
            Ok(Claimed {
                id: row.get(0)?,
                attempts: row.get::<_, u32>(1)? + 1,
                queued_ms: row.get(2)?,
                window: dispatch_column(row, 3)?.window,
                created_ms: row.get(4)?,
                edits: json_column(row, 5)?,
            })
        })?
        .collect::<rusqlite::Result<_>>()?;
    let mut items = Vec::new();
    for forward in &forwards {
        move_to(writer, forward.id, DeliveryState::Sending)?;
        tx.prepare_cached(
            "UPDATE forwards SET owner = ?2, lease_until = ?3, attempts = ?4, last_at = ?5 WHERE id = ?1",
        )?
        .execute(params![forward.id, owner, now + lease_ms, forward.attempts, now])?;
        items.extend(waiting(writer, forward.id)?);
    }
    items.sort_by_key(|(tries, item)| (*tries, item.id));
    let items = items.into_iter().map(|(_, item)| item).collect();
    Ok(Some(Claim { study_key, destination: destination.to_owned(), forwards, items }))
}

fn waiting(writer: &Writer<'_>, forward: i64) -> Result<Vec<(u32, Item)>, LedgerError> {
    Ok(writer
        .tx()
        .prepare_cached(
            "SELECT g.id, g.tries, i.object, i.sop_class_uid, i.sop_instance_uid, i.transfer_syntax
             FROM forward_instances g LEFT JOIN instances i ON i.object = g.object
             WHERE g.forward_id = ?1 AND g.state = 'waiting'",
        )?
        .query_map([forward], |row| {
            let object = row.get::<_, Option<String>>(2)?.as_deref().and_then(ObjectId::parse);
            let instance = match object {
                Some(object) => Some(Instance {
                    object,
                    sop_class_uid: row.get(3)?,
                    sop_instance_uid: Phi::new(row.get(4)?),
                    transfer_syntax: row.get(5)?,
                }),
                None => None,
            };
            Ok((row.get(1)?, Item { id: row.get(0)?, forward, instance }))
        })?
        .collect::<rusqlite::Result<_>>()?)
}

/// A column that holds a way of sending.
pub fn dispatch_column(row: &rusqlite::Row<'_>, index: usize) -> rusqlite::Result<Dispatch> {
    row.get::<_, String>(index)?.parse().map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(index, rusqlite::types::Type::Text, Box::new(error))
    })
}

fn move_to(writer: &Writer<'_>, id: i64, next: DeliveryState) -> Result<(), LedgerError> {
    let tx = writer.tx();
    let now: String =
        tx.prepare_cached("SELECT state FROM forwards WHERE id = ?1")?.query_row([id], |row| row.get(0))?;
    match DeliveryState::parse(&now) {
        Some(state) if state.may_become(next) => {
            tx.prepare_cached("UPDATE forwards SET state = ?2 WHERE id = ?1")?
                .execute(params![id, next.as_str()])?;
            Ok(())
        }
        _ => Err(LedgerError::Illegal(format!("a forward cannot go from {now} to {}", next.as_str()))),
    }
}

/// What became of an instance.
#[derive(Clone, Debug)]
pub enum Fate {
    /// The destination has it.
    Sent,
    /// The destination will never take it, or it cannot be sent as it stands: why.
    Refused(Phi<String>),
    /// The association broke while it was being sent: others go first next time.
    Broke,
}

/// Writes down what became of instances, by their row and their forward's, and keeps the lease.
pub fn progress(
    writer: &Writer<'_>,
    fates: &[(i64, i64, Fate)],
    lease_until: i64,
) -> Result<(), LedgerError> {
    let tx = writer.tx();
    for (item, forward, fate) in fates {
        match fate {
            Fate::Sent => {
                tx.prepare_cached(
                    "UPDATE forward_instances SET state = 'sent', reason = NULL WHERE id = ?1",
                )?
                .execute([item])?;
                tx.prepare_cached("UPDATE forwards SET sent = sent + 1, lease_until = ?2 WHERE id = ?1")?
                    .execute([*forward, lease_until])?;
            }
            Fate::Refused(reason) => {
                tx.prepare_cached(
                    "UPDATE forward_instances SET state = 'refused', reason = ?2 WHERE id = ?1",
                )?
                .execute(params![item, reason.expose()])?;
            }
            Fate::Broke => {
                tx.prepare_cached("UPDATE forward_instances SET tries = tries + 1 WHERE id = ?1")?
                    .execute([item])?;
            }
        }
    }
    Ok(())
}

/// Queues again what earlier starts of the daemon were sending.
pub fn reclaim(writer: &Writer<'_>, owner: &str) -> Result<usize, LedgerError> {
    let held: Vec<i64> = writer
        .tx()
        .prepare("SELECT id FROM forwards WHERE state = ?1 AND owner != ?2")?
        .query_map(params![DeliveryState::Sending.as_str(), owner], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for id in &held {
        move_to(writer, *id, DeliveryState::Queued)?;
    }
    Ok(held.len())
}

/// Writes down how a try of a forward ended.
pub fn end(
    writer: &Writer<'_>,
    study_key: &str,
    destination: &str,
    forward: &Claimed,
    ended: &Try,
) -> Result<(), LedgerError> {
    let (tx, now) = (writer.tx(), writer.now_ms());
    let (next, reason, next_ms) = match ended {
        Try::Delivered(remark) => (DeliveryState::Delivered, remark.as_ref(), now),
        Try::Again { reason, next_ms } => (DeliveryState::Queued, Some(reason), *next_ms),
        Try::Dead { reason, .. } => (DeliveryState::Dead, Some(reason), now),
    };
    move_to(writer, forward.id, next)?;
    let next_ms = forward.window.map_or(next_ms, |window| window.opens(next_ms));
    let (sent, total): (u32, u32) = tx
        .prepare_cached(
            "UPDATE forwards SET owner = NULL, lease_until = NULL, next_at = ?2, last_reason = ?3,
                delivered_at = CASE WHEN ?4 THEN ?5 END WHERE id = ?1 RETURNING sent, total",
        )?
        .query_row(
            params![forward.id, next_ms, reason.map(Phi::expose), next == DeliveryState::Delivered, now],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
    let mut detail = json!({
        "forward": forward.id, "destination": destination, "instances": total, "sent": sent,
        "attempts": forward.attempts,
    });
    let event = match ended {
        Try::Delivered(_) => Event::new(EventKind::InstancesForwarded, study_key, detail),
        Try::Dead { code, .. } => {
            detail["code"] = json!(code);
            Event::new(EventKind::ForwardDeadLetter, study_key, detail).with_outcome(Outcome::Serious)
        }
        Try::Again { .. } => return Ok(()),
    };
    writer.audit(&event)
}

/// Sends the rest of a dead letter again, at once and with all its tries. Yields the destination.
pub fn replay(writer: &Writer<'_>, id: i64, by: &By) -> Result<String, LedgerError> {
    let tx = writer.tx();
    let (state, destination, study, attempts) = look(writer, id)?;
    if state != DeliveryState::Dead.as_str() {
        return Err(LedgerError::Illegal(format!(
            "forward f{id} is {state}: only a dead letter can be replayed"
        )));
    }
    move_to(writer, id, DeliveryState::Queued)?;
    tx.prepare_cached(
        "UPDATE forward_instances SET state = 'waiting', tries = 0 WHERE forward_id = ?1 AND state = 'refused'",
    )?
    .execute([id])?;
    tx.prepare_cached("UPDATE forwards SET attempts = 0, queued_at = ?2, next_at = ?2 WHERE id = ?1")?
        .execute(params![id, writer.now_ms()])?;
    writer.audit(&Event::new(
        EventKind::OperatorAction,
        by.operator.as_str(),
        json!({
            "action": "replay-forward", "through": by.through, "forward": id, "destination": destination,
            "study": study, "attempts_before": attempts,
        }),
    ))?;
    Ok(destination)
}

/// Lets a held forward go: at once, or when its hours begin. Yields the destination.
pub fn release(writer: &Writer<'_>, id: i64, by: &By) -> Result<String, LedgerError> {
    let tx = writer.tx();
    let (state, destination, study, _) = look(writer, id)?;
    let dispatch = tx
        .prepare_cached("SELECT dispatch FROM forwards WHERE id = ?1")?
        .query_row([id], |row| dispatch_column(row, 0))?;
    if state != DeliveryState::Held.as_str() || !dispatch.hold {
        let why = if state == DeliveryState::Held.as_str() { "kept in shadow mode" } else { state.as_str() };
        return Err(LedgerError::Illegal(format!(
            "forward f{id} is {why}: only what a rule holds can be released"
        )));
    }
    move_to(writer, id, DeliveryState::Queued)?;
    let released = Dispatch { hold: false, ..dispatch };
    tx.prepare_cached("UPDATE forwards SET dispatch = ?2, queued_at = ?3, next_at = ?3 WHERE id = ?1")?
        .execute(params![id, released.to_string(), released.due(writer.now_ms())])?;
    writer.audit(&Event::new(
        EventKind::OperatorAction,
        by.operator.as_str(),
        json!({
            "action": "release-forward", "through": by.through, "forward": id, "destination": destination,
            "study": study,
        }),
    ))?;
    Ok(destination)
}

/// State, destination, study key and tries.
fn look(writer: &Writer<'_>, id: i64) -> Result<(String, String, String, u32), LedgerError> {
    writer
        .tx()
        .prepare_cached(
            "SELECT f.state, f.destination, s.key, f.attempts FROM forwards f JOIN studies s ON s.id = f.study_id
             WHERE f.id = ?1",
        )?
        .query_row([id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
        .optional()?
        .ok_or(LedgerError::NotFound("forward"))
}

/// The forwards in a state, to one destination or to all: of held ones those that can be released.
pub fn in_state(
    writer: &Writer<'_>,
    state: DeliveryState,
    destination: Option<&str>,
) -> Result<Vec<i64>, LedgerError> {
    Ok(writer
        .tx()
        .prepare_cached(
            "SELECT id FROM forwards WHERE state = ?1 AND (?2 IS NULL OR destination = ?2)
                AND (state != 'held' OR dispatch LIKE 'hold%') ORDER BY id",
        )?
        .query_map(params![state.as_str(), destination], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?)
}

#[cfg(test)]
mod tests;
