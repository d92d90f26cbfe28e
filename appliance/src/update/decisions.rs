//! What people decide of a version: by the command line, and on the administration page.

use lightbox_models::life_cycle::{Duties, Event, Facts};

use super::report::{ShadowReport, approval_refused, plan};
use crate::store::ledger::{LedgerError, Writer};
use crate::store::models::{self, Actor, shadow};

/// How an approval stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Approved {
    /// How many different people have approved.
    pub people: usize,
    /// How many the site must have at least; a modification of the plan may ask for more.
    pub wanted: u32,
}

/// Takes an approval, and keeps the shadow report that it was given on. `has_read`: the person says to have read
/// the instructions for use. Refused where the plan asks for that, or where its duty in shadow is not done.
pub fn approve(
    writer: &Writer<'_>,
    slot: &str,
    digest: &str,
    actor: &Actor,
    has_read: bool,
) -> Result<Approved, LedgerError> {
    if let Some(why) = approval_refused(writer.tx(), slot, digest)? {
        return Err(LedgerError::Illegal(why));
    }
    let plan = plan(writer.tx(), slot)?
        .ok_or_else(|| LedgerError::Illegal(format!("model \"{slot}\" has no plan")))?;
    let labelling = &plan.labelling;
    if labelling.acknowledge && !has_read {
        return Err(LedgerError::Illegal(format!(
            "the plan asks that somebody has read the instructions for use, version {} (SHA-256 {}): \"{}\"; remedy: \
             read them, then approve and say so (--acknowledge)",
            labelling.version, labelling.ifu_sha256, labelling.notice
        )));
    }
    let report = ShadowReport::of(writer.tx(), slot, digest)?;
    if let Some(report) = &report {
        shadow::keep_report(writer, slot, digest, &report.sha256, &report.page)?;
    }
    let report = report.map(|report| report.sha256).unwrap_or_default();
    let acknowledged = if has_read { labelling.ifu_sha256.as_str() } else { "" };
    let people = models::approve(writer, slot, digest, actor, acknowledged, &report)?;
    Ok(Approved { people, wanted: plan.site.approvals.max(1) })
}

/// A person's order to a version: refuse it, or take it out of service.
pub fn order(
    writer: &Writer<'_>,
    slot: &str,
    digest: &str,
    event: Event,
    actor: &Actor,
) -> Result<(), LedgerError> {
    let facts = Facts { evidence: format!("order of {}", actor.name), ..Facts::default() };
    models::apply(writer, slot, digest, event, &facts, &Duties::NONE, actor, None).map(drop)
}
