//! Versions of signed models in the ledger: their lives, which one runs, and what they were accepted by.
//!
//! A version's state changes only by [`apply`]: the steps that the life cycle decides, their history and
//! their audit records in one transaction. The row that says `active` is the switch: a job takes the
//! model that this row names in the transaction that claims it.

mod jobs;
mod records;
mod runs;
pub mod shadow;
mod trust;

use std::collections::BTreeMap;

use lightbox_models::life_cycle::{Duties, Event, Facts, Slot, State, Step, Version};
use lightbox_models::plan::Verdict;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

pub(in crate::store) use jobs::MAY_RUN;
pub use jobs::{Pinned, explain_waiting, is_stopped, pin, touched};
pub use records::{
    Acceptance, Approval, PlanRow, acceptance, approvals, approve, keep_acceptance, keep_plan, plan_of_slot,
};
pub use runs::{Reading, Scored, first, keep_run, last_run, live};
pub use trust::{
    Recall, RefusedTarget, Request, Trust, answer_request, ask_check, audit_not_taken, begin_anew,
    keep_checked, keep_recall, keep_seen, open_request, recalls, refuse_target, refused_targets,
    request_outcome, trust,
};

use super::ledger::{LedgerError, Writer, json_column};
use crate::audit;

/// The name of the box itself among those who do something.
const BOX: &str = "box";

/// Who does something to a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// A person as they name themselves, or `box`.
    pub name: String,
    /// Whose shell or certificate it was; empty for the box itself.
    pub account: String,
    /// Why.
    pub reason: String,
}

impl Actor {
    /// The box itself.
    pub fn the_box(reason: impl Into<String>) -> Self {
        Actor { name: BOX.into(), account: String::new(), reason: reason.into() }
    }
}

/// A `[[model]]` with a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SlotRow {
    /// Its name.
    pub slot: String,
    /// What its bundles' names begin with.
    pub target: String,
    /// Its plan.
    pub plan_target: String,
    /// Whether the site file of the last start names it.
    pub managed: bool,
    /// Digest of its plan's text.
    pub plan_sha256: Option<String>,
    /// What keeps the whole slot waiting.
    pub note: String,
}

/// A version as the ledger has it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VersionRow {
    /// The slot's name.
    pub slot: String,
    /// The bundle's digest.
    pub digest: String,
    /// Under which name it came.
    pub target: String,
    /// Digest of the packed bundle.
    pub target_sha256: String,
    /// `model.version`.
    pub version: String,
    /// `model.release`.
    pub release: u64,
    /// The manifest's text.
    #[serde(skip)]
    pub manifest: String,
    /// Where it stands.
    pub state: State,
    /// Whether its files are here.
    pub kept: bool,
    /// Place among the slot's activations; 0: never active.
    pub last_active: u64,
    /// When it came, in milliseconds since the epoch.
    pub received_at: i64,
    /// Since when it stands there.
    pub since: i64,
    /// What it waits for, or why it is where it is.
    pub note: String,
    /// The plan under which it was accepted: identifier and version.
    pub plan: Option<(String, u64)>,
    /// Digest of the record of its acceptance.
    pub acceptance: Option<String>,
    /// How many updates since the baseline used each modification.
    pub updates: BTreeMap<String, u32>,
}

impl VersionRow {
    /// A version that has just come under this name; slot, digest and manifest are still to be said.
    pub fn received(target: &str, target_sha256: &str, version: &str, release: u64) -> Self {
        VersionRow {
            slot: String::new(),
            digest: String::new(),
            target: target.to_owned(),
            target_sha256: target_sha256.to_owned(),
            version: version.to_owned(),
            release,
            manifest: String::new(),
            state: State::Received,
            kept: true,
            last_active: 0,
            received_at: 0,
            since: 0,
            note: String::new(),
            plan: None,
            acceptance: None,
            updates: BTreeMap::new(),
        }
    }
}

/// One entry of a version's history.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EventRow {
    /// Its number.
    pub id: i64,
    /// When.
    pub at: i64,
    /// Of which version.
    pub digest: String,
    /// What happened.
    pub event: String,
    /// From which state.
    pub before: String,
    /// To which.
    pub after: String,
    /// Who.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// What proves it.
    pub evidence: String,
    /// The plan's ruling, where one was made.
    pub verdict: Option<Verdict>,
}

/// A stable word of the life cycle, as the ledger stores it.
pub fn word(of: impl Serialize) -> String {
    serde_json::to_value(of).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn state_column(row: &Row<'_>, index: usize) -> rusqlite::Result<State> {
    let text: String = row.get(index)?;
    of_word(&text).ok_or_else(|| {
        let why = "a state that this release does not know".into();
        rusqlite::Error::FromSqlConversionFailure(index, rusqlite::types::Type::Text, why)
    })
}

fn of_word<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_value(json!(text)).ok()
}

