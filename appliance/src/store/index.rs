//! The ledger's index of instances: kept as they come in, and rebuilt from the objects.

use std::collections::{BTreeMap, BTreeSet};

use lightbox_bootstrap::identity::DeviceIdentity;
use lightbox_provisioning::site::SELF_TEST_PEER;
use rusqlite::{OptionalExtension, params};
use serde_json::json;

use super::entry::Entry;
use super::ledger::{Ledger, LedgerError, Writer};
use super::objects::{ObjectError, ObjectId, Objects};
use super::priors;
use crate::audit::{Event, EventKind, Outcome};
use crate::dicom::header;
use crate::job::{State, StudyState};

/// `studies.priority` of the box's own self-test: before STAT, which is 1.
const SELF_TEST_PRIORITY: i64 = 2;

/// What became of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// New: kept.
    New,
    /// Already here, byte for byte.
    Identical,
    /// The same SOP Instance UID is here with other bytes: kept beside it and flagged.
    Conflict,
}

/// Puts an instance into the index, with its study and its audit record, in one transaction.
pub fn insert(writer: &Writer<'_>, new: &Entry) -> Result<Stored, LedgerError> {
    let tx = writer.tx();
    let fetched = priors::is_fetched(tx, &new.study_uid, &new.receipt.peer, writer.now_ms())?;
    let known: Option<(i64, bool)> = tx
        .prepare_cached("SELECT id, state IN ('missing', 'purged') FROM instances WHERE object = ?1")?
        .query_row([new.object.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    match known {
        Some((id, false)) => {
            if !fetched && take_over(writer, id, new)? {
                open_study(writer, new, true, false)?;
            }
            return Ok(Stored::Identical);
        }
        // It came again after its bytes were gone: its old entry, which says so, makes room.
        Some((id, true)) => {
            tx.prepare_cached("DELETE FROM instances WHERE id = ?1")?.execute([id])?;
        }
        None => {}
    }
    let conflict: bool = tx
        .prepare_cached("SELECT count(*) > 0 FROM instances WHERE sop_instance_uid = ?1")?
        .query_row([new.receipt.sop_instance_uid.expose()], |row| row.get(0))?;
    let state = match (conflict, new.readable) {
        (true, _) => "conflict",
        (false, true) => "kept",
        (false, false) => "unreadable",
    };
    let study_id = open_study(writer, new, !conflict, fetched)?;
    tx.prepare_cached(
        "INSERT INTO instances (study_id, object, series_uid, sop_instance_uid, sop_class_uid, transfer_syntax,
            modality, frames, size, peer, calling_ae, received_at, state, attributes, fetched)
         VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15)",
    )?
    .execute(params![
        study_id,
        new.object.as_str(),
        new.series_uid.expose(),
        new.receipt.sop_instance_uid.expose(),
        new.receipt.sop_class_uid,
        new.receipt.transfer_syntax,
        new.attributes.modality.as_deref().unwrap_or_default(),
        new.frames,
        new.size as i64,
        new.receipt.peer,
        new.receipt.calling_ae,
        new.receipt.received_ms,
        state,
        serde_json::to_string(&new.attributes).map_err(|_| LedgerError::NotFound("attributes"))?,
        fetched,
    ])?;
    writer.audit(&Event::new(
        EventKind::InstanceStored,
        new.study_key(),
        json!({ "object": new.object.as_str(), "peer": new.receipt.peer, "bytes": new.size, "state": state }),
    ))?;
    Ok(if conflict { Stored::Conflict } else { Stored::New })
}

/// An instance that had been fetched is sent to us: from now on it is that sender's. Yields whether it was.
fn take_over(writer: &Writer<'_>, id: i64, new: &Entry) -> Result<bool, LedgerError> {
    let taken = writer
        .tx()
        .prepare_cached(
            "UPDATE instances SET fetched = 0, peer = ?2, calling_ae = ?3, received_at = ?4
             WHERE id = ?1 AND fetched = 1",
        )?
        .execute(params![id, new.receipt.peer, new.receipt.calling_ae, new.receipt.received_ms])?;
    Ok(taken > 0)
}

