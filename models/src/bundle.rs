//! Opening a bundle's folder: every byte that will be used is hashed, and nothing else is there.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::contents;
use crate::golden::Expected;
use crate::manifest::{
    File as Listed, Golden, Label, MANIFEST_BYTES_MAX, MANIFEST_NAME, Manifest, Precision, Role, is_inside,
};
use crate::network::{self, NetworkError};
use crate::pack::Progress;
use crate::plain;
use crate::problem::Problem;

/// Most entries that a bundle's folder may have, all levels together.
const ENTRIES_MAX: usize = 1024;

/// Why a bundle was refused.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The manifest is not one.
    #[error("{0}")]
    Manifest(Box<Problem>),
    /// The manifest is longer than any manifest.
    #[error("{}: above 1 MiB; remedy: give the folder of a bundle, whose manifest.toml is short", .0.display())]
    ManifestTooLong(PathBuf),
    /// A file or folder could not be read.
    #[error("{}: cannot be read; remedy: check that the file is there and that this user may read it", path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not a plain file (or, for a folder, not a plain folder).
    #[error("{}: a link or a special file; remedy: put the file itself into the bundle", .0.display())]
    NotPlain(PathBuf),
    /// In the folder, but not in the manifest.
    #[error("{}: not listed in manifest.toml; remedy: list it as a [[file]], or remove it", .0.display())]
    Unlisted(PathBuf),
    /// The bytes are not those that the manifest was written for.
    #[error(
        "{}: its SHA-256 is {found}, the manifest says {listed}; remedy: fetch the bundle again, \
         or, if the file was changed on purpose, write a new manifest and version", path.display()
    )]
    Digest {
        /// Which file.
        path: PathBuf,
        /// What the manifest says.
        listed: String,
        /// What the file has.
        found: String,
    },
    /// Another number of bytes than the manifest was written for.
    #[error(
        "{}: has {found} bytes, the manifest says {listed}; remedy: fetch the bundle again, or, if the \
         file was changed on purpose, write a new manifest and version", path.display()
    )]
    Size {
        /// Which file.
        path: PathBuf,
        /// What the manifest says.
        listed: u64,
        /// What the file has.
        found: u64,
    },
    /// The file is the listed one, but not what its role asks.
    #[error("{}: {problem}; remedy: {remedy}", path.display())]
    Contents {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// The network would have the runtime read other files, or is none.
    #[error("{}: {problem}", path.display())]
    Network {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        problem: NetworkError,
    },
    /// The manifest lists no such file.
    #[error("{}: the manifest lists no {role}; remedy: ask for what the manifest lists", folder.display())]
    Absent {
        /// The bundle.
        folder: PathBuf,
        /// What was asked for.
        role: &'static str,
    },
}

impl BundleError {
    /// A stable name of the broken clause, for audit records and tests.
    pub fn clause(&self) -> &'static str {
        match self {
            BundleError::Manifest(problem) if problem.problem.starts_with("no SBOM") => "sbom-missing",
            BundleError::Manifest(_) | BundleError::ManifestTooLong(_) => "bundle-manifest",
            BundleError::Read { .. } => "bundle-missing",
            BundleError::NotPlain(_) => "bundle-entry-kind",
            BundleError::Unlisted(_) => "bundle-unlisted",
            BundleError::Digest { .. } => "bundle-digest",
            BundleError::Size { .. } => "bundle-size",
            BundleError::Contents { .. } => "bundle-contents",
            BundleError::Network { problem, .. } => problem.clause(),
            BundleError::Absent { .. } => "bundle-absent",
        }
    }
}

/// A bundle whose every file was there and had the listed digest when it was opened.
#[derive(Clone, Debug)]
pub struct Bundle {
    folder: PathBuf,
    manifest: Manifest,
    digest: String,
}

impl Bundle {
    /// Opens a folder: reads and checks `manifest.toml`, hashes every listed file, refuses
    /// symbolic links and anything that is not listed. Files are hashed as a stream.
    pub fn open(folder: &Path) -> Result<Bundle, BundleError> {
        Bundle::open_shown(folder, &mut |_| {})
    }

