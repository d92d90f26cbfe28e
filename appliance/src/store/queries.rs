//! What people ask of the ledger: typed answers for the command line and the admin page alike.
//!
//! Reading only, on a connection of the caller's. Studies are named by their key, series and
//! images by their place in the study; texts that came from a study's header or from a peer are
//! [`Phi`], so that showing them is a decision of the caller.

mod facts;
mod forwards;
mod study;

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde::Serialize;

pub use facts::{StudyFacts, facts_since};
pub use forwards::{ForwardLine, forwards};
pub use study::{Decision, FindingLine, Job, Outcome, ResultLine, Revision, Series, StudyDetail, study};

use super::forwards::dispatch_column;
use super::ledger::LedgerError;
use crate::dispatch::Dispatch;
use crate::job::{DeliveryState, JobState, State, StudyState};
use crate::phi::Phi;

/// How many things are in which state, by the state's name.
pub type ByState = BTreeMap<String, u32>;

/// What makes a study one that a person should look at. `s` is the study.
const PROBLEM: &str = "(
    EXISTS (SELECT 1 FROM jobs j WHERE j.study_id = s.id AND j.revision = s.revision
        AND (j.state = 'failed' OR CASE WHEN json_valid(j.outcome)
             THEN json_extract(j.outcome, '$.completeness.state') != 'complete' ELSE 0 END))
    OR EXISTS (SELECT 1 FROM results r JOIN deliveries d ON d.result_id = r.id
        WHERE r.study_id = s.id AND d.state = 'dead')
    OR EXISTS (SELECT 1 FROM forwards f WHERE f.study_id = s.id AND f.state = 'dead')
    OR EXISTS (SELECT 1 FROM instances i WHERE i.study_id = s.id AND i.state != 'kept'))";

const STUDY_COLUMNS: &str = "s.id, s.key, s.state, s.revision, s.first_at, s.last_at, s.note,
    (SELECT count(DISTINCT i.series_uid) FROM instances i WHERE i.study_id = s.id),
    (SELECT count(*) FROM instances i WHERE i.study_id = s.id)";

const DELIVERY_COLUMNS: &str = "d.id, s.key, r.revision, r.model, d.destination, d.state, d.attempts,
    d.queued_at, d.next_at, d.last_at, d.last_reason, d.delivered_at, d.dispatch";

const DELIVERY_TABLES: &str =
    "deliveries d JOIN results r ON r.id = d.result_id JOIN studies s ON s.id = r.study_id";

/// Which studies to list.
#[derive(Clone, Copy, Debug)]
pub struct StudyFilter {
    /// Only those in this state.
    pub state: Option<StudyState>,
    /// Only those that a person should look at.
    pub problems_only: bool,
    /// Only those older than this one: the [`StudyLine::id`] of the last line of the page before.
    pub before: Option<i64>,
    /// At most so many.
    pub limit: u32,
}

impl Default for StudyFilter {
    fn default() -> Self {
        StudyFilter { state: None, problems_only: false, before: None, limit: 50 }
    }
}

/// A study, in one line.
#[derive(Clone, Debug, Serialize)]
pub struct StudyLine {
    /// Row in the ledger, for paging.
    #[serde(skip)]
    pub id: i64,
    /// Its key: the only name it has outside the ledger.
    pub key: String,
    /// [`StudyState`].
    pub state: String,
    /// The last closed revision.
    pub revision: u32,
    /// First instance, milliseconds since the epoch, as all times here.
    pub first_at: i64,
    /// Last new instance.
    pub last_at: i64,
    /// Why it stands where it stands.
    pub note: String,
    /// Series.
    pub series: u32,
    /// Instances, conflicting and unreadable ones included.
    pub instances: u32,
    /// Jobs of the last closed revision.
    pub jobs: ByState,
    /// Deliveries and forwards of all revisions.
    pub deliveries: ByState,
    /// Whether a person should look at it: a failed or incomplete run, a dead letter, a
    /// conflicting or unreadable instance.
    pub problem: bool,
}

impl StudyLine {
    /// The job state that most needs a look.
    pub fn worst_job(&self) -> Option<&str> {
        worst(&self.jobs, &[JobState::Failed, JobState::Running, JobState::Waiting, JobState::Done])
    }

    /// The delivery state that most needs a look.
    pub fn worst_delivery(&self) -> Option<&str> {
        use DeliveryState::{Dead, Delivered, Held, Queued, Sending};
        worst(&self.deliveries, &[Dead, Queued, Sending, Held, Delivered])
    }
}

