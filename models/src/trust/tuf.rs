//! tough's side: the root to begin with, and its errors as clauses.

use std::error::Error as _;

use serde::Deserialize;
use tough::schema::{Root, Signed, Targets};
use tough::{TransportError, TransportErrorKind, error::Error};

use super::refusal::{Clause, Refusal};
use super::seen::{Known, SeenVersions};
use super::source::Recorder;
use crate::bundle::hex;

/// The root that a check begins with.
pub(super) struct Start {
    /// Its bytes.
    pub(super) bytes: Vec<u8>,
    /// The record of the last check with the root of that time.
    pub(super) seen: Option<(SeenVersions, Root)>,
}

impl Start {
    /// The newer of the root given to the box and the one seen last.
    pub(super) fn choose(trusted: &[u8], known: &Known) -> Result<Start, Refusal> {
        let given: Signed<Root> = serde_json::from_slice(trusted)
            .map_err(|error| Refusal::new(Clause::Malformed, "the trusted root").with(error))?;
        let Known::Seen(seen) = known else {
            return Ok(Start { bytes: trusted.to_owned(), seen: None });
        };
        let old: Signed<Root> = serde_json::from_str(seen.root()).map_err(|error| {
            Refusal::new(Clause::SeenVersionsUnreadable, "the root seen last").with(error)
        })?;
        let bytes = if given.signed.version > old.signed.version {
            trusted.to_owned()
        } else {
            seen.root().as_bytes().to_owned()
        };
        Ok(Start { bytes, seen: Some((SeenVersions::clone(seen), old.signed)) })
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
    keyid: String,
}

/// The keys that signed a role's file, whether rightly or not.
fn signers(role: &str, recorder: &Recorder) -> Option<Vec<String>> {
    let fetched = recorder.newest_of(role)?;
    let file: Signatures = serde_json::from_slice(&fetched.bytes).ok()?;
    Some(file.signatures.into_iter().map(|signature| signature.keyid).collect())
}

/// The keys of every role but `regulatory`; the caller has just seen root and targets pass.
fn release_keys(recorder: &Recorder) -> Vec<String> {
    let read = |role| recorder.newest_of(role).map(|fetched| fetched.bytes).unwrap_or_default();
    let root = serde_json::from_slice::<Signed<Root>>(&read("root")).ok();
    let targets = serde_json::from_slice::<Signed<Targets>>(&read("targets")).ok();
    let root = root.into_iter().flat_map(|root| root.signed.roles.into_values()).flat_map(|role| role.keyids);
    let delegated = targets
        .and_then(|targets| targets.signed.delegations)
        .into_iter()
        .flat_map(|delegations| delegations.roles)
        .filter(|role| role.name != "regulatory")
        .flat_map(|role| role.keyids);
    root.chain(delegated).map(|id| hex(&id)).collect()
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
        Some(keys) if role == "regulatory" && release_keys(recorder).iter().any(|key| keys.contains(key)) => {
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
