//! The signing side: making a repository, putting files into it, changing its keys.
//!
//! A repository is a folder of plain files that can be copied to a stick or served as it is:
//!
//! ```text
//! metadata/1.root.json  2.root.json …   every root stays: boxes follow them one by one
//! metadata/7.snapshot.json  3.targets.json  5.vendor-acme.json  2.regulatory.json …
//! metadata/timestamp.json               the one file that is replaced: it names the snapshot
//! targets/vendors/acme/<SHA-256>.detector-2.lightbox
//! ```
//!
//! [`Publisher::publish`] writes new files under new names, and `timestamp.json` last: whenever it
//! is interrupted, the repository is the old one or the new one. Keys are asked through [`Signer`],
//! so that they can stay in a token.

mod folder;
mod keys;
mod metadata;
mod proposal;
#[cfg(feature = "pkcs11")]
pub mod token;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;
use time::{Duration, OffsetDateTime};

pub use keys::{FileKey, PublicKey, Signer};
pub use proposal::{Message, Proposal};

use crate::trust::Delegate;
use folder::Folder;
use metadata::State;

/// Why something could not be published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// A file or folder could not be read or written.
    #[error("{}: cannot be {what}; remedy: check the path, the disk's room and this user's rights", path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// What was to be done with it.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// There is a repository, or a key, already.
    #[error("{}: exists; remedy: give another place", .0.display())]
    Exists(PathBuf),
    /// Not a signing key.
    #[error("{}: not an Ed25519 key in PKCS #8 PEM; remedy: make one with `lightbox keys new`", .0.display())]
    NotAKey(PathBuf),
    /// A key file that others may read.
    #[error("{}: others may read it; remedy: chmod 600", .0.display())]
    KeyIsOpen(PathBuf),
    /// Not a public key.
    #[error("not an Ed25519 public key; remedy: give its 64 hex digits")]
    NotAPublicKey,
    /// A token did not do what was asked.
    #[error("the token: {0}; remedy: check module, token label, PIN and key label")]
    Token(String),
    /// Too few keys for a role that has to be signed.
    #[error("{role} needs {need} of its keys, {have} are given; remedy: give the keys of as many holders")]
    KeysMissing {
        /// The role.
        role: String,
        /// How many of the given keys it has.
        have: u64,
        /// Its threshold.
        need: u64,
    },
    /// The design cannot be one.
    #[error("{role}: {problem}; remedy: {remedy}")]
    Design {
        /// The role.
        role: String,
        /// What is wrong.
        problem: &'static str,
        /// What to do about it.
        remedy: &'static str,
    },
    /// No repository.
    #[error("{}: no repository is here; remedy: name its folder, or make one with `lightbox repository new`", .0.display())]
    NoRepository(PathBuf),
    /// A role that the repository does not have.
    #[error(
        "no {what}; there {are}; remedy: name one of these, or add one by `lightbox repository rotate --holder {role}=KEY`"
    )]
    NoSuchRole {
        /// The role.
        role: String,
        /// In words, e.g. `vendor acme`.
        what: String,
        /// Those that there are, in words.
        are: String,
    },
    /// A target that the role may not vouch for.
    #[error("{target}: not a name that the role {role} may vouch for; remedy: put it below {paths}")]
    Name {
        /// The target.
        target: String,
        /// The role.
        role: String,
        /// The role's paths.
        paths: String,
    },
    /// A recall notice that no box could obey.
    #[error("a recall notice: {0}")]
    Notice(#[source] crate::problem::Problem),
    /// No such target.
    #[error("{0}: not in the repository; remedy: look at the names that it lists")]
    NoSuchTarget(String),
    /// Not a proposal.
    #[error("not a proposal: {0}; remedy: propose the change again")]
    Proposal(String),
    /// What was signed is not what is to be published now.
    #[error(
        "the key {0} has not signed what is to be published now; remedy: give that key itself; or, where the repository or the file changed since, propose the change again"
    )]
    ProposalStale(PublicKey),
    /// The repository is damaged, or somebody else's.
    #[error("{}: {problem}; remedy: restore the repository from its copy", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// The holders of a role's keys, and how many of them must sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holders {
    /// Their public keys, each once.
    pub keys: Vec<PublicKey>,
    /// How many signatures the role needs.
    pub threshold: u64,
}

/// Whose keys sign what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Design {
    /// Signs who signs: kept offline, several holders.
    pub root: Holders,
    /// Signs to whom paths are delegated.
    pub targets: Holders,
    /// Signs which versions belong together.
    pub snapshot: Holders,
    /// Signs that this is the newest.
    pub timestamp: Holders,
    /// Sign bundles, plans and recalls. The keys of [`Delegate::Regulatory`] are nobody else's.
    pub delegates: BTreeMap<Delegate, Holders>,
}

