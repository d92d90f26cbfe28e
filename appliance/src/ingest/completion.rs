//! When a study counts as complete, and what happens then: the revision is closed with its verdict
//! and evidence, the rules decide, and the jobs are written, all in one transaction.

use std::collections::BTreeMap;

use rusqlite::params;
use serde_json::json;

use super::routing;
use super::rules::RuleSet;
use crate::audit::{Event, EventKind};
use crate::job::{State, StudyState};
use crate::store::ledger::{LedgerError, Writer};

/// A revision that was closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// Key of the study.
    pub study_key: String,
    /// The revision.
    pub revision: u32,
    /// Models that it goes to.
    pub models: Vec<String>,
}

/// Closes every study whose quiet timer has run out.
pub fn close_due(writer: &Writer<'_>, quiet_ms: i64, rules: &RuleSet) -> Result<Vec<Closed>, LedgerError> {
    let due: Vec<(i64, String, u32, i64)> = writer
        .tx()
        .prepare_cached(
            "SELECT id, key, revision, last_at FROM studies WHERE state = ?1 AND last_at <= ?2 ORDER BY last_at",
        )?
        .query_map(params![StudyState::Receiving.as_str(), writer.now_ms() - quiet_ms], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })?
        .collect::<rusqlite::Result<_>>()?;
    due.into_iter()
        .map(|(id, study_key, revision, last_at)| {
            let study = Study { id, study_key, revision: revision + 1, last_at };
            close(writer, &study, quiet_ms, rules)
        })
        .collect()
}

/// Starts the quiet timers of open studies anew: while the daemon was down nothing could arrive, so
/// that silence says nothing about a study being complete.
pub fn restart_timers(writer: &Writer<'_>) -> Result<(), LedgerError> {
    writer.tx().execute(
        "UPDATE studies SET last_at = ?2 WHERE state = ?1",
        params![StudyState::Receiving.as_str(), writer.now_ms()],
    )?;
    Ok(())
}

struct Study {
    id: i64,
    study_key: String,
    /// The revision to be closed.
    revision: u32,
    last_at: i64,
}

fn close(writer: &Writer<'_>, study: &Study, quiet_ms: i64, rules: &RuleSet) -> Result<Closed, LedgerError> {
    let tx = writer.tx();
    let series = routing::series_facts(writer, study.id)?;
    let instances: usize = series.iter().map(|series| series.instances).sum();
    let by_modality = series.iter().fold(BTreeMap::<&str, usize>::new(), |mut counts, series| {
        *counts.entry(series.attributes.modality.as_deref().unwrap_or("none")).or_default() +=
            series.instances;
        counts
    });
    let verdict = format!(
        "no new instance for {} s; {instances} instance{} in {} series",
        quiet_ms / 1000,
        if instances == 1 { "" } else { "s" },
        series.len()
    );
    let evidence = json!({
        "kind": "quiet-timer",
        "quiet_seconds": quiet_ms / 1000,
        "last_instance_at": study.last_at,
        "closed_at": writer.now_ms(),
        "series": series.len(),
        "instances": by_modality,
    });
    tx.prepare_cached(
        "INSERT INTO revisions (study_id, revision, closed_at, verdict, evidence, rule_set) VALUES (?1,?2,?3,?4,?5,?6)",
    )?
    .execute(params![study.id, study.revision, writer.now_ms(), verdict, evidence.to_string(), rules.revision])?;
    tx.prepare_cached("UPDATE instances SET revision = ?2 WHERE study_id = ?1 AND revision IS NULL")?
        .execute(params![study.id, study.revision])?;
    let routing = routing::route(writer, study.id, study.revision, rules, &series)?;
    let models: Vec<String> = routing.models.keys().cloned().collect();
    writer.audit(&Event::new(
        EventKind::StudyRouted,
        study.study_key.as_str(),
        json!({ "revision": study.revision, "verdict": verdict, "models": models, "rule_set": rules.revision }),
    ))?;
    Ok(Closed { study_key: study.study_key.clone(), revision: study.revision, models })
}
