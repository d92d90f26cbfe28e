//! A candidate beside the active version: which live studies it has run on, and for how long.
//!
//! What is still to be run follows from what the active version ran on, so nothing has to be queued, and a
//! study is compared once: a row is written before the candidate runs, and only one can be there.

use std::collections::BTreeMap;

use lightbox_models::shadow::{Outcome, Pair};
use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;
use serde_json::json;

use super::Reading;
use crate::audit;
use crate::store::ledger::{LedgerError, Writer, json_column};

/// Tries of one study. A try that nobody ended was ended with the daemon.
const ATTEMPTS_MAX: u32 = 3;
/// The longest time that counts between two notes of the time in shadow: what a clock jumps is no time.
const CREDIT_MS_MAX: i64 = 15_000;

/// A candidate in shadow, and what it runs beside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// The candidate's digest.
    pub candidate: String,
    /// The active version's.
    pub active: String,
}

/// How far a candidate has come in shadow beside the version that is active.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Standing {
    /// The version that it is compared with.
    pub beside: String,
    /// Since when, in ms since the epoch.
    pub began_at: i64,
    /// Hours for which it was ready to run, the daemon's own downtime left out.
    pub hours: f64,
    /// Studies that it ran on.
    pub studies: u32,
    /// Studies that it failed on.
    pub failed: u32,
    /// Studies that wait for it.
    pub waiting: u32,
    /// Why it does not run, where it does not.
    pub fault: String,
}

/// A study that a candidate is to run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Its row.
    pub id: i64,
    /// The job whose images it sees.
    pub job_id: i64,
    /// Which try this is.
    pub attempt: u32,
}

/// What came of asking for a turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begun {
    /// Nothing waits.
    Nothing,
    /// This one.
    Turn(Turn),
    /// A study on which the daemon ended every time is given up, and the candidate with it.
    Lost,
}

/// The candidate of a slot that is in shadow beside an active version, and may run.
pub fn watched(reader: &Connection, slot: &str) -> Result<Option<Watched>, LedgerError> {
    Ok(reader
        .prepare_cached(
            "SELECT c.digest, a.digest FROM model_versions c JOIN model_versions a ON a.slot = c.slot
             WHERE c.slot = ?1 AND c.state = 'shadow' AND c.kept = 1 AND a.state = 'active'
                AND NOT EXISTS (SELECT 1 FROM shadow_runs r WHERE r.slot = c.slot AND r.digest = c.digest
                    AND r.state = 'lost')
             ORDER BY c.id LIMIT 1",
        )?
        .query_row([slot], |row| Ok(Watched { candidate: row.get(0)?, active: row.get(1)? }))
        .optional()?)
}

/// Notes the time for which a candidate was ready beside the active version, and why it is not. Time counts
/// from one note of the same start of the daemon to the next; with another active version it begins anew.
pub fn note_time(
    writer: &Writer<'_>,
    slot: &str,
    watched: &Watched,
    boot: &str,
    fault: &str,
) -> Result<(), LedgerError> {
    let (tx, now) = (writer.tx(), writer.now_ms());
    let ready = fault.is_empty() && !has_lost(tx, slot, &watched.candidate)?;
    let noted = tx
        .prepare_cached(
            "UPDATE shadow_times SET served_ms = served_ms + CASE WHEN ?6 AND boot = ?4
                THEN min(max(?5 - seen_at, 0), ?8) ELSE 0 END, seen_at = ?5, boot = ?4, fault = ?7
             WHERE slot = ?1 AND digest = ?2 AND beside = ?3",
        )?
        .execute(params![slot, watched.candidate, watched.active, boot, now, ready, fault, CREDIT_MS_MAX])?;
    if noted == 0 {
        // Studies that ended before it came are not compared.
        tx.execute(
            "INSERT OR REPLACE INTO shadow_times (slot, digest, beside, after_run, began_at, served_ms, seen_at, boot, fault)
             VALUES (?1,?2,?3,(SELECT coalesce(max(id), 0) FROM model_runs),?4,0,?4,?5,?6)",
            params![slot, watched.candidate, watched.active, now, boot, fault],
        )?;
    }
    Ok(())
}

fn has_lost(reader: &Connection, slot: &str, digest: &str) -> Result<bool, LedgerError> {
    Ok(reader
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM shadow_runs WHERE slot = ?1 AND digest = ?2 AND state = 'lost')",
        )?
        .query_row([slot, digest], |row| row.get(0))?)
}

/// Live studies that wait for a candidate: the active version ended on them after the candidate came, they are
/// still here, and the candidate has not ended on any job of theirs.
const WAITS: &str = "model_runs r
    JOIN shadow_times t ON t.slot = r.slot AND t.beside = r.digest AND r.id > t.after_run
    JOIN studies s ON s.id = r.study_id AND s.state <> 'purged'
    WHERE r.slot = ?1 AND t.digest = ?2 AND r.digest = ?3 AND NOT EXISTS (SELECT 1 FROM shadow_runs c
        WHERE c.slot = r.slot AND c.digest = t.digest AND c.study_id = r.study_id AND c.state <> 'begun')";