    /// As [`Bundle::open`], telling how far the hashing is.
    pub fn open_shown(folder: &Path, shown: &mut dyn FnMut(Progress)) -> Result<Bundle, BundleError> {
        let path = folder.join(MANIFEST_NAME);
        let mut bytes = Vec::new();
        open_plain(&path)?
            .take(MANIFEST_BYTES_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(|source| BundleError::Read { path: path.clone(), source })?;
        if bytes.len() as u64 > MANIFEST_BYTES_MAX {
            return Err(BundleError::ManifestTooLong(path));
        }
        let manifest = read_manifest(&path, &bytes)?;
        if let Some(refused) = unlisted(folder, &manifest.file).into_iter().next() {
            return Err(refused);
        }

        let (mut done, total) = (0, manifest.bytes());
        for file in &manifest.file {
            check_file(folder, Some(&manifest), file, &mut |count| {
                done += count;
                shown(Progress { done, total });
            })?;
        }
        let digest = digest(&bytes, &manifest);
        Ok(Bundle { folder: folder.to_owned(), manifest, digest })
    }

    /// Everything that is wrong with a folder, for whoever makes it; none where [`Bundle::open`] takes it.
    pub fn problems(folder: &Path) -> Vec<BundleError> {
        Bundle::problems_shown(folder, &mut |_| {})
    }

    /// As [`Bundle::problems`], telling how far the hashing is.
    pub fn problems_shown(folder: &Path, shown: &mut dyn FnMut(Progress)) -> Vec<BundleError> {
        let first = match Bundle::open_shown(folder, shown) {
            Ok(_) => return Vec::new(),
            Err(first) => first,
        };
        let path = folder.join(MANIFEST_NAME);
        let text = match &first {
            BundleError::ManifestTooLong(_) => return vec![first],
            _ => open_plain(&path).and_then(|file| {
                let mut bytes = Vec::new();
                file.take(MANIFEST_BYTES_MAX)
                    .read_to_end(&mut bytes)
                    .map_err(|source| BundleError::Read { path: path.clone(), source })?;
                Ok(String::from_utf8(bytes).ok())
            }),
        };
        let Ok(Some(text)) = text else { return vec![first] };
        let (problems, mut files) = crate::check::problems(&path, &text);
        // A path that leads out of the folder is told, and not followed.
        files.retain(|file| is_inside(&file.path));
        let mut found: Vec<BundleError> =
            problems.into_iter().map(|problem| BundleError::Manifest(Box::new(problem))).collect();
        found.extend(unlisted(folder, &files));
        let manifest = toml::from_str::<Manifest>(&text).ok();
        found.extend(
            files.iter().filter_map(|file| check_file(folder, manifest.as_ref(), file, &mut |_| {}).err()),
        );
        if found.is_empty() {
            found.push(first);
        }
        found
    }

    /// The checked manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// SHA-256 over the manifest's bytes and the files' digests, 64 hex digits: what a result
    /// names as the model that made it.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The folder that was opened.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The label of an output index.
    pub fn label(&self, index: u32) -> Option<&Label> {
        self.manifest.label.iter().find(|label| label.index == index)
    }

    /// The 32-bit network's bytes: see [`Bundle::read`].
    pub fn read_network(&self) -> Result<Vec<u8>, BundleError> {
        self.read_precision(Precision::Fp32)
    }

    /// A network's bytes: see [`Bundle::read`].
    pub fn read_precision(&self, precision: Precision) -> Result<Vec<u8>, BundleError> {
        let file =
            self.manifest.network(precision).ok_or_else(|| self.absent("network of that precision"))?;
        self.read(file)
    }

    /// A listed file's bytes, checked against the manifest once more as they are read: the caller
    /// gets exactly the bytes that were hashed, whatever happens to the file afterwards.
    pub fn read(&self, file: &Listed) -> Result<Vec<u8>, BundleError> {
        read_whole(&self.folder.join(&file.path), file)
    }

    /// The DICOM file of a golden case and its expected raw outputs.
    pub fn read_golden(&self, case: &Golden) -> Result<(Vec<u8>, Expected), BundleError> {
        let of = |path| self.manifest.file_at(path).ok_or_else(|| self.absent("such golden case"));
        let (input, expected) = (of(&case.input)?, of(&case.expected)?);
        let expected_path = self.folder.join(&expected.path);
        let expected = Expected::read(&self.read(expected)?).map_err(|problem| BundleError::Contents {
            path: expected_path,
            problem,
            remedy: contents::EXPECTED_REMEDY,
        })?;
        Ok((self.read(input)?, expected))
    }

    fn absent(&self, role: &'static str) -> BundleError {
        BundleError::Absent { folder: self.folder.clone(), role }
    }
}

/// Checks a manifest's bytes; `path` is what a refusal names.
pub(crate) fn read_manifest(path: &Path, bytes: &[u8]) -> Result<Manifest, BundleError> {
    let text = str::from_utf8(bytes).map_err(|_| {
        BundleError::Manifest(Box::new(Problem {
            file: path.to_owned(),
            line: None,
            key: String::new(),
            problem: "not UTF-8 text".into(),
            remedy: "save the file as UTF-8".into(),
        }))
    })?;
    Manifest::read(path, text).map_err(|problem| BundleError::Manifest(Box::new(problem)))
}

/// The bundle's digest. The files' own digests were compared with the manifest's before. Lengths go
/// before what varies in length, so that no two bundles share a digest's input.
pub(crate) fn digest(manifest_bytes: &[u8], manifest: &Manifest) -> String {
    let mut whole = Sha256::new();
    whole.update(b"lightbox bundle 1\n");
    whole.update((manifest_bytes.len() as u64).to_be_bytes());
    whole.update(manifest_bytes);
    for file in &manifest.file {
        whole.update((file.path.len() as u64).to_be_bytes());
        whole.update(file.path.as_bytes());
        whole.update(file.sha256.as_bytes());
    }
    hex(&whole.finalize())
}

/// Compares a file with the manifest; what is parsed is parsed from the very bytes that were hashed.
/// `count` hears of the bytes that are read.
fn check_file(
    folder: &Path,
    manifest: Option<&Manifest>,
    file: &Listed,
    count: &mut dyn FnMut(u64),
) -> Result<(), BundleError> {
    let path =
        plain::below(folder, &file.path).map_err(|_| BundleError::NotPlain(folder.join(&file.path)))?;
    if let (true, Some(manifest)) = (contents::is_parsed(file.role), manifest) {
        let bytes = read_whole(&path, file)?;
        return contents::check(manifest, file, &bytes).map_err(|(problem, remedy)| BundleError::Contents {
            path,
            problem,
            remedy,
        });
    }
    let mut input = Hashed::new(open_plain(&path)?.take(file.size.saturating_add(1)), count);
    let walked = match file.role {
        Role::Network | Role::NetworkFp16 => network::examine(&mut input),
        _ => Ok(()),
    };
    let read = |source| BundleError::Read { path: path.clone(), source };
    io::copy(&mut input, &mut io::sink()).map_err(read)?;
    compare(path.clone(), file, input.length, &hex(&input.hasher.finalize()))?;
    walked.map_err(|problem| BundleError::Network { path, problem })
}

/// Hashes what is read through it.
struct Hashed<'a, R> {
    input: R,
    hasher: Sha256,
    length: u64,
    count: &'a mut dyn FnMut(u64),
}

