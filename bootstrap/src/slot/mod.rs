//! Writing a new system into the slot that is not running.
//!
//! A box has two slots, each a root partition and its hash tree; the boot entry on the EFI system partition names the
//! one that it starts by the root hash in its signed command line. [`write()`] fills the other slot in an order in which a
//! power cut at any point leaves the running slot as it was, with its entry, and never an entry without a whole slot:
//!
//! 1. boot entries of other systems than the running one go ([`esp::clear_others`]);
//! 2. root and hash tree are written, synced, read back from the disk and compared;
//! 3. the partition table gets the new names and PARTUUIDs: its copy at the disk's end first, then the first one;
//! 4. the boot entry, under a name that no boot loader looks at, synced, read back, and only then under its own.
//!
//! Doing it again after a cut does the same again. Whether what is written is to be trusted is not judged here.

pub mod disk;
pub mod esp;
pub mod gpt;
mod image;
pub mod own_disk;
pub mod uki;
pub mod verity;
mod write;

use std::io;
use std::path::PathBuf;

use thiserror::Error;

pub use image::{Digested, Image};
pub use write::{Progress, running_root_hash, write};

/// Why the other slot was not written.
#[derive(Debug, Error)]
pub enum SlotError {
    /// A disk, partition or file could not be read or written.
    #[error("{what}: {operation} failed ({source}); remedy: try again; if it stays so, the disk is worn out")]
    Io {
        /// What was worked on.
        what: String,
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The disk has no partition table that can be used.
    #[error("the disk's partition table is damaged: {0}; remedy: install the box anew from its image")]
    Table(String),
    /// The disk's partitions are not those of a box.
    #[error("the disk is not partitioned as a box's: {0}; remedy: install the box anew from its image")]
    Partitions(String),
    /// The new system does not fit.
    #[error(
        "{what} has {bytes} bytes, the slot's partition {room}; remedy: ask the publisher for an image of this machine's partition sizes"
    )]
    TooLarge {
        /// Root or hash tree.
        what: &'static str,
        /// Its size.
        bytes: u64,
        /// The partition's.
        room: u64,
    },
    /// The new system is the running one.
    #[error("this very system is running; remedy: nothing needs to be done")]
    Running,
    /// What was read back is not what was written.
    #[error("{0} was read back from the disk with other bytes than were written; remedy: replace the disk")]
    ReadBack(String),
    /// A file is not the one that was promised.
    #[error("{0} has other bytes than were signed; remedy: fetch the update again")]
    Digest(PathBuf),
    /// A hash tree does not fit.
    #[error("{path} does not fit: {problem}; remedy: name root, hash tree and UKI of one build")]
    Tree {
        /// The tree.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The boot entry's program cannot be one.
    #[error("{path} is no unified kernel image of ours: {problem}; remedy: ask the publisher")]
    Uki {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The kernel was not told which root it runs.
    #[error(
        "the running system names no root hash; remedy: only a box that was started from its image can be updated"
    )]
    NoRootHash,
}

pub(crate) fn failed(
    what: impl std::fmt::Display,
    operation: &'static str,
) -> impl FnOnce(io::Error) -> SlotError {
    let what = what.to_string();
    move |source| SlotError::Io { what, operation, source }
}

#[cfg(test)]
mod tests;
