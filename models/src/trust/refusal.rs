//! Why a repository, or a file of it, is not trusted: a clause with a stable name, a sentence, a remedy.

use std::fmt;

/// What was broken. The names are stable: audit records and tests go by them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Clause {
    /// Metadata without any signature.
    Unsigned,
    /// Signatures, but none by a key that the role has.
    SignedByOtherKey,
    /// Valid signatures, but fewer than the role's threshold.
    SignatureThreshold,
    /// A plan, or the role for plans, vouched for by a key that is not the regulatory one's alone.
    PlanSignedByReleaseKey,
    /// A key that is not Ed25519.
    KeyType,
    /// A key with more than its type, scheme and value: another name for the same key.
    KeyForm,
    /// A key twice in a role, or a threshold that its keys cannot reach.
    KeyRepeated,
    /// The root that the site is given is not the one seen before, of the same version.
    RootReplaced,
    /// Metadata past its date.
    MetadataExpired,
    /// The timestamp is past its date: what is newer may be withheld.
    TimestampFrozen,
    /// The clock says an earlier time than when the repository was last checked.
    ClockBehind,
    /// An older version than one seen before.
    VersionRolledBack,
    /// A version seen before, with other bytes.
    VersionReused,
    /// A version further ahead than versions can have come by publishing.
    VersionFastForward,
    /// A role that was there before is not listed any more.
    RoleRemoved,
    /// The metadata do not belong together: other version or bytes than the snapshot pins.
    SnapshotMixed,
    /// Longer than it may be, or than its length as signed.
    TooLong,
    /// A file that must be there is not.
    Missing,
    /// A file could not be read, for another reason than that it is missing.
    Unreadable,
    /// Not metadata of a Lightbox repository.
    Malformed,
    /// A target in the name of a role that may not vouch for it.
    TargetOutsideDelegation,
    /// No such target.
    TargetUnknown,
    /// A target whose bytes are not those that were signed.
    TargetDigest,
    /// The record of versions seen before is missing although there must be one.
    SeenVersionsMissing,
    /// The record of versions seen before cannot be read.
    SeenVersionsUnreadable,
    /// An operator's override without a name or a reason.
    OverrideIncomplete,
    /// A recall notice is listed and its file is missing, or is not the one that was signed.
    RecallWithheld,
    /// A recall notice that cannot be read, so that what it recalls is not known.
    RecallUnreadable,
}

impl Clause {
    /// Every clause.
    pub const ALL: [Clause; 28] = [
        Clause::Unsigned,
        Clause::SignedByOtherKey,
        Clause::SignatureThreshold,
        Clause::PlanSignedByReleaseKey,
        Clause::KeyType,
        Clause::KeyForm,
        Clause::KeyRepeated,
        Clause::RootReplaced,
        Clause::MetadataExpired,
        Clause::TimestampFrozen,
        Clause::ClockBehind,
        Clause::VersionRolledBack,
        Clause::VersionReused,
        Clause::VersionFastForward,
        Clause::RoleRemoved,
        Clause::SnapshotMixed,
        Clause::TooLong,
        Clause::Missing,
        Clause::Unreadable,
        Clause::Malformed,
        Clause::TargetOutsideDelegation,
        Clause::TargetUnknown,
        Clause::TargetDigest,
        Clause::SeenVersionsMissing,
        Clause::SeenVersionsUnreadable,
        Clause::OverrideIncomplete,
        Clause::RecallWithheld,
        Clause::RecallUnreadable,
    ];