/// Notes which models the site file takes from the repository; called at each start.
pub fn manage(writer: &Writer<'_>, slots: &[(String, String, String)]) -> Result<(), LedgerError> {
    let tx = writer.tx();
    tx.execute("UPDATE model_slots SET managed = 0", [])?;
    for (slot, target, plan) in slots {
        tx.execute(
            "INSERT INTO model_slots (slot, target, plan_target, managed) VALUES (?1, ?2, ?3, 1)
             ON CONFLICT (slot) DO UPDATE SET target = ?2, plan_target = ?3, managed = 1,
                plan_sha256 = CASE WHEN plan_target = ?3 THEN plan_sha256 END",
            params![slot, target, plan],
        )?;
    }
    Ok(())
}

/// The slots, by name.
pub fn slots(reader: &Connection) -> Result<Vec<SlotRow>, LedgerError> {
    Ok(reader
        .prepare_cached(
            "SELECT slot, target, plan_target, managed, plan_sha256, note FROM model_slots ORDER BY slot",
        )?
        .query_map([], |row| {
            Ok(SlotRow {
                slot: row.get(0)?,
                target: row.get(1)?,
                plan_target: row.get(2)?,
                managed: row.get(3)?,
                plan_sha256: row.get(4)?,
                note: row.get(5)?,
            })
        })?
        .collect::<rusqlite::Result<_>>()?)
}

/// Says what keeps a slot waiting; empty: nothing.
pub fn note_slot(writer: &Writer<'_>, slot: &str, note: &str) -> Result<(), LedgerError> {
    writer
        .tx()
        .execute("UPDATE model_slots SET note = ?2 WHERE slot = ?1 AND note <> ?2", params![slot, note])?;
    Ok(())
}

/// The versions of a slot, or of all, in the order in which they came.
pub fn versions(reader: &Connection, slot: Option<&str>) -> Result<Vec<VersionRow>, LedgerError> {
    Ok(reader
        .prepare_cached(
            "SELECT slot, digest, target, target_sha256, version, release, manifest, state, kept, last_active,
                received_at, since, note, plan, plan_version, acceptance, updates
             FROM model_versions WHERE ?1 IS NULL OR slot = ?1 ORDER BY slot, id",
        )?
        .query_map([slot], |row| {
            let plan: Option<String> = row.get(13)?;
            let plan_version: Option<i64> = row.get(14)?;
            Ok(VersionRow {
                slot: row.get(0)?,
                digest: row.get(1)?,
                target: row.get(2)?,
                target_sha256: row.get(3)?,
                version: row.get(4)?,
                release: row.get::<_, i64>(5)? as u64,
                manifest: row.get(6)?,
                state: state_column(row, 7)?,
                kept: row.get(8)?,
                last_active: row.get::<_, i64>(9)? as u64,
                received_at: row.get(10)?,
                since: row.get(11)?,
                note: row.get(12)?,
                plan: plan.zip(plan_version.map(|version| version as u64)),
                acceptance: row.get(15)?,
                updates: json_column(row, 16)?,
            })
        })?
        .collect::<rusqlite::Result<_>>()?)
}

/// The version of a slot that the life cycle has as active.
pub fn active(reader: &Connection, slot: &str) -> Result<Option<VersionRow>, LedgerError> {
    Ok(versions(reader, Some(slot))?.into_iter().find(|version| version.state == State::Active))
}

/// A slot as the life cycle decides on it.
pub fn life(reader: &Connection, slot: &str) -> Result<Slot, LedgerError> {
    let versions = versions(reader, Some(slot))?
        .into_iter()
        .map(|row| (row.digest, Version { state: row.state, kept: row.kept, last_active: row.last_active }));
    Slot::restore(versions.collect())
        .ok_or_else(|| LedgerError::Illegal(format!("model \"{slot}\" has two active versions")))
}

