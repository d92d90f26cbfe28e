//! What the ledger knows of an open study, gathered for the evidence.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::evidence::{
    Announcement, Count, CountedSeries, Expected, Known, Listed, Series, Step, StepStatus,
};
use super::policy::Policy;
use crate::dicom::attributes::Attributes;
use crate::ingest::rules::{Routing, RuleSet, SeriesFacts};
use crate::phi::Phi;
use crate::store::ledger::{LedgerError, json_column};
use crate::store::orders::{self, Order};

/// An open study.
#[derive(Clone, Debug)]
pub struct Open {
    /// Row of the study.
    pub id: i64,
    /// Its key.
    pub key: String,
    /// Study Instance UID.
    pub uid: Phi<String>,
    /// The revision that is open.
    pub revision: u32,
    /// Its last new instance, or the last start of the daemon.
    pub last_at: i64,
    /// Whether it goes first.
    pub stat: bool,
}

/// What is known of an open study.
#[derive(Clone, Debug)]
pub struct Gathered {
    /// For the evidence.
    pub known: Known,
    /// For the rules, in the order of the first instance, as `known.series`.
    pub facts: Vec<SeriesFacts>,
    /// The last `instances.id` of each series.
    pub through: Vec<i64>,
    /// What the rules say as things stand; empty where no rule has a word on timers.
    pub routing: Routing,
    /// The order that the study belongs to.
    pub order: Option<Order>,
}

/// The study, if it is open.
pub fn open(connection: &Connection, id: i64) -> Result<Option<Open>, LedgerError> {
    Ok(connection
        .prepare_cached(
            "SELECT id, key, study_uid, revision, last_at, priority FROM studies
             WHERE id = ?1 AND state = 'receiving'",
        )?
        .query_row([id], |row| {
            Ok(Open {
                id: row.get(0)?,
                key: row.get(1)?,
                uid: Phi::new(row.get(2)?),
                revision: row.get::<_, u32>(3)? + 1,
                last_at: row.get(4)?,
                stat: row.get(5)?,
            })
        })
        .optional()?)
}

/// Gathers what is known of it. `since` is the daemon's start: silence before it says nothing.
pub fn gather(
    connection: &Connection,
    study: &Open,
    policy: &Policy,
    rules: &RuleSet,
    now: i64,
    since: i64,
) -> Result<Gathered, LedgerError> {
    let (facts, mut series, through) = series(connection, study, since)?;
    let routing = if policy.asks_rules() { rules.decide(&facts) } else { Routing::default() };
    for one in &mut series {
        one.quiet_ms = policy.quiet_ms_of(&routing, &one.uid);
    }
    let uid = study.uid.expose();
    let steps = steps(connection, uid)?;
    let announcements = announcements(connection, uid)?;
    if !(steps.is_empty() && announcements.is_empty()) {
        fill_instances(connection, study.id, &mut series)?;
    }
    let order = match facts.first() {
        Some(first) => orders::of_study(
            connection,
            &study.uid,
            first.attributes.accession.as_ref(),
            first.attributes.patient_id.as_ref(),
        )?,
        None => None,
    };
    let expected = order
        .as_ref()
        .map(|order| Expected { series: order.expected_series, instances: order.expected_instances });
    let known = Known {
        now,
        last_at: study.last_at,
        longest_ms: policy.longest_ms,
        settle_ms: policy.settle_ms,
        series,
        steps,
        announcements,
        count: count(connection, study.id)?,
        own_series: own_series(connection, study.id)?,
        expected: expected.unwrap_or_default(),
    };
    Ok(Gathered { known, facts, through, routing, order })
}

/// The series of a study as rules see them, in the order of their first instance.
pub fn facts(connection: &Connection, study_id: i64) -> Result<Vec<SeriesFacts>, LedgerError> {
    // With min(id) in the list, SQLite takes the plain columns from the row that has it.
    let mut statement = connection.prepare_cached(
        "SELECT series_uid, min(id), attributes, calling_ae, peer, sop_class_uid, count(*) FROM instances
         WHERE study_id = ?1 AND state NOT IN ('conflict', 'missing') GROUP BY series_uid ORDER BY min(id)",
    )?;
    Ok(statement
        .query_map([study_id], |row| {
            Ok(SeriesFacts {
                series_uid: Phi::new(row.get(0)?),
                attributes: json_column::<Attributes>(row, 2)?,
                calling_ae: row.get(3)?,
                peer: row.get(4)?,
                sop_class_uid: row.get(5)?,
                instances: row.get::<_, u32>(6)? as usize,
            })
        })?
        .collect::<rusqlite::Result<_>>()?)
}

