//! Plans, acceptance records and approvals.

use std::path::Path;

use lightbox_models::acceptance::SignedRecord;
use lightbox_models::plan::Plan;
use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;
use serde_json::json;

use super::Actor;
use crate::audit::{Event, EventKind};
use crate::store::ledger::{LedgerError, Writer};

/// A plan as it was signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanRow {
    /// Digest of its text.
    pub sha256: String,
    /// `plan.id`.
    pub plan: String,
    /// `plan.version`.
    pub version: u64,
    /// TOML.
    pub text: String,
}

/// Keeps a plan and makes it the one that rules on a slot. Refused where its version is not higher than that of the
/// slot's plan, whatever its identifier: over a plan of another name, an earlier one would come back.
pub fn keep_plan(writer: &Writer<'_>, slot: &str, row: &PlanRow) -> Result<(), LedgerError> {
    if let Some(had) = plan_of_slot(writer.tx(), slot)? {
        if had.sha256 == row.sha256 {
            return Ok(());
        }
        if row.version <= had.version {
            return Err(LedgerError::Illegal(format!(
                "plan-version: plan {} comes as version {}, the model has had plan {} version {}; remedy: the publisher \
                 gives the changed plan a higher version, also where it has another id",
                row.plan, row.version, had.plan, had.version
            )));
        }
    }
    writer.tx().execute(
        "INSERT INTO model_plans (sha256, plan, version, text, since) VALUES (?1,?2,?3,?4,?5)
         ON CONFLICT (sha256) DO NOTHING",
        params![row.sha256, row.plan, row.version as i64, row.text, writer.now_ms()],
    )?;
    writer
        .tx()
        .execute("UPDATE model_slots SET plan_sha256 = ?2 WHERE slot = ?1", params![slot, row.sha256])?;
    let detail =
        json!({ "model": slot, "plan": row.plan, "plan_version": row.version, "sha256": row.sha256 });
    writer.audit(&Event::new(EventKind::ModelTransition, slot, detail))
}

/// The plan that rules on a slot.
pub fn plan_of_slot(reader: &Connection, slot: &str) -> Result<Option<PlanRow>, LedgerError> {
    Ok(reader
        .prepare_cached(
            "SELECT p.sha256, p.plan, p.version, p.text FROM model_slots s
                JOIN model_plans p ON p.sha256 = s.plan_sha256 WHERE s.slot = ?1",
        )?
        .query_row([slot], |row| {
            Ok(PlanRow {
                sha256: row.get(0)?,
                plan: row.get(1)?,
                version: row.get::<_, i64>(2)? as u64,
                text: row.get(3)?,
            })
        })
        .optional()?)
}

/// A record of acceptance as it is kept.
#[derive(Clone, Debug)]
pub struct Acceptance {
    /// Digest of the record's bytes.
    pub sha256: String,
    /// The record with the device's signature.
    pub signed: SignedRecord,
    /// What was found, from which a ruling can be made again.
    pub evidence: String,
}

/// Keeps a record, passed or failed; the version names it from now on.
pub fn keep_acceptance(
    writer: &Writer<'_>,
    slot: &str,
    digest: &str,
    plan: (&str, u64),
    kept: &Acceptance,
) -> Result<(), LedgerError> {
    writer.tx().execute(
        "INSERT INTO acceptance_records (sha256, slot, digest, at, record, signature, evidence)
         VALUES (?1,?2,?3,?4,?5,?6,?7) ON CONFLICT (sha256) DO NOTHING",
        params![
            kept.sha256,
            slot,
            digest,
            writer.now_ms(),
            kept.signed.bytes,
            kept.signed.signature.as_slice(),
            kept.evidence
        ],
    )?;
    writer.tx().execute(
        "UPDATE model_versions SET plan = ?3, plan_version = ?4, acceptance = ?5 WHERE slot = ?1 AND digest = ?2",
        params![slot, digest, plan.0, plan.1 as i64, kept.sha256],
    )?;
    Ok(())
}

