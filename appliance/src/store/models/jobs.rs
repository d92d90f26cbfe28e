//! Which version a job runs with: the one that began it, as long as that one may still run.

use rusqlite::{Connection, OptionalExtension, params};

use crate::store::ledger::{LedgerError, Writer};

/// The version that a job is pinned to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pinned {
    /// The bundle's digest.
    pub digest: String,
    /// The plan under which it came to run, and its version.
    pub plan: Option<String>,
    /// Digest of the record of its acceptance.
    pub acceptance: Option<String>,
}

/// A condition on `jobs j`: its model may run now. A version is active, or the one that began the job was
/// followed by another and is still kept. One that was rolled back or recalled may not, whoever began with it.
/// A model that the site file names no more is not waited for: its job is claimed, and fails with that reason.
pub(in crate::store) const MAY_RUN: &str = "(NOT EXISTS (SELECT 1 FROM model_slots m WHERE m.slot = j.model \
    AND m.managed = 1) OR EXISTS (SELECT 1 FROM model_versions v WHERE v.slot = j.model AND (v.state = 'active' \
    OR (v.digest = j.pinned_digest AND v.state = 'retired' AND v.kept = 1))))";

/// Pins a job that is being claimed; none where the site file names its model no more.
pub fn pin(writer: &Writer<'_>, job: i64) -> Result<Option<Pinned>, LedgerError> {
    let tx = writer.tx();
    let found: Option<Pinned> = tx
        .prepare_cached(
            "SELECT v.digest, v.plan || ' version ' || v.plan_version, v.acceptance
             FROM jobs j JOIN model_slots m ON m.slot = j.model AND m.managed = 1
                JOIN model_versions v ON v.slot = j.model AND (v.state = 'active'
                    OR (v.digest = j.pinned_digest AND v.state = 'retired' AND v.kept = 1))
             WHERE j.id = ?1 ORDER BY v.digest = j.pinned_digest DESC LIMIT 1",
        )?
        .query_row([job], |row| {
            Ok(Pinned { digest: row.get(0)?, plan: row.get(1)?, acceptance: row.get(2)? })
        })
        .optional()?;
    tx.prepare_cached("UPDATE jobs SET pinned_digest = ?2 WHERE id = ?1")?
        .execute(params![job, found.as_ref().map(|pinned| &pinned.digest)])?;
    Ok(found)
}

/// Says of jobs whose model has no active version what they wait for.
pub fn explain_waiting(writer: &Writer<'_>) -> Result<(), LedgerError> {
    writer
        .tx()
        .prepare_cached(
            "UPDATE jobs SET error = 'waits: the model has no active version; see `lightbox models list`'
             WHERE state = 'waiting' AND error IS NULL AND model IN (SELECT slot FROM model_slots m
                WHERE managed = 1 AND NOT EXISTS (SELECT 1 FROM model_versions v
                    WHERE v.slot = m.slot AND v.state = 'active'))",
        )?
        .execute([])?;
    Ok(())
}

/// Whether a version was taken out of service while a job ran with it: then its result must not leave.
pub fn is_stopped(reader: &Connection, slot: &str, digest: &str) -> Result<bool, LedgerError> {
    let state: Option<String> = reader
        .prepare_cached("SELECT state FROM model_versions WHERE slot = ?1 AND digest = ?2")?
        .query_row([slot, digest], |row| row.get(0))
        .optional()?;
    Ok(!matches!(state.as_deref(), Some("active" | "retired")))
}

/// Keys of the studies that a version gave a result on, each once.
pub fn touched(reader: &Connection, slot: &str, digest: &str) -> Result<Vec<String>, LedgerError> {
    Ok(reader
        .prepare_cached(
            "SELECT DISTINCT s.key FROM jobs j JOIN studies s ON s.id = j.study_id
             WHERE j.model = ?1 AND j.model_digest = ?2 ORDER BY s.key",
        )?
        .query_map([slot, digest], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?)
}