fn worst<S: State>(counts: &ByState, worst_first: &[S]) -> Option<&'static str> {
    worst_first.iter().map(|state| state.as_str()).find(|state| counts.contains_key(*state))
}

/// Counts of a two-column query: name and number.
fn by_state(
    connection: &Connection,
    sql: &str,
    parameters: impl rusqlite::Params,
) -> Result<ByState, LedgerError> {
    Ok(connection
        .prepare_cached(sql)?
        .query_map(parameters, |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?)
}

fn study_line(row: &Row<'_>) -> rusqlite::Result<StudyLine> {
    Ok(StudyLine {
        id: row.get(0)?,
        key: row.get(1)?,
        state: row.get(2)?,
        revision: row.get(3)?,
        first_at: row.get(4)?,
        last_at: row.get(5)?,
        note: row.get(6)?,
        series: row.get(7)?,
        instances: row.get(8)?,
        problem: row.get(9)?,
        jobs: ByState::new(),
        deliveries: ByState::new(),
    })
}

fn complete_line(connection: &Connection, mut line: StudyLine) -> Result<StudyLine, LedgerError> {
    line.jobs = by_state(
        connection,
        "SELECT state, count(*) FROM jobs WHERE study_id = ?1 AND revision = ?2 GROUP BY state",
        params![line.id, line.revision],
    )?;
    line.deliveries = by_state(
        connection,
        "SELECT state, count(*) FROM (
            SELECT d.state FROM results r JOIN deliveries d ON d.result_id = r.id WHERE r.study_id = ?1
            UNION ALL SELECT state FROM forwards WHERE study_id = ?1) GROUP BY state",
        [line.id],
    )?;
    Ok(line)
}

/// The studies, the one that came last first.
pub fn studies(connection: &Connection, filter: &StudyFilter) -> Result<Vec<StudyLine>, LedgerError> {
    let sql = format!(
        "SELECT {STUDY_COLUMNS}, {PROBLEM} AS problem FROM studies s
         WHERE (?1 IS NULL OR s.state = ?1) AND s.id < ?2 AND (NOT ?3 OR problem)
         ORDER BY s.id DESC LIMIT ?4"
    );
    let state = filter.state.map(State::as_str);
    let before = filter.before.unwrap_or(i64::MAX);
    let lines: Vec<StudyLine> = connection
        .prepare_cached(&sql)?
        .query_map(params![state, before, filter.problems_only, filter.limit], study_line)?
        .collect::<rusqlite::Result<_>>()?;
    lines.into_iter().map(|line| complete_line(connection, line)).collect()
}

/// Which deliveries to list.
#[derive(Clone, Debug)]
pub struct DeliveryFilter {
    /// Only those in one of these states; empty means any.
    pub states: Vec<DeliveryState>,
    /// Only those to this destination.
    pub destination: Option<String>,
    /// At most so many.
    pub limit: u32,
}

impl Default for DeliveryFilter {
    fn default() -> Self {
        DeliveryFilter { states: Vec::new(), destination: None, limit: 100 }
    }
}

/// A delivery: one result on its way to one destination.
#[derive(Clone, Debug, Serialize)]
pub struct DeliveryLine {
    /// What a replay names.
    pub id: i64,
    /// Key of the study.
    pub study: String,
    /// Revision of the study.
    pub revision: u32,
    /// Model, as named in the site file.
    pub model: String,
    /// Destination, as named in the site file.
    pub destination: String,
    /// [`DeliveryState`].
    pub state: String,
    /// Tries so far (since the last replay).
    pub attempts: u32,
    /// Queued, or queued again by a replay.
    pub queued_at: i64,
    /// The next try.
    pub next_at: i64,
    /// The last try.
    pub last_at: Option<i64>,
    /// What the peer said at the last try that failed, in its own words: may name the patient.
    pub last_reason: Option<Phi<String>>,
    /// When the destination acknowledged it.
    pub delivered_at: Option<i64>,
    /// When it may leave.
    pub dispatch: Dispatch,
}

impl DeliveryLine {
    /// Whether a person may let it go.
    pub fn can_release(&self) -> bool {
        self.state == DeliveryState::Held.as_str() && self.dispatch.hold
    }
}