    /// The stable name.
    pub fn name(self) -> &'static str {
        self.texts().0
    }

    /// What it means, as a sentence without its end.
    pub fn sentence(self) -> &'static str {
        self.texts().1
    }

    /// What to do.
    pub fn remedy(self) -> &'static str {
        self.texts().2
    }

    fn texts(self) -> (&'static str, &'static str, &'static str) {
        const AGAIN: &str = "fetch the repository again; if it stays so, tell whoever publishes it";
        const ATTACK: &str =
            "do not install from this source; tell the publisher: somebody may have its keys";
        match self {
            Clause::Unsigned => {
                ("unsigned", "has no signature", "ask the publisher for the signed repository")
            }
            Clause::SignedByOtherKey => (
                "signed-by-other-key",
                "is signed, but not by a key of its role",
                "ask the publisher whether keys were changed; the way to new keys is a new root signed by the old ones",
            ),
            Clause::SignatureThreshold => (
                "signature-threshold",
                "has fewer valid signatures than its role asks",
                "ask the publisher to have it signed by as many key holders as the role asks",
            ),
            Clause::PlanSignedByReleaseKey => (
                "plan-signed-by-release-key",
                "is vouched for by a release key, where only the regulatory keys may",
                "have the plan signed under the role \"regulatory\", with keys that sign nothing else",
            ),
            Clause::KeyType => ("key-type", "names a key that is not Ed25519", "use Ed25519 keys only"),
            Clause::KeyForm => (
                "key-form",
                "names a key with more than its type, scheme and value, so that one key has two names",
                "publish keys with nothing added",
            ),
            Clause::KeyRepeated => (
                "key-repeated",
                "names one key twice, or asks for more signatures than it has keys",
                "give each role as many different keys as must sign",
            ),
            Clause::RootReplaced => (
                "root-replaced",
                "is another one than was seen before, of the same version",
                "put the root back that updates.root named before; where the site takes its models from another publisher now, a person says so: `lightbox models begin-anew --new-root`",
            ),
            Clause::MetadataExpired => (
                "metadata-expired",
                "is past its date",
                "fetch the newest repository; where there is none, an operator may override, with name and reason",
            ),
            Clause::TimestampFrozen => (
                "timestamp-frozen",
                "is past its date: newer releases may be withheld",
                "fetch the newest repository; where there is none, an operator may override, with name and reason",
            ),
            Clause::ClockBehind => (
                "clock-behind",
                "was checked before at a later time than the clock says now",
                "set the clock; if the earlier time was wrong, an operator may override, with name and reason",
            ),
            Clause::VersionRolledBack => ("version-rolled-back", "is older than what was seen before", AGAIN),
            Clause::VersionReused => {
                ("version-reused", "has a version seen before, with other contents", ATTACK)
            }
            Clause::VersionFastForward => (
                "version-fast-forward",
                "is further ahead than publishing can have brought it",
                "the publisher replaces the role's keys by a new root and counts on from the last version",
            ),
            Clause::RoleRemoved => (
                "role-removed",
                "was in the repository before and is not any more",
                "the publisher keeps the role, empty; or replaces the snapshot keys by a new root",
            ),
            Clause::SnapshotMixed => {
                ("snapshot-mixed", "is not the one that the signed snapshot names", AGAIN)
            }
            Clause::TooLong => ("too-long", "is longer than it may be", AGAIN),
            Clause::Missing => ("missing", "is not there", AGAIN),
            Clause::Unreadable => (
                "unreadable",
                "cannot be read",
                "check the stick, the folder's permissions or the mirror's address, and try again",
            ),
            Clause::Malformed => ("malformed", "is not metadata of a Lightbox repository", AGAIN),
            Clause::TargetOutsideDelegation => (
                "target-outside-delegation",
                "is listed by a role that may not vouch for it",
                "list it under the role of its path: vendors/NAME/ vendor-NAME, plans/ regulatory, recalls/ safety",
            ),
            Clause::TargetUnknown => {
                ("target-unknown", "is not in the repository", "look at the names that it lists")
            }
            Clause::TargetDigest => ("target-digest", "has other bytes than were signed", AGAIN),
            Clause::SeenVersionsMissing => (
                "seen-versions-missing",
                "has been used before, but the record of its versions is gone",
                "restore the ledger; if it is lost for good, a person decides (`lightbox models begin-anew`), as without the record an old repository cannot be told from a new one",
            ),
            Clause::SeenVersionsUnreadable => (
                "seen-versions-unreadable",
                "has been used before, but the record of its versions cannot be read",
                "restore the ledger; if the record is lost for good, a person decides (`lightbox models begin-anew`), as without it an old repository cannot be told from a new one",
            ),
            Clause::OverrideIncomplete => (
                "override-incomplete",
                "was to be accepted past its date without a name or a reason",
                "say who decides and why; both are kept in the audit log",
            ),
            Clause::RecallWithheld => (
                "recall-withheld",
                "is a signed recall notice that cannot be had",
                "nothing is installed until it is read: fetch the repository again; ask the publisher what it recalls, and stop that with `lightbox models disable`",
            ),
            Clause::RecallUnreadable => (
                "recall-unreadable",
                "is a signed recall notice that cannot be obeyed as it stands",
                "nothing is installed until it is put right: ask the publisher what it recalls, and stop that with `lightbox models disable`; the publisher puts a sound notice in its place",
            ),
        }
    }
}

impl fmt::Display for Clause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A clause broken by something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{subject} {}{detail}; remedy: {} [{clause}]", clause.sentence(), clause.remedy())]
pub struct Refusal {
    /// What was broken.
    pub clause: Clause,
    /// What it was broken by: a role, a file or a target.
    pub subject: String,
    /// The particulars with leading punctuation, e.g. `: version 3, seen 4`; may be empty.
    pub detail: String,
}

impl Clause {
    /// Whether what is refused may leave a recalled model running: somebody has to look.
    pub fn is_serious(self) -> bool {
        matches!(self, Clause::RecallWithheld | Clause::RecallUnreadable)
    }
}

impl Refusal {
    pub(crate) fn new(clause: Clause, subject: impl Into<String>) -> Refusal {
        Refusal { clause, subject: subject.into(), detail: String::new() }
    }

    pub(crate) fn with(mut self, detail: impl fmt::Display) -> Refusal {
        self.detail = format!(": {detail}");
        self
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_clause_has_its_own_name() {
        let names: BTreeSet<_> = Clause::ALL.iter().map(|clause| clause.name()).collect();
        assert_eq!(names.len(), Clause::ALL.len());
        let refusal = Refusal::new(Clause::VersionRolledBack, "targets").with("version 3, seen 4");
        assert_eq!(
            refusal.to_string(),
            "targets is older than what was seen before: version 3, seen 4; remedy: fetch the repository \
             again; if it stays so, tell whoever publishes it [version-rolled-back]"
        );
    }
}
