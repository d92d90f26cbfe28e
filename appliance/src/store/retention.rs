//! Retention: what was delivered and has aged makes room; what has not been delivered, or has failed, stays.
//!
//! The ledger says first that a study is purged, then the files go: what a crash leaves of them goes at the
//! next start ([`super::index::mend`]). The ledger's own rows stay: why the study went where it went, what
//! the models found, and the audit log.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, params};
use serde_json::json;
use tokio::sync::watch;

use super::ledger::{Ledger, LedgerError, Writer, json_column};
use super::objects::{ObjectId, Objects};
use super::results::Results;
use crate::audit::{Event, EventKind};
use crate::clock::SharedClock;
use crate::job::{State, StudyState};

/// How often the site's policy is applied.
const EVERY: Duration = Duration::from_secs(60);
/// Studies purged in one transaction.
const AT_ONCE: u32 = 20;

/// What makes a study one that may go: it has come to rest (what was only fetched always has), and nothing of it is still to be sent, was
/// given up, failed, or waits for a storage commitment. `s` is the study; shadow results are never sent.
const MAY_GO: &str = "s.state IN ('done', 'unrouted', 'fetched')
    AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.study_id = s.id AND j.state != 'done')
    AND NOT EXISTS (SELECT 1 FROM results r JOIN deliveries d ON d.result_id = r.id WHERE r.study_id = s.id
        AND ((d.state != 'delivered' AND NOT (d.state = 'held' AND d.dispatch = 'shadow'))
            OR coalesce(d.commit_state, 'committed') != 'committed'))
    AND NOT EXISTS (SELECT 1 FROM forwards f WHERE f.study_id = s.id
        AND f.state != 'delivered' AND NOT (f.state = 'held' AND f.dispatch = 'shadow'))";

/// The site's policy.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Age at which a study goes, milliseconds since its last instance.
    pub keep_ms: i64,
    /// Age below which it stays even where room is short.
    pub keep_at_least_ms: i64,
    /// Free space of the disk below which studies go before their time, bytes.
    pub short_of_room_bytes: u64,
}

/// What applying the policy needs.
#[derive(Clone)]
pub struct Retention {
    /// Where studies are.
    pub ledger: Ledger,
    /// Where instances are.
    pub objects: Objects,
    /// Where results are.
    pub results: Results,
    /// For the ages.
    pub clock: SharedClock,
    /// When a study goes.
    pub policy: Policy,
}

/// What is removed of a study.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Purged {
    study_key: String,
    objects: Vec<ObjectId>,
    results: Vec<String>,
}

impl Retention {
    /// Applies the policy until `stop` turns true.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        loop {
            match self.apply().await {
                Ok(0) => {}
                Ok(purged) => {
                    tracing::info!(purged, "studies that were delivered and have aged were removed");
                    continue;
                }
                Err(error) => tracing::error!(reason = error.to_string(), "retention cannot be applied"),
            }
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                _ = stop.changed() => return,
            }
        }
    }

    /// Purges what may go, some studies at once; yields how many went.
    async fn apply(&self) -> Result<usize, LedgerError> {
        let short = self.objects.free_bytes().is_ok_and(|free| free < self.policy.short_of_room_bytes);
        let age = if short { self.policy.keep_at_least_ms } else { self.policy.keep_ms };
        let before = self.clock.now_ms().saturating_sub(age);
        let why = if short { "the disk is short of room" } else { "aged" };
        // Asked on a reader first: the writer is for changes.
        let due = self.ledger.read(move |reader| due(reader, before)).await?;
        if due.is_empty() {
            return Ok(0);
        }
        let purged = self
            .ledger
            .write(move |writer| {
                let mut purged = Vec::new();
                for id in due {
                    purged.extend(purge(writer, id, before, why)?);
                }
                Ok(purged)
            })
            .await?;
        let count = purged.len();
        let (objects, results) = (self.objects.clone(), self.results.clone());
        let removed = tokio::task::spawn_blocking(move || {
            for study in &purged {
                remove(study, &objects, &results);
            }
        });
        removed.await.map_err(|_| LedgerError::Panicked)?;
        metrics::counter!("lightbox_studies_purged_total").increment(count as u64);
        Ok(count)
    }
}

/// Files that cannot be removed now go at the next start.
fn remove(study: &Purged, objects: &Objects, results: &Results) {
    let mut left = 0;
    for object in &study.objects {
        left += usize::from(objects.remove(object).is_err());
    }
    objects.remove_empty_study(&study.study_key);
    for name in &study.results {
        left += usize::from(results.remove(Path::new(name)).is_err());
    }
    if left > 0 {
        tracing::warn!(study = study.study_key, left, "files of a purged study could not be removed yet");
    }
}

