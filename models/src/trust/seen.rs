//! What was seen of a repository before: our own durable record against rollback.
//!
//! tough keeps such a record too, but writes it without syncing and takes what it cannot parse for
//! absent, so that after a power cut its check can let anything pass. Here the caller keeps the
//! record (the box: in its ledger), and a record that must be there but is not is a refusal.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tough::schema::{RoleType, Root};

use super::refusal::{Clause, Refusal};

/// The schema of the record.
const SCHEMA: u32 = 2;
/// The one before it, still read: of the timestamp it has the digest of a file's bytes, now it is that of the signed
/// part.
const SCHEMA_OF_FILES: u32 = 1;

/// Furthest that a version may be ahead of the one seen last (of 0 at first).
///
/// Whoever has a role's keys could publish the highest possible version, and boxes that saw it
/// would refuse every later one. Such a jump is refused, so it is never recorded: a repository that
/// publishes every minute needs two years for as many versions.
pub const VERSIONS_AHEAD_MAX: u64 = 1_000_000;

/// The newest version of each role that was verified, and the newest root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeenVersions {
    schema: u32,
    /// The newest root, whole: the next check begins with it.
    root: String,
    /// By role: `timestamp`, `snapshot`, `targets` and the delegated ones.
    roles: BTreeMap<String, Seen>,
    /// Unix time of the last check, in seconds.
    checked_at: i64,
}

/// A role's newest version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    /// Its number.
    pub version: u64,
    /// SHA-256 of the metadata file; of the timestamp, of its signed part in canonical form.
    pub sha256: String,
}

/// Whether a repository was used before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// Never: there can be no record.
    FirstUse,
    /// The record of the last check.
    Seen(Box<SeenVersions>),
}

impl Known {
    /// Reads the stored record. `used_before` is what the caller knows from elsewhere, e.g. that
    /// the ledger has installed models: then a missing record is a refusal, not a first use.
    pub fn read(stored: Option<&str>, used_before: bool) -> Result<Known, Refusal> {
        let Some(stored) = stored else {
            return match used_before {
                true => Err(Refusal::new(Clause::SeenVersionsMissing, "the repository")),
                false => Ok(Known::FirstUse),
            };
        };
        let unreadable =
            |why: String| Refusal::new(Clause::SeenVersionsUnreadable, "the repository").with(why);
        let seen: SeenVersions =
            serde_json::from_str(stored).map_err(|error| unreadable(error.to_string()))?;
        if ![SCHEMA, SCHEMA_OF_FILES].contains(&seen.schema) {
            return Err(unreadable(format!(
                "schema {}, known are {SCHEMA_OF_FILES} and {SCHEMA}",
                seen.schema
            )));
        }
        Ok(Known::Seen(Box::new(seen)))
    }
}

impl SeenVersions {
    pub(super) fn new(root: String, roles: BTreeMap<String, Seen>, checked_at: i64) -> SeenVersions {
        SeenVersions { schema: SCHEMA, root, roles, checked_at }
    }

    /// The text to store.
    pub fn to_json(&self) -> String {
        // Strings, numbers and a map of strings: nothing here can fail to become JSON.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The newest root.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// Each role's newest version.
    pub fn roles(&self) -> &BTreeMap<String, Seen> {
        &self.roles
    }

    /// Whether both checks saw the same versions of the same repository.
    pub fn sees_what(&self, other: &SeenVersions) -> bool {
        (&self.root, &self.roles) == (&other.root, &other.roles)
    }

    /// Unix time of the last check, in seconds.
    pub fn checked_at(&self) -> i64 {
        self.checked_at
    }
}

/// The roles whose seen versions count no more, since the new root took a key away from the
/// timestamp or snapshot role (TUF 5.3.11): that is how a publisher recovers from a compromised key
/// that signed too high a version. Targets' versions are pinned by the snapshot, so they go with
/// the snapshot's keys, not with the timestamp's.
fn forgotten(old: &Root, new: &Root, role: &str) -> bool {
    let keys = |root: &Root, role| -> BTreeSet<String> {
        root.roles.get(&role).iter().flat_map(|keys| &keys.keyids).map(|id| format!("{id:?}")).collect()
    };
    let replaced = |role| !keys(old, role).is_subset(&keys(new, role));
    match role {
        "timestamp" | "snapshot" => replaced(RoleType::Timestamp) || replaced(RoleType::Snapshot),
        _ => replaced(RoleType::Snapshot),
    }
}

/// Compares what was verified now with what was seen before.
pub(super) fn compare(
    seen: Option<(&SeenVersions, &Root)>,
    new_root: &Root,
    now: &BTreeMap<String, Seen>,
) -> Result<(), Refusal> {
    let before: BTreeMap<&str, &Seen> = seen
        .iter()
        .flat_map(|(seen, old_root)| {
            seen.roles.iter().filter(|(role, _)| !forgotten(old_root, new_root, role))
        })
        .map(|(role, seen)| (role.as_str(), seen))
        .collect();
    for (role, old) in &before {
        let Some(new) = now.get(*role) else {
            return Err(Refusal::new(Clause::RoleRemoved, *role));
        };
        if new.version < old.version {
            return Err(Refusal::new(Clause::VersionRolledBack, *role)
                .with(format!("version {}, seen {}", new.version, old.version)));
        }
    }
    // Of a timestamp that was recorded by its file's bytes, the bytes say nothing: others hold under the same
    // signatures. What it vouches for is the snapshot, which is compared by itself. Its date could be another one;
    // but whoever can sign that can sign the next version too.
    let by_bytes = seen.is_some_and(|(seen, _)| seen.schema == SCHEMA_OF_FILES);
    // Only then: the files of an older version are other files too.
    for (role, old) in &before {
        if let Some(new) = now.get(*role)
            && new.version == old.version
            && new.sha256 != old.sha256
            && !(by_bytes && *role == "timestamp" && before.get("snapshot").copied() == now.get("snapshot"))
        {
            return Err(Refusal::new(Clause::VersionReused, *role).with(format!("version {}", new.version)));
        }
    }
    for (role, new) in now {
        let old = before.get(role.as_str()).map_or(0, |old| old.version);
        if new.version.saturating_sub(old) > VERSIONS_AHEAD_MAX {
            return Err(Refusal::new(Clause::VersionFastForward, role.as_str())
                .with(format!("version {}, seen {old}", new.version)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_must_be_there_is_asked_for() {
        assert_eq!(Known::read(None, false), Ok(Known::FirstUse));
        assert_eq!(Known::read(None, true).unwrap_err().clause, Clause::SeenVersionsMissing);
        let seen = SeenVersions::new("{}".into(), BTreeMap::new(), 7);
        assert_eq!(Known::read(Some(&seen.to_json()), true), Ok(Known::Seen(Box::new(seen.clone()))));
        let later = seen.to_json().replace("\"schema\":2", "\"schema\":3");
        for damaged in ["", "{}", "null", &seen.to_json()[..9], later.as_str()] {
            let refusal = Known::read(Some(damaged), false).unwrap_err();
            assert_eq!(refusal.clause, Clause::SeenVersionsUnreadable, "{damaged}");
        }
    }
}