/// A bundle whose bytes are in their folder: a version begins its life.
pub fn receive(writer: &Writer<'_>, row: &VersionRow, actor: &Actor) -> Result<(), LedgerError> {
    let mut slot = life(writer.tx(), &row.slot)?;
    slot.receive(&row.digest).map_err(|refusal| LedgerError::Illegal(refusal.to_string()))?;
    let now = writer.now_ms();
    writer.tx().execute(
        "INSERT INTO model_versions (slot, digest, target, target_sha256, version, release, manifest, state, kept,
            last_active, received_at, since, note)
         VALUES (?1,?2,?3,?4,?5,?6,?7,?8,1,0,?9,?9,'')",
        params![
            row.slot,
            row.digest,
            row.target,
            row.target_sha256,
            row.version,
            row.release as i64,
            row.manifest,
            word(State::Received),
            now,
        ],
    )?;
    let entry =
        History { event: "receive", before: "", after: &word(State::Received), evidence: &row.target_sha256 };
    history(writer, &row.slot, &row.digest, &entry, actor, None)
}

struct History<'a> {
    event: &'a str,
    before: &'a str,
    after: &'a str,
    evidence: &'a str,
}

fn history(
    writer: &Writer<'_>,
    slot: &str,
    digest: &str,
    entry: &History<'_>,
    actor: &Actor,
    verdict: Option<&Verdict>,
) -> Result<(), LedgerError> {
    writer.tx().execute(
        "INSERT INTO model_events (at, slot, digest, event, state_before, state_after, actor, reason, evidence, verdict)
         VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10)",
        params![
            writer.now_ms(),
            slot,
            digest,
            entry.event,
            entry.before,
            entry.after,
            actor.name,
            actor.reason,
            entry.evidence,
            verdict.map(|verdict| json!(verdict).to_string()),
        ],
    )?;
    let broken: Option<Vec<String>> =
        verdict.map(|verdict| verdict.broken().map(|clause| word(clause.name)).collect());
    let detail = json!({
        "model": slot, "digest": digest, "event": entry.event, "from": entry.before, "to": entry.after,
        "by": actor.name, "account": actor.account, "reason": actor.reason, "evidence": entry.evidence,
        "plan": verdict.map(|verdict| format!("{} version {}", verdict.plan, verdict.plan_version)),
        "broken": broken,
    });
    let refused = entry.after == word(State::Refused) || entry.after == word(State::Recalled);
    // What the box takes out of service by itself, somebody has to look at.
    let stopped = entry.after == word(State::RolledBack) && actor.name == BOX;
    let outcome = match (stopped, refused) {
        (true, _) => audit::Outcome::Serious,
        (_, true) => audit::Outcome::Minor,
        _ => audit::Outcome::Success,
    };
    writer.audit(&audit::Event::new(audit::EventKind::ModelTransition, slot, detail).with_outcome(outcome))
}

/// Takes a version through an event, with all that follows from it, or changes nothing.
#[expect(clippy::too_many_arguments, reason = "what a transition is made of; a struct would only rename it")]
pub fn apply(
    writer: &Writer<'_>,
    slot: &str,
    digest: &str,
    event: Event,
    facts: &Facts,
    duties: &Duties,
    actor: &Actor,
    verdict: Option<&Verdict>,
) -> Result<Vec<Step>, LedgerError> {
    let mut life = life(writer.tx(), slot)?;
    let steps = life
        .decide(digest, event, facts, duties)
        .map_err(|refusal| LedgerError::Illegal(refusal.to_string()))?;
    life.commit(&steps);
    for step in &steps {
        let version = &life.versions()[&step.version];
        writer.tx().execute(
            "UPDATE model_versions SET state = ?3, last_active = ?4, since = ?5, note = ?6
             WHERE slot = ?1 AND digest = ?2",
            params![
                slot,
                step.version,
                word(step.to),
                version.last_active as i64,
                writer.now_ms(),
                step_note(digest, step, actor),
            ],
        )?;
        let entry = History {
            event: &word(step.event),
            before: &word(step.from),
            after: &word(step.to),
            evidence: &step.evidence,
        };
        let ruled = verdict.filter(|_| step.version == digest);
        history(writer, slot, &step.version, &entry, actor, ruled)?;
    }
    Ok(steps)
}

/// Why a version stands where a step has put it, for people.
fn step_note(digest: &str, step: &Step, actor: &Actor) -> String {
    if step.version == digest {
        actor.reason.clone()
    } else if step.event == Event::Restore {
        format!("{IN_PLACE}{}: {}", digest.get(..12).unwrap_or(digest), actor.reason)
    } else {
        String::new()
    }
}

/// What the note of a version begins with that was active before, and is again.
const IN_PLACE: &str = "in the place of ";

/// Whether a version runs in the place of one that was taken out of service.
pub fn is_in_place(note: &str) -> bool {
    note.starts_with(IN_PLACE)
}

/// Says what a version waits for.
pub fn note(writer: &Writer<'_>, slot: &str, digest: &str, note: &str) -> Result<(), LedgerError> {
    writer.tx().execute(
        "UPDATE model_versions SET note = ?3 WHERE slot = ?1 AND digest = ?2 AND note <> ?3",
        params![slot, digest, note],
    )?;
    Ok(())
}

