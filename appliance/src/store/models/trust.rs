//! What was seen of the repository, what it recalled, and who asked for a look at it.

use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;
use serde_json::{Value, json};

use crate::audit::{Event, EventKind, Outcome};
use crate::store::ledger::{LedgerError, Writer};

/// The last look at the repository.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Trust {
    /// The record of versions seen.
    #[serde(skip)]
    pub seen: Option<String>,
    /// When it was, however it went.
    pub checked_at: Option<i64>,
    /// When the first of the metadata is past its date.
    pub expires_at: Option<i64>,
    /// The clause that it broke; empty: none.
    pub clause: String,
    /// In words.
    pub problem: String,
    /// Whether a person lets the next look be taken for the first.
    pub anew: bool,
}

/// The last look at the repository; none before the first.
pub fn trust(reader: &Connection) -> Result<Option<Trust>, LedgerError> {
    Ok(reader
        .prepare_cached(
            "SELECT seen, checked_at, expires_at, clause, problem, anew FROM model_trust WHERE id = 1",
        )?
        .query_row([], |row| {
            Ok(Trust {
                seen: row.get(0)?,
                checked_at: row.get(1)?,
                expires_at: row.get(2)?,
                clause: row.get(3)?,
                problem: row.get(4)?,
                anew: row.get(5)?,
            })
        })
        .optional()?)
}

/// Keeps the record of versions seen: on disk before anything of the repository is used.
pub fn keep_seen(
    writer: &Writer<'_>,
    seen: &str,
    expires_at: i64,
    by: &str,
    overridden: Option<Value>,
) -> Result<(), LedgerError> {
    writer.tx().execute(
        "INSERT INTO model_trust (id, seen, checked_at, expires_at) VALUES (1, ?1, ?2, ?3)
         ON CONFLICT (id) DO UPDATE SET seen = ?1, checked_at = ?2, expires_at = ?3, clause = '', problem = '',
            anew = 0",
        params![seen, writer.now_ms(), expires_at],
    )?;
    let detail = json!({ "by": by, "verified": true, "overridden": overridden });
    writer.audit(&Event::new(EventKind::RepositoryChecked, by, detail))
}

/// Writes down that a look was refused.
pub fn keep_checked(
    writer: &Writer<'_>,
    clause: &str,
    problem: &str,
    by: &str,
    outcome: Outcome,
) -> Result<(), LedgerError> {
    writer.tx().execute(
        "INSERT INTO model_trust (id, checked_at, clause, problem) VALUES (1, ?1, ?2, ?3)
         ON CONFLICT (id) DO UPDATE SET checked_at = ?1, clause = ?2, problem = ?3",
        params![writer.now_ms(), clause, problem],
    )?;
    let detail = json!({ "by": by, "verified": false, "clause": clause, "reason": problem });
    writer.audit(&Event::new(EventKind::RepositoryChecked, by, detail).with_outcome(outcome))
}

/// Lets the next look be taken for the first. The plans of another publisher are counted by another hand: theirs are
/// not compared with those before.
pub fn begin_anew(
    writer: &Writer<'_>,
    by: &str,
    new_publisher: bool,
    detail: Value,
) -> Result<(), LedgerError> {
    writer.tx().execute(
        "INSERT INTO model_trust (id, anew) VALUES (1, 1) ON CONFLICT (id) DO UPDATE SET seen = NULL, anew = 1",
        [],
    )?;
    if new_publisher {
        writer.tx().execute("UPDATE model_slots SET plan_sha256 = NULL", [])?;
    }
    writer.audit(&Event::new(EventKind::RepositoryChecked, by, detail).with_outcome(Outcome::Minor))
}

/// Says in the audit log that a bundle could not be taken this time. It is asked for again.
pub fn audit_not_taken(
    writer: &Writer<'_>,
    slot: &str,
    target: &str,
    target_sha256: &str,
    why: &str,
) -> Result<(), LedgerError> {
    let detail = json!({
        "model": slot, "target": target, "sha256": target_sha256, "event": "fetch", "reason": why,
    });
    writer.audit(&Event::new(EventKind::ModelTransition, slot, detail).with_outcome(Outcome::Minor))
}

/// A target that never became a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RefusedTarget {
    /// The slot's name.
    pub slot: String,
    /// Its name in the repository.
    pub target: String,
    /// Digest of its bytes.
    pub target_sha256: String,
    /// When.
    pub at: i64,
    /// The broken clause.
    pub clause: String,
    /// In words.
    pub why: String,
}

/// Writes down a target that is no bundle, so that it is not fetched again.
pub fn refuse_target(writer: &Writer<'_>, refused: &RefusedTarget) -> Result<(), LedgerError> {
    writer.tx().execute(
        "INSERT INTO model_refusals (slot, target, target_sha256, at, clause, why) VALUES (?1,?2,?3,?4,?5,?6)
         ON CONFLICT (slot, target_sha256) DO NOTHING",
        params![
            refused.slot,
            refused.target,
            refused.target_sha256,
            writer.now_ms(),
            refused.clause,
            refused.why
        ],
    )?;
    let detail = json!({
        "model": refused.slot, "target": refused.target, "event": "refuse", "to": "refused",
        "clause": refused.clause, "reason": refused.why,
    });
    let event = Event::new(EventKind::ModelTransition, refused.slot.as_str(), detail);
    writer.audit(&event.with_outcome(Outcome::Minor))
}

