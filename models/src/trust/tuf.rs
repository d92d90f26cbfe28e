//! tough's side: the root to begin with, and its errors as clauses.

use std::collections::BTreeSet;
use std::error::Error as _;

use serde::Deserialize;
use tough::schema::decoded::{Decoded, Hex};
use tough::schema::{Role as _, RoleType, Root, Signed, Targets};
use tough::{TransportError, TransportErrorKind, error::Error};

use super::keys;
use super::refusal::{Clause, Refusal};
use super::seen::{Known, SeenVersions};
use super::source::Recorder;

/// The root that a check begins with.
pub(super) struct Start {
    /// Its bytes.
    pub(super) bytes: Vec<u8>,
    /// Itself.
    pub(super) root: Root,
    /// The record of the last check with the root of that time.
    pub(super) seen: Option<(SeenVersions, Root)>,
}

fn given(trusted: &[u8]) -> Result<Root, Refusal> {
    let read: Result<Signed<Root>, _> = serde_json::from_slice(trusted);
    read.map(|root| root.signed)
        .map_err(|error| Refusal::new(Clause::Malformed, "the trusted root").with(error))
}

fn last(seen: &SeenVersions) -> Result<Root, Refusal> {
    let read: Result<Signed<Root>, _> = serde_json::from_str(seen.root());
    read.map(|root| root.signed)
        .map_err(|error| Refusal::new(Clause::SeenVersionsUnreadable, "the root seen last").with(error))
}

/// Whether two roots say the same, however they are written.
fn same(one: &Root, other: &Root) -> bool {
    matches!((one.canonical_form(), other.canonical_form()), (Ok(one), Ok(other)) if one == other)
}

/// Whether a root is another publisher's than the one of a record: none of the keys that may name its successor is
/// one of the other's. Of the record's own lineage it goes on by signatures, and nobody has to begin anew.
pub fn is_of_another_publisher(trusted: &[u8], seen: &SeenVersions) -> Result<bool, Refusal> {
    let (given, old) = (given(trusted)?, last(seen)?);
    let of = |root: &Root| -> BTreeSet<Vec<u8>> {
        let keys = root.roles.get(&RoleType::Root).map(|role| keys::of_role(&role.keyids, &root.keys));
        keys.into_iter().flatten().collect()
    };
    Ok(of(&given).is_disjoint(&of(&old)))
}

impl Start {
    /// The newer of the root given to the box and the one seen last.
    pub(super) fn choose(trusted: &[u8], known: &Known) -> Result<Start, Refusal> {
        let given = given(trusted)?;
        let Known::Seen(seen) = known else {
            return Ok(Start { bytes: trusted.to_owned(), root: given, seen: None });
        };
        let old = last(seen)?;
        if given.version == old.version && !same(&given, &old) {
            return Err(Refusal::new(Clause::RootReplaced, "the trusted root")
                .with(format!("version {}", given.version)));
        }
        let (bytes, root) = if given.version > old.version {
            (trusted.to_owned(), given)
        } else {
            (seen.root().as_bytes().to_owned(), old.clone())
        };
        Ok(Start { bytes, root, seen: Some((SeenVersions::clone(seen), old)) })
    }
}

/// tough's error as a clause. What is not told apart here is metadata that nobody of ours writes.
pub(super) fn refusal(error: &Error, recorder: &Recorder) -> Refusal {
    match error {
        Error::Transport { source, .. } => transport(source),
        // It calls every delegated role "targets": the file tells which one it is.
        Error::VerifyMetadata { source, .. } => signature(&recorder.last_role(), source, recorder),
        Error::VerifyTrustedMetadata { source, .. } => signature("the trusted root", source, recorder),
        Error::OlderMetadata { role, .. } => {
            Refusal::new(Clause::VersionRolledBack, role.to_string()).with(error)
        }
        Error::VersionMismatch { .. } => {
            Refusal::new(Clause::SnapshotMixed, recorder.last_role()).with(error)
        }
        Error::InvalidPath { .. } => {
            Refusal::new(Clause::TargetOutsideDelegation, "a target").with(chain(error))
        }
        Error::MaxUpdatesExceeded { .. } => Refusal::new(Clause::VersionFastForward, "root").with(error),
        _ => Refusal::new(Clause::Malformed, "the repository").with(chain(error)),
    }
}

fn transport(error: &TransportError) -> Refusal {
    let file = error.url().rsplit('/').next().unwrap_or_default();
    let cause = error.source().and_then(|source| source.downcast_ref::<Error>());
    match (error.kind(), cause) {
        (TransportErrorKind::FileNotFound, _) => Refusal::new(Clause::Missing, file),
        (_, Some(Error::HashMismatch { .. })) => Refusal::new(Clause::SnapshotMixed, file),
        (_, Some(Error::MaxSizeExceeded { .. })) => {
            Refusal::new(Clause::TooLong, file).with("longer than signed")
        }
        _ => Refusal::new(Clause::Unreadable, file).with(error),
    }
}

#[derive(Deserialize)]
struct Signatures {
    signatures: Vec<KeyId>,
}

#[derive(Deserialize)]
struct KeyId {
    keyid: Decoded<Hex>,
}

/// The keys that signed a role's file, whether rightly or not, by their identifiers.
fn signers(role: &str, recorder: &Recorder) -> Option<Vec<Decoded<Hex>>> {
    let fetched = recorder.newest_of(role)?;
    let file: Signatures = serde_json::from_slice(&fetched.bytes).ok()?;
    Some(file.signatures.into_iter().map(|signature| signature.keyid).collect())
}

/// Whether one of the signers is a key of another role than `regulatory`; the caller has just seen root and
/// targets pass.
fn by_release_key(signers: &[Decoded<Hex>], recorder: &Recorder) -> bool {
    let read = |role| recorder.newest_of(role).map(|fetched| fetched.bytes).unwrap_or_default();
    let root = serde_json::from_slice::<Signed<Root>>(&read("root")).map(|root| root.signed);
    let targets = serde_json::from_slice::<Signed<Targets>>(&read("targets")).map(|targets| targets.signed);
    let (Ok(root), Ok(targets)) = (root, targets) else { return false };
    let delegated = targets.delegations.as_ref().map(|delegations| &delegations.keys);
    let signed = delegated.into_iter().chain([&root.keys]).flat_map(|keys| keys::of_role(signers, keys));
    let release = keys::of_release(&root, &targets);
    signed.into_iter().any(|key| release.contains(&key))
}

/// Which clause a missing signature breaks: that depends on what signatures there are.
fn signature(role: &str, error: &tough::schema::Error, recorder: &Recorder) -> Refusal {
    let tough::schema::Error::SignatureThreshold { threshold, valid, .. } = error else {
        return Refusal::new(Clause::Malformed, role).with(error);
    };
    if *valid > 0 {
        return Refusal::new(Clause::SignatureThreshold, role).with(format!("{valid} of {threshold}"));
    }
    match signers(role, recorder) {
        Some(keys) if keys.is_empty() => Refusal::new(Clause::Unsigned, role),
        Some(keys) if role == "regulatory" && by_release_key(&keys, recorder) => {
            Refusal::new(Clause::PlanSignedByReleaseKey, role)
        }
        _ => Refusal::new(Clause::SignedByOtherKey, role),
    }
}

fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
