//! Packing a folder.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::error::PackError;
use super::read::{open, write_all};
use super::tar::{BLOCK, Entry};
use super::unpack::sync_folder;
use super::{CHUNK, Packed, Progress};
use crate::bundle::hex;
use crate::manifest::{File as Listed, MANIFEST_NAME};
use crate::{Bundle, BundleError};

/// Packs a bundle's folder into one file. The folder is checked whole before, and every byte once
/// more as it is written; the file has its name only when it is whole and on disk.
pub fn pack(folder: &Path, into: &Path, progress: &mut dyn FnMut(Progress)) -> Result<Packed, PackError> {
    let bundle = Bundle::open(folder)?;
    let mut part = into.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let packed = write(&bundle, &part, progress).and_then(|packed| {
        let failed = |source| PackError::Io { path: into.to_owned(), what: "written", source };
        fs::rename(&part, into).map_err(failed)?;
        sync_folder(into.parent().unwrap_or(Path::new("")))?;
        Ok(packed)
    });
    if packed.is_err() {
        // The first error is what matters; a leftover `.part` is overwritten by the next try.
        let _ = fs::remove_file(&part);
    }
    packed
}

fn write(bundle: &Bundle, part: &Path, progress: &mut dyn FnMut(Progress)) -> Result<Packed, PackError> {
    let failed = |source| PackError::Io { path: part.to_owned(), what: "written", source };
    let mut output = File::create(part).map_err(failed)?;
    let manifest = bundle.manifest();
    let path = bundle.folder().join(MANIFEST_NAME);
    let bytes = fs::read(&path).map_err(|source| BundleError::Read { path, source })?;
    let digest = crate::bundle::digest(&bytes, manifest);
    if digest != bundle.digest() {
        // Changed since it was opened a moment ago.
        return Err(PackError::Digest {
            path: MANIFEST_NAME.to_owned(),
            listed: bundle.digest().to_owned(),
            found: digest,
        });
    }
    let entry = Entry { name: MANIFEST_NAME.to_owned(), size: bytes.len() as u64 };
    write_all(&mut output, part, &entry.header())?;
    write_all(&mut output, part, &bytes)?;
    write_all(&mut output, part, &[0; BLOCK][..entry.padding()])?;

    let total = manifest.bytes();
    let mut done = 0;
    for listed in &manifest.file {
        copy(bundle, listed, &mut output, part, &mut |count| {
            done += count;
            progress(Progress { done, total });
        })?;
    }
    write_all(&mut output, part, &[0; 2 * BLOCK])?;
    output.sync_all().map_err(failed)?;
    Ok(Packed { manifest: manifest.clone(), digest })
}

fn copy(
    bundle: &Bundle,
    listed: &Listed,
    output: &mut File,
    part: &Path,
    progress: &mut dyn FnMut(u64),
) -> Result<(), PackError> {
    let entry = Entry { name: listed.path.clone(), size: listed.size };
    write_all(output, part, &entry.header())?;
    let path = bundle.folder().join(&listed.path);
    let mut input = open(&path)?.take(listed.size + 1);
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    let mut found = 0;
    loop {
        let count = input.read(&mut chunk);
        let count = count.map_err(|source| PackError::Io { path: path.clone(), what: "read", source })?;
        if count == 0 {
            break;
        }
        found += count as u64;
        hasher.update(&chunk[..count]);
        write_all(output, part, &chunk[..count])?;
        progress(count as u64);
    }
    if found != listed.size {
        return Err(PackError::Size { path: listed.path.clone(), listed: listed.size, found });
    }
    let found = hex(&hasher.finalize());
    if found != listed.sha256 {
        return Err(PackError::Digest { path: listed.path.clone(), listed: listed.sha256.clone(), found });
    }
    write_all(output, part, &[0; BLOCK][..entry.padding()])
}