fn delivery_line(row: &Row<'_>) -> rusqlite::Result<DeliveryLine> {
    Ok(DeliveryLine {
        id: row.get(0)?,
        study: row.get(1)?,
        revision: row.get(2)?,
        model: row.get(3)?,
        destination: row.get(4)?,
        state: row.get(5)?,
        attempts: row.get(6)?,
        queued_at: row.get(7)?,
        next_at: row.get(8)?,
        last_at: row.get(9)?,
        last_reason: row.get::<_, Option<String>>(10)?.map(Phi::new),
        delivered_at: row.get(11)?,
        dispatch: dispatch_column(row, 12)?,
    })
}

/// The condition of a filter's states on a table; none for no state.
fn any_state(table: &str, states: &[DeliveryState]) -> String {
    // State names are our own constants; what a person typed is bound.
    let names: Vec<String> = states.iter().map(|state| format!("'{}'", state.as_str())).collect();
    if names.is_empty() { String::new() } else { format!("{table}.state IN ({}) AND", names.join(",")) }
}

/// The deliveries, the newest first.
pub fn deliveries(
    connection: &Connection,
    filter: &DeliveryFilter,
) -> Result<Vec<DeliveryLine>, LedgerError> {
    let any = any_state("d", &filter.states);
    let sql = format!(
        "SELECT {DELIVERY_COLUMNS} FROM {DELIVERY_TABLES}
         WHERE {any} (?1 IS NULL OR d.destination = ?1) ORDER BY d.id DESC LIMIT ?2"
    );
    Ok(connection
        .prepare_cached(&sql)?
        .query_map(params![filter.destination, filter.limit], delivery_line)?
        .collect::<rusqlite::Result<_>>()?)
}

/// The deliveries of one result, by destination.
fn deliveries_of_result(connection: &Connection, result: i64) -> Result<Vec<DeliveryLine>, LedgerError> {
    let sql = format!(
        "SELECT {DELIVERY_COLUMNS} FROM {DELIVERY_TABLES} WHERE d.result_id = ?1 ORDER BY d.destination"
    );
    Ok(connection
        .prepare_cached(&sql)?
        .query_map([result], delivery_line)?
        .collect::<rusqlite::Result<_>>()?)
}

/// A destination, as its deliveries show it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DestinationLine {
    /// Its deliveries and forwards.
    pub deliveries: ByState,
    /// Since when the oldest one waits.
    pub oldest_queued_at: Option<i64>,
    /// The last try: when, and whether the destination took it.
    pub last_attempt: Option<(i64, bool)>,
}

/// The destinations that have deliveries or forwards, by name.
pub fn destinations(connection: &Connection) -> Result<BTreeMap<String, DestinationLine>, LedgerError> {
    let mut found: BTreeMap<String, DestinationLine> = BTreeMap::new();
    let mut statement = connection.prepare_cached(
        "SELECT destination, state, count(*), min(queued_at), max(last_at) FROM (
            SELECT destination, state, queued_at, last_at FROM deliveries
            UNION ALL SELECT destination, state, queued_at, last_at FROM forwards)
         GROUP BY destination, state",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let line = found.entry(row.get(0)?).or_default();
        let state: String = row.get(1)?;
        let last: Option<i64> = row.get(4)?;
        if let Some(last) = last
            && line.last_attempt.is_none_or(|(at, _)| last > at)
            // One that is being sent has no outcome yet.
            && state != DeliveryState::Sending.as_str()
        {
            line.last_attempt = Some((last, state == DeliveryState::Delivered.as_str()));
        }
        if state == DeliveryState::Queued.as_str() {
            line.oldest_queued_at = row.get(3)?;
        }
        line.deliveries.insert(state, row.get(2)?);
    }
    Ok(found)
}

/// A refusal that came once or again and again.
#[derive(Clone, Debug, Serialize)]
pub struct RefusalLine {
    /// Name in the site file, or the address where the caller is unknown.
    pub peer: String,
    /// Calling AE title; empty where it came to none.
    pub calling_ae: String,
    /// Address.
    pub address: String,
    /// How: `1/1/3` (result, source and reason of PS3.8 §9.3.4), `context 3`, `TLS`, or empty.
    pub code: String,
    /// Why.
    pub reason: String,
    /// What to do.
    pub remedy: String,
    /// How often.
    pub count: u32,
    /// The first of these.
    pub first_at: i64,
    /// The last of these.
    pub last_at: i64,
}

