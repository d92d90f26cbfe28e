//! Jobs in the ledger: claimed under a lease, and ended in one transaction with what they made.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::{Value, json};

use super::ledger::{LedgerError, Writer, json_column};
use super::models::{self, Pinned};
use super::objects::ObjectId;
use super::{orders, priors};
use crate::audit::{Event, EventKind, Outcome};
use crate::deliver::context::{OrderContext, Predecessor, ResultContext};
use crate::dispatch::Dispatch;
use crate::finding::{InstanceRef, ModelResult};
use crate::job::{DeliveryState, JobState, State, StudyState};
use crate::phi::Phi;

mod on_series;
#[cfg(test)]
mod tests;

pub use on_series::{OnSeries, covered, under_way, write_on_series};

/// A job that this process holds.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Row of the job.
    pub id: i64,
    /// Row of the study.
    pub study_id: i64,
    /// Key of the study, for logs.
    pub study_key: String,
    /// Study Instance UID.
    pub study_uid: Phi<String>,
    /// Revision of the study.
    pub revision: u32,
    /// Model, as the site file names it.
    pub model: String,
    /// Series that the model gets.
    pub series: Vec<Phi<String>>,
    /// Destinations, and when the result may leave for them.
    pub deliver: BTreeMap<String, Dispatch>,
    /// Tries, this one included.
    pub attempts: u32,
    /// When it was first claimed: the time that its results carry.
    pub started_ms: i64,
    /// How the study, or the one series, was judged complete.
    pub verdict: String,
    /// Of a job on one series: the series and the last instance of it that the job sees.
    pub on_series: Option<(Phi<String>, i64)>,
    /// The order's identifiers as of the first claim: results carry them.
    pub order: Option<OrderContext>,
    /// Of a signed model: the version that runs.
    pub pinned: Option<Pinned>,
}

/// An instance of a revision.
#[derive(Clone, Debug)]
pub struct Instance {
    /// Its identifiers.
    pub reference: InstanceRef,
    /// Its object.
    pub object: ObjectId,
    /// Whether its structure was sound when it came in.
    pub readable: bool,
}

/// Claims the next job that is due, STAT studies first, then the oldest job, until `lease_until`. What
/// its results will carry (time, order) is fixed with the first claim, and so is the version of a signed model.
/// Jobs of a model without an active version stay where they are.
pub fn claim(writer: &Writer<'_>, owner: &str, lease_ms: i64) -> Result<Option<Claim>, LedgerError> {
    let (tx, now) = (writer.tx(), writer.now_ms());
    models::explain_waiting(writer)?;
    let due: Option<i64> = tx
        .prepare_cached(&format!(
            "SELECT j.id FROM jobs j JOIN studies s ON s.id = j.study_id
             WHERE j.state = ?1 AND j.next_at <= ?2 AND {}
             ORDER BY s.priority DESC, j.created_at, j.id LIMIT 1",
            models::MAY_RUN
        ))?
        .query_row(params![JobState::Waiting.as_str(), now], |row| row.get(0))
        .optional()?;
    let Some(id) = due else { return Ok(None) };
    move_to(writer, id, JobState::Running)?;
    tx.prepare_cached(
        "UPDATE jobs SET owner = ?2, lease_until = ?3, attempts = attempts + 1,
            started_at = coalesce(started_at, ?4) WHERE id = ?1",
    )?
    .execute(params![id, owner, now + lease_ms, now])?;
    fix_order(writer, id)?;
    priors::fix(writer, id)?;
    let pinned = models::pin(writer, id)?;
    Ok(Some(Claim { pinned, ..of(tx, id)? }))
}