/// All of them.
pub fn refused_targets(reader: &Connection) -> Result<Vec<RefusedTarget>, LedgerError> {
    Ok(reader
        .prepare_cached(
            "SELECT slot, target, target_sha256, at, clause, why FROM model_refusals ORDER BY slot, at",
        )?
        .query_map([], |row| {
            Ok(RefusedTarget {
                slot: row.get(0)?,
                target: row.get(1)?,
                target_sha256: row.get(2)?,
                at: row.get(3)?,
                clause: row.get(4)?,
                why: row.get(5)?,
            })
        })?
        .collect::<rusqlite::Result<_>>()?)
}

/// A recall notice. The same text signed by another role, or under another name, is another notice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Recall {
    /// Digest of its text.
    pub sha256: String,
    /// Its name in the repository.
    pub target: String,
    /// Who signed it.
    pub role: String,
    /// When it came.
    pub at: i64,
    /// Its text; empty where it could not be had.
    pub text: String,
    /// What was done, or why it cannot be obeyed.
    pub note: String,
    /// The clause by which it cannot be obeyed; empty: it is.
    pub clause: String,
    /// How many versions on this box it names.
    pub matched: usize,
}

impl Recall {
    /// Whether it is the same notice, whatever is known of it.
    pub fn is(&self, other: &Recall) -> bool {
        (&self.sha256, &self.target, &self.role) == (&other.sha256, &other.target, &other.role)
    }
}

/// Keeps a notice with what came of it. Nothing is written, and nothing audited, where that is known already.
pub fn keep_recall(writer: &Writer<'_>, recall: &Recall) -> Result<(), LedgerError> {
    let changed = writer.tx().execute(
        "INSERT INTO model_recalls (sha256, target, role, at, text, note, clause, matched)
         VALUES (?1,?2,?3,?4,?5,?6,?7,?8)
         ON CONFLICT (target, sha256, role) DO UPDATE SET text = ?5, note = ?6, clause = ?7, matched = ?8
            WHERE text <> ?5 OR note <> ?6 OR clause <> ?7 OR matched <> ?8",
        params![
            recall.sha256,
            recall.target,
            recall.role,
            writer.now_ms(),
            recall.text,
            recall.note,
            recall.clause,
            recall.matched as i64
        ],
    )?;
    if changed == 0 {
        return Ok(());
    }
    let detail = json!({
        "notice": recall.target, "sha256": recall.sha256, "signed_by": recall.role, "matched": recall.matched,
        "clause": recall.clause, "note": recall.note,
    });
    let outcome = match recall.clause.is_empty() {
        true => Outcome::Minor,
        // It may recall what runs here.
        false => Outcome::Serious,
    };
    writer.audit(&Event::new(EventKind::RecallKept, recall.target.as_str(), detail).with_outcome(outcome))
}

/// All notices, the oldest first.
pub fn recalls(reader: &Connection) -> Result<Vec<Recall>, LedgerError> {
    Ok(reader
        .prepare_cached(
            "SELECT sha256, target, role, at, text, note, clause, matched FROM model_recalls
             ORDER BY at, target, sha256, role",
        )?
        .query_map([], |row| {
            Ok(Recall {
                sha256: row.get(0)?,
                target: row.get(1)?,
                role: row.get(2)?,
                at: row.get(3)?,
                text: row.get(4)?,
                note: row.get(5)?,
                clause: row.get(6)?,
                matched: row.get::<_, i64>(7)? as usize,
            })
        })?
        .collect::<rusqlite::Result<_>>()?)
}

/// A look that somebody asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Its number.
    pub id: i64,
    /// Who.
    pub person: String,
    /// Why metadata past their date are to be taken; none: they are not.
    pub override_reason: Option<String>,
}

/// Asks the daemon to look; yields the request's number.
pub fn ask_check(
    writer: &Writer<'_>,
    person: &str,
    account: &str,
    override_reason: Option<&str>,
) -> Result<i64, LedgerError> {
    writer.tx().execute(
        "INSERT INTO model_requests (at, person, override_reason) VALUES (?1, ?2, ?3)",
        params![writer.now_ms(), person, override_reason.unwrap_or_default()],
    )?;
    let id = writer.tx().last_insert_rowid();
    let detail = json!({ "action": "check-models", "by": person, "override": override_reason });
    writer.audit(&Event::new(EventKind::OperatorAction, account, detail))?;
    Ok(id)
}

/// The oldest request that waits.
pub fn open_request(reader: &Connection) -> Result<Option<Request>, LedgerError> {
    Ok(reader
        .prepare_cached(
            "SELECT id, person, override_reason FROM model_requests WHERE done_at IS NULL ORDER BY id LIMIT 1",
        )?
        .query_row([], |row| {
            let reason: String = row.get(2)?;
            Ok(Request {
                id: row.get(0)?,
                person: row.get(1)?,
                override_reason: Some(reason).filter(|reason| !reason.is_empty()),
            })
        })
        .optional()?)
}

/// Answers a request.
pub fn answer_request(writer: &Writer<'_>, id: i64, outcome: &str) -> Result<(), LedgerError> {
    writer.tx().execute(
        "UPDATE model_requests SET done_at = ?2, outcome = ?3 WHERE id = ?1",
        params![id, writer.now_ms(), outcome],
    )?;
    Ok(())
}

/// What a request came to; none while it waits.
pub fn request_outcome(reader: &Connection, id: i64) -> Result<Option<String>, LedgerError> {
    Ok(reader
        .prepare_cached("SELECT outcome FROM model_requests WHERE id = ?1 AND done_at IS NOT NULL")?
        .query_row([id], |row| row.get(0))
        .optional()?)
}
