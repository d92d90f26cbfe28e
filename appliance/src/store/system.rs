//! Images of the firmware in the ledger: what the repository offered, where each stands and why, and who asked for it.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;
use serde_json::{Value, json};

use super::ledger::{LedgerError, Writer, json_column};
use super::models::{Request, Trust};
use crate::audit::{Event, EventKind, Outcome};
use crate::system::manifest::Manifest;
use crate::system::orders::Start;

/// Where an image stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// The repository has it, and it may be installed.
    Offered,
    /// It is being fetched.
    Fetching,
    /// It is being written into the slot that does not run.
    Writing,
    /// It is in its slot, and starts with the next restart.
    Ready,
    /// The box is restarting into it.
    Restarting,
    /// It runs, and its health gate has not passed yet.
    OnTrial,
    /// It runs, and passed its health gate.
    Installed,
    /// Something newer was installed.
    Replaced,
    /// It was started and the box came back from it.
    FellBack,
    /// It may not be installed here, or could not be.
    Refused,
}

impl State {
    const ALL: [State; 10] = [
        State::Offered,
        State::Fetching,
        State::Writing,
        State::Ready,
        State::Restarting,
        State::OnTrial,
        State::Installed,
        State::Replaced,
        State::FellBack,
        State::Refused,
    ];

    /// The name in the ledger and for people.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Offered => "offered",
            State::Fetching => "fetching",
            State::Writing => "writing",
            State::Ready => "ready",
            State::Restarting => "restarting",
            State::OnTrial => "on-trial",
            State::Installed => "installed",
            State::Replaced => "replaced",
            State::FellBack => "fell-back",
            State::Refused => "refused",
        }
    }

    fn parse(name: &str) -> Option<State> {
        State::ALL.into_iter().find(|state| state.as_str() == name)
    }

    /// Whether the box is on its way with it.
    pub fn is_under_way(self) -> bool {
        matches!(self, State::Fetching | State::Writing | State::Ready | State::Restarting | State::OnTrial)
    }
}

/// An image.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Version {
    /// Its number here.
    pub id: i64,
    /// Its version.
    pub version: String,
    /// SHA-256 of the manifest, hex.
    pub manifest_sha256: String,
    /// What was signed of it.
    pub manifest: Manifest,
    /// Where it stands.
    pub state: State,
    /// Since when.
    pub since: i64,
    /// Why, for people.
    pub note: String,
    /// Who wants it installed; empty: nobody yet.
    pub asked_by: String,
    /// Whether the window does not count.
    pub at_once: bool,
    /// Who lets metadata past their date pass, and why (JSON); empty: nobody.
    pub dates_by: String,
    /// When it was in its slot.
    pub ready_at: Option<i64>,
    /// The kernel's `boot_id` when it was in its slot, or when the restart into it was decided; empty before.
    pub boot: String,
}

fn row(row: &Row<'_>) -> rusqlite::Result<Version> {
    let state: String = row.get(4)?;
    Ok(Version {
        id: row.get(0)?,
        version: row.get(1)?,
        manifest_sha256: row.get(2)?,
        manifest: json_column(row, 3)?,
        state: State::parse(&state).ok_or_else(|| {
            let kind = rusqlite::types::Type::Text;
            rusqlite::Error::FromSqlConversionFailure(4, kind, "no state of an image".into())
        })?,
        since: row.get(5)?,
        note: row.get(6)?,
        asked_by: row.get(7)?,
        at_once: row.get(8)?,
        dates_by: row.get(9)?,
        ready_at: row.get(10)?,
        boot: row.get(11)?,
    })
}

/// All images that this box has seen, the first one first.
pub fn versions(reader: &Connection) -> Result<Vec<Version>, LedgerError> {
    Ok(reader
        .prepare_cached(
            "SELECT id, version, manifest_sha256, manifest, state, since, note, asked_by, at_once, dates_by, ready_at, boot
             FROM system_versions ORDER BY id",
        )?
        .query_map([], row)?
        .collect::<rusqlite::Result<_>>()?)
}

/// Keeps an image that the repository offers.
pub fn offer(
    writer: &Writer<'_>,
    manifest: &Manifest,
    sha256: &str,
    refused: Option<&str>,
) -> Result<(), LedgerError> {
    let text = serde_json::to_string(manifest)
        .map_err(|error| LedgerError::Illegal(format!("a manifest is no JSON: {error}")))?;
    let state = if refused.is_some() { State::Refused } else { State::Offered };
    let note = refused.unwrap_or_default();
    writer.tx().execute(
        "INSERT INTO system_versions (version, manifest_sha256, manifest, state, since, note)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![manifest.version.to_string(), sha256, text, state.as_str(), writer.now_ms(), note],
    )?;
    audit(writer, &manifest.version.to_string(), "", state, note, "box")
}