/// A job as it was claimed, without the version that runs.
pub fn of(reader: &Connection, id: i64) -> Result<Claim, LedgerError> {
    Ok(reader
        .prepare_cached(
            "SELECT j.study_id, s.key, s.study_uid, j.revision, j.model, j.series, j.deliver, j.attempts,
                j.started_at, coalesce(j.verdict, r.verdict), j.scope, j.through, j.order_context
             FROM jobs j JOIN studies s ON s.id = j.study_id
                LEFT JOIN revisions r ON r.study_id = j.study_id AND r.revision = j.revision
             WHERE j.id = ?1",
        )?
        .query_row([id], |row| {
            let series: Vec<String> = json_column(row, 5)?;
            let scope: String = row.get(10)?;
            Ok(Claim {
                id,
                study_id: row.get(0)?,
                study_key: row.get(1)?,
                study_uid: Phi::new(row.get(2)?),
                revision: row.get(3)?,
                model: row.get(4)?,
                series: series.into_iter().map(Phi::new).collect(),
                deliver: json_column(row, 6)?,
                attempts: row.get(7)?,
                started_ms: row.get(8)?,
                verdict: row.get(9)?,
                on_series: if scope.is_empty() { None } else { Some((Phi::new(scope), row.get(11)?)) },
                order: json_column(row, 12)?,
                pinned: None,
            })
        })?)
}

