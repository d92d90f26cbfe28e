//! The packed bundle: one file, `NAME.lightbox`, a plain tar that has exactly one form.
//!
//! First `manifest.toml`, then the manifest's files in its order, each with the one header that
//! name and size allow (ustar, mode 0644, owner 0, time 0), then two blocks of zeros, then nothing.
//! So the same bundle always packs to the same bytes, and the reader (`tar.rs`) need not
//! understand tar: it compares. No compression: weights do not shrink, and what cannot expand
//! cannot be a bomb.
//!
//! Everything streams; at most one small parsed file (8 MiB) is in memory at a time.

mod error;
mod read;
mod tar;
mod unpack;
mod write;

pub use error::PackError;
pub use read::{Contents, check, read};
pub use unpack::{remove_leftovers, unpack};
pub use write::pack;

/// The extension of a packed bundle.
pub const EXTENSION: &str = "lightbox";

/// How far packing, checking or unpacking has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of files done.
    pub done: u64,
    /// Bytes of files in all.
    pub total: u64,
}

/// A packed bundle that was made, checked or unpacked.
#[derive(Clone, Debug, PartialEq)]
pub struct Packed {
    /// Its manifest.
    pub manifest: crate::Manifest,
    /// Its digest: [`crate::Bundle::digest`] of the same bundle in a folder.
    pub digest: String,
}

/// Bytes read or written at a time.
const CHUNK: usize = 1 << 18;