impl<'a, R> Hashed<'a, R> {
    fn new(input: R, count: &'a mut dyn FnMut(u64)) -> Self {
        Hashed { input, hasher: Sha256::new(), length: 0, count }
    }
}

impl<R: Read> Read for Hashed<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(into)?;
        self.hasher.update(&into[..count]);
        self.length += count as u64;
        (self.count)(count as u64);
        Ok(count)
    }
}

fn read_whole(path: &Path, file: &Listed) -> Result<Vec<u8>, BundleError> {
    let mut bytes = Vec::new();
    open_plain(path)?
        .take(file.size.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|source| BundleError::Read { path: path.to_owned(), source })?;
    compare(path.to_owned(), file, bytes.len() as u64, &hex(&Sha256::digest(&bytes)))?;
    Ok(bytes)
}

fn compare(path: PathBuf, file: &Listed, size: u64, sha256: &str) -> Result<(), BundleError> {
    if size != file.size {
        return Err(BundleError::Size { path, listed: file.size, found: size });
    }
    if sha256 != file.sha256 {
        return Err(BundleError::Digest { path, listed: file.sha256.clone(), found: sha256.to_owned() });
    }
    Ok(())
}

fn open_plain(path: &Path) -> Result<File, BundleError> {
    plain::open(path).map_err(|source| match source.kind() {
        io::ErrorKind::InvalidInput => BundleError::NotPlain(path.to_owned()),
        _ => BundleError::Read { path: path.to_owned(), source },
    })
}

/// Walks the folder: every entry is a listed plain file, or a plain folder on the way to one.
fn unlisted(folder: &Path, files: &[Listed]) -> Vec<BundleError> {
    let mut allowed_files: BTreeSet<PathBuf> = files.iter().map(|file| folder.join(&file.path)).collect();
    allowed_files.insert(folder.join(MANIFEST_NAME));
    let allowed_folders: BTreeSet<PathBuf> =
        allowed_files.iter().flat_map(|path| path.ancestors().skip(1)).map(Path::to_owned).collect();

    let mut open = vec![folder.to_owned()];
    let (mut entries, mut found) = (0, Vec::new());
    while let Some(next) = open.pop() {
        let entries_of =
            |folder: &Path| fs::read_dir(folder)?.take(ENTRIES_MAX + 1).collect::<io::Result<Vec<_>>>();
        let listed = match entries_of(&next) {
            Ok(listed) => listed,
            Err(source) => {
                found.push(BundleError::Read { path: next, source });
                continue;
            }
        };
        for entry in listed {
            let path = entry.path();
            let kind = match entry.file_type() {
                Ok(kind) => kind,
                Err(source) => {
                    found.push(BundleError::Read { path, source });
                    continue;
                }
            };
            entries += 1;
            if entries > ENTRIES_MAX {
                found.push(BundleError::Unlisted(path));
                return found;
            }
            if kind.is_dir() && allowed_folders.contains(&path) {
                open.push(path);
            } else if kind.is_dir() || (kind.is_file() && !allowed_files.contains(&path)) {
                found.push(BundleError::Unlisted(path));
            } else if !kind.is_file() {
                found.push(BundleError::NotPlain(path));
            }
        }
    }
    found
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
