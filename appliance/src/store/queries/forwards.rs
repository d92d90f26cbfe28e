//! Forwards, as people see them.

use rusqlite::{Connection, Row, params};
use serde::Serialize;

use super::{DeliveryFilter, any_state};
use crate::dispatch::Dispatch;
use crate::job::{DeliveryState, State};
use crate::phi::Phi;
use crate::store::forwards::dispatch_column;
use crate::store::ledger::LedgerError;

/// A forward: one series of a revision on its way to one destination.
#[derive(Clone, Debug, Serialize)]
pub struct ForwardLine {
    /// What replay and release name, with an `f` before it.
    pub id: i64,
    /// Key of the study.
    pub study: String,
    /// Revision of the study.
    pub revision: u32,
    /// The series' place in the study, from 1; 0 for one that the index no longer has.
    pub series: u32,
    /// Destination, as named in the site file.
    pub destination: String,
    /// The rule that asked for it.
    pub rule: String,
    /// When it may leave.
    pub dispatch: Dispatch,
    /// [`DeliveryState`].
    pub state: String,
    /// Instances that the destination has.
    pub sent: u32,
    /// Instances of the forward.
    pub total: u32,
    /// Tries so far (since the last replay).
    pub attempts: u32,
    /// Since when it is tried, or will be.
    pub queued_at: i64,
    /// The next try.
    pub next_at: i64,
    /// The last try.
    pub last_at: Option<i64>,
    /// Why the last try did not end it; may hold the peer's own words.
    pub last_reason: Option<Phi<String>>,
    /// When the destination had all of it.
    pub delivered_at: Option<i64>,
}

impl ForwardLine {
    /// Whether a person may let it go.
    pub fn can_release(&self) -> bool {
        self.state == DeliveryState::Held.as_str() && self.dispatch.hold
    }
}

const COLUMNS: &str = "f.id, s.key, f.revision,
    (SELECT count(*) FROM (SELECT min(id) AS first FROM instances WHERE study_id = f.study_id GROUP BY series_uid)
     WHERE first <= (SELECT min(id) FROM instances WHERE study_id = f.study_id AND series_uid = f.series_uid)),
    f.destination, f.rule, f.dispatch, f.state, f.sent, f.total, f.attempts, f.queued_at, f.next_at, f.last_at,
    f.last_reason, f.delivered_at";

fn line(row: &Row<'_>) -> rusqlite::Result<ForwardLine> {
    Ok(ForwardLine {
        id: row.get(0)?,
        study: row.get(1)?,
        revision: row.get(2)?,
        series: row.get(3)?,
        destination: row.get(4)?,
        rule: row.get(5)?,
        dispatch: dispatch_column(row, 6)?,
        state: row.get(7)?,
        sent: row.get(8)?,
        total: row.get(9)?,
        attempts: row.get(10)?,
        queued_at: row.get(11)?,
        next_at: row.get(12)?,
        last_at: row.get(13)?,
        last_reason: row.get::<_, Option<String>>(14)?.map(Phi::new),
        delivered_at: row.get(15)?,
    })
}

/// The forwards, the newest first.
pub fn forwards(connection: &Connection, filter: &DeliveryFilter) -> Result<Vec<ForwardLine>, LedgerError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM forwards f JOIN studies s ON s.id = f.study_id
         WHERE {} (?1 IS NULL OR f.destination = ?1) ORDER BY f.id DESC LIMIT ?2",
        any_state("f", &filter.states)
    );
    Ok(connection
        .prepare_cached(&sql)?
        .query_map(params![filter.destination, filter.limit], line)?
        .collect::<rusqlite::Result<_>>()?)
}

/// The forwards of one revision of a study, in the order of series.
pub(super) fn of_revision(
    connection: &Connection,
    study: i64,
    revision: u32,
) -> Result<Vec<ForwardLine>, LedgerError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM forwards f JOIN studies s ON s.id = f.study_id
         WHERE f.study_id = ?1 AND f.revision = ?2 ORDER BY f.id"
    );
    Ok(connection
        .prepare_cached(&sql)?
        .query_map(params![study, revision], line)?
        .collect::<rusqlite::Result<_>>()?)
}