fn audit(
    writer: &Writer<'_>,
    version: &str,
    from: &str,
    to: State,
    note: &str,
    by: &str,
) -> Result<(), LedgerError> {
    let outcome = match to {
        State::FellBack => Outcome::Serious,
        State::Refused => Outcome::Minor,
        _ => Outcome::Success,
    };
    let detail = json!({ "version": version, "from": from, "to": to.as_str(), "reason": note, "by": by });
    writer.audit(&Event::new(EventKind::SystemUpdate, "system", detail).with_outcome(outcome))
}

/// Takes an image from one state to another. Nothing happens, and `false` is yielded, where it is in another one by now.
pub fn go(
    writer: &Writer<'_>,
    version: &Version,
    to: State,
    note: &str,
    by: &str,
) -> Result<bool, LedgerError> {
    let ready = (to == State::Ready).then(|| writer.now_ms());
    let changed = writer.tx().execute(
        "UPDATE system_versions SET state = ?3, since = ?4, note = ?5, ready_at = coalesce(?6, ready_at)
         WHERE id = ?1 AND state = ?2",
        params![version.id, version.state.as_str(), to.as_str(), writer.now_ms(), note, ready],
    )?;
    if changed == 0 {
        return Ok(false);
    }
    if to == State::Installed {
        writer.tx().execute(
            "UPDATE system_versions SET state = 'replaced', since = ?2 WHERE state = 'installed' AND id <> ?1",
            params![version.id, writer.now_ms()],
        )?;
    }
    audit(writer, &version.version, version.state.as_str(), to, note, by)?;
    Ok(true)
}

/// A start of the machine that passed its health gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Started {
    /// When it was written down.
    pub at: i64,
    /// The boot entry.
    pub entry: String,
    /// What went wrong before it, for people; empty: nothing.
    pub trouble: String,
}

/// Writes a good start down, once.
pub fn keep_start(writer: &Writer<'_>, start: &Start) -> Result<(), LedgerError> {
    let trouble = start.trouble();
    let new = writer.tx().execute(
        "INSERT OR IGNORE INTO system_starts (boot, at, entry, trouble) VALUES (?1, ?2, ?3, ?4)",
        params![start.boot, writer.now_ms(), start.entry, trouble.as_deref().unwrap_or_default()],
    )?;
    if new == 0 {
        return Ok(());
    }
    let given_up = start.others.iter().any(|one| one.left == Some(0));
    let outcome = match (given_up, start.failed) {
        (true, _) => Outcome::Serious,
        (false, 1..) => Outcome::Minor,
        (false, 0) => Outcome::Success,
    };
    let detail = json!({ "entry": start.entry, "others": start.others, "reason": trouble });
    writer.audit(&Event::new(EventKind::SystemStarted, "system", detail).with_outcome(outcome))
}

/// The last good start of the machine; none before the first.
pub fn last_start(reader: &Connection) -> Result<Option<Started>, LedgerError> {
    Ok(reader
        .prepare_cached("SELECT at, entry, trouble FROM system_starts ORDER BY id DESC LIMIT 1")?
        .query_row([], |row| Ok(Started { at: row.get(0)?, entry: row.get(1)?, trouble: row.get(2)? }))
        .optional()?)
}

/// As [`go`], to a state that a restart of the machine ends. `boot`: the kernel's `boot_id`, by which a later start of the
/// daemon knows whether there was one.
pub fn go_until_restart(
    writer: &Writer<'_>,
    version: &Version,
    to: State,
    boot: &str,
    note: &str,
) -> Result<bool, LedgerError> {
    writer.tx().execute("UPDATE system_versions SET boot = ?2 WHERE id = ?1", params![version.id, boot])?;
    go(writer, version, to, note, "box")
}

/// Says why an image stands where it stands; no step, so nothing for the audit log. It belongs to the state that `version`
/// was read in: one that comes after the next step, as progress may, is of no use any more and changes nothing.
pub fn note(writer: &Writer<'_>, version: &Version, note: &str) -> Result<(), LedgerError> {
    writer.tx().execute(
        "UPDATE system_versions SET note = ?4 WHERE id = ?1 AND state = ?2 AND since = ?3 AND note <> ?4",
        params![version.id, version.state.as_str(), version.since, note],
    )?;
    Ok(())
}

