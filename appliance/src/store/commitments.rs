//! Storage commitment requests of peers, in the ledger: durable before they are answered, and until the
//! report is with the peer.

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::json;

use super::ledger::{LedgerError, Writer, json_column};
use crate::audit::{Event, EventKind, Outcome};
use crate::dicom::commitment::{Failure, Reference, Report, Request};
use crate::dicom::status::{CLASS_INSTANCE_CONFLICT, NO_SUCH_INSTANCE};
use crate::phi::Phi;

/// Keeps a request, or takes one up again that the peer repeats. The first try to report comes at
/// `next_ms`. Yields the row.
pub fn ask(writer: &Writer<'_>, peer: &str, request: &Request, next_ms: i64) -> Result<i64, LedgerError> {
    let refs = serde_json::to_string(&request.references).map_err(|_| LedgerError::NotFound("references"))?;
    let id = writer
        .tx()
        .prepare_cached(
            "INSERT INTO commitments (peer, transaction_uid, refs, state, asked_at, next_at)
             VALUES (?1, ?2, ?3, 'reporting', ?4, ?5)
             ON CONFLICT (peer, transaction_uid) DO UPDATE SET refs = ?3, report = NULL, state = 'reporting',
                attempts = 0, asked_at = ?4, next_at = ?5, ended_at = NULL, reason = ''
             RETURNING id",
        )?
        .query_row(
            params![peer, request.transaction_uid.expose(), refs, writer.now_ms(), next_ms],
            |row| row.get(0),
        )?;
    writer.audit(&Event::new(
        EventKind::CommitmentAsked,
        peer,
        json!({ "commitment": id, "instances": request.references.len() }),
    ))?;
    Ok(id)
}

/// A report that is due.
#[derive(Clone, Debug)]
pub struct Due {
    /// Row of the request.
    pub id: i64,
    /// Name of the peer.
    pub peer: String,
    /// Tries to report so far.
    pub attempts: u32,
    /// When it was asked.
    pub asked_ms: i64,
    /// Instances that the report commits to.
    pub committed: usize,
    /// Instances that it does not.
    pub failed: usize,
}

/// The report on a request, if it is still to be made. It is found once, from what the ledger holds at
/// the first try, and stays the same; the next try is put off to `next_ms`.
pub fn report(writer: &Writer<'_>, id: i64, next_ms: i64) -> Result<Option<(Due, Report)>, LedgerError> {
    type Row = (String, String, Vec<Reference>, Option<String>, u32, i64);
    let found: Option<Row> = writer
        .tx()
        .prepare_cached(
            "SELECT peer, transaction_uid, refs, report, attempts, asked_at FROM commitments
             WHERE id = ?1 AND state = 'reporting'",
        )?
        .query_row([id], |row| {
            Ok((row.get(0)?, row.get(1)?, json_column(row, 2)?, row.get(3)?, row.get(4)?, row.get(5)?))
        })
        .optional()?;
    let Some((peer, transaction_uid, references, made, attempts, asked_ms)) = found else { return Ok(None) };
    let unreadable = |_| LedgerError::Illegal("a commitment's report cannot be read back".into());
    let report = match made {
        Some(text) => serde_json::from_str(&text).map_err(unreadable)?,
        None => judge(writer, Phi::new(transaction_uid), references)?,
    };
    let text = serde_json::to_string(&report).map_err(unreadable)?;
    writer
        .tx()
        .prepare_cached("UPDATE commitments SET report = ?2, attempts = ?3, next_at = ?4 WHERE id = ?1")?
        .execute(params![id, text, attempts + 1, next_ms])?;
    let (committed, failed) = (report.committed.len(), report.failed.len());
    Ok(Some((Due { id, peer, attempts: attempts + 1, asked_ms, committed, failed }, report)))
}