/// The record by which a version was accepted.
pub fn acceptance(reader: &Connection, slot: &str, digest: &str) -> Result<Option<Acceptance>, LedgerError> {
    let found = reader
        .prepare_cached(
            "SELECT a.sha256, a.record, a.signature, a.evidence FROM model_versions v
                JOIN acceptance_records a ON a.sha256 = v.acceptance WHERE v.slot = ?1 AND v.digest = ?2",
        )?
        .query_row([slot, digest], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get::<_, Vec<u8>>(2)?, row.get(3)?))
        })
        .optional()?;
    let Some((sha256, bytes, signature, evidence)) = found else { return Ok(None) };
    let signature = <[u8; 64]>::try_from(signature)
        .map_err(|_| LedgerError::Illegal("an acceptance record's signature is damaged".into()))?;
    Ok(Some(Acceptance { sha256, signed: SignedRecord { bytes, signature }, evidence }))
}

impl PlanRow {
    /// The plan itself. It was read when it came: one that cannot be read back is damage.
    pub fn read(&self) -> Result<Plan, LedgerError> {
        Plan::read(Path::new("the plan"), &self.text)
            .map_err(|problem| LedgerError::Illegal(format!("plan {}: {problem}", self.plan)))
    }
}

/// A person's approval of a version in the state in which they saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Approval {
    /// When.
    pub at: i64,
    /// Who, as they name themselves.
    pub person: String,
    /// Whose shell or certificate it was.
    pub account: String,
    /// The digest of the instructions for use that they acknowledged, or empty.
    pub acknowledged: String,
}

/// Keeps an approval; `report` is the digest of the shadow report that it was given on, or empty. Refused where the
/// same person approved the same thing before.
pub fn approve(
    writer: &Writer<'_>,
    slot: &str,
    digest: &str,
    actor: &Actor,
    acknowledged: &str,
    report: &str,
) -> Result<usize, LedgerError> {
    let before = approvals(writer.tx(), slot, digest)?;
    let mut people: Vec<&str> = before.iter().map(|approval| approval.person.as_str()).collect();
    let count = lightbox_models::life_cycle::people(&people);
    people.push(&actor.name);
    if lightbox_models::life_cycle::people(&people) == count {
        return Err(LedgerError::Illegal(format!(
            "{} has approved this version before; another person has to",
            actor.name
        )));
    }
    let event = super::last_event(writer.tx(), slot, digest)?;
    writer.tx().execute(
        "INSERT INTO model_approvals (at, slot, digest, person, account, event_id, acknowledged)
         VALUES (?1,?2,?3,?4,?5,?6,?7)",
        params![writer.now_ms(), slot, digest, actor.name, actor.account, event, acknowledged],
    )?;
    let detail = json!({
        "action": "approve-model", "model": slot, "digest": digest, "by": actor.name,
        "acknowledged": acknowledged, "reason": actor.reason, "shadow_report": report,
    });
    writer.audit(&Event::new(EventKind::OperatorAction, actor.account.as_str(), detail))?;
    Ok(count + 1)
}

/// The approvals of a version as it stands now: those given before it came to this state count no more.
pub fn approvals(reader: &Connection, slot: &str, digest: &str) -> Result<Vec<Approval>, LedgerError> {
    Ok(reader
        .prepare_cached(
            "SELECT at, person, account, acknowledged FROM model_approvals
             WHERE slot = ?1 AND digest = ?2 AND event_id = (SELECT max(id) FROM model_events
                WHERE slot = ?1 AND digest = ?2) ORDER BY id",
        )?
        .query_map([slot, digest], |row| {
            Ok(Approval {
                at: row.get(0)?,
                person: row.get(1)?,
                account: row.get(2)?,
                acknowledged: row.get(3)?,
            })
        })?
        .collect::<rusqlite::Result<_>>()?)
}