/// How long metadata are good for after they are signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// The root.
    pub root: Duration,
    /// Targets and delegated roles.
    pub targets: Duration,
    /// The snapshot.
    pub snapshot: Duration,
    /// The timestamp: how long newer releases can be withheld from a box.
    pub timestamp: Duration,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Lifetimes {
            root: Duration::days(3 * 365),
            targets: Duration::days(365),
            snapshot: Duration::days(90),
            timestamp: Duration::days(30),
        }
    }
}

/// A file to publish.
#[derive(Clone, Debug)]
pub struct Addition {
    /// Its name, below a path of the role; replaces the target of that name.
    pub name: String,
    /// Who vouches for it.
    pub by: Delegate,
    /// The file to copy.
    pub file: PathBuf,
    /// What to say about it.
    pub custom: BTreeMap<String, Value>,
}

/// What is to be different.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Files to put in.
    pub add: Vec<Addition>,
    /// Targets to take out; their files stay for boxes that are in the middle.
    pub remove: Vec<String>,
    /// New key holders: a new root, signed by the old and the new root keys.
    pub design: Option<Design>,
    /// Roles to sign anew for a later date: `root`, `targets`, or a delegated role's name. Snapshot
    /// and timestamp are signed anew every time.
    pub renew: BTreeSet<String>,
}

/// A repository that can be published to.
#[derive(Debug)]
pub struct Publisher {
    folder: Folder,
    state: State,
}

impl Publisher {
    /// Makes a new, empty repository. Needs keys of every role up to its threshold.
    pub fn create(
        folder: &Path,
        design: &Design,
        lifetimes: &Lifetimes,
        now: OffsetDateTime,
        signers: &[&dyn Signer],
    ) -> Result<Publisher, PublishError> {
        let folder = Folder::create(folder)?;
        let (state, files) = State::new(design, lifetimes, now, signers)?;
        folder.write(&files)?;
        Ok(Publisher { folder, state })
    }

    /// Opens a repository's folder. One publisher at a time: a second one is told to wait.
    pub fn open(folder: &Path) -> Result<Publisher, PublishError> {
        let folder = Folder::open(folder)?;
        let state = State::load(&folder)?;
        Ok(Publisher { folder, state })
    }

    /// The newest root: what a box is given out of band as trusted.
    pub fn root(&self) -> &[u8] {
        self.state.root_bytes()
    }

    /// Whose keys sign what.
    pub fn design(&self) -> Result<Design, PublishError> {
        self.state.design()
    }

    /// Whether a role is there that targets may be added by; a refusal names those that are.
    pub fn knows(&self, role: &Delegate) -> Result<(), PublishError> {
        metadata::known(role, &self.design()?)
    }

    fn know_all(&self, change: &Change) -> Result<(), PublishError> {
        let design = match &change.design {
            Some(design) => design.clone(),
            None => self.design()?,
        };
        change.add.iter().try_for_each(|addition| metadata::known(&addition.by, &design))
    }

    /// What is said about each target: name, and what the publisher gave it.
    pub fn described(&self) -> BTreeMap<String, BTreeMap<String, Value>> {
        self.state.described()
    }

    /// The names of all targets.
    pub fn targets(&self) -> Vec<String> {
        self.state.targets()
    }

    /// Publishes a change. Needs keys up to the threshold of every role that it signs: the changed
    /// delegated roles, snapshot and timestamp; for a new design also root (old and new keys) and
    /// targets. `progress` hears of bytes copied and bytes in all.
    pub fn publish(
        &mut self,
        change: &Change,
        lifetimes: &Lifetimes,
        now: OffsetDateTime,
        signers: &[&dyn Signer],
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(), PublishError> {
        self.know_all(change)?;
        let copied = self.folder.add(&change.add, progress)?;
        let (state, files) = self.state.apply(change, &copied, lifetimes, now, signers)?;
        self.folder.write(&files)?;
        self.state = state;
        Ok(())
    }

    /// Does all of [`Publisher::publish`] but writing the metadata. The files are copied; what nothing
    /// lists harms nobody.
    fn rehearse(
        &self,
        change: &Change,
        lifetimes: &Lifetimes,
        now: OffsetDateTime,
        signers: &[&dyn Signer],
    ) -> Result<(), PublishError> {
        self.know_all(change)?;
        let copied = self.folder.add(&change.add, &mut |_, _| {})?;
        self.state.apply(change, &copied, lifetimes, now, signers).map(drop)
    }
}
