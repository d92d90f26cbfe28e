//! Reading the chain out: verifying it in place, and as JSON lines that anybody can verify with
//! the device's public key.

use std::io::{BufRead, Write};
use std::ops::RangeInclusive;

use lightbox_bootstrap::identity::PublicKey;
use rusqlite::{Connection, OptionalExtension};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::chain::{Broken, Checkpoint, Record, Verifier, hex, unhex};

/// Records in one part of an export.
const PART_RECORDS: i64 = 1000;

/// The log could not be verified or exported.
#[derive(Debug, Error)]
pub enum AuditError {
    /// The chain is broken.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// The ledger could not be read.
    #[error("reading the audit log failed")]
    Ledger(#[from] rusqlite::Error),
    /// The export could not be read or written.
    #[error("reading or writing the export failed")]
    Io(#[from] std::io::Error),
    /// A line of the export is not one of ours.
    #[error("line {line} of the export is not an audit line")]
    Line {
        /// Line number, from 1.
        line: usize,
    },
}

/// A line of an export.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Line {
    /// A signed checkpoint; checkpoints come before the records.
    Checkpoint(Checkpoint),
    /// The signed head.
    Head(Checkpoint),
    /// A record and its hash.
    Record {
        /// The record.
        #[serde(rename = "record")]
        content: Record,
        /// Its hash, hex.
        hash: String,
    },
}

fn checkpoint(row: &rusqlite::Row<'_>) -> rusqlite::Result<Checkpoint> {
    Ok(Checkpoint {
        seq: row.get(0)?,
        hash: hex(&row.get::<_, Vec<u8>>(1)?),
        signature: hex(&row.get::<_, Vec<u8>>(2)?),
    })
}

fn signed(connection: &Connection) -> rusqlite::Result<(Vec<Checkpoint>, Option<Checkpoint>)> {
    let checkpoints = connection
        .prepare("SELECT seq, hash, signature FROM audit_checkpoints ORDER BY seq")?
        .query_map([], checkpoint)?
        .collect::<rusqlite::Result<_>>()?;
    let head =
        connection.query_row("SELECT seq, hash, signature FROM audit_head", [], checkpoint).optional()?;
    Ok((checkpoints, head))
}

/// Goes through the records with these numbers, in the order in which they are kept.
fn each_record(
    connection: &Connection,
    numbers: RangeInclusive<i64>,
    mut take: impl FnMut(Record, Vec<u8>) -> Result<(), AuditError>,
) -> Result<(), AuditError> {
    let mut statement = connection.prepare_cached(
        "SELECT seq, at, boot, event, outcome, subject, detail, hash FROM audit
         WHERE seq BETWEEN ?1 AND ?2 ORDER BY seq",
    )?;
    let mut rows = statement.query([numbers.start(), numbers.end()])?;
    while let Some(row) = rows.next()? {
        let record = Record {
            seq: row.get(0)?,
            at: row.get(1)?,
            boot: row.get(2)?,
            event: row.get(3)?,
            outcome: row.get(4)?,
            subject: row.get(5)?,
            detail: row.get(6)?,
        };
        take(record, row.get(7)?)?;
    }
    Ok(())
}

/// Verifies the chain in the ledger; yields the number of records. Reads one snapshot, so it can
/// run beside the daemon.
pub fn verify(connection: &Connection, key: PublicKey) -> Result<i64, AuditError> {
    let snapshot = connection.unchecked_transaction()?;
    let (checkpoints, head) = signed(&snapshot)?;
    let mut verifier = Verifier::new(key, checkpoints, head);
    each_record(&snapshot, i64::MIN..=i64::MAX, |record, hash| Ok(verifier.record(&record, &hash)?))?;
    Ok(verifier.finish()?)
}

/// Checks that the signed head is this key's, without reading the chain: enough to know a wrong key at
/// start.
pub fn check_head(connection: &Connection, key: &PublicKey) -> Result<(), AuditError> {
    let (_, head) = signed(connection)?;
    match head {
        Some(head) if !head.is_signed_by(key) => Err(Broken::BadSignature { seq: head.seq }.into()),
        _ => Ok(()),
    }
}

/// An export that is written part by part, each with a read of its own, so that whoever takes it slowly holds nothing up
/// in the ledger. It ends with the record that was the last one when it began: earlier ones do not change any more.
#[derive(Debug, Default)]
pub struct Export {
    /// Numbers of the records that are still to be written; `None` before the first part.
    left: Option<RangeInclusive<i64>>,
}

impl Export {
    /// Writes the next part; `false` once there is none.
    pub fn part(&mut self, connection: &Connection, out: &mut impl Write) -> Result<bool, AuditError> {
        let mut line = |line: &Line| -> Result<(), AuditError> {
            serde_json::to_writer(&mut *out, line).map_err(std::io::Error::from)?;
            Ok(out.write_all(b"\n")?)
        };
        let Some(left) = self.left.take() else {
            let snapshot = connection.unchecked_transaction()?;
            let (checkpoints, head) = signed(&snapshot)?;
            checkpoints.into_iter().map(Line::Checkpoint).try_for_each(|one| line(&one))?;
            head.map(Line::Head).iter().try_for_each(&mut line)?;
            let numbers = "SELECT coalesce(min(seq), 1), coalesce(max(seq), 0) FROM audit";
            self.left = Some(snapshot.query_row(numbers, [], |row| Ok(row.get(0)?..=row.get(1)?))?);
            return Ok(true);
        };
        let last = left.start().saturating_add(PART_RECORDS - 1).min(*left.end());
        each_record(connection, *left.start()..=last, |content, hash| {
            line(&Line::Record { content, hash: hex(&hash) })
        })?;
        self.left = Some(last.saturating_add(1)..=*left.end());
        Ok(last < *left.end())
    }
}

/// Writes the chain as JSON lines: checkpoints, head, records.
pub fn export(connection: &Connection, out: &mut impl Write) -> Result<(), AuditError> {
    let mut export = Export::default();
    while export.part(connection, out)? {}
    Ok(())
}

/// Verifies an export, offline; yields the number of records.
pub fn verify_export(input: impl BufRead, key: PublicKey) -> Result<i64, AuditError> {
    let (mut checkpoints, mut head) = (Vec::new(), None);
    let mut verifier: Option<Verifier> = None;
    for (index, line) in input.lines().enumerate() {
        let parsed = serde_json::from_str(&line?).map_err(|_| AuditError::Line { line: index + 1 })?;
        match (parsed, &mut verifier) {
            (Line::Checkpoint(checkpoint), None) => checkpoints.push(checkpoint),
            (Line::Head(found), None) => head = Some(found),
            (Line::Record { content, hash }, _) => {
                let verifier = verifier.get_or_insert_with(|| {
                    Verifier::new(key.clone(), std::mem::take(&mut checkpoints), head.take())
                });
                verifier.record(&content, &unhex(&hash))?;
            }
            _ => return Err(AuditError::Line { line: index + 1 }),
        }
    }
    let records = verifier.unwrap_or_else(|| Verifier::new(key, checkpoints, head)).finish()?;
    // A log begins with the first start of the daemon: an export without a record is what a failed download leaves.
    if records == 0 { Err(Broken::NoHead.into()) } else { Ok(records) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::audit::{Event, EventKind};
    use crate::store::fixture::Fixture;

    #[test]
    fn an_export_in_parts_is_whole_while_the_log_grows() {
        let fixture = Fixture::new();
        let append = |count: i64| {
            fixture
                .ledger
                .write_blocking(move |writer| {
                    let event = |number| Event::new(EventKind::OperatorAction, "a", json!({ "n": number }));
                    (0..count).try_for_each(|number| writer.audit(&event(number)))
                })
                .expect("written");
        };
        append(2 * PART_RECORDS + 5);
        let (mut export, mut text, mut parts) = (Export::default(), Vec::new(), 0);
        loop {
            let more = fixture
                .ledger
                .read_blocking(|reader| Ok(export.part(reader, &mut text)))
                .expect("read")
                .expect("written");
            parts += 1;
            append(1);
            if !more {
                break;
            }
        }
        let key = fixture.identity.public_key();
        let records = verify_export(&text[..], key.clone()).expect("whole");
        assert!((2 * PART_RECORDS + 5..2 * PART_RECORDS + 20).contains(&records), "{records}");
        assert_eq!(parts, 4);

        for nothing in ["".as_bytes(), text.split(|byte| *byte == b'\n').next().expect("a line")] {
            let error = verify_export(nothing, key.clone()).expect_err("no log");
            assert!(matches!(error, AuditError::Broken(_)), "{error}");
        }
        let mut whole = Vec::new();
        fixture
            .ledger
            .read_blocking(|reader| Ok(super::export(reader, &mut whole)))
            .expect("read")
            .expect("written");
        assert_eq!(verify_export(&whole[..], key).expect("whole"), records + 4);
    }
}
