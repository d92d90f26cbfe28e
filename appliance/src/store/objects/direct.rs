//! Writes a file past the page cache: what is moved out of a segment is not read again soon, and the
//! cache's pages are worth more under the segments. Measured on a virtual machine, where each page that
//! the cache newly takes costs the host a fault: a quarter of the CPU time of writing through the cache.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// What address, offset and length of a direct write are multiples of: enough for every disk.
const BLOCK: usize = 4096;
/// Bytes in one write.
const BUFFER: usize = 1 << 20;

/// A new file that is written from the beginning to the end.
pub(super) struct DirectFile {
    file: File,
    buffer: Vec<u8>,
    /// Where in the buffer the aligned part begins, and how much of it is filled.
    begin: usize,
    filled: usize,
    direct: bool,
}

impl DirectFile {
    /// Makes the file, or empties it.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        // A file system that cannot write directly says so here, or at the first write.
        let direct = options.clone().custom_flags(OFlag::O_DIRECT.bits()).open(path);
        let (file, direct) = match direct {
            Ok(file) => (file, true),
            Err(error) if is_refusal(&error) => (options.open(path)?, false),
            Err(error) => return Err(error),
        };
        let buffer = vec![0; BUFFER + BLOCK];
        let begin = buffer.as_ptr().align_offset(BLOCK).min(BLOCK);
        Ok(DirectFile { file, buffer, begin, filled: 0, direct })
    }

    /// Appends everything that is left to read.
    pub(super) fn append(&mut self, from: &mut impl Read) -> io::Result<()> {
        loop {
            match from.read(&mut self.buffer[self.begin + self.filled..self.begin + BUFFER]) {
                Ok(0) => return Ok(()),
                Ok(count) => self.filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if self.filled == BUFFER {
                self.put(0, BUFFER)?;
                self.filled = 0;
            }
        }
    }

    /// Writes what is left and yields the file, which is not synced yet.
    pub(super) fn finish(mut self) -> io::Result<File> {
        let whole = self.filled - self.filled % BLOCK;
        self.put(0, whole)?;
        self.through_the_cache()?;
        self.put(whole, self.filled)?;
        Ok(self.file)
    }

    fn through_the_cache(&mut self) -> io::Result<()> {
        if self.direct {
            let flags = OFlag::from_bits_retain(fcntl(&self.file, FcntlArg::F_GETFL)?);
            fcntl(&self.file, FcntlArg::F_SETFL(flags - OFlag::O_DIRECT))?;
            self.direct = false;
        }
        Ok(())
    }

    fn put(&mut self, from: usize, to: usize) -> io::Result<()> {
        let mut at = from;
        while at < to {
            match self.file.write(&self.buffer[self.begin + at..self.begin + to]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => at += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Also after a write that ended between two blocks, as on a disk that is full.
                Err(error) if self.direct && is_refusal(&error) => self.through_the_cache()?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn is_refusal(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn files_of_every_length_come_out_whole() {
        let folder = tempfile::tempdir().unwrap();
        for length in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, BUFFER - 1, BUFFER, BUFFER + 1, 3 * BUFFER + 777] {
            let bytes: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            let path = folder.path().join("file");
            let mut file = DirectFile::create(&path).unwrap();
            for part in bytes.chunks(4097 * 3) {
                file.append(&mut &part[..]).unwrap();
            }
            file.finish().unwrap().sync_data().unwrap();
            assert!(fs::read(&path).unwrap() == bytes, "{length}");
        }
    }

    #[test]
    fn a_file_that_was_there_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, vec![1; 2 * BUFFER]).unwrap();
        let mut file = DirectFile::create(&path).unwrap();
        file.append(&mut &b"short"[..]).unwrap();
        file.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"short");
    }
}