/// What we commit to: instances that were acknowledged, whose objects are there.
fn judge(
    writer: &Writer<'_>,
    transaction_uid: Phi<String>,
    references: Vec<Reference>,
) -> Result<Report, LedgerError> {
    let mut report = Report { transaction_uid, committed: Vec::new(), failed: Vec::new() };
    let mut classes = writer.tx().prepare_cached(
        "SELECT sop_class_uid FROM instances WHERE sop_instance_uid = ?1 AND state != 'missing'",
    )?;
    for reference in references {
        let held: Vec<String> = classes
            .query_map([reference.instance.expose()], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        if held.contains(&reference.class) {
            report.committed.push(reference);
        } else {
            let reason = if held.is_empty() { NO_SUCH_INSTANCE } else { CLASS_INSTANCE_CONFLICT };
            report.failed.push(Failure { reference, reason });
        }
    }
    Ok(report)
}

/// The requests whose report is due, with their peers.
pub fn due(reader: &Connection, now_ms: i64) -> Result<Vec<(i64, String)>, LedgerError> {
    Ok(reader
        .prepare_cached(
            "SELECT id, peer FROM commitments WHERE state = 'reporting' AND next_at <= ?1 ORDER BY next_at LIMIT 64",
        )?
        .query_map([now_ms], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?)
}

/// How a try to report ended.
#[derive(Clone, Debug)]
pub enum Told {
    /// The peer has it.
    Yes,
    /// Try again at this time, and why: codes and our words.
    Later(i64, String),
    /// Given up.
    Never(String),
}

/// Writes down how a try to report ended.
pub fn end(writer: &Writer<'_>, due: &Due, told: &Told) -> Result<(), LedgerError> {
    let now = writer.now_ms();
    let (state, next, ended, reason) = match told {
        Told::Yes => ("reported", now, Some(now), ""),
        Told::Later(next, reason) => ("reporting", *next, None, reason.as_str()),
        Told::Never(reason) => ("given-up", now, Some(now), reason.as_str()),
    };
    writer
        .tx()
        .prepare_cached(
            "UPDATE commitments SET state = ?2, next_at = ?3, ended_at = ?4, reason = ?5
             WHERE id = ?1 AND state = 'reporting'",
        )?
        .execute(params![due.id, state, next, ended, reason])?;
    let outcome = match told {
        Told::Yes => Outcome::Success,
        Told::Later(..) => return Ok(()),
        Told::Never(_) => Outcome::Serious,
    };
    let detail = json!({
        "commitment": due.id, "attempts": due.attempts, "committed": due.committed,
        "failed": due.failed, "state": state, "reason": reason,
    });
    writer.audit(&Event::new(EventKind::CommitmentReported, due.peer.as_str(), detail).with_outcome(outcome))
}

/// Hands a request over to the tries on associations of our own: the one that it came on has ended.
pub fn hand_over(writer: &Writer<'_>, id: i64) -> Result<(), LedgerError> {
    writer
        .tx()
        .prepare_cached("UPDATE commitments SET next_at = ?2 WHERE id = ?1 AND state = 'reporting'")?
        .execute(params![id, writer.now_ms()])?;
    Ok(())
}

/// Reports again what was given up, on an operator's wish. Yields the peer.
pub fn replay(writer: &Writer<'_>, id: i64, by: &super::replay::By) -> Result<String, LedgerError> {
    let peer: Option<String> = writer
        .tx()
        .query_row(
            "UPDATE commitments SET state = 'reporting', attempts = 0, asked_at = ?2, next_at = ?2, ended_at = NULL
             WHERE id = ?1 AND state = 'given-up' RETURNING peer",
            params![id, writer.now_ms()],
            |row| row.get(0),
        )
        .optional()?;
    let peer = peer.ok_or_else(|| {
        LedgerError::Illegal(format!("commitment {id} was not given up: there is nothing to report again"))
    })?;
    let detail =
        json!({ "action": "replay-commitment", "through": by.through, "commitment": id, "peer": peer });
    writer.audit(&Event::new(EventKind::OperatorAction, by.operator.as_str(), detail))?;
    Ok(peer)
}

/// Asks a destination again to commit to a delivery, on an operator's wish. Yields the destination.
pub fn ask_again(writer: &Writer<'_>, delivery: i64, by: &super::replay::By) -> Result<String, LedgerError> {
    let destination: Option<String> = writer
        .tx()
        .query_row(
            "UPDATE deliveries SET commit_state = 'due', commit_next_at = ?2, delivered_at = ?2
             WHERE id = ?1 AND commit_state = 'failed' RETURNING destination",
            params![delivery, writer.now_ms()],
            |row| row.get(0),
        )
        .optional()?;
    let destination = destination.ok_or_else(|| {
        LedgerError::Illegal(format!("delivery {delivery} has no failed commitment: there is nothing to ask"))
    })?;
    let detail = json!({
        "action": "ask-commitment", "through": by.through, "delivery": delivery, "destination": destination,
    });
    writer.audit(&Event::new(EventKind::OperatorAction, by.operator.as_str(), detail))?;
    Ok(destination)
}

/// A commitment, for people.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Line {
    /// Number of the request, or of the delivery where we ask.
    pub id: i64,
    /// Whether we ask a destination (else a peer asks us).
    pub ours: bool,
    /// The peer that asks, or the destination that is asked.
    pub whom: String,
    /// How far it is.
    pub state: String,
    /// Tries to report, or to ask.
    pub attempts: u32,
    /// When it was asked, or when the result was delivered; ms since the epoch.
    pub asked_at: i64,
    /// Why the last try failed. Holds no patient data.
    pub reason: String,
}

/// The newest commitments of both directions.
pub fn list(reader: &Connection, limit: u32) -> Result<Vec<Line>, LedgerError> {
    let mut lines = Vec::new();
    for (ours, sql) in [
        (
            false,
            "SELECT id, peer, state, attempts, asked_at, reason FROM commitments ORDER BY id DESC LIMIT ?1",
        ),
        (
            true,
            "SELECT id, destination, commit_state, commit_attempts, coalesce(delivered_at, 0),
                coalesce(commit_reason, '') FROM deliveries WHERE commit_state IS NOT NULL
             ORDER BY id DESC LIMIT ?1",
        ),
    ] {
        let mut statement = reader.prepare(sql)?;
        let rows = statement.query_map([limit], |row| {
            Ok(Line {
                id: row.get(0)?,
                ours,
                whom: row.get(1)?,
                state: row.get(2)?,
                attempts: row.get(3)?,
                asked_at: row.get(4)?,
                reason: row.get(5)?,
            })
        })?;
        for row in rows {
            lines.push(row?);
        }
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixture::Fixture;

    fn request(fixture: &Fixture) -> Request {
        let known: (String, String) = fixture
            .ledger
            .read_blocking(|reader| {
                Ok(reader.query_row("SELECT sop_class_uid, sop_instance_uid FROM instances", [], |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })?)
            })
            .expect("the fixture has an instance");
        let reference =
            |class: &str, instance: &str| Reference { class: class.into(), instance: Phi::from(instance) };
        Request {
            transaction_uid: Phi::from("1.2.9"),
            references: vec![
                reference(&known.0, &known.1),
                reference("1.2.840.10008.5.1.4.1.1.7", &known.1),
                reference(&known.0, "1.2.3.4.5.6.7"),
            ],
        }
    }

    #[test]
    fn only_what_is_held_under_its_class_is_committed_to() {
        let fixture = Fixture::routed();
        let wanted = request(&fixture);
        let asked = wanted.clone();
        let id = fixture.ledger.write_blocking(move |writer| ask(writer, "ct", &asked, 0)).expect("asked");
        let due = fixture.ledger.write_blocking(move |writer| report(writer, id, 0)).expect("read");
        let (due, report_made) = due.expect("due");
        assert_eq!(report_made.committed, wanted.references[..1]);
        let reasons: Vec<u16> = report_made.failed.iter().map(|failure| failure.reason).collect();
        assert_eq!(reasons, [CLASS_INSTANCE_CONFLICT, NO_SUCH_INSTANCE]);
        let ended = due.clone();
        fixture.ledger.write_blocking(move |writer| end(writer, &ended, &Told::Yes)).expect("ended");
        assert!(fixture.ledger.write_blocking(move |writer| report(writer, id, 0)).expect("read").is_none());
        assert!(due_now(&fixture).is_empty());
    }

    fn due_now(fixture: &Fixture) -> Vec<(i64, String)> {
        fixture.ledger.read_blocking(|reader| due(reader, i64::MAX)).expect("read")
    }

    #[test]
    fn a_repeated_request_is_one_row_and_is_judged_anew() {
        let fixture = Fixture::routed();
        let (first, second) = (request(&fixture), request(&fixture));
        let id = fixture.ledger.write_blocking(move |writer| ask(writer, "ct", &first, 0)).expect("asked");
        let again =
            fixture.ledger.write_blocking(move |writer| ask(writer, "ct", &second, 0)).expect("asked");
        assert_eq!(id, again);
        assert_eq!(due_now(&fixture), [(id, "ct".to_owned())]);
    }
}