/// How many studies wait.
pub fn waiting(reader: &Connection, slot: &str, watched: &Watched) -> Result<u32, LedgerError> {
    Ok(reader
        .prepare_cached(&format!("SELECT count(DISTINCT r.study_id) FROM {WAITS}"))?
        .query_row(params![slot, watched.candidate, watched.active], |row| row.get(0))?)
}

/// Writes down that the candidate runs on the next study that waits. What an earlier start left begun is taken
/// up again, but not for ever: a network that takes the daemon down with it must not do so again and again.
pub fn begin(writer: &Writer<'_>, slot: &str, watched: &Watched) -> Result<Begun, LedgerError> {
    let tx = writer.tx();
    if has_lost(tx, slot, &watched.candidate)? {
        return Ok(Begun::Nothing);
    }
    // What can no longer be compared: its images are gone, or another version is active now.
    tx.prepare_cached(
        "DELETE FROM shadow_runs WHERE slot = ?1 AND digest = ?2 AND state = 'begun' AND (beside <> ?3
            OR study_id IN (SELECT id FROM studies WHERE state = 'purged'))",
    )?
    .execute(params![slot, watched.candidate, watched.active])?;
    let begun: Option<Turn> = tx
        .prepare_cached(
            "SELECT id, job_id, attempts FROM shadow_runs WHERE slot = ?1 AND digest = ?2 AND state = 'begun'
             ORDER BY id LIMIT 1",
        )?
        .query_row([slot, &watched.candidate], |row| {
            Ok(Turn { id: row.get(0)?, job_id: row.get(1)?, attempt: row.get(2)? })
        })
        .optional()?;
    if let Some(turn) = begun {
        if turn.attempt >= ATTEMPTS_MAX {
            let why = Reading::failed("the daemon ended every time that it ran");
            write_end(writer, &turn, "lost", &why)?;
            return Ok(Begun::Lost);
        }
        let attempt = turn.attempt + 1;
        tx.prepare_cached("UPDATE shadow_runs SET attempts = ?2 WHERE id = ?1")?
            .execute(params![turn.id, attempt])?;
        return Ok(Begun::Turn(Turn { attempt, ..turn }));
    }
    let next: Option<(i64, i64, String)> = tx
        .prepare_cached(&format!(
            "SELECT r.job_id, r.study_id, r.reading FROM {WAITS} ORDER BY r.id LIMIT 1"
        ))?
        .query_row(params![slot, watched.candidate, watched.active], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .optional()?;
    let Some((job_id, study_id, active)) = next else { return Ok(Begun::Nothing) };
    tx.prepare_cached(
        "INSERT INTO shadow_runs (slot, digest, beside, study_id, job_id, state, attempts, at, active)
         VALUES (?1,?2,?3,?4,?5,'begun',1,?6,?7)",
    )?
    .execute(params![
        slot,
        watched.candidate,
        watched.active,
        study_id,
        job_id,
        writer.now_ms(),
        active
    ])?;
    Ok(Begun::Turn(Turn { id: tx.last_insert_rowid(), job_id, attempt: 1 }))
}

/// Takes the tries back that were broken off on purpose: a stop of the daemon is not the candidate's fault.
pub fn take_back(writer: &Writer<'_>) -> Result<(), LedgerError> {
    writer.tx().execute(
        "UPDATE shadow_runs SET attempts = attempts - 1 WHERE state = 'begun' AND attempts > 0",
        [],
    )?;
    Ok(())
}

/// Writes down what a candidate said, or why it failed. A failure that may pass is tried again; a study whose
/// images went meanwhile is not counted.
pub fn end(writer: &Writer<'_>, turn: &Turn, reading: &Reading, may_pass: bool) -> Result<(), LedgerError> {
    let tx = writer.tx();
    if reading.failed.is_some() {
        let gone = tx
            .prepare_cached(
                "DELETE FROM shadow_runs WHERE id = ?1 AND study_id IN (SELECT id FROM studies WHERE state = 'purged')",
            )?
            .execute([turn.id])?;
        if gone > 0 || may_pass && turn.attempt < ATTEMPTS_MAX {
            return Ok(());
        }
        return write_end(writer, turn, "failed", reading);
    }
    write_end(writer, turn, "ran", reading)
}

