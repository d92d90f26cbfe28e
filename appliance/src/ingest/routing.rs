//! What the rules make of a closed revision: every decision, the jobs and the forwards, written with the
//! revision in one transaction.

use rusqlite::params;
use serde_json::json;

use super::rules::Routing;
use crate::job::{JobState, State};
use crate::phi::Phi;
use crate::store::forwards;
use crate::store::ledger::{LedgerError, Writer};

/// Writes what the rules made of a revision whose instances carry its number. Jobs that start with their
/// series were taken out of it before.
pub fn write(
    writer: &Writer<'_>,
    study_id: i64,
    revision: u32,
    routing: &Routing,
) -> Result<(), LedgerError> {
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
