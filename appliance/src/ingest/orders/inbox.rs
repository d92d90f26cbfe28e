//! The inbox: every message as it came, and what was done with it, in one transaction. Only then is the
//! sender told.

use lightbox_provisioning::site::Orders;
use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::message::{self, Fault, Request};
use crate::audit::chain::hex;
use crate::audit::{Event, EventKind, Outcome};
use crate::hl7::er7::{self, Message};
use crate::phi::Phi;
use crate::store::ledger::{LedgerError, Writer};
use crate::store::orders;
use crate::store::replay::By;

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Kept and applied, now or when it first came.
    Applied,
    /// Kept, and not applied: the fault is in what it says.
    Refused(Refusal),
}

/// Why it was not applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is no message.
    NoMessage(er7::Fault),
    /// It is one, and not for us.
    Fault(Fault),
}

impl Refusal {
    /// Error code of HL7 table 0357, whether the type as such is refused, and the words.
    pub fn explain(self) -> (u16, bool, String) {
        match self {
            Refusal::NoMessage(fault) => (100, false, fault.to_string()),
            Refusal::Fault(fault) => {
                let (code, kind) = fault.code();
                (code, kind, fault.to_string())
            }
        }
    }
}

/// Keeps a message and applies it. A repeat (the same sender, MSH-10 and contents) changes
/// nothing and is answered like the first; an MSH-10 that is used again for something else is a message
/// of its own, as many systems count anew every day.
pub fn take(writer: &Writer<'_>, source: &str, raw: &[u8], settings: &Orders) -> Result<Taken, LedgerError> {
    let parsed = Message::parse(raw);
    let read = match &parsed {
        Ok(message) => message::read(message, settings).map_err(Refusal::Fault),
        Err(fault) => Err(Refusal::NoMessage(*fault)),
    };
    let (sender, control_id, digest) = match &parsed {
        Ok(message) => {
            let sender = format!("{}|{}", message.header(3).expose(), message.header(4).expose());
            (sender, message.header(10), contents(message))
        }
        Err(_) => (String::new(), Phi::default(), hex(&Sha256::digest(raw))),
    };
    let tx = writer.tx();
    let known: bool = tx
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM orders_inbox
                WHERE source = ?1 AND sender = ?2 AND control_id = ?3 AND body_digest = ?4 AND state = ?5)",
        )?
        .query_row(
            params![
                source,
                sender,
                control_id.expose(),
                digest,
                if read.is_ok() { "applied" } else { "refused" }
            ],
            |row| row.get(0),
        )?;
    if known {
        return Ok(read.map_or_else(Taken::Refused, |_| Taken::Applied));
    }
    tx.prepare_cached(
        "INSERT INTO orders_inbox (received_at, source, sender, control_id, body_digest, kind, state, note, orders, raw)
         VALUES (?1,?2,?3,?4,?5,?6,'','',0,?7)",
    )?
    .execute(params![
        writer.now_ms(),
        source,
        sender,
        control_id.expose(),
        digest,
        parsed.as_ref().map_or("", message::kind),
        raw
    ])?;
    let id = tx.last_insert_rowid();
    settle(writer, id, source, read)
}

/// Digest of what a message says: all of it but the header's time and names, which a sender may write
/// anew when it repeats a message.
fn contents(message: &Message) -> String {
    let mut hasher = Sha256::new();
    let event = message.first("MSH").map(|msh| msh.get(9, 2)).unwrap_or_default();
    for part in [message.header(9), event, message.header(12)] {
        hasher.update(part.expose().as_bytes());
        hasher.update([0]);
    }
    hasher.update(message.body().as_bytes());
    hex(&hasher.finalize())
}