/// A person wants an image installed. One that failed here before is tried again.
pub fn ask_install(
    writer: &Writer<'_>,
    version: &str,
    person: &str,
    account: &str,
    at_once: bool,
) -> Result<(), LedgerError> {
    let found = versions(writer.tx())?.into_iter().rfind(|one| one.version == version);
    let found = found.ok_or(LedgerError::NotFound("image"))?;
    if matches!(found.state, State::Installed | State::Replaced | State::OnTrial | State::Restarting) {
        return Err(LedgerError::Illegal(format!("image {version} is {} already", found.state.as_str())));
    }
    let again = matches!(found.state, State::FellBack | State::Refused);
    let state = if again { State::Offered } else { found.state };
    writer.tx().execute(
        "UPDATE system_versions SET state = ?2, asked_by = ?3, at_once = ?4 WHERE id = ?1",
        params![found.id, state.as_str(), person, at_once],
    )?;
    // What is under way stays as it is; for one that is ready the time for studies in flight begins now.
    if !matches!(state, State::Fetching | State::Writing) {
        writer.tx().execute(
            "UPDATE system_versions SET since = ?2, note = '' WHERE id = ?1",
            params![found.id, writer.now_ms()],
        )?;
    }
    let detail = json!({
        "action": "install-system", "version": version, "by": person, "at_once": at_once, "again": again,
    });
    writer.audit(&Event::new(EventKind::OperatorAction, account, detail))
}

/// Whose decision it was to let dates pass, kept with what was offered then.
pub fn keep_dates(writer: &Writer<'_>, sha256: &str, by: &str) -> Result<(), LedgerError> {
    writer.tx().execute(
        "UPDATE system_versions SET dates_by = ?2 WHERE manifest_sha256 = ?1",
        params![sha256, by],
    )?;
    Ok(())
}

/// The last look at the repository of images; none before the first.
pub fn trust(reader: &Connection) -> Result<Option<Trust>, LedgerError> {
    Ok(reader
        .prepare_cached(
            "SELECT seen, checked_at, expires_at, clause, problem FROM system_trust WHERE id = 1",
        )?
        .query_row([], |row| {
            Ok(Trust {
                seen: row.get(0)?,
                checked_at: row.get(1)?,
                expires_at: row.get(2)?,
                clause: row.get(3)?,
                problem: row.get(4)?,
                // Only the record of models can be begun anew.
                anew: false,
            })
        })
        .optional()?)
}

/// Keeps the record of versions seen: on disk before anything of the repository is used. A look that saw `nothing_new`
/// after another that was not refused leaves no audit record: a box looks every few minutes.
pub fn keep_seen(
    writer: &Writer<'_>,
    seen: &str,
    expires_at: i64,
    by: &str,
    overridden: Option<Value>,
    nothing_new: bool,
) -> Result<(), LedgerError> {
    let before = trust(writer.tx())?;
    writer.tx().execute(
        "INSERT INTO system_trust (id, seen, checked_at, expires_at) VALUES (1, ?1, ?2, ?3)
         ON CONFLICT (id) DO UPDATE SET seen = ?1, checked_at = ?2, expires_at = ?3, clause = '', problem = ''",
        params![seen, writer.now_ms(), expires_at],
    )?;
    if nothing_new && before.is_some_and(|before| before.clause.is_empty()) {
        return Ok(());
    }
    let detail = json!({ "of": "images", "by": by, "verified": true, "overridden": overridden });
    writer.audit(&Event::new(EventKind::RepositoryChecked, by, detail))
}

/// Writes down that a look was refused. The same refusal as at the last look leaves no second audit record, unless a
/// person (`asked`) wanted the look.
pub fn keep_refusal(
    writer: &Writer<'_>,
    clause: &str,
    problem: &str,
    by: &str,
    asked: bool,
) -> Result<(), LedgerError> {
    let before = trust(writer.tx())?;
    writer.tx().execute(
        "INSERT INTO system_trust (id, checked_at, clause, problem) VALUES (1, ?1, ?2, ?3)
         ON CONFLICT (id) DO UPDATE SET checked_at = ?1, clause = ?2, problem = ?3",
        params![writer.now_ms(), clause, problem],
    )?;
    let same =
        before.is_some_and(|before| (before.clause.as_str(), before.problem.as_str()) == (clause, problem));
    if same && !asked {
        return Ok(());
    }
    let detail = json!({ "of": "images", "by": by, "verified": false, "clause": clause, "reason": problem });
    writer.audit(&Event::new(EventKind::RepositoryChecked, by, detail).with_outcome(Outcome::Minor))
}

/// Asks the daemon to look; yields the request's number.
pub fn ask_check(
    writer: &Writer<'_>,
    person: &str,
    account: &str,
    override_reason: Option<&str>,
) -> Result<i64, LedgerError> {
    writer.tx().execute(
        "INSERT INTO system_requests (at, person, override_reason) VALUES (?1, ?2, ?3)",
        params![writer.now_ms(), person, override_reason.unwrap_or_default()],
    )?;
    let id = writer.tx().last_insert_rowid();
    let detail = json!({ "action": "check-system", "by": person, "override": override_reason });
    writer.audit(&Event::new(EventKind::OperatorAction, account, detail))?;
    Ok(id)
}

