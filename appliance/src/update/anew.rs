//! A ledger that was lost took with it the record of what was seen of the repository. Without that record an
//! old repository cannot be told from a new one, so that the box refuses it; whether to trust it again is for a
//! person to say.

use anyhow::bail;
use serde_json::json;

use super::files::Folders;
use crate::audit::{Event, EventKind, Outcome};
use crate::store::ledger::Ledger;
use crate::store::models::{self, Actor};

/// Lets the next look at the repository be taken for the first. Only where the record is gone as a whole.
pub fn begin_anew(ledger: &Ledger, folders: &Folders, actor: Actor) -> anyhow::Result<()> {
    let (trust, versions) =
        ledger.read_blocking(|reader| Ok((models::trust(reader)?, models::versions(reader, None)?)))?;
    if trust.is_some_and(|trust| trust.seen.is_some()) || !versions.is_empty() {
        bail!("the record of versions seen, or of models, is in the ledger: nothing was lost");
    }
    if !folders.was_used() {
        bail!("no repository was used before: the next look is the first anyhow");
    }
    ledger.write_blocking(move |writer| {
        let detail = json!({
            "by": actor.name,
            "account": actor.account,
            "reason": actor.reason,
            "begins_anew": "the record of versions seen was lost with the ledger",
        });
        writer.audit(
            &Event::new(EventKind::RepositoryChecked, actor.name.as_str(), detail)
                .with_outcome(Outcome::Minor),
        )
    })?;
    folders.unmark()?;
    Ok(())
}
