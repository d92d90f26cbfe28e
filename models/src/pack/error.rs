//! Why a packed bundle was refused, or could not be made.

use std::io;
use std::path::PathBuf;

use crate::BundleError;

/// Why a packed bundle was refused, or could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A compressed file: what it would expand to is not known before.
    #[error("compressed ({0}); remedy: ask for the .lightbox file itself, which is never compressed")]
    Compressed(&'static str),
    /// Not a packed bundle at all.
    #[error("not a packed bundle; remedy: make it with `lightbox bundle pack`")]
    NotPacked,
    /// An entry that is not a plain file: a link, a device, an extended header ...
    #[error("entry {index} is {kind}; remedy: make the file with `lightbox bundle pack`")]
    EntryKind {
        /// Which entry, from 0.
        index: usize,
        /// What it is.
        kind: &'static str,
    },
    /// An entry's name leads out of the folder.
    #[error("entry {index} has a name that leads out of the bundle's folder; remedy: do not use this file")]
    PathTraversal {
        /// Which entry, from 0.
        index: usize,
    },
    /// An entry's header has another form than the one that `pack` writes.
    #[error(
        "entry {index}: {field} is not as `pack` writes it; remedy: make the file with `lightbox bundle pack`"
    )]
    Header {
        /// Which entry, from 0.
        index: usize,
        /// What is different.
        field: &'static str,
    },
    /// An entry that the manifest does not list.
    #[error("entry {index} is not listed in the manifest; remedy: list it, or leave it out, and pack again")]
    Unlisted {
        /// Which entry, from 0.
        index: usize,
    },
    /// An entry that was there before.
    #[error("{path} stands twice; remedy: make the file with `lightbox bundle pack`")]
    Duplicate {
        /// The file.
        path: String,
    },
    /// A listed file that does not come where it must.
    #[error("{path} is missing; remedy: fetch the file again, or pack the bundle again")]
    Missing {
        /// The file.
        path: String,
    },
    /// An entry of another length than the manifest says.
    #[error("{path} has {found} bytes, the manifest says {listed}; remedy: fetch or pack the bundle again")]
    Size {
        /// The file.
        path: String,
        /// What the manifest says.
        listed: u64,
        /// What the entry says.
        found: u64,
    },
    /// A file's bytes are not those that the manifest was written for.
    #[error("{path}: its SHA-256 is {found}, the manifest says {listed}; remedy: fetch the bundle again")]
    Digest {
        /// The file.
        path: String,
        /// What the manifest says.
        listed: String,
        /// What the bytes have.
        found: String,
    },
    /// The file ends in the middle.
    #[error("ends in the middle; remedy: fetch the file again")]
    Truncated,
    /// Something comes after the end.
    #[error("has bytes after its end; remedy: fetch the file again, or pack the bundle again")]
    Trailing,
    /// A file is the listed one, but not what its role asks.
    #[error("{path}: {problem}; remedy: {remedy}")]
    Contents {
        /// The file.
        path: String,
        /// What is wrong.
        problem: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// The manifest, or the folder that was to be packed, is refused.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// There is something already where the bundle was to go.
    #[error("{}: exists; remedy: remove it, or give another place", .0.display())]
    Exists(PathBuf),
    /// A file could not be read or written.
    #[error("{}: cannot be {what}; remedy: check the disk's room and this user's rights", path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// What was to be done with it.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The packed bundle could not be read.
    #[error("cannot be read; remedy: check the medium, and try again")]
    Read(#[source] io::Error),
}

impl PackError {
    /// A stable name of the broken clause, for audit records and tests.
    pub fn clause(&self) -> &'static str {
        match self {
            PackError::Compressed(_) => "bundle-compressed",
            PackError::NotPacked => "bundle-not-packed",
            PackError::EntryKind { .. } => "bundle-entry-kind",
            PackError::PathTraversal { .. } => "bundle-path-traversal",
            PackError::Header { .. } => "bundle-header",
            PackError::Unlisted { .. } => "bundle-unlisted",
            PackError::Duplicate { .. } => "bundle-duplicate",
            PackError::Missing { .. } => "bundle-missing",
            PackError::Size { .. } => "bundle-size",
            PackError::Digest { .. } => "bundle-digest",
            PackError::Truncated => "bundle-truncated",
            PackError::Trailing => "bundle-trailing",
            PackError::Contents { .. } => "bundle-contents",
            PackError::Bundle(error) => error.clause(),
            PackError::Exists(_) => "bundle-exists",
            PackError::Io { .. } | PackError::Read(_) => "bundle-io",
        }
    }
}
