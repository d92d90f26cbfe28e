//! Trust: which files of a repository somebody with the right keys has signed, and that nobody gives
//! us old ones for new. The Update Framework (TUF) 1.0, with `tough` reading and verifying metadata.
//!
//! [`verify`] does a whole check. Its answers do not depend on the machine's clock or on files of
//! ours: the caller gives the time, the trusted root and the record of versions seen before
//! ([`Known`]), and stores the new record ([`Verified::seen`]) durably *before* it uses anything.
//!
//! Expiry gates what comes in. It says nothing about a model that is active already: nothing here is
//! asked again about that. Nor does it gate recalls ([`examine`]).
//!
//! | attack | answer |
//! |---|---|
//! | unsigned, too few or wrong keys | [`Clause::Unsigned`], [`Clause::SignatureThreshold`], [`Clause::SignedByOtherKey`] |
//! | rollback | [`SeenVersions`]: no role's version may fall |
//! | freeze | [`Clause::TimestampFrozen`] |
//! | mix and match | the snapshot pins version, length and digest of every role |
//! | fast-forward | no version may jump by more than [`VERSIONS_AHEAD_MAX`]; new keys in a new root reset (5.3.11) |
//! | endless data | every length is bounded before it is read |
//! | one key as two | keys are compared by their bytes, and have nothing beside ([`Clause::KeyRepeated`], [`Clause::KeyForm`]) |
//! | a vendor in another's name, a plan by a release key | [`Delegate`]: who may vouch for which path |
//! | key compromise | a new root, signed by the old and the new root keys |

mod keys;
mod refusal;
mod roles;
mod seen;
mod source;
mod tuf;
mod verified;

use std::sync::Arc;

use time::OffsetDateTime;
use tough::{ExpirationEnforcement, Limits, RepositoryLoader};
use url::Url;

pub use refusal::{Clause, Refusal};
pub(crate) use roles::target_path;
pub use roles::{Delegate, is_target_name};
pub use seen::{Known, Seen, SeenVersions, VERSIONS_AHEAD_MAX};
pub use source::{Folder, Reading, Source};
pub use tuf::is_of_another_publisher;
pub use verified::{Examined, Overridden, Target, Verified};

use source::{METADATA_BYTES_MAX, Recorder};

/// Most roots that one check follows.
const ROOTS_MAX: u64 = 1024;

/// An operator's decision to accept metadata past their date, or a clock that is behind: for a site
/// without time service, or with a stick that lay in a drawer. Signatures and versions are checked
/// all the same. What it was used for stands in [`Verified::overridden`], for the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// Who decides.
    pub who: String,
    /// Why.
    pub why: String,
}

impl Override {
    fn is_complete(&self) -> bool {
        !self.who.trim().is_empty() && !self.why.trim().is_empty()
    }
}

/// Checks a repository's metadata whole.
///
/// `trusted_root` is the root that was given to this box out of band; where `known` holds a newer
/// one, that is used. `now` is compared with the dates, and nothing else is.
pub async fn verify(
    source: Arc<dyn Source>,
    trusted_root: &[u8],
    known: &Known,
    now: OffsetDateTime,
    exception: Option<&Override>,
) -> Result<Verified, Refusal> {
    if exception.is_some_and(|given| !given.is_complete()) {
        return Err(Refusal::new(Clause::OverrideIncomplete, "the repository"));
    }
    examine(source, trusted_root, known, now).await?.accept(exception)
}

/// The same, without a judgement on the dates yet: what is recalled is heard whatever they are
/// ([`Examined::recalls`]), and [`Examined::accept`] judges them before anything is installed.
pub async fn examine(
    source: Arc<dyn Source>,
    trusted_root: &[u8],
    known: &Known,
    now: OffsetDateTime,
) -> Result<Examined, Refusal> {
    let start = tuf::Start::choose(trusted_root, known)?;
    let recorder = Recorder::new(source.clone(), &start.bytes);
    let base = |folder: &str| {
        Url::parse(&format!("{}{folder}/", Recorder::BASE))
            .map_err(|error| Refusal::new(Clause::Unreadable, folder).with(error))
    };
    let loaded = RepositoryLoader::new(&start.bytes, base("metadata")?, base("targets")?)
        .transport(recorder.clone())
        .limits(Limits {
            max_root_size: METADATA_BYTES_MAX,
            max_targets_size: METADATA_BYTES_MAX,
            max_timestamp_size: METADATA_BYTES_MAX,
            max_snapshot_size: METADATA_BYTES_MAX,
            max_root_updates: ROOTS_MAX,
        })
        // tough would ask its own clock; dates are judged below. Without a folder of ours it keeps
        // its record in a temporary one, empty at first and gone afterwards: ours is `known`.
        .expiration_enforcement(ExpirationEnforcement::Unsafe)
        .load()
        .await;
    if let Some((clause, name, why)) = recorder.failure() {
        return Err(Refusal::new(clause, name).with(why));
    }
    let repository = loaded.map_err(|error| tuf::refusal(&error, &recorder))?;
    verified::judge(source, repository, &recorder, start, now)
}
