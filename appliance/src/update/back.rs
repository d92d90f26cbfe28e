//! Back to the version that was active before: by a person, or by a monitor of the plan.

use lightbox_models::life_cycle::{self, Event, Facts};

use super::files::Folders;
use super::registry::{OpenError, open_checked};
use crate::store::ledger::Ledger;
use crate::store::models::{self, Actor};

/// What came of going back.
pub(super) enum Back {
    /// The earlier version is active.
    To {
        /// Which was active.
        from: String,
        /// Which is now.
        to: String,
    },
    /// Another version was active by then.
    Changed,
}

/// Goes back to the version that was active before, at once. The files of that version are hashed first.
pub fn go_back(
    ledger: &Ledger,
    folders: &Folders,
    slot: &str,
    actor: Actor,
) -> anyhow::Result<(String, String)> {
    let evidence = format!("order of {}", actor.name);
    match go_back_from(ledger, folders, slot, None, &evidence, actor)? {
        Back::To { from, to } => Ok((from, to)),
        Back::Changed => anyhow::bail!("the versions have changed meanwhile; look again"),
    }
}

/// The same, only from the version and activation that are given, where they are.
pub(super) fn go_back_from(
    ledger: &Ledger,
    folders: &Folders,
    slot: &str,
    from: Option<(&str, u64)>,
    evidence: &str,
    actor: Actor,
) -> anyhow::Result<Back> {
    let (life, active) =
        ledger.read_blocking(|reader| Ok((models::life(reader, slot)?, models::active(reader, slot)?)))?;
    let Some(active) = active else {
        anyhow::bail!("model \"{slot}\" has no active version");
    };
    let activation = active.last_active;
    if from.is_some_and(|from| from != (active.digest.as_str(), activation)) {
        return Ok(Back::Changed);
    }
    let Some(previous) = life.previous().map(str::to_owned) else {
        anyhow::bail!(
            "model \"{slot}\" has no earlier version to go back to; remedy: `lightbox models disable` takes it out of service"
        );
    };
    open_checked(folders, &previous)?;
    let (slot, from, to) = (slot.to_owned(), active.digest.clone(), previous.clone());
    let facts = Facts { evidence: evidence.to_owned(), ..Facts::default() };
    let gone_back = ledger.write_blocking(move |writer| {
        let now = models::active(writer.tx(), &slot)?;
        let same = now.is_some_and(|now| now.digest == from && now.last_active == activation);
        if !same || models::life(writer.tx(), &slot)?.previous() != Some(to.as_str()) {
            return Ok(false);
        }
        let none = life_cycle::Duties::NONE;
        models::apply(writer, &slot, &from, Event::RollBack, &facts, &none, &actor, None)?;
        Ok(true)
    })?;
    Ok(if gone_back { Back::To { from: active.digest, to: previous } } else { Back::Changed })
}

/// Hashes the files of a version that must be here.
pub fn verify_kept(folders: &Folders, digest: &str) -> Result<(), OpenError> {
    open_checked(folders, digest).map(drop)
}