/// Finds or makes the study. A new instance (`counts`) restarts its quiet timer, and opens the
/// next revision if the last one was closed. What is `fetched` as a prior does neither.
fn open_study(writer: &Writer<'_>, new: &Entry, counts: bool, fetched: bool) -> Result<i64, LedgerError> {
    let tx = writer.tx();
    let found: Option<(i64, String)> = tx
        .prepare_cached("SELECT id, state FROM studies WHERE study_uid = ?1")?
        .query_row([new.study_uid.expose()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let now = writer.now_ms();
    let first = if fetched { StudyState::Fetched } else { StudyState::Receiving };
    let note = if fetched { "fetched as an earlier study for another one; it is not processed" } else { "" };
    let Some((id, state)) = found else {
        // Whether the box works is asked with a time limit, however much work waits.
        let priority = if new.receipt.peer == SELF_TEST_PEER { SELF_TEST_PRIORITY } else { 0 };
        tx.prepare_cached(
            "INSERT INTO studies (key, study_uid, state, revision, first_at, last_at, note, priority)
             VALUES (?1,?2,?3,0,?4,?4,?5,?6)",
        )?
        .execute(params![
            new.study_key(),
            new.study_uid.expose(),
            first.as_str(),
            now,
            note,
            priority
        ])?;
        return Ok(tx.last_insert_rowid());
    };
    if fetched {
        // What had been removed comes back as a prior; any other study stays what it is.
        tx.prepare_cached(
            "UPDATE studies SET state = ?2, last_at = ?3, note = ?4 WHERE id = ?1 AND state = ?5",
        )?
        .execute(params![id, first.as_str(), now, note, StudyState::Purged.as_str()])?;
    } else if counts {
        let state =
            StudyState::parse(&state).ok_or_else(|| LedgerError::Illegal(format!("study state {state}")))?;
        if state != StudyState::Receiving && !state.may_become(StudyState::Receiving) {
            return Err(LedgerError::Illegal(format!("a study cannot leave {}", state.as_str())));
        }
        tx.prepare_cached(
            "UPDATE studies SET state = ?2, last_at = ?3, note = CASE state WHEN ?4 THEN '' ELSE note END WHERE id = ?1",
        )?
        .execute(params![id, StudyState::Receiving.as_str(), now, StudyState::Fetched.as_str()])?;
    }
    Ok(id)
}

/// What mending the index found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mended {
    /// Objects that were whole but not in the index (a crash between the two, or a lost ledger).
    pub added: usize,
    /// Keys of the studies whose acknowledged objects are gone from the store, or cut short.
    pub missing: Vec<String>,
    /// Objects that cannot be read back.
    pub damaged: usize,
}

/// Something went wrong while the index was mended.
#[derive(Debug, thiserror::Error)]
pub enum MendError {
    /// The objects could not be listed.
    #[error(transparent)]
    Objects(#[from] ObjectError),
    /// The ledger could not be read or written.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// Brings the index in line with the objects at start: every whole object gets its entry, and every
/// entry whose object is gone or cut short is marked `missing`, for people to see.
///
/// `committed` are the entries of the objects in segments: acknowledged, but perhaps not indexed before a
/// crash. An object with a file of its own has no entry only where the ledger was lost; it is made
/// again from the file's header. All are entered in the order in which they came, so that of two that
/// conflict the first one counts again. Blocking: reads the header of each file added.
pub fn mend(
    ledger: &Ledger,
    objects: &Objects,
    committed: Vec<Entry>,
    identity: &DeviceIdentity,
) -> Result<Mended, MendError> {
    let files = objects.list_files()?;
    let indexed = indexed(ledger)?;
    let purged = |id: &ObjectId| indexed.get(id.as_str()).filter(|known| known.purged);
    // What a purge could not remove before a crash. An object that was sent again after the purge is newer
    // than its entry: it was acknowledged.
    let again =
        |entry: &Entry| purged(&entry.object).is_some_and(|old| entry.receipt.received_ms > old.received_ms);
    let sent_again: BTreeSet<ObjectId> =
        committed.iter().filter(|entry| again(entry)).map(|entry| entry.object.clone()).collect();
    for id in files.iter().map(|(id, _)| id).chain(committed.iter().map(|entry| &entry.object)) {
        if purged(id).is_some() && !sent_again.contains(id) {
            objects.remove(id)?;
        }
    }
    let mut mended = Mended::default();
    let mut entries = Vec::new();
    for (id, _) in files.iter().filter(|(id, _)| !indexed.contains_key(id.as_str())) {
        let entry = objects.read(id).ok().and_then(|(receipt, reader)| {
            let length = reader.length();
            let (header, damage) = header::scan(reader, length, &receipt.transfer_syntax);
            Entry::new(&id.digest(), receipt, length, &header, damage.as_ref(), identity).ok()
        });
        match entry.filter(|entry| entry.object == *id) {
            Some(entry) => entries.push(entry),
            None => mended.damaged += 1,
        }
    }
    entries.extend(committed.into_iter().filter(|entry| {
        // What had been fetched and was then sent to us is another matter than what had been sent.
        let taken_over = |known: &Known| known.fetched && entry.receipt.received_ms > known.received_ms;
        indexed.get(entry.object.as_str()).is_none_or(taken_over) || sent_again.contains(&entry.object)
    }));
    entries.sort_by_key(|entry| entry.receipt.received_ms);
    mended.added = entries.len();
    for entry in entries {
        ledger.write_blocking(move |writer| insert(writer, &entry).map(drop))?;
    }
    let present: BTreeMap<String, u64> = files
        .into_iter()
        .chain(objects.list_in_segments())
        .map(|(id, length)| (id.as_str().to_owned(), length))
        .collect();
    // A file holds its meta information besides the data set, so it is never shorter than `size`.
    let gone: Vec<String> = indexed
        .iter()
        .filter(|(name, known)| !known.gone && present.get(*name).is_none_or(|length| *length < known.size))
        .map(|(name, _)| name.clone())
        .collect();
    mended.missing = ledger.write_blocking(move |writer| mark_missing(writer, &gone))?;
    if mended != Mended::default() {
        let found = mended.clone();
        ledger.write_blocking(move |writer| {
            let detail = json!({ "added": found.added, "missing": found.missing, "damaged": found.damaged });
            let outcome = if found.missing.is_empty() && found.damaged == 0 {
                Outcome::Success
            } else {
                Outcome::Serious
            };
            writer.audit(&Event::new(EventKind::IndexRebuilt, "store", detail).with_outcome(outcome))
        })?;
    }
    Ok(mended)
}

/// What the index says of an object.
struct Known {
    size: u64,
    /// It is known not to be there.
    gone: bool,
    purged: bool,
    /// It was only fetched, not sent to us.
    fetched: bool,
    received_ms: i64,
}

fn indexed(ledger: &Ledger) -> Result<BTreeMap<String, Known>, LedgerError> {
    ledger.read_blocking(|reader| {
        Ok(reader
            .prepare("SELECT object, size, state, received_at, fetched FROM instances")?
            .query_map([], |row| {
                let state: String = row.get(2)?;
                let known = Known {
                    size: row.get::<_, i64>(1)?.try_into().unwrap_or(0),
                    gone: matches!(state.as_str(), "missing" | "purged"),
                    purged: state == "purged",
                    fetched: row.get(4)?,
                    received_ms: row.get(3)?,
                };
                Ok((row.get(0)?, known))
            })?
            .collect::<rusqlite::Result<_>>()?)
    })
}

/// Marks instances whose objects are gone; yields the keys of their studies.
fn mark_missing(writer: &Writer<'_>, gone: &[String]) -> Result<Vec<String>, LedgerError> {
    let mut studies = BTreeSet::new();
    for object in gone {
        let tx = writer.tx();
        tx.execute("UPDATE instances SET state = 'missing' WHERE object = ?1", [object])?;
        studies.insert(tx.query_row(
            "SELECT s.key FROM studies s JOIN instances i ON i.study_id = s.id WHERE i.object = ?1",
            [object],
            |row| row.get(0),
        )?);
    }
    Ok(studies.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixture::Fixture;

    #[test]
    fn entries_without_objects_are_marked_once_and_their_study_is_named() {
        // The fixture fills the index without putting objects into the store.
        let fixture = Fixture::routed();
        let mended = mend(&fixture.ledger, &fixture.objects, Vec::new(), &fixture.identity).expect("mended");
        assert_eq!((mended.added, mended.missing), (0, vec![fixture.key()]));
        let again = mend(&fixture.ledger, &fixture.objects, Vec::new(), &fixture.identity).expect("mended");
        assert_eq!(again, Mended::default(), "it is told once");
    }
}