/// Writes the order's identifiers to a job that has none yet: an order that changes between a crash and
/// the next try must not change the message that goes out under the same control id.
fn fix_order(writer: &Writer<'_>, id: i64) -> Result<(), LedgerError> {
    let tx = writer.tx();
    let found: Option<(i64, String)> = tx
        .prepare_cached(
            "SELECT s.id, s.study_uid FROM jobs j JOIN studies s ON s.id = j.study_id
             WHERE j.id = ?1 AND j.order_context IS NULL",
        )?
        .query_row([id], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((study_id, study_uid)) = found else { return Ok(()) };
    let order = orders::of_stored_study(tx, study_id, &Phi::new(study_uid))?;
    let context = order.map(|order| order.context());
    tx.prepare_cached("UPDATE jobs SET order_context = ?2 WHERE id = ?1")?
        .execute(params![id, json!(context).to_string()])?;
    Ok(())
}

fn move_to(writer: &Writer<'_>, id: i64, next: JobState) -> Result<(), LedgerError> {
    let tx = writer.tx();
    let now: String =
        tx.prepare_cached("SELECT state FROM jobs WHERE id = ?1")?.query_row([id], |row| row.get(0))?;
    match JobState::parse(&now) {
        Some(state) if state.may_become(next) => {
            tx.prepare_cached("UPDATE jobs SET state = ?2 WHERE id = ?1")?
                .execute(params![id, next.as_str()])?;
            Ok(())
        }
        _ => Err(LedgerError::Illegal(format!("a job cannot go from {now} to {}", next.as_str()))),
    }
}

/// Gives back what earlier starts of the daemon held, and what ran out of its lease. Called with
/// the data folder's lock held, so no other daemon can be at work on it.
pub fn reclaim(writer: &Writer<'_>, owner: &str) -> Result<usize, LedgerError> {
    let held: Vec<i64> = writer
        .tx()
        .prepare("SELECT id FROM jobs WHERE state = ?1 AND (owner != ?2 OR lease_until < ?3)")?
        .query_map(params![JobState::Running.as_str(), owner, writer.now_ms()], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for id in &held {
        move_to(writer, *id, JobState::Waiting)?;
    }
    Ok(held.len())
}

/// The instances that a job sees, in the order of their objects' names, which depends on nothing but
/// their content: those of the study up to the job's revision, or those of its series up to the one that
/// was the last when the job was written. Neither changes with what comes later.
pub fn instances(reader: &Connection, claim: &Claim) -> Result<Vec<Instance>, LedgerError> {
    let on_series = claim.on_series.as_ref().map(|(series, through)| (series.expose(), through));
    let mut statement = reader.prepare_cached(
        "SELECT series_uid, sop_class_uid, sop_instance_uid, modality, frames, object, state FROM instances
         WHERE study_id = ?1 AND state NOT IN ('conflict', 'missing')
            AND CASE WHEN ?3 IS NULL THEN revision <= ?2 ELSE series_uid = ?3 AND id <= ?4 END
         ORDER BY object",
    )?;
    let (series, through) = on_series.unzip();
    let rows = statement.query_map(params![claim.study_id, claim.revision, series, through], |row| {
        let reference = InstanceRef {
            series_uid: Phi::new(row.get(0)?),
            sop_class_uid: row.get(1)?,
            sop_instance_uid: Phi::new(row.get(2)?),
            modality: row.get(3)?,
            frames: row.get(4)?,
        };
        Ok((reference, row.get::<_, String>(5)?, row.get::<_, String>(6)?))
    })?;
    let mut found = Vec::new();
    for row in rows {
        let (reference, object, state) = row?;
        let object = ObjectId::parse(&object).ok_or(LedgerError::NotFound("object of that name"))?;
        found.push(Instance { reference, object, readable: state == "kept" });
    }
    Ok(found)
}

/// The document that a new result of this model on this study, or on this series, replaces.
pub fn predecessor(reader: &Connection, claim: &Claim) -> Result<Option<Predecessor>, LedgerError> {
    let scope = claim.on_series.as_ref().map_or("", |(series, _)| series.expose().as_str());
    Ok(reader
        .prepare_cached(
            "SELECT r.sr_series_uid, r.sr_instance_uid FROM results r JOIN jobs j ON j.id = r.job_id
             WHERE r.study_id = ?1 AND r.model = ?2 AND j.scope = ?3 ORDER BY r.id DESC LIMIT 1",
        )?
        .query_row(params![claim.study_id, claim.model, scope], |row| {
            Ok(Predecessor { series_uid: Phi::new(row.get(0)?), sop_instance_uid: Phi::new(row.get(1)?) })
        })
        .optional()?)
}

/// The outputs of a job, already on disk.
#[derive(Clone, Debug)]
pub struct Made {
    /// What they were made of.
    pub context: ResultContext,
    /// File of the SR.
    pub sr_file: String,
    /// Files of the ORU messages, by destination.
    pub oru_files: BTreeMap<String, String>,
    /// Why there is no message for a destination, without patient data: a dead letter from the start.
    pub oru_faults: BTreeMap<String, String>,
}

/// How a job ended.
#[derive(Clone, Debug, Default)]
pub struct Ended {
    /// What the model said, if it was asked.
    pub outcome: Option<ModelResult>,
    /// Why it failed, without patient data; `None` when it did not.
    pub error: Option<String>,
    /// The outputs, where there are any.
    pub made: Option<Made>,
    /// Milliseconds by stage.
    pub timings: BTreeMap<&'static str, u64>,
    /// What the model said in numbers; none where nothing was there for it to look at.
    pub reading: Option<models::Reading>,
}

/// Ends a job: its state, its result, the deliveries, the study's state and the audit records, all
/// or nothing.
pub fn end(writer: &Writer<'_>, claim: &Claim, ended: &Ended) -> Result<(), LedgerError> {
    let (tx, now) = (writer.tx(), writer.now_ms());
    let next = if ended.error.is_some() { JobState::Failed } else { JobState::Done };
    move_to(writer, claim.id, next)?;
    let digest = ended.outcome.as_ref().map(|outcome| outcome.model.digest.as_str());
    tx.prepare_cached(
        "UPDATE jobs SET owner = NULL, lease_until = NULL, finished_at = ?2, model_digest = ?3, timings = ?4,
            error = ?5, outcome = ?6 WHERE id = ?1",
    )?
    .execute(params![
        claim.id,
        now,
        digest,
        json!(ended.timings).to_string(),
        ended.error,
        ended.outcome.as_ref().map(|outcome| json!(outcome).to_string()),
    ])?;
    writer.audit(
        &Event::new(EventKind::InferenceRun, claim.study_key.as_str(), inference_detail(claim, ended))
            .with_outcome(if ended.error.is_some() { Outcome::Serious } else { Outcome::Success }),
    )?;
    if let Some(made) = &ended.made {
        keep_result(writer, claim, made)?;
    }
    if let (Some(pinned), Some(reading)) = (&claim.pinned, &ended.reading) {
        models::keep_run(writer, claim, &pinned.digest, reading)?;
    }
    // The study is done when the last job of its last closed revision is; a late image may have
    // opened the next one meanwhile.
    tx.prepare_cached(
        "UPDATE studies SET state = ?2 WHERE id = ?1 AND state = ?3 AND NOT EXISTS (
            SELECT 1 FROM jobs WHERE study_id = ?1 AND state IN (?4, ?5))",
    )?
    .execute(params![
        claim.study_id,
        StudyState::Done.as_str(),
        StudyState::Processing.as_str(),
        JobState::Waiting.as_str(),
        JobState::Running.as_str()
    ])?;
    Ok(())
}

fn inference_detail(claim: &Claim, ended: &Ended) -> Value {
    use sha2::{Digest, Sha256};
    let output = ended
        .outcome
        .as_ref()
        .map(|outcome| crate::audit::chain::hex(&Sha256::digest(json!(outcome).to_string().as_bytes())));
    json!({
        "revision": claim.revision,
        "model": claim.model,
        "model_digest": ended.outcome.as_ref().map(|outcome| &outcome.model.digest),
        "plan": ended.outcome.as_ref().and_then(|outcome| outcome.model.plan.as_ref()),
        "acceptance": ended.outcome.as_ref().and_then(|outcome| outcome.model.acceptance.as_ref()),
        "output_digest": output,
        "findings": ended.outcome.as_ref().map(|outcome| outcome.findings.len()),
        "error": ended.error,
    })
}

fn keep_result(writer: &Writer<'_>, claim: &Claim, made: &Made) -> Result<(), LedgerError> {
    let (tx, now) = (writer.tx(), writer.now_ms());
    let ids = &made.context.ids;
    // A job that is replayed and comes to the same content has the same UIDs: then its result is
    // already there, and so are its deliveries.
    let inserted = tx
        .prepare_cached(
            "INSERT INTO results (job_id, study_id, revision, model, sr_series_uid, sr_instance_uid,
                message_control_id, sr_file, oru_files, context, created_at)
             VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11) ON CONFLICT (sr_instance_uid) DO NOTHING",
        )?
        .execute(params![
            claim.id,
            claim.study_id,
            claim.revision,
            claim.model,
            ids.series_uid.expose(),
            ids.sr_instance_uid.expose(),
            ids.message_control_id,
            made.sr_file,
            json!(made.oru_files).to_string(),
            json!(made.context).to_string(),
            now,
        ])?;
    if inserted == 0 {
        return Ok(());
    }
    let result_id = tx.last_insert_rowid();
    for (destination, dispatch) in &claim.deliver {
        let fault = made.oru_faults.get(destination);
        let state = match fault {
            Some(_) => DeliveryState::Dead,
            None if dispatch.is_held() => DeliveryState::Held,
            None => DeliveryState::Queued,
        };
        tx.prepare_cached(
            "INSERT INTO deliveries (result_id, destination, state, queued_at, next_at, last_reason, dispatch)
             VALUES (?1,?2,?3,?4,?4,?5,?6)",
        )?
        .execute(params![
            result_id,
            destination,
            state.as_str(),
            // Giving up counts from the first instant at which it may be sent.
            dispatch.due(now),
            fault,
            dispatch.to_string()
        ])?;
        if let Some(code) = fault {
            let detail = json!({ "destination": destination, "attempts": 0, "code": code });
            writer.audit(
                &Event::new(EventKind::ResultDeadLetter, claim.study_key.as_str(), detail)
                    .with_outcome(Outcome::Serious),
            )?;
        }
    }
    writer.audit(&Event::new(
        EventKind::ResultMade,
        claim.study_key.as_str(),
        json!({
            "revision": claim.revision,
            "model": claim.model,
            "sr": made.sr_file,
            "destinations": claim.deliver,
        }),
    ))
}

/// Puts a job back for another try at `next_ms`.
pub fn retry(writer: &Writer<'_>, claim: &Claim, reason: &str, next_ms: i64) -> Result<(), LedgerError> {
    move_to(writer, claim.id, JobState::Waiting)?;
    writer
        .tx()
        .prepare_cached(
            "UPDATE jobs SET owner = NULL, lease_until = NULL, next_at = ?2, error = ?3 WHERE id = ?1",
        )?
        .execute(params![claim.id, next_ms, reason])?;
    Ok(())
}
