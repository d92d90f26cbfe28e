//! Reading a packed bundle: pure over [`Read`], so that a fuzzer can drive it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::error::PackError;
use super::tar::{BLOCK, Entry, compression};
use super::{CHUNK, Packed, Progress};
use crate::bundle::{digest, hex, read_manifest};
use crate::contents;
use crate::manifest::{File as Listed, MANIFEST_BYTES_MAX, MANIFEST_NAME, Manifest};

/// Where the files go while they are read. Bytes that were handed out are verified only when
/// [`Contents::end`] was called for their file, and the whole only when [`read`] returns.
pub trait Contents {
    /// A file begins, with a path that is plain and below the folder.
    fn begin(&mut self, path: &str) -> Result<(), PackError>;
    /// More of its bytes.
    fn write(&mut self, bytes: &[u8]) -> Result<(), PackError>;
    /// Its bytes were those that the manifest lists.
    fn end(&mut self) -> Result<(), PackError>;
}

/// Only checks.
struct Nowhere;

impl Contents for Nowhere {
    fn begin(&mut self, _: &str) -> Result<(), PackError> {
        Ok(())
    }

    fn write(&mut self, _: &[u8]) -> Result<(), PackError> {
        Ok(())
    }

    fn end(&mut self) -> Result<(), PackError> {
        Ok(())
    }
}

/// Checks a packed bundle whole.
pub fn check(path: &Path, progress: &mut dyn FnMut(Progress)) -> Result<Packed, PackError> {
    read(open(path)?, &mut Nowhere, progress)
}

pub(super) fn open(path: &Path) -> Result<File, PackError> {
    let failed = |source| PackError::Io { path: path.to_owned(), what: "read", source };
    crate::plain::open(path).map_err(failed)
}

/// Reads a packed bundle from its first byte to its last and hands its files out.
pub fn read(
    mut input: impl Read,
    contents: &mut dyn Contents,
    progress: &mut dyn FnMut(Progress),
) -> Result<Packed, PackError> {
    let mut header = [0; BLOCK];
    let filled = fill(&mut input, &mut header)?;
    if let Some(name) = compression(&header[..filled]) {
        return Err(PackError::Compressed(name));
    }
    if filled < BLOCK {
        return Err(PackError::NotPacked);
    }
    let entry = Entry::read(&header, 0)?;
    if entry.name != MANIFEST_NAME {
        return Err(PackError::Missing { path: MANIFEST_NAME.to_owned() });
    }
    if entry.size > MANIFEST_BYTES_MAX {
        return Err(crate::BundleError::ManifestTooLong(MANIFEST_NAME.into()).into());
    }
    let mut bytes = Vec::new();
    take(&mut input, &entry, 0, &mut |chunk| {
        bytes.extend_from_slice(chunk);
        Ok(())
    })?;
    let manifest = read_manifest(Path::new(MANIFEST_NAME), &bytes)?;
    contents.begin(MANIFEST_NAME)?;
    contents.write(&bytes)?;
    contents.end()?;

    let total = manifest.bytes();
    let mut done = 0;
    for (at, listed) in manifest.file.iter().enumerate() {
        exactly(&mut input, &mut header)?;
        expect(&header, at, &manifest)?;
        contents.begin(&listed.path)?;
        file(&mut input, &manifest, at, contents, &mut |count| {
            done += count;
            progress(Progress { done, total });
        })?;
        contents.end()?;
    }
    end(&mut input, &manifest)?;
    Ok(Packed { digest: digest(&bytes, &manifest), manifest })
}

/// The next header must be the next listed file's; else the refusal says what it is instead.
fn expect(header: &[u8; BLOCK], at: usize, manifest: &Manifest) -> Result<(), PackError> {
    let listed = &manifest.file[at];
    if header.iter().all(|byte| *byte == 0) {
        return Err(PackError::Missing { path: listed.path.clone() });
    }
    let entry = Entry::read(header, at + 1)?;
    if entry.name != listed.path {
        return Err(stranger(entry, at, manifest));
    }
    if entry.size != listed.size {
        return Err(PackError::Size { path: entry.name, listed: listed.size, found: entry.size });
    }
    Ok(())
}