fn due(reader: &Connection, before: i64) -> Result<Vec<i64>, LedgerError> {
    let sql =
        format!("SELECT s.id FROM studies s WHERE s.last_at <= ?1 AND {MAY_GO} ORDER BY s.last_at LIMIT ?2");
    Ok(reader
        .prepare_cached(&sql)?
        .query_map(params![before, AT_ONCE], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?)
}

/// Writes down that a study is purged, if it still may go; yields what is to be removed.
fn purge(writer: &Writer<'_>, id: i64, before: i64, why: &str) -> Result<Option<Purged>, LedgerError> {
    let tx = writer.tx();
    let sql = format!(
        "UPDATE studies AS s SET state = ?3, note = ?4 WHERE s.id = ?1 AND s.last_at <= ?2 AND {MAY_GO} RETURNING key"
    );
    let note = format!("its instances and results were removed: delivered, and {why}");
    let key: Option<String> = tx
        .prepare_cached(&sql)?
        .query_map(params![id, before, StudyState::Purged.as_str(), note], |row| row.get(0))?
        .next()
        .transpose()?;
    let Some(study_key) = key else { return Ok(None) };
    let objects: Vec<String> = tx
        .prepare_cached("UPDATE instances SET state = 'purged' WHERE study_id = ?1 RETURNING object")?
        .query_map([id], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let mut results = Vec::new();
    let mut statement = tx.prepare_cached("SELECT sr_file, oru_files FROM results WHERE study_id = ?1")?;
    let mut rows = statement.query([id])?;
    while let Some(row) = rows.next()? {
        results.push(row.get(0)?);
        let messages: std::collections::BTreeMap<String, String> = json_column(row, 1)?;
        results.extend(messages.into_values());
    }
    let detail = json!({ "why": why, "instances": objects.len(), "results": results.len() });
    writer.audit(&Event::new(EventKind::StudyPurged, study_key.as_str(), detail))?;
    let objects = objects.iter().filter_map(|name| ObjectId::parse(name)).collect();
    Ok(Some(Purged { study_key, objects, results }))
}

/// How many studies whose last image came before that time cannot go, because something of them is still to be done: for the
/// health page.
pub fn stuck(reader: &Connection, before: i64) -> Result<u32, LedgerError> {
    let sql = format!(
        "SELECT count(*) FROM studies s WHERE s.last_at <= ?1 AND s.state != 'purged' AND NOT ({MAY_GO})"
    );
    Ok(reader.prepare_cached(&sql)?.query_row([before], |row| row.get(0))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{DeliveryState, JobState};
    use crate::store::fixture::Fixture;

    fn retention(fixture: &Fixture, keep_ms: i64) -> Retention {
        Retention {
            ledger: fixture.ledger.clone(),
            objects: fixture.objects.clone(),
            results: Results::open(&fixture.data_dir()).expect("opened"),
            clock: fixture.clock.clone(),
            policy: Policy { keep_ms, keep_at_least_ms: 1000, short_of_room_bytes: 0 },
        }
    }

    fn state(fixture: &Fixture) -> String {
        fixture
            .ledger
            .read_blocking(|reader| Ok(reader.query_row("SELECT state FROM studies", [], |row| row.get(0))?))
            .expect("read")
    }

    #[test]
    fn the_texts_name_states_that_are() {
        for (text, name) in [
            ("'done', 'unrouted'", [StudyState::Done.as_str(), StudyState::Unrouted.as_str()]),
            (
                "'delivered' AND NOT (d.state = 'held'",
                [DeliveryState::Delivered.as_str(), DeliveryState::Held.as_str()],
            ),
            ("j.state != 'done'", [JobState::Done.as_str(); 2]),
        ] {
            assert!(MAY_GO.contains(text) && name.iter().all(|name| text.contains(name)), "{text}");
        }
    }

    #[tokio::test]
    async fn only_what_is_delivered_and_aged_goes() {
        let fixture = Fixture::routed();
        let retention = retention(&fixture, 3_600_000);
        fixture.clock.advance(Duration::from_secs(7200));
        assert_eq!(retention.apply().await.expect("applied"), 0, "its job waits");
        fixture.sql("UPDATE jobs SET state = 'failed'; UPDATE studies SET state = 'done'");
        assert_eq!(retention.apply().await.expect("applied"), 0, "its job failed: it is kept and shown");
        fixture.sql("UPDATE jobs SET state = 'done'");
        fixture.sql(
            "INSERT INTO results (id, job_id, study_id, revision, model, sr_series_uid, sr_instance_uid,
                message_control_id, sr_file, oru_files, context, created_at)
             VALUES (9, 1, 1, 1, 'phantom', '1', '2', '3', 'a.dcm', '{\"ris\": \"b.hl7\"}', '{}', 0);
             INSERT INTO deliveries (result_id, destination, state, queued_at, next_at) VALUES (9, 'pacs', 'dead', 0, 0)",
        );
        assert_eq!(retention.apply().await.expect("applied"), 0, "a dead letter is kept");
        fixture.sql("UPDATE deliveries SET state = 'held', dispatch = 'shadow'");
        let results = fixture.data_dir().join("results");
        for name in ["a.dcm", "b.hl7"] {
            std::fs::write(results.join(name), b"x").expect("written");
        }
        let young =
            Retention { policy: Policy { keep_ms: i64::MAX, ..retention.policy }, ..retention.clone() };
        assert_eq!(young.apply().await.expect("applied"), 0, "it has not aged");
        assert_eq!(retention.apply().await.expect("applied"), 1);
        assert_eq!(state(&fixture), "purged");
        assert_eq!(std::fs::read_dir(results).expect("listed").count(), 0);
        assert_eq!(retention.apply().await.expect("applied"), 0, "once");
    }

    #[tokio::test]
    async fn a_disk_short_of_room_lets_studies_go_before_their_time_but_never_fresh_ones() {
        let fixture = Fixture::routed();
        fixture.sql("UPDATE jobs SET state = 'done'; UPDATE studies SET state = 'done'");
        let mut retention = retention(&fixture, i64::MAX);
        retention.policy.short_of_room_bytes = u64::MAX;
        retention.policy.keep_at_least_ms = 3_600_000;
        assert_eq!(retention.apply().await.expect("applied"), 0, "fresh");
        fixture.clock.advance(Duration::from_secs(7200));
        assert_eq!(retention.apply().await.expect("applied"), 1);
    }
}
