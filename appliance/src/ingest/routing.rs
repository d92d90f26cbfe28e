//! What the rules make of a closed revision: every decision, the jobs, the forwards, and where
//! the study stands next, written with the revision in one transaction.

use rusqlite::params;
use serde_json::json;

use super::rules::{Routing, RuleSet, SeriesFacts};
use crate::dicom::attributes::Attributes;
use crate::job::{JobState, State, StudyState};
use crate::phi::Phi;
use crate::store::forwards;
use crate::store::ledger::{LedgerError, Writer, json_column};

/// Routes a revision that has just been closed, and whose instances carry its number.
pub fn route(
    writer: &Writer<'_>,
    study_id: i64,
    revision: u32,
    rules: &RuleSet,
    series: &[SeriesFacts],
) -> Result<Routing, LedgerError> {
    let routing = rules.decide(series);
    write(writer, study_id, revision, &routing)?;
    let (next, note) = match (routing.models.is_empty(), routing.forwards.is_empty()) {
        (false, _) => (StudyState::Processing, ""),
        (true, false) => (StudyState::Done, "sent on only: no rule gives this study to a model"),
        (true, true) => (StudyState::Unrouted, "no rule gives this study to a model, or sends it on"),
    };
    writer
        .tx()
        .prepare_cached("UPDATE studies SET state = ?2, revision = ?3, note = ?4 WHERE id = ?1")?
        .execute(params![study_id, next.as_str(), revision, note])?;
    Ok(routing)
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

fn write(writer: &Writer<'_>, study_id: i64, revision: u32, routing: &Routing) -> Result<(), LedgerError> {
    let tx = writer.tx();
    let mut insert = tx.prepare_cached(
        "INSERT INTO decisions (study_id, revision, series_uid, rule, matched, because, inputs) VALUES (?1,?2,?3,?4,?5,?6,?7)",
    )?;
    for decision in &routing.decisions {
        insert.execute(params![
            study_id,
            revision,
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
        insert.execute(params![
            study_id,
            revision,
            model,
            JobState::Waiting.as_str(),
            series.to_string(),
            json!(assignment.deliver).to_string(),
            writer.now_ms(),
        ])?;
    }
    for forward in &routing.forwards {
        forwards::plan(writer, study_id, revision, forward)?;
    }
    Ok(())
}