/// The last refusals of each peer, the newest first, at most `each` different ones of a peer.
pub fn refusals(
    connection: &Connection,
    each: usize,
) -> Result<BTreeMap<String, Vec<RefusalLine>>, LedgerError> {
    let mut statement = connection.prepare_cached(
        "SELECT peer, calling_ae, address, reason, remedy, count(*), min(at), max(at), code FROM refusals
         GROUP BY peer, calling_ae, address, code, reason, remedy ORDER BY max(at) DESC",
    )?;
    let lines = statement.query_map([], |row| {
        Ok(RefusalLine {
            peer: row.get(0)?,
            calling_ae: row.get(1)?,
            address: row.get(2)?,
            reason: row.get(3)?,
            remedy: row.get(4)?,
            count: row.get(5)?,
            first_at: row.get(6)?,
            last_at: row.get(7)?,
            code: row.get(8)?,
        })
    })?;
    let mut by_peer: BTreeMap<String, Vec<RefusalLine>> = BTreeMap::new();
    for line in lines {
        let line = line?;
        let of_peer = by_peer.entry(line.peer.clone()).or_default();
        if of_peer.len() < each {
            of_peer.push(line);
        }
    }
    Ok(by_peer)
}

/// The certificate that a peer showed last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CertificateLine {
    /// SHA-256 fingerprint, hex.
    pub sha256: String,
    /// When it expires.
    pub not_after: i64,
    /// When it was shown.
    pub seen_at: i64,
}

/// The certificate that each peer showed last, by peer.
pub fn peer_certificates(connection: &Connection) -> Result<BTreeMap<String, CertificateLine>, LedgerError> {
    Ok(connection
        .prepare_cached("SELECT peer, sha256, not_after, seen_at FROM peer_certificates")?
        .query_map([], |row| {
            Ok((
                row.get(0)?,
                CertificateLine { sha256: row.get(1)?, not_after: row.get(2)?, seen_at: row.get(3)? },
            ))
        })?
        .collect::<rusqlite::Result<_>>()?)
}

/// Instances looked at to find out when a peer last sent something; bounds the query.
pub const RECENT_INSTANCES: u32 = 5000;

/// When each peer last sent an instance, among the last [`RECENT_INSTANCES`].
pub fn last_received(connection: &Connection) -> Result<BTreeMap<String, i64>, LedgerError> {
    Ok(connection
        .prepare_cached(
            "SELECT peer, max(received_at) FROM
                (SELECT peer, received_at FROM instances ORDER BY id DESC LIMIT ?1) GROUP BY peer",
        )?
        .query_map([RECENT_INSTANCES], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?)
}

/// Numbers for the health page and the metrics. Every state is there, with 0 where it has none.
#[derive(Clone, Debug, Serialize)]
pub struct Counts {
    /// Studies by state.
    pub studies: ByState,
    /// Jobs by state.
    pub jobs: ByState,
    /// Destinations that have deliveries.
    pub destinations: BTreeMap<String, DestinationLine>,
    /// Studies that a person should look at.
    pub problem_studies: u32,
    /// Place of the audit log's last record.
    pub audit_head: i64,
}

/// Counts everything.
pub fn counts(connection: &Connection) -> Result<Counts, LedgerError> {
    let mut studies = by_state(connection, "SELECT state, count(*) FROM studies GROUP BY state", [])?;
    let mut jobs = by_state(connection, "SELECT state, count(*) FROM jobs GROUP BY state", [])?;
    let mut destinations = destinations(connection)?;
    fill::<StudyState>(&mut studies);
    fill::<JobState>(&mut jobs);
    for line in destinations.values_mut() {
        fill::<DeliveryState>(&mut line.deliveries);
    }
    let problem_studies = connection
        .prepare_cached(&format!("SELECT count(*) FROM studies s WHERE {PROBLEM}"))?
        .query_row([], |row| row.get(0))?;
    let audit_head = audit_head(connection)?;
    Ok(Counts { studies, jobs, destinations, problem_studies, audit_head })
}

/// Place of the audit log's last record.
pub fn audit_head(connection: &Connection) -> Result<i64, LedgerError> {
    Ok(connection
        .prepare_cached("SELECT coalesce(max(seq), 0) FROM audit")?
        .query_row([], |row| row.get(0))?)
}

/// Number and hash (hex) of the audit log's last record.
pub fn audit_end(connection: &Connection) -> Result<Option<(i64, String)>, LedgerError> {
    Ok(connection
        .prepare_cached("SELECT seq, lower(hex(hash)) FROM audit ORDER BY seq DESC LIMIT 1")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?)
}

/// Adds the states that nothing is in, so that a number which falls to 0 is shown as 0.
pub fn fill<S: State>(counts: &mut ByState) {
    for state in S::ALL {
        counts.entry(state.as_str().to_owned()).or_default();
    }
}

#[cfg(test)]
mod tests;
