//! Where a repository's files come from, and the bounded, recorded way of reading its metadata.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt};
use tough::{Bytes, Transport, TransportError, TransportErrorKind, TransportStream};
use url::Url;

use super::refusal::Clause;
use crate::bundle::hex;

/// Longest metadata file that is read.
pub(crate) const METADATA_BYTES_MAX: u64 = 4 << 20;
/// Most bytes of metadata that one check reads, all files together.
const METADATA_BYTES_TOTAL_MAX: u64 = 64 << 20;

/// A file under way.
pub type Reading = Box<dyn AsyncRead + Send + Unpin>;

/// Where a repository's files come from: a folder, a stick, an HTTPS mirror. Nothing that a source
/// gives is believed; it must only give up in time, and say `NotFound` for what is not there.
#[async_trait]
pub trait Source: std::fmt::Debug + Send + Sync {
    /// Opens a file by its path in the repository, e.g. `metadata/timestamp.json`. The path's parts
    /// are letters, digits, dots, hyphens and underscores.
    async fn open(&self, path: &str) -> io::Result<Reading>;
}

/// A repository in a folder: a directory, or a mounted stick.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// The folder that holds `metadata/` and `targets/`.
    pub fn new(folder: impl Into<PathBuf>) -> Folder {
        Folder(folder.into())
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

#[async_trait]
impl Source for Folder {
    async fn open(&self, path: &str) -> io::Result<Reading> {
        let path = self.0.join(path);
        // A named pipe would let us wait for ever, a device give bytes for ever. What was opened is judged, not
        // what lay there before: it may be exchanged meanwhile.
        let special = || io::Error::new(io::ErrorKind::InvalidInput, "a link or a special file");
        let opened = tokio::fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(path)
            .await;
        let file = opened.map_err(|error| match error.raw_os_error() {
            // A link; a socket, or a device that nobody serves.
            Some(libc::ELOOP | libc::ENXIO) => special(),
            _ => error,
        })?;
        if !file.metadata().await?.is_file() {
            return Err(special());
        }
        Ok(Box::new(file))
    }
}

/// A metadata file as it was read.
#[derive(Clone, Debug)]
pub(super) struct Fetched {
    pub(super) bytes: Vec<u8>,
    pub(super) sha256: String,
}

#[derive(Debug, Default)]
struct Record {
    fetched: BTreeMap<String, Fetched>,
    last: String,
    total: u64,
    failure: Option<(Clause, String, String)>,
}

/// tough's transport over a [`Source`]: each file is read whole, within limits, and remembered, so
/// that what is recorded as seen is exactly what was verified. Only metadata goes this way.
#[derive(Clone, Debug)]
pub(super) struct Recorder {
    source: Arc<dyn Source>,
    record: Arc<Mutex<Record>>,
}

impl Recorder {
    /// Records the files of a source; `root` is the one to begin with, which is not fetched.
    pub(super) fn new(source: Arc<dyn Source>, root: &[u8]) -> Recorder {
        let recorder = Recorder { source, record: Arc::default() };
        let fetched = Fetched { bytes: root.to_owned(), sha256: hex(&Sha256::digest(root)) };
        recorder.lock().fetched.insert("0.root.json".to_owned(), fetched);
        recorder
    }

    /// What tough believes to be the repository's address; the recorder knows better.
    pub(super) const BASE: &'static str = "https://repository.invalid/";

    /// A metadata file by its name, e.g. `3.targets.json`.
    pub(super) fn fetched(&self, name: &str) -> Option<Fetched> {
        self.lock().fetched.get(name).cloned()
    }

    /// The file of a role that was read last: `7.targets.json` of `targets`, `timestamp.json` as is.
    pub(super) fn newest_of(&self, role: &str) -> Option<Fetched> {
        let record = self.lock();
        let name = format!("{role}.json");
        let version = |file: &str| -> Option<u64> {
            if file == name {
                return Some(0);
            }
            file.strip_suffix(&name)?.strip_suffix('.')?.parse().ok()
        };
        let files = record.fetched.iter().filter_map(|(file, fetched)| Some((version(file)?, fetched)));
        files.max_by_key(|(version, _)| *version).map(|(_, fetched)| fetched.clone())
    }

    /// The role of the file that was read last: tough judges each file before it reads the next one.
    pub(super) fn last_role(&self) -> String {
        let record = self.lock();
        let name = record.last.strip_suffix(".json").unwrap_or(&record.last);
        match name.split_once('.') {
            Some((version, role)) if version.parse::<u64>().is_ok() => role.to_owned(),
            _ => name.to_owned(),
        }
    }

    /// The first file that could not be read, other than for not being there: clause, name, why.
    pub(super) fn failure(&self) -> Option<(Clause, String, String)> {
        self.lock().failure.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read(&self, path: &str) -> Result<Vec<u8>, (Clause, io::Error)> {
        let unreadable = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => (Clause::Missing, error),
            _ => (Clause::Unreadable, error),
        };
        let mut bytes = Vec::new();
        let reading = self.source.open(path).await.map_err(unreadable)?;
        reading
            .take(METADATA_BYTES_MAX + 1)
            .read_to_end(&mut bytes)
            .await
            .map_err(|error| (Clause::Unreadable, error))?;
        let mut record = self.lock();
        record.total += bytes.len() as u64;
        if bytes.len() as u64 > METADATA_BYTES_MAX || record.total > METADATA_BYTES_TOTAL_MAX {
            let error = io::Error::new(io::ErrorKind::FileTooLarge, "above 4 MiB, or 64 MiB together");
            return Err((Clause::TooLong, error));
        }
        Ok(bytes)
    }
}

#[async_trait]
impl Transport for Recorder {
    async fn fetch(&self, url: Url) -> Result<TransportStream, TransportError> {
        let path = url.path().trim_start_matches('/').to_owned();
        let name = path.rsplit('/').next().unwrap_or_default().to_owned();
        match self.read(&path).await {
            Ok(bytes) => {
                let sha256 = hex(&Sha256::digest(&bytes));
                let mut record = self.lock();
                record.last.clone_from(&name);
                record.fetched.insert(name, Fetched { bytes: bytes.clone(), sha256 });
                drop(record);
                let item: Result<Bytes, TransportError> = Ok(Bytes::from(bytes));
                Ok(Box::pin(futures_util::stream::once(std::future::ready(item))))
            }
            Err((Clause::Missing, error)) => {
                Err(TransportError::new_with_cause(TransportErrorKind::FileNotFound, url, error))
            }
            Err((clause, error)) => {
                // tough takes any failure to open a next root for its absence: kept here, so that a
                // new root cannot be hidden by a fault.
                self.lock().failure.get_or_insert((clause, name, error.to_string()));
                Err(TransportError::new_with_cause(TransportErrorKind::Other, url, error))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn links_and_special_files_are_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("plain"), "text").unwrap();
        std::os::unix::fs::symlink(path("plain"), path("link")).unwrap();
        let made = std::process::Command::new("mkfifo").arg(path("pipe")).status().unwrap();
        assert!(made.success());
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        std::fs::create_dir(path("folder")).unwrap();
        let source = Folder::new(folder.path());
        let mut text = String::new();
        source.open("plain").await.unwrap().read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "text");
        for special in ["link", "pipe", "socket", "folder"] {
            let error = source.open(special).await.err().unwrap();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{special}: {error}");
        }
        assert_eq!(source.open("none").await.err().unwrap().kind(), io::ErrorKind::NotFound);
    }
}