/// Applies what a kept message says, and writes down what was done.
fn settle(
    writer: &Writer<'_>,
    id: i64,
    source: &str,
    read: Result<Request, Refusal>,
) -> Result<Taken, LedgerError> {
    let (taken, note, changed) = match read {
        Ok(request) => {
            let (note, changed) = apply(writer, source, id, &request)?;
            (Taken::Applied, note, changed)
        }
        Err(refusal) => (Taken::Refused(refusal), refusal.explain().2, 0),
    };
    let state = if taken == Taken::Applied { "applied" } else { "refused" };
    writer
        .tx()
        .prepare_cached("UPDATE orders_inbox SET state = ?2, note = ?3, orders = ?4 WHERE id = ?1")?
        .execute(params![id, state, note, changed as i64])?;
    let outcome = if taken == Taken::Applied { Outcome::Success } else { Outcome::Minor };
    let kind: String = writer
        .tx()
        .prepare_cached("SELECT kind FROM orders_inbox WHERE id = ?1")?
        .query_row([id], |row| row.get(0))?;
    writer.audit(
        &Event::new(
            EventKind::OrderReceived,
            source,
            json!({ "message": id, "kind": kind, "state": state, "orders": changed, "note": note }),
        )
        .with_outcome(outcome),
    )?;
    Ok(taken)
}

fn apply(
    writer: &Writer<'_>,
    source: &str,
    id: i64,
    request: &Request,
) -> Result<(String, usize), LedgerError> {
    Ok(match request {
        Request::Orders(said) => {
            for one in said {
                orders::apply(writer, source, id, one)?;
            }
            (String::new(), said.len())
        }
        Request::Update => ("orders hold no demographics: nothing to change".into(), 0),
        Request::Merge(merges) => {
            let mut changed = 0;
            for merge in merges {
                let (prior, now) = (&merge.prior, &merge.now);
                changed += orders::merge_patient(writer, (&prior.0, &prior.1), (&now.0, &now.1))?;
            }
            ("results already made keep the identifier of their images".into(), changed)
        }
    })
}

/// Applies a kept message again, as the site file reads it now.
pub fn replay(writer: &Writer<'_>, id: i64, settings: &Orders, by: &By) -> Result<Taken, LedgerError> {
    let found: Option<(String, Vec<u8>)> = writer
        .tx()
        .prepare_cached("SELECT source, raw FROM orders_inbox WHERE id = ?1")?
        .query_row([id], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let (source, raw) = found.ok_or(LedgerError::NotFound("message"))?;
    let read = match Message::parse(&raw) {
        Ok(message) => message::read(&message, settings).map_err(Refusal::Fault),
        Err(fault) => Err(Refusal::NoMessage(fault)),
    };
    writer.audit(&Event::new(
        EventKind::OperatorAction,
        by.operator.as_str(),
        json!({ "action": "replay-message", "through": by.through, "message": id }),
    ))?;
    settle(writer, id, &source, read)
}

/// A kept message, for people.
#[derive(Clone, Debug, Serialize)]
pub struct Kept {
    /// Its number.
    pub id: i64,
    /// When it came.
    pub received_at: i64,
    /// Who sent it.
    pub source: String,
    /// ORM^O01 and so on; `other` for a type that is not taken, empty for what is no message.
    pub kind: String,
    /// `applied` or `refused`.
    pub state: String,
    /// What was done with it, or why not.
    pub note: String,
    /// How many orders it changed.
    pub orders: u32,
}

/// Messages, the last first.
pub fn list(connection: &Connection, refused_only: bool, limit: u32) -> Result<Vec<Kept>, LedgerError> {
    Ok(connection
        .prepare_cached(
            "SELECT id, received_at, source, kind, state, note, orders FROM orders_inbox
             WHERE NOT ?1 OR state = 'refused' ORDER BY id DESC LIMIT ?2",
        )?
        .query_map(params![refused_only, limit], |row| {
            Ok(Kept {
                id: row.get(0)?,
                received_at: row.get(1)?,
                source: row.get(2)?,
                kind: row.get(3)?,
                state: row.get(4)?,
                note: row.get(5)?,
                orders: row.get(6)?,
            })
        })?
        .collect::<rusqlite::Result<_>>()?)
}

/// A kept message as it came.
pub fn raw(connection: &Connection, id: i64) -> Result<Phi<Vec<u8>>, LedgerError> {
    connection
        .prepare_cached("SELECT raw FROM orders_inbox WHERE id = ?1")?
        .query_row([id], |row| Ok(Phi::new(row.get(0)?)))
        .optional()?
        .ok_or(LedgerError::NotFound("message"))
}

#[cfg(test)]
mod tests;