fn write_end(writer: &Writer<'_>, turn: &Turn, state: &str, reading: &Reading) -> Result<(), LedgerError> {
    let tx = writer.tx();
    let ended = tx
        .prepare_cached(
            "UPDATE shadow_runs SET state = ?2, at = ?3, candidate = ?4 WHERE id = ?1 AND state = 'begun'",
        )?
        .execute(params![turn.id, state, writer.now_ms(), json!(reading).to_string()])?;
    if ended == 0 {
        return Ok(());
    }
    let (key, slot, digest): (String, String, String) = tx
        .prepare_cached(
            "SELECT s.key, c.slot, c.digest FROM shadow_runs c JOIN studies s ON s.id = c.study_id WHERE c.id = ?1",
        )?
        .query_row([turn.id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let detail = json!({
        "shadow": true, "model": slot, "model_digest": digest, "output_digest": reading.output,
        "error": reading.failed,
    });
    let outcome = if reading.failed.is_some() { audit::Outcome::Minor } else { audit::Outcome::Success };
    writer.audit(&audit::Event::new(audit::EventKind::InferenceRun, key, detail).with_outcome(outcome))
}

/// How far a candidate has come beside this active version; none where it never was in shadow beside it.
pub fn standing(reader: &Connection, slot: &str, digest: &str) -> Result<Option<Standing>, LedgerError> {
    let found = reader
        .prepare_cached(
            "SELECT beside, began_at, served_ms, fault FROM shadow_times WHERE slot = ?1 AND digest = ?2",
        )?
        .query_row([slot, digest], |row| {
            Ok((row.get::<_, String>(0)?, row.get(1)?, row.get::<_, i64>(2)?, row.get::<_, String>(3)?))
        })
        .optional()?;
    let Some((beside, began_at, served_ms, fault)) = found else { return Ok(None) };
    let (studies, failed, lost): (u32, u32, u32) = reader
        .prepare_cached(
            "SELECT coalesce(sum(state = 'ran'), 0), coalesce(sum(state IN ('failed', 'lost')), 0),
                coalesce(sum(state = 'lost'), 0) FROM shadow_runs WHERE slot = ?1 AND digest = ?2 AND beside = ?3",
        )?
        .query_row(params![slot, digest, beside], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let watched = Watched { candidate: digest.to_owned(), active: beside };
    let waiting = waiting(reader, slot, &watched)?;
    let fault = match lost {
        0 => fault,
        _ => "the daemon ended every time that it ran on one of the studies, so it runs no more; remedy: refuse it \
              (`lightbox models refuse`)"
            .into(),
    };
    Ok(Some(Standing {
        beside: watched.active,
        began_at,
        hours: served_ms as f64 / 3_600_000.0,
        studies,
        failed,
        waiting,
        fault,
    }))
}

/// Both versions on every study that was compared, for each label, and why the candidate failed, each reason with
/// its number of studies.
pub fn pairs(
    reader: &Connection,
    slot: &str,
    digest: &str,
    beside: &str,
    labels: &[&str],
) -> Result<(Vec<Pair>, BTreeMap<String, u32>), LedgerError> {
    let (mut pairs, mut failures) = (Vec::new(), BTreeMap::new());
    let mut statement = reader.prepare_cached(
        "SELECT s.key, c.active, c.candidate FROM shadow_runs c JOIN studies s ON s.id = c.study_id
         WHERE c.slot = ?1 AND c.digest = ?2 AND c.beside = ?3 AND c.state <> 'begun' ORDER BY c.id",
    )?;
    let mut rows = statement.query([slot, digest, beside])?;
    while let Some(row) = rows.next()? {
        let study: String = row.get(0)?;
        let (active, candidate): (Reading, Reading) = (json_column(row, 1)?, json_column(row, 2)?);
        if let Some(why) = &candidate.failed {
            *failures.entry(why.clone()).or_default() += 1;
        }
        pairs.extend(labels.iter().map(|label| Pair {
            study: study.clone(),
            label: (*label).to_owned(),
            active: outcome(&active, label),
            candidate: outcome(&candidate, label),
        }));
    }
    Ok((pairs, failures))
}

fn outcome(reading: &Reading, label: &str) -> Outcome {
    match reading.labels.get(label) {
        Some(scored) if reading.failed.is_none() => {
            Outcome::Ran { score: scored.score, tier: scored.tier, latency_ms: reading.latency_ms }
        }
        _ => Outcome::Failed,
    }
}

/// Keeps the page that people were shown when they approved, or that the plan ruled on.
pub fn keep_report(
    writer: &Writer<'_>,
    slot: &str,
    digest: &str,
    sha256: &str,
    page: &str,
) -> Result<(), LedgerError> {
    writer.tx().execute(
        "INSERT INTO shadow_reports (sha256, slot, digest, at, page) VALUES (?1,?2,?3,?4,?5)
         ON CONFLICT (sha256) DO NOTHING",
        params![sha256, slot, digest, writer.now_ms(), page],
    )?;
    Ok(())
}

/// The kept pages of a version whose digest begins so: digest and page, the oldest first.
pub fn kept_reports(
    reader: &Connection,
    slot: &str,
    digest: &str,
    start: &str,
) -> Result<Vec<(String, String)>, LedgerError> {
    Ok(reader
        .prepare_cached(
            "SELECT sha256, page FROM shadow_reports WHERE slot = ?1 AND digest = ?2 ORDER BY at, sha256",
        )?
        .query_map([slot, digest], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<Vec<(String, String)>>>()?
        .into_iter()
        .filter(|(sha256, _)| sha256.starts_with(start))
        .collect())
}

#[cfg(test)]
mod tests;
