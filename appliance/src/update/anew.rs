//! Without the record of what was seen of the repository an old one cannot be told from a new one, so that the box
//! refuses it; nor can the record of one publisher's repository rule on another one's. Whether to trust again is for
//! a person to say, by name; what is installed stays as it is.

use std::path::Path;

use anyhow::{Context as _, bail};
use lightbox_models::trust::{Clause, Known, is_of_another_publisher};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::files::Folders;
use crate::audit::chain::hex;
use crate::store::ledger::Ledger;
use crate::store::models::{self, Actor};

/// Lets the next look at the repository be taken for the first: where the record is gone, or cannot be read; or, by
/// `new_root`, where `root` is another publisher's now. `root` is what `updates.root` names.
pub fn begin_anew(
    ledger: &Ledger,
    folders: &Folders,
    root: &Path,
    new_root: bool,
    actor: Actor,
) -> anyhow::Result<()> {
    let (trust, versions) =
        ledger.read_blocking(|reader| Ok((models::trust(reader)?, models::versions(reader, None)?)))?;
    let trust = trust.unwrap_or_default();
    if trust.anew {
        bail!("somebody has said so already: the next look is the first; see `lightbox models check`");
    }
    let given =
        std::fs::read(root).with_context(|| format!("updates.root: {} cannot be read", root.display()))?;
    let why = match Known::read(trust.seen.as_deref(), true) {
        Err(refusal) => refusal.clause.sentence().to_owned(),
        Ok(Known::FirstUse) => "there is no record".to_owned(),
        Ok(Known::Seen(seen)) => match is_of_another_publisher(&given, &seen) {
            Err(refusal) if refusal.clause == Clause::SeenVersionsUnreadable => {
                refusal.clause.sentence().to_owned()
            }
            Err(refusal) => bail!("updates.root: {refusal}"),
            Ok(true) if new_root => "updates.root is another publisher's now".to_owned(),
            Ok(true) => bail!(
                "the record of versions seen is in the ledger: nothing was lost; remedy: updates.root is another publisher's than before; if the site has changed to that one, say so with --new-root"
            ),
            Ok(false) => bail!(
                "the record of versions seen, or of models, is in the ledger: nothing was lost; remedy: none is needed, the publisher's new roots are followed by their signatures"
            ),
        },
    };
    let used = folders.was_used().context("whether a repository was used cannot be looked up")?;
    if trust.seen.is_none() && versions.is_empty() && !used {
        bail!("no repository was used before: the next look is the first anyhow");
    }
    if new_root && actor.reason.is_empty() {
        bail!("--reason: say why the site takes its models from another publisher");
    }
    let detail = json!({
        "by": actor.name,
        "account": actor.account,
        "reason": actor.reason,
        "begins_anew": why,
        "new_root": new_root,
        "root_sha256": hex(&Sha256::digest(&given)),
        "record_sha256": trust.seen.as_ref().map(|seen| hex(&Sha256::digest(seen))),
        "versions_kept": versions.len(),
    });
    ledger.write_blocking(move |writer| models::begin_anew(writer, &actor.name, new_root, detail))?;
    Ok(())
}
