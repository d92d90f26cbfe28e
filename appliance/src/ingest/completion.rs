//! When a study counts as complete, and what happens then: the revision is closed with its verdict
//! and evidence, the rules decide, and the jobs are written, all in one transaction.

use std::collections::BTreeMap;

use lightbox_provisioning::site::Mode;
use rusqlite::params;
use serde_json::json;

use super::rules::{Routing, RuleSet, SeriesFacts};
use crate::audit::{Event, EventKind};
use crate::dicom::attributes::Attributes;
use crate::job::{JobState, State, StudyState};
use crate::phi::Phi;
use crate::store::ledger::{LedgerError, Writer, json_column};

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
    let series = series_facts(writer, study.id)?;
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
    let routing = rules.decide(&series);
    tx.prepare_cached(
        "INSERT INTO revisions (study_id, revision, closed_at, verdict, evidence, rule_set) VALUES (?1,?2,?3,?4,?5,?6)",
    )?
    .execute(params![study.id, study.revision, writer.now_ms(), verdict, evidence.to_string(), rules.revision])?;
    tx.prepare_cached("UPDATE instances SET revision = ?2 WHERE study_id = ?1 AND revision IS NULL")?
        .execute(params![study.id, study.revision])?;
    write_routing(writer, study, &routing)?;
    let next = if routing.models.is_empty() { StudyState::Unrouted } else { StudyState::Processing };
    let note = if routing.models.is_empty() { "no rule gives this study to a model" } else { "" };
    tx.prepare_cached("UPDATE studies SET state = ?2, revision = ?3, note = ?4 WHERE id = ?1")?
        .execute(params![study.id, next.as_str(), study.revision, note])?;
    let models: Vec<String> = routing.models.keys().cloned().collect();
    writer.audit(&Event::new(
        EventKind::StudyRouted,
        study.study_key.as_str(),
        json!({ "revision": study.revision, "verdict": verdict, "models": models, "rule_set": rules.revision }),
    ))?;
    Ok(Closed { study_key: study.study_key.clone(), revision: study.revision, models })
}

/// The series of a study as rules see them, in the order of their first instance.
pub fn series_facts(writer: &Writer<'_>, study_id: i64) -> Result<Vec<SeriesFacts>, LedgerError> {
    let mut statement = writer.tx().prepare_cached(
        "SELECT series_uid, attributes, calling_ae, peer, sop_class_uid FROM instances
         WHERE study_id = ?1 AND state NOT IN ('conflict', 'missing') ORDER BY id",
    )?;
    let mut rows = statement.query([study_id])?;
    let mut series: Vec<SeriesFacts> = Vec::new();
    while let Some(row) = rows.next()? {
        let uid: Phi<String> = Phi::new(row.get(0)?);
        if let Some(known) = series.iter_mut().find(|known| known.series_uid == uid) {
            known.instances += 1;
            continue;
        }
        series.push(SeriesFacts {
            series_uid: uid,
            attributes: json_column::<Attributes>(row, 1)?,
            calling_ae: row.get(2)?,
            peer: row.get(3)?,
            sop_class_uid: row.get(4)?,
            instances: 1,
        });
    }
    Ok(series)
}

fn write_routing(writer: &Writer<'_>, study: &Study, routing: &Routing) -> Result<(), LedgerError> {
    let tx = writer.tx();
    let mut insert = tx.prepare_cached(
        "INSERT INTO decisions (study_id, revision, series_uid, rule, matched, because, inputs) VALUES (?1,?2,?3,?4,?5,?6,?7)",
    )?;
    for decision in &routing.decisions {
        insert.execute(params![
            study.id,
            study.revision,
            decision.series_uid.expose(),
            decision.rule,
            decision.matched,
            decision.because.expose(),
            decision.inputs.expose(),
        ])?;
    }
    let mut insert = tx.prepare_cached(
        "INSERT INTO jobs (study_id, revision, model, state, series, deliver, next_at, created_at)
         VALUES (?1,?2,?3,?4,?5,?6,?7,?7)",
    )?;
    for (model, assignment) in &routing.models {
        let series = json!(assignment.series.iter().map(Phi::expose).collect::<Vec<_>>());
        let deliver: BTreeMap<&str, &str> = assignment
            .deliver
            .iter()
            .map(|(destination, mode)| {
                (destination.as_str(), if *mode == Mode::Shadow { "shadow" } else { "assist" })
            })
            .collect();
        insert.execute(params![
            study.id,
            study.revision,
            model,
            JobState::Waiting.as_str(),
            series.to_string(),
            json!(deliver).to_string(),
            writer.now_ms(),
        ])?;
    }
    Ok(())
}
