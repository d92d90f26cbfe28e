//! A disk as the slot writer sees it: bytes at places, and the promise that they are kept.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

/// A disk, or something that stands for one.
pub trait Disk {
    /// Its size in bytes.
    fn size(&self) -> u64;
    /// Reads all of `bytes` from `at`.
    fn read(&self, bytes: &mut [u8], at: u64) -> io::Result<()>;
    /// Writes all of `bytes` at `at`. Kept for sure only after [`Disk::sync`].
    fn write(&mut self, bytes: &[u8], at: u64) -> io::Result<()>;
    /// Returns when everything written is on the disk. What is read later comes from the disk itself.
    fn sync(&mut self) -> io::Result<()>;
}

/// A disk of this machine, or a file that holds one.
#[derive(Debug)]
pub struct FileDisk {
    file: File,
    size: u64,
}

impl FileDisk {
    /// Opens it for reading and writing.
    pub fn open(path: &Path) -> io::Result<Self> {
        use std::io::{Seek, SeekFrom};
        let mut file = OpenOptions::new().read(true).write(true).open(path)?;
        // A block device says its size in no other way that needs no ioctl.
        let size = file.seek(SeekFrom::End(0))?;
        Ok(FileDisk { file, size })
    }
}

impl Disk for FileDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        self.file.read_exact_at(bytes, at)
    }

    fn write(&mut self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, at)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_all()?;
        // Else a comparison would be with the memory that we have just filled.
        posix_fadvise(&self.file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).map_err(io::Error::from)
    }
}