/// A candidate begins to run on this hardware, which may take the daemon down. Yields which try this is, from 1.
pub fn begin_trial(writer: &Writer<'_>, slot: &str, digest: &str) -> Result<u32, LedgerError> {
    note(writer, slot, digest, "runs on this hardware")?;
    writer
        .tx()
        .query_row(
            "UPDATE model_versions SET trials = trials + 1 WHERE slot = ?1 AND digest = ?2 RETURNING trials",
            [slot, digest],
            |row| row.get(0),
        )
        .optional()?
        .ok_or(LedgerError::NotFound("version of that model"))
}

/// The daemon outlived its run on this hardware.
pub fn end_trial(writer: &Writer<'_>, slot: &str, digest: &str) -> Result<(), LedgerError> {
    writer
        .tx()
        .execute("UPDATE model_versions SET trials = 0 WHERE slot = ?1 AND digest = ?2", [slot, digest])?;
    Ok(())
}

/// Takes a try back that was broken off on purpose: a stop of the daemon is not the candidate's fault.
pub fn take_back_trial(writer: &Writer<'_>, slot: &str, digest: &str) -> Result<(), LedgerError> {
    writer.tx().execute(
        "UPDATE model_versions SET trials = trials - 1 WHERE slot = ?1 AND digest = ?2 AND trials > 0",
        [slot, digest],
    )?;
    Ok(())
}

/// Notes how many updates with each modification there are with this version.
pub fn set_updates(
    writer: &Writer<'_>,
    slot: &str,
    digest: &str,
    updates: &BTreeMap<String, u32>,
) -> Result<(), LedgerError> {
    writer.tx().execute(
        "UPDATE model_versions SET updates = ?3 WHERE slot = ?1 AND digest = ?2",
        params![slot, digest, json!(updates).to_string()],
    )?;
    Ok(())
}

/// Notes that the files of all but the `keep` last versions out of service are to go, and says which. The
/// note comes before the files go, so that nothing is ever asked to run whose files are half there.
pub fn discard(writer: &Writer<'_>, slot: &str, keep: usize) -> Result<Vec<String>, LedgerError> {
    let mut life = life(writer.tx(), slot)?;
    let gone: Vec<String> = life.disposable(keep).into_iter().map(str::to_owned).collect();
    for digest in &gone {
        life.discard(digest).map_err(|refusal| LedgerError::Illegal(refusal.to_string()))?;
        writer.tx().execute(
            "UPDATE model_versions SET kept = 0 WHERE slot = ?1 AND digest = ?2",
            params![slot, digest],
        )?;
    }
    Ok(gone)
}

/// Digests of the versions whose files must be here.
pub fn kept(reader: &Connection) -> Result<Vec<String>, LedgerError> {
    Ok(reader
        .prepare_cached("SELECT DISTINCT digest FROM model_versions WHERE kept = 1")?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?)
}

/// The history of a slot, or of one version of it, the oldest entry first.
pub fn events(reader: &Connection, slot: &str, digest: Option<&str>) -> Result<Vec<EventRow>, LedgerError> {
    let rows = reader
        .prepare_cached(
            "SELECT id, at, digest, event, state_before, state_after, actor, reason, evidence, verdict
             FROM model_events WHERE slot = ?1 AND (?2 IS NULL OR digest = ?2) ORDER BY id",
        )?
        .query_map(params![slot, digest], |row| {
            let verdict: Option<String> = row.get(9)?;
            Ok(EventRow {
                id: row.get(0)?,
                at: row.get(1)?,
                digest: row.get(2)?,
                event: row.get(3)?,
                before: row.get(4)?,
                after: row.get(5)?,
                actor: row.get(6)?,
                reason: row.get(7)?,
                evidence: row.get(8)?,
                verdict: match verdict {
                    Some(_) => Some(json_column(row, 9)?),
                    None => None,
                },
            })
        })?
        .collect::<rusqlite::Result<_>>()?;
    Ok(rows)
}

/// The number of a version's last event: what an approval is of.
pub fn last_event(reader: &Connection, slot: &str, digest: &str) -> Result<i64, LedgerError> {
    reader
        .prepare_cached("SELECT max(id) FROM model_events WHERE slot = ?1 AND digest = ?2")?
        .query_row(params![slot, digest], |row| row.get::<_, Option<i64>>(0))
        .optional()?
        .flatten()
        .ok_or(LedgerError::NotFound("version of that model"))
}

#[cfg(test)]
mod tests;
