//! Jobs on one series: written as soon as the series is complete, before its study is.
//!
//! What such a job sees is fixed when it is written: the instances of its series up to `through`. It does
//! not depend on when the study is closed, so that doing it again after a crash makes the same result.

use rusqlite::{Connection, params};
use serde_json::json;

use crate::job::{JobState, State};
use crate::phi::Phi;
use crate::store::ledger::{LedgerError, Writer};

/// A job on one series, to be written before its study is complete, or when it is.
#[derive(Debug)]
pub struct OnSeries<'a> {
    /// Row of the study.
    pub study_id: i64,
    /// Revision of the study that is open, or was just closed.
    pub revision: u32,
    /// Model, as the site file names it.
    pub model: &'a str,
    /// The series.
    pub series: &'a Phi<String>,
    /// The last `instances.id` of the series: the job sees this one and those before it.
    pub through: i64,
    /// Why the series counts as complete.
    pub verdict: &'a str,
    /// JSON: destination and mode.
    pub deliver: String,
}

/// Whether a job has seen, or will see, all instances of a series up to `through`. One that failed does
/// not count: what changes the study gives it another chance.
pub fn covered(
    reader: &Connection,
    study_id: i64,
    model: &str,
    series: &Phi<String>,
    through: i64,
) -> Result<bool, LedgerError> {
    Ok(reader
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM jobs j JOIN studies s ON s.id = j.study_id
                WHERE j.study_id = ?1 AND j.scope = ?2 AND j.model = ?3 AND j.through >= ?4
                    AND (j.state != ?5 OR j.revision > s.revision))",
        )?
        .query_row(params![study_id, series.expose(), model, through, JobState::Failed.as_str()], |row| {
            row.get(0)
        })?)
}

/// Writes a job on one series, unless one covers it; yields whether it did. A job that still waits for
/// its first try takes the new instances along.
pub fn write_on_series(writer: &Writer<'_>, new: &OnSeries<'_>) -> Result<bool, LedgerError> {
    let (tx, now) = (writer.tx(), writer.now_ms());
    if covered(tx, new.study_id, new.model, new.series, new.through)? {
        return Ok(false);
    }
    let extended = tx
        .prepare_cached(
            "UPDATE jobs SET through = ?4, verdict = ?5, revision = ?6
             WHERE study_id = ?1 AND scope = ?2 AND model = ?3 AND state = ?7 AND started_at IS NULL",
        )?
        .execute(params![
            new.study_id,
            new.series.expose(),
            new.model,
            new.through,
            new.verdict,
            new.revision,
            JobState::Waiting.as_str()
        ])?;
    if extended > 0 {
        return Ok(true);
    }
    let written = tx
        .prepare_cached(
            "INSERT INTO jobs (study_id, revision, model, state, series, deliver, next_at, created_at, scope, through,
                verdict) VALUES (?1,?2,?3,?4,?5,?6,?7,?7,?8,?9,?10)
             ON CONFLICT (study_id, revision, model, scope, through) DO NOTHING",
        )?
        .execute(params![
            new.study_id,
            new.revision,
            new.model,
            JobState::Waiting.as_str(),
            json!([new.series.expose()]).to_string(),
            new.deliver,
            now,
            new.series.expose(),
            new.through,
            new.verdict,
        ])?;
    Ok(written > 0)
}

/// Whether any job of the study waits or runs.
pub fn under_way(reader: &Connection, study_id: i64) -> Result<bool, LedgerError> {
    Ok(reader
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM jobs WHERE study_id = ?1 AND state IN (?2, ?3))")?
        .query_row(params![study_id, JobState::Waiting.as_str(), JobState::Running.as_str()], |row| {
            row.get(0)
        })?)
}