/// The series for the rules and for the evidence, and the last `instances.id` of each.
type SeriesOf = (Vec<SeriesFacts>, Vec<Series>, Vec<i64>);

fn series(connection: &Connection, study: &Open, since: i64) -> Result<SeriesOf, LedgerError> {
    let facts = facts(connection, study.id)?;
    let last: HashMap<String, (i64, i64)> = connection
        .prepare_cached(
            "SELECT series_uid, max(received_at), max(id) FROM instances
             WHERE study_id = ?1 AND state NOT IN ('conflict', 'missing') GROUP BY series_uid",
        )?
        .query_map([study.id], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))))?
        .collect::<rusqlite::Result<_>>()?;
    let newest = last.values().map(|(_, id)| *id).max();
    let (mut series, mut through) = (Vec::new(), Vec::new());
    for one in &facts {
        let (at, id) = last.get(one.series_uid.expose()).copied().unwrap_or_default();
        // `received_at` is when an instance began to come; that of the newest one's end is the study's.
        let at = if Some(id) == newest { at.max(study.last_at) } else { at };
        series.push(Series {
            uid: one.series_uid.clone(),
            count: one.instances.try_into().unwrap_or(u32::MAX),
            last_at: at.max(since),
            ..Series::default()
        });
        through.push(id);
    }
    Ok((facts, series, through))
}

fn fill_instances(connection: &Connection, study: i64, series: &mut [Series]) -> Result<(), LedgerError> {
    let mut statement = connection.prepare_cached(
        "SELECT series_uid, sop_instance_uid FROM instances
         WHERE study_id = ?1 AND state NOT IN ('conflict', 'missing')",
    )?;
    let places: HashMap<String, usize> =
        series.iter().enumerate().map(|(place, one)| (one.uid.expose().clone(), place)).collect();
    let mut rows = statement.query([study])?;
    while let Some(row) = rows.next()? {
        let uid: String = row.get(0)?;
        if let Some(one) = places.get(&uid).and_then(|place| series.get_mut(*place)) {
            one.instances.insert(Phi::new(row.get(1)?));
        }
    }
    Ok(())
}

fn steps(connection: &Connection, study_uid: &str) -> Result<Vec<Step>, LedgerError> {
    Ok(connection
        .prepare_cached(
            "SELECT peer, status, series FROM procedure_steps WHERE study_uid = ?1 ORDER BY created_at",
        )?
        .query_map([study_uid], |row| {
            let status: String = row.get(1)?;
            Ok(Step {
                peer: row.get(0)?,
                status: match status.as_str() {
                    "COMPLETED" => StepStatus::Completed,
                    "DISCONTINUED" => StepStatus::Discontinued,
                    _ => StepStatus::InProgress,
                },
                series: json_column::<Vec<Listed>>(row, 2)?,
            })
        })?
        .collect::<rusqlite::Result<_>>()?)
}

fn announcements(connection: &Connection, study_uid: &str) -> Result<Vec<Announcement>, LedgerError> {
    Ok(connection
        .prepare_cached("SELECT peer, series FROM announcements WHERE study_uid = ?1 ORDER BY id")?
        .query_map([study_uid], |row| {
            Ok(Announcement { peer: row.get(0)?, series: json_column::<Vec<Listed>>(row, 1)? })
        })?
        .collect::<rusqlite::Result<_>>()?)
}

fn count(connection: &Connection, study: i64) -> Result<Option<Count>, LedgerError> {
    let read = |row: &Row<'_>| {
        Ok(Count {
            peer: row.get(0)?,
            asked_at: row.get(1)?,
            instances: row.get(2)?,
            series: json_column::<Vec<CountedSeries>>(row, 3)?,
            fault: row.get(4)?,
        })
    };
    Ok(connection
        .prepare_cached("SELECT peer, asked_at, instances, series, fault FROM counts WHERE study_id = ?1")?
        .query_row([study], read)
        .optional()?)
}

fn own_series(connection: &Connection, study: i64) -> Result<Vec<Phi<String>>, LedgerError> {
    Ok(connection
        .prepare_cached("SELECT sr_series_uid FROM results WHERE study_id = ?1")?
        .query_map(params![study], |row| Ok(Phi::new(row.get(0)?)))?
        .collect::<rusqlite::Result<_>>()?)
}
