//! What modalities tell of studies, in the ledger: performed procedure steps and the availability of
//! instances. Evidence of completeness; nothing else changes by it.

use rusqlite::{OptionalExtension, params};
use serde_json::json;

use super::ledger::{LedgerError, Writer};
use crate::audit::{Event, EventKind};
use crate::dicom::procedure_step::{Availability, Begun, Change, StepStatus};
use crate::phi::Phi;

/// What became of a procedure step's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is in the ledger.
    Kept,
    /// N-CREATE of a step that is known.
    Duplicate,
    /// N-SET of a step that is not known.
    Unknown,
    /// N-SET after COMPLETED or DISCONTINUED.
    Ended,
    /// COMPLETED, but no series was ever named.
    WithoutSeries,
}

fn to_json<T: serde::Serialize>(value: &T) -> Result<String, LedgerError> {
    serde_json::to_string(value).map_err(|_| LedgerError::Illegal("a list cannot be written".into()))
}

/// Keeps a step that began. `study_key` is the study's name in the audit log.
pub fn begin(
    writer: &Writer<'_>,
    uid: &Phi<String>,
    peer: &str,
    study_key: &str,
    begun: &Begun,
) -> Result<Step, LedgerError> {
    let now = writer.now_ms();
    let kept = writer
        .tx()
        .prepare_cached(
            "INSERT INTO procedure_steps (uid, study_uid, peer, status, series, created_at, updated_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6) ON CONFLICT (uid) DO NOTHING",
        )?
        .execute(params![
            uid.expose(),
            begun.study_uid.expose(),
            peer,
            StepStatus::InProgress.as_str(),
            to_json(&begun.series)?,
            now
        ])?;
    if kept == 0 {
        return Ok(Step::Duplicate);
    }
    told(
        writer,
        study_key,
        peer,
        json!({ "by": "procedure step", "status": StepStatus::InProgress.as_str() }),
    )?;
    Ok(Step::Kept)
}

/// Keeps the change of a step. Only the peer that began it may change it.
pub fn change(
    writer: &Writer<'_>,
    uid: &Phi<String>,
    peer: &str,
    study_key: impl Fn(&str) -> String,
    change: &Change,
) -> Result<Step, LedgerError> {
    let tx = writer.tx();
    let found: Option<(String, String, String)> = tx
        .prepare_cached("SELECT study_uid, status, series FROM procedure_steps WHERE uid = ?1 AND peer = ?2")?
        .query_row([uid.expose(), peer], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let Some((study_uid, status, series)) = found else { return Ok(Step::Unknown) };
    if status != StepStatus::InProgress.as_str() {
        return Ok(Step::Ended);
    }
    let series = match &change.series {
        Some(series) => to_json(series)?,
        None => series,
    };
    if change.status == Some(StepStatus::Completed) && series == "[]" {
        return Ok(Step::WithoutSeries);
    }
    let status = change.status.unwrap_or(StepStatus::InProgress);
    tx.prepare_cached("UPDATE procedure_steps SET status = ?2, series = ?3, updated_at = ?4 WHERE uid = ?1")?
        .execute(params![uid.expose(), status.as_str(), series, writer.now_ms()])?;
    let key = study_key(&study_uid);
    told(writer, &key, peer, json!({ "by": "procedure step", "status": status.as_str() }))?;
    Ok(Step::Kept)
}

/// Keeps an Instance Availability Notification.
pub fn announce(
    writer: &Writer<'_>,
    peer: &str,
    study_key: &str,
    availability: &Availability,
) -> Result<(), LedgerError> {
    writer
        .tx()
        .prepare_cached("INSERT INTO announcements (study_uid, peer, series, at) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![
            availability.study_uid.expose(),
            peer,
            to_json(&availability.series)?,
            writer.now_ms()
        ])?;
    let instances: usize = availability.series.iter().map(|series| series.instances).sum();
    let detail = json!({ "by": "availability", "series": availability.series.len(), "instances": instances });
    told(writer, study_key, peer, detail)
}

fn told(
    writer: &Writer<'_>,
    study_key: &str,
    peer: &str,
    mut detail: serde_json::Value,
) -> Result<(), LedgerError> {
    detail["peer"] = peer.into();
    writer.audit(&Event::new(EventKind::StudyAnnounced, study_key, detail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dicom::procedure_step::PerformedSeries;
    use crate::store::fixture::Fixture;

    fn set(fixture: &Fixture, peer: &'static str, status: Option<StepStatus>, named: bool) -> Step {
        let series =
            PerformedSeries { series_uid: Phi::from("1.2.3"), instances: vec![Phi::from("1.2.3.4")] };
        let wanted = Change { status, series: named.then(|| vec![series]) };
        fixture
            .ledger
            .write_blocking(move |writer| change(writer, &Phi::from("1.2.9"), peer, |_| "k".into(), &wanted))
            .expect("written")
    }

    fn create(fixture: &Fixture) -> Step {
        let begun = Begun { study_uid: Phi::from("1.2"), series: Vec::new() };
        fixture
            .ledger
            .write_blocking(move |writer| begin(writer, &Phi::from("1.2.9"), "ct", "k", &begun))
            .expect("written")
    }

    #[test]
    fn a_step_begins_once_changes_and_ends_for_good() {
        let fixture = Fixture::routed();
        assert_eq!(set(&fixture, "ct", None, true), Step::Unknown);
        assert_eq!((create(&fixture), create(&fixture)), (Step::Kept, Step::Duplicate));
        assert_eq!(set(&fixture, "other", None, true), Step::Unknown, "another peer's step");
        assert_eq!(set(&fixture, "ct", Some(StepStatus::Completed), false), Step::WithoutSeries);
        assert_eq!(set(&fixture, "ct", None, true), Step::Kept);
        assert_eq!(set(&fixture, "ct", Some(StepStatus::Completed), false), Step::Kept);
        assert_eq!(set(&fixture, "ct", Some(StepStatus::Discontinued), true), Step::Ended);
    }
}