/// The oldest request that waits.
pub fn open_request(reader: &Connection) -> Result<Option<Request>, LedgerError> {
    Ok(reader
        .prepare_cached(
            "SELECT id, person, override_reason FROM system_requests WHERE done_at IS NULL ORDER BY id LIMIT 1",
        )?
        .query_row([], |row| {
            let reason: String = row.get(2)?;
            let override_reason = Some(reason).filter(|reason| !reason.is_empty());
            Ok(Request { id: row.get(0)?, person: row.get(1)?, override_reason })
        })
        .optional()?)
}

/// Answers a request.
pub fn answer_request(writer: &Writer<'_>, id: i64, outcome: &str) -> Result<(), LedgerError> {
    writer.tx().execute(
        "UPDATE system_requests SET done_at = ?2, outcome = ?3 WHERE id = ?1",
        params![id, writer.now_ms(), outcome],
    )?;
    Ok(())
}

/// What a request came to; none while it waits.
pub fn request_outcome(reader: &Connection, id: i64) -> Result<Option<String>, LedgerError> {
    Ok(reader
        .prepare_cached("SELECT outcome FROM system_requests WHERE id = ?1 AND done_at IS NOT NULL")?
        .query_row([id], |row| row.get(0))
        .optional()?)
}

/// What must finish before a restart: studies that are coming in or at work, and results on their way out.
pub fn in_flight(reader: &Connection) -> Result<(u32, u32), LedgerError> {
    let count = |sql: &str| -> Result<u32, LedgerError> {
        Ok(reader.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
    };
    Ok((
        count("SELECT count(*) FROM studies WHERE state IN ('receiving', 'processing')")?,
        // What a dead destination does not take must not keep the box from restarting.
        count(
            "SELECT count(*) FROM deliveries WHERE state = 'sending' OR state = 'queued' AND attempts = 0",
        )?,
    ))
}

impl Version {
    /// Who lets metadata past their date pass, and why.
    pub fn dates(&self) -> Option<(String, String)> {
        serde_json::from_str(&self.dates_by).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixture::Fixture;

    #[test]
    fn looks_of_the_box_leave_an_audit_record_only_when_something_changed() {
        let fixture = Fixture::new();
        let records = || {
            let count = "SELECT count(*) FROM audit WHERE event = 'repository-checked'";
            fixture
                .ledger
                .read_blocking(|reader| Ok(reader.query_row(count, [], |row| row.get::<_, u32>(0))?))
                .expect("counted")
        };
        let sees = |nothing_new: bool| {
            fixture
                .ledger
                .write_blocking(move |writer| keep_seen(writer, "{}", 1, "box", None, nothing_new))
                .expect("kept");
        };
        let refused = |problem: &'static str, asked: bool| {
            fixture
                .ledger
                .write_blocking(move |writer| keep_refusal(writer, "missing", problem, "box", asked))
                .expect("kept");
        };
        sees(false);
        sees(true);
        assert_eq!(records(), 1, "the second look saw nothing new");
        refused("no timestamp", false);
        refused("no timestamp", false);
        assert_eq!(records(), 2, "the same refusal twice");
        refused("no snapshot", false);
        refused("no snapshot", true);
        assert_eq!(records(), 4, "another refusal, and a person who asked");
        sees(true);
        assert_eq!(records(), 5, "the repository is whole again");
    }

    #[test]
    fn progress_that_comes_after_the_next_step_does_not_hide_its_reason() {
        let fixture = Fixture::new();
        let manifest = Manifest {
            schema: 1,
            version: crate::system::manifest::Version(1, 1, 0),
            machine: "x86_64".into(),
            flavour: "test".into(),
            rollback: 1,
            root_hash: "a".repeat(64),
            ledger: crate::system::manifest::Ledger::ours(),
        };
        let kept = fixture.ledger.write_blocking(move |writer| offer(writer, &manifest, "b", None));
        kept.expect("offered");
        let now = || fixture.ledger.read_blocking(versions).expect("read").pop().expect("there");
        let step = |from: Version, to, why: &'static str| {
            let gone = fixture.ledger.write_blocking(move |writer| go(writer, &from, to, why, "box"));
            assert!(gone.expect("written"));
        };
        step(now(), State::Fetching, "");
        let fetching = now();
        let progress = |percents: &'static str| {
            let of = fetching.clone();
            fixture.ledger.write_blocking(move |writer| note(writer, &of, percents)).expect("written");
        };
        progress("50 %");
        assert_eq!(now().note, "50 %");
        step(now(), State::Refused, "other bytes than were signed");
        progress("95 %");
        assert_eq!(now().note, "other bytes than were signed");
    }
}