fn stranger(entry: Entry, at: usize, manifest: &Manifest) -> PackError {
    let before = manifest.file[..at].iter().any(|file| file.path == entry.name);
    if before || entry.name == MANIFEST_NAME {
        return PackError::Duplicate { path: entry.name };
    }
    match manifest.file.get(at) {
        Some(listed) if manifest.file_at(&entry.name).is_some() => {
            PackError::Missing { path: listed.path.clone() }
        }
        _ => PackError::Unlisted { index: at + 1 },
    }
}

/// One file's bytes, hashed on their way; those that are parsed are also kept.
fn file(
    input: &mut impl Read,
    manifest: &Manifest,
    at: usize,
    contents: &mut dyn Contents,
    progress: &mut dyn FnMut(u64),
) -> Result<(), PackError> {
    let listed: &Listed = &manifest.file[at];
    let entry = Entry { name: listed.path.clone(), size: listed.size };
    let mut hasher = Sha256::new();
    let mut parsed = contents::is_parsed(listed.role).then(Vec::new);
    take(input, &entry, at + 1, &mut |chunk| {
        hasher.update(chunk);
        if let Some(parsed) = &mut parsed {
            parsed.extend_from_slice(chunk);
        }
        progress(chunk.len() as u64);
        contents.write(chunk)
    })?;
    let found = hex(&hasher.finalize());
    if found != listed.sha256 {
        return Err(PackError::Digest { path: listed.path.clone(), listed: listed.sha256.clone(), found });
    }
    if let Some(parsed) = parsed {
        contents::check(manifest, listed, &parsed).map_err(|(problem, remedy)| PackError::Contents {
            path: listed.path.clone(),
            problem,
            remedy,
        })?;
    }
    Ok(())
}

/// After the last file: two blocks of zeros and the end.
fn end(input: &mut impl Read, manifest: &Manifest) -> Result<(), PackError> {
    let mut header = [0; BLOCK];
    for _ in 0..2 {
        exactly(input, &mut header)?;
        if header.iter().any(|byte| *byte != 0) {
            let files = manifest.file.len();
            let stranger = |entry| stranger(entry, files, manifest);
            return Err(Entry::read(&header, files + 1).map_or_else(|error| error, stranger));
        }
    }
    if fill(input, &mut [0])? != 0 {
        return Err(PackError::Trailing);
    }
    Ok(())
}

/// An entry's bytes in chunks, then its padding.
fn take(
    input: &mut impl Read,
    entry: &Entry,
    index: usize,
    each: &mut dyn FnMut(&[u8]) -> Result<(), PackError>,
) -> Result<(), PackError> {
    let mut chunk = vec![0; CHUNK.min(usize::try_from(entry.size).unwrap_or(CHUNK))];
    let mut left = entry.size;
    while left > 0 {
        let count = chunk.len().min(usize::try_from(left).unwrap_or(CHUNK));
        exactly(input, &mut chunk[..count])?;
        each(&chunk[..count])?;
        left -= count as u64;
    }
    let mut padding = [0; BLOCK];
    let padding = &mut padding[..entry.padding()];
    exactly(input, padding)?;
    if padding.iter().any(|byte| *byte != 0) {
        return Err(PackError::Header { index, field: "the filling after the file" });
    }
    Ok(())
}

fn exactly(input: &mut impl Read, buffer: &mut [u8]) -> Result<(), PackError> {
    if fill(input, buffer)? < buffer.len() { Err(PackError::Truncated) } else { Ok(()) }
}

/// Fills a buffer as far as there are bytes.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> Result<usize, PackError> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(PackError::Read(error)),
        }
    }
    Ok(filled)
}

/// Into a writer, for a single file under way.
pub(super) fn write_all(file: &mut File, path: &Path, bytes: &[u8]) -> Result<(), PackError> {
    file.write_all(bytes).map_err(|source| PackError::Io { path: path.to_owned(), what: "written", source })
}
