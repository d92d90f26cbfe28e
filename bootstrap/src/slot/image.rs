//! A new system as files, each with the digest that was signed for it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use sha2::{Digest, Sha256};

use super::{SlotError, failed};

/// Bytes that are handled at once.
pub(super) const CHUNK: usize = 1 << 20;

/// Takes a file's bytes piece by piece, with the place where each begins.
pub(super) type Piece<'a> = &'a mut dyn FnMut(&[u8], u64) -> Result<(), SlotError>;

/// A file and what it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digested {
    /// Where it lies.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256, in hex.
    pub sha256: String,
}

impl Digested {
    /// Hands over the file's bytes piece by piece; an error if they are not those that were signed. What was handed
    /// over before that must not be believed.
    pub(super) fn each(&self, piece: Piece<'_>) -> Result<(), SlotError> {
        let mut file = open(&self.path)?;
        let (mut hasher, mut at, mut chunk) = (Sha256::new(), 0, vec![0; CHUNK]);
        loop {
            let mut filled = 0;
            while filled < CHUNK {
                match file.read(&mut chunk[filled..]).map_err(failed(self.path.display(), "reading"))? {
                    0 => break,
                    count => filled += count,
                }
            }
            if filled == 0 {
                break;
            }
            if at + filled as u64 > self.bytes {
                return Err(SlotError::Digest(self.path.clone()));
            }
            hasher.update(&chunk[..filled]);
            piece(&chunk[..filled], at)?;
            at += filled as u64;
        }
        match at == self.bytes && hex(&hasher.finalize()) == self.sha256 {
            true => Ok(()),
            false => Err(SlotError::Digest(self.path.clone())),
        }
    }
}

/// Opens a file that somebody else may have exchanged: no link is followed, and nothing is waited for.
pub(super) fn open(path: &Path) -> Result<File, SlotError> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits())
        .open(path)
        .map_err(failed(path.display(), "opening"))?;
    let is_file = file.metadata().map_err(failed(path.display(), "opening"))?.is_file();
    let none = || io::Error::new(io::ErrorKind::InvalidInput, "a link, a folder or a special file");
    if is_file { Ok(file) } else { Err(failed(path.display(), "opening")(none())) }
}

/// A new system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its version.
    pub version: String,
    /// The root hash of its signed command line.
    pub root_hash: String,
    /// The root's file system.
    pub root: Digested,
    /// Its hash tree.
    pub verity: Digested,
    /// Kernel, initrd and command line, signed.
    pub uki: Digested,
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
