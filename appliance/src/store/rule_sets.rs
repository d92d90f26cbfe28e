//! The rule sets that were active, so that a decision of last year can be read beside the rules that
//! made it.

use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;

use super::ledger::{LedgerError, Writer};
use crate::ingest::rules::RuleSet;

/// A rule set and the time for which it was active.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleSetLine {
    /// What decisions name.
    pub revision: String,
    /// The start of the daemon that made it active, milliseconds since the epoch.
    pub since: i64,
    /// The start that made another one active; none for the last.
    pub until: Option<i64>,
    /// Revisions of studies that it decided on, in all its times.
    pub decided: u32,
}

/// Keeps the rules with which the daemon starts, unless they are the ones that were active last.
pub fn activate(writer: &Writer<'_>, rules: &RuleSet) -> Result<bool, LedgerError> {
    let last: Option<String> = writer
        .tx()
        .prepare_cached("SELECT revision FROM rule_sets ORDER BY id DESC LIMIT 1")?
        .query_row([], |row| row.get(0))
        .optional()?;
    if last.as_deref() == Some(rules.revision.as_str()) {
        return Ok(false);
    }
    writer
        .tx()
        .prepare_cached("INSERT INTO rule_sets (since, revision, text) VALUES (?1, ?2, ?3)")?
        .execute(params![writer.now_ms(), rules.revision, rules.text])?;
    Ok(true)
}

/// All of them, the last one first.
pub fn history(connection: &Connection) -> Result<Vec<RuleSetLine>, LedgerError> {
    Ok(connection
        .prepare_cached(
            "SELECT revision, since, lead(since) OVER (ORDER BY id),
                (SELECT count(*) FROM revisions r WHERE r.rule_set = rule_sets.revision)
             FROM rule_sets ORDER BY id DESC",
        )?
        .query_map([], |row| {
            Ok(RuleSetLine {
                revision: row.get(0)?,
                since: row.get(1)?,
                until: row.get(2)?,
                decided: row.get(3)?,
            })
        })?
        .collect::<rusqlite::Result<_>>()?)
}

/// The texts of the rule sets whose revision begins with these digits, by revision.
pub fn texts(connection: &Connection, start: &str) -> Result<Vec<(String, String)>, LedgerError> {
    Ok(connection
        .prepare_cached(
            "SELECT DISTINCT revision, text FROM rule_sets WHERE substr(revision, 1, length(?1)) = ?1
             ORDER BY revision",
        )?
        .query_map([start], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?)
}
