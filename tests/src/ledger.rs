//! Reading the daemon's ledger from outside, while it runs or after it was killed.

use std::fmt::Write as _;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

/// A read-only view.
pub struct Ledger(Connection);

/// One delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Its id.
    pub id: i64,
    /// To whom.
    pub destination: String,
    /// `queued`, `sending`, `delivered`, `dead` or `held`.
    pub state: String,
    /// The peer's own words.
    pub reason: String,
    /// How often it was tried.
    pub attempts: i64,
}

/// One result.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ResultRow {
    /// Study key.
    pub study: String,
    /// Revision of the study.
    pub revision: i64,
    /// Model.
    pub model: String,
    /// SOP Instance UID of the SR.
    pub sr_uid: String,
    /// MSH-10 of the ORU.
    pub control_id: String,
}

/// One audit record.
#[derive(Clone, Debug)]
pub struct AuditRecord {
    /// Its number.
    pub seq: i64,
    /// What happened.
    pub event: String,
    /// How it went.
    pub outcome: String,
    /// Whom or what it concerns.
    pub subject: String,
    /// The rest.
    pub detail: Value,
}

impl Ledger {
    /// Opens the ledger of a `data_dir`.
    #[track_caller]
    pub fn open(data_dir: &Path) -> Self {
        let path = data_dir.join("ledger.db");
        let connection = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        connection.busy_timeout(std::time::Duration::from_secs(10)).expect("set");
        Ledger(connection)
    }

    fn rows<T>(&self, sql: &str, take: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>) -> Vec<T> {
        let mut statement = self.0.prepare(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        statement
            .query_map([], take)
            .and_then(Iterator::collect)
            .unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// The first column of the first row, as a number.
    pub fn number(&self, sql: &str) -> i64 {
        self.0.query_row(sql, [], |row| row.get(0)).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// The first column of each row, as text.
    pub fn texts(&self, sql: &str) -> Vec<String> {
        self.rows(sql, |row| row.get(0))
    }

    /// Every delivery, oldest first.
    pub fn deliveries(&self) -> Vec<Delivery> {
        let sql =
            "SELECT id, destination, state, coalesce(last_reason, ''), attempts FROM deliveries ORDER BY id";
        self.rows(sql, |row| {
            Ok(Delivery {
                id: row.get(0)?,
                destination: row.get(1)?,
                state: row.get(2)?,
                reason: row.get(3)?,
                attempts: row.get(4)?,
            })
        })
    }

    /// The deliveries to one destination that are in a state.
    pub fn deliveries_in(&self, destination: &str, state: &str) -> Vec<Delivery> {
        let mut all = self.deliveries();
        all.retain(|delivery| delivery.destination == destination && delivery.state == state);
        all
    }

    /// Every result.
    pub fn results(&self) -> Vec<ResultRow> {
        let sql = "SELECT s.key, r.revision, r.model, r.sr_instance_uid, r.message_control_id
                   FROM results r JOIN studies s ON s.id = r.study_id ORDER BY 1, 2, 3";
        self.rows(sql, |row| {
            Ok(ResultRow {
                study: row.get(0)?,
                revision: row.get(1)?,
                model: row.get(2)?,
                sr_uid: row.get(3)?,
                control_id: row.get(4)?,
            })
        })
    }

    /// The audit records of one kind, oldest first.
    pub fn audit(&self, event: &str) -> Vec<AuditRecord> {
        let sql = "SELECT seq, event, outcome, subject, detail FROM audit ORDER BY seq";
        let mut all = self.rows(sql, |row| {
            let detail: String = row.get(4)?;
            Ok(AuditRecord {
                seq: row.get(0)?,
                event: row.get(1)?,
                outcome: row.get(2)?,
                subject: row.get(3)?,
                detail: serde_json::from_str(&detail).expect("audit details are JSON"),
            })
        });
        all.retain(|record| record.event == event);
        all
    }

    /// Whether every study has come to rest and nothing waits to be sent.
    pub fn is_quiet(&self) -> bool {
        self.number("SELECT count(*) FROM studies WHERE state IN ('receiving', 'processing')") == 0
            && self.number("SELECT count(*) FROM jobs WHERE state IN ('waiting', 'running')") == 0
            && self.number("SELECT count(*) FROM deliveries WHERE state IN ('queued', 'sending')") == 0
            && self.number("SELECT count(*) FROM forwards WHERE state IN ('queued', 'sending')") == 0
    }

    /// For a failing test: where everything stands.
    pub fn summary(&self) -> String {
        let mut text = String::from("--- the ledger\n");
        let studies = "SELECT key || ' ' || state || ' revision ' || revision || ' ' || note FROM studies";
        let jobs = "SELECT 'job ' || model || ' ' || state || ' ' || coalesce(error, '') FROM jobs";
        for line in self.texts(studies).into_iter().chain(self.texts(jobs)) {
            let _ = writeln!(text, "{line}");
        }
        for delivery in self.deliveries() {
            let _ = writeln!(text, "{delivery:?}");
        }
        for line in self.texts("SELECT peer || ' ' || calling_ae || ': ' || reason FROM refusals") {
            let _ = writeln!(text, "refused {line}");
        }
        text
    }
}
