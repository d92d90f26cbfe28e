//! Instances as received: one Part 10 file each, durable before anybody is told so.
//!
//! A file is written under `incoming/`, synced, renamed to `objects/<2 digits>/<name>.dcm`, and
//! the folder is synced. The rename is the commit record: what has a final name is whole. The
//! name is the SHA-256 of transfer syntax and data set, so it says nothing of the patient, and a
//! second copy of the same instance falls on the first. Who sent it, and when, stands in the file
//! meta information (0002,0016) and (0002,0102), so the ledger's index can be rebuilt from the
//! files alone.
//!
//! Callers see [`Objects`], [`Incoming`] and [`ObjectId`] only; how the bytes lie on the disk is
//! this module's own business.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dicom_object::meta::FileMetaTableBuilder;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::dicom::part_ten::{self, PartTenError};
use crate::dicom::{IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME};
use crate::phi::Phi;

/// Creator of our private information in the file meta information (0002,0100).
const PRIVATE_CREATOR_UID: &str = "2.25.104230271648251329118366230197530212774";

/// The object store could not do what was asked. No variant names a patient's data.
#[derive(Debug, Error)]
pub enum ObjectError {
    /// The disk is full, or so full that only the reserve is left.
    #[error("object store: out of space")]
    Full,
    /// A file operation failed.
    #[error("object store: {operation} failed")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The file meta information cannot be written (an identifier that DICOM does not allow).
    #[error("object store: the file meta information cannot be written")]
    Meta,
    /// The file is not one of ours, or damaged.
    #[error("object store: the object cannot be read back")]
    Damaged,
}

fn io_error(operation: &'static str) -> impl FnOnce(io::Error) -> ObjectError {
    move |source| {
        if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            ObjectError::Full
        } else {
            ObjectError::Io { operation, source }
        }
    }
}

/// Name of an object: SHA-256 over transfer syntax and data set, hex.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ObjectId(String);

impl ObjectId {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// An object's name from text; `None` unless it is 64 hex digits (it becomes a file name).
    pub fn parse(text: &str) -> Option<Self> {
        let valid = text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        valid.then(|| ObjectId(text.to_owned()))
    }
}

/// How an instance came in. Kept in the object itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// SOP class.
    pub sop_class_uid: String,
    /// SOP instance, as the C-STORE request named it.
    pub sop_instance_uid: Phi<String>,
    /// Transfer syntax of the data set.
    pub transfer_syntax: String,
    /// Calling AE title.
    pub calling_ae: String,
    /// Our AE title.
    pub called_ae: String,
    /// Name of the peer in the site file.
    pub peer: String,
    /// Milliseconds since the epoch.
    pub received_ms: i64,
}

/// The part of [`Receipt`] for which the file meta information has no element of its own.
#[derive(Serialize, Deserialize)]
struct PrivateInformation {
    peer: String,
    received_ms: i64,
}

/// The object store of one data folder; clones share it.
#[derive(Clone, Debug)]
pub struct Objects {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    objects: PathBuf,
    incoming: PathBuf,
    reserve_bytes: u64,
    next: AtomicU64,
}

impl Objects {
    /// Opens or makes the store, and clears what a crash left half-received: it was never
    /// acknowledged.
    pub fn open(data_dir: &Path, reserve_bytes: u64) -> Result<Self, ObjectError> {
        let (objects, incoming) = (data_dir.join("objects"), data_dir.join("incoming"));
        if incoming.exists() {
            fs::remove_dir_all(&incoming).map_err(io_error("clearing half-received files"))?;
        }
        fs::create_dir_all(&incoming).map_err(io_error("making the folder for incoming files"))?;
        for index in 0..=0xff {
            fs::create_dir_all(objects.join(format!("{index:02x}"))).map_err(io_error("making a folder"))?;
        }
        sync_folder(&objects)?;
        sync_folder(data_dir)?;
        Ok(Objects { inner: Arc::new(Inner { objects, incoming, reserve_bytes, next: AtomicU64::new(0) }) })
    }

    /// Whether there is room for an instance beyond the reserve.
    pub fn check_room(&self) -> Result<(), ObjectError> {
        let free = self.free_bytes()?;
        if free < self.inner.reserve_bytes { Err(ObjectError::Full) } else { Ok(()) }
    }

    /// Free space on the store's disk, in bytes.
    pub fn free_bytes(&self) -> Result<u64, ObjectError> {
        let stat = nix::sys::statvfs::statvfs(&self.inner.incoming)
            .map_err(|errno| io_error("asking for free space")(errno.into()))?;
        Ok(stat.blocks_available() as u64 * stat.fragment_size() as u64)
    }

    /// Starts to receive an instance.
    pub fn begin(&self, receipt: Receipt) -> Result<Incoming, ObjectError> {
        self.check_room()?;
        let path =
            self.inner.incoming.join(format!("{}.part", self.inner.next.fetch_add(1, Ordering::Relaxed)));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(io_error("creating an incoming file"))?;
        // From here on, dropping `incoming` removes the file.
        let mut incoming = Incoming {
            objects: self.clone(),
            path,
            file: BufWriter::with_capacity(256 * 1024, file),
            digest: Sha256::new(),
            data_set_at: 0,
            length: 0,
            receipt,
        };
        incoming.write_meta()?;
        Ok(incoming)
    }

    /// Path of an object's Part 10 file.
    pub fn path(&self, id: &ObjectId) -> PathBuf {
        self.inner.objects.join(&id.0[..2]).join(format!("{}.dcm", id.0))
    }

    /// The names of all objects, with the lengths of their files in bytes.
    pub fn list(&self) -> Result<Vec<(ObjectId, u64)>, ObjectError> {
        let mut found = Vec::new();
        for index in 0..=0xff {
            let folder = self.inner.objects.join(format!("{index:02x}"));
            for entry in fs::read_dir(&folder).map_err(io_error("listing objects"))? {
                let entry = entry.map_err(io_error("listing objects"))?;
                let name = entry.file_name();
                let id = name.to_str().and_then(|name| name.strip_suffix(".dcm")).and_then(ObjectId::parse);
                if let Some(id) = id {
                    let length = entry.metadata().map_err(io_error("listing objects"))?.len();
                    found.push((id, length));
                }
            }
        }
        Ok(found)
    }

    /// Opens an object: how it came in, a reader that stands at its data set, and the data set's
    /// length.
    pub fn read(&self, id: &ObjectId) -> Result<(Receipt, File, u64), ObjectError> {
        let part_ten = part_ten::open(&self.path(id)).map_err(|error| match error {
            PartTenError::Read(source) => io_error("opening an object")(source),
            PartTenError::NotPartTen => ObjectError::Damaged,
        })?;
        let meta = &part_ten.meta;
        let private: PrivateInformation = meta
            .private_information
            .as_deref()
            .and_then(|bytes| serde_json::from_slice(trim_padding(bytes)).ok())
            .ok_or(ObjectError::Damaged)?;
        let text = |value: Option<&str>| value.unwrap_or_default().trim().to_owned();
        let receipt = Receipt {
            sop_class_uid: meta.media_storage_sop_class_uid().to_owned(),
            sop_instance_uid: Phi::new(meta.media_storage_sop_instance_uid().to_owned()),
            transfer_syntax: meta.transfer_syntax().to_owned(),
            calling_ae: text(meta.source_application_entity_title()),
            called_ae: text(meta.receiving_application_entity_title()),
            peer: private.peer,
            received_ms: private.received_ms,
        };
        Ok((receipt, part_ten.file, part_ten.length))
    }
}

fn trim_padding(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    &bytes[..end]
}

/// Syncs a folder, so that names made or renamed in it survive a power cut.
pub fn sync_folder(folder: &Path) -> Result<(), ObjectError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io_error("syncing a folder"))
}

/// An instance that is being received. Dropping it forgets it.
#[derive(Debug)]
pub struct Incoming {
    objects: Objects,
    path: PathBuf,
    file: BufWriter<File>,
    digest: Sha256,
    data_set_at: u64,
    length: u64,
    receipt: Receipt,
}

impl Incoming {
    fn write_meta(&mut self) -> Result<(), ObjectError> {
        let receipt = &self.receipt;
        let private = PrivateInformation { peer: receipt.peer.clone(), received_ms: receipt.received_ms };
        let mut private = serde_json::to_vec(&private).map_err(|_| ObjectError::Meta)?;
        if !private.len().is_multiple_of(2) {
            private.push(0);
        }
        let meta = FileMetaTableBuilder::new()
            .media_storage_sop_class_uid(receipt.sop_class_uid.as_str())
            .media_storage_sop_instance_uid(receipt.sop_instance_uid.expose().as_str())
            .transfer_syntax(receipt.transfer_syntax.as_str())
            .implementation_class_uid(IMPLEMENTATION_CLASS_UID)
            .implementation_version_name(IMPLEMENTATION_VERSION_NAME)
            .source_application_entity_title(receipt.calling_ae.as_str())
            .receiving_application_entity_title(receipt.called_ae.as_str())
            .private_information_creator_uid(PRIVATE_CREATOR_UID)
            .private_information(private)
            .build()
            .map_err(|_| ObjectError::Meta)?;
        let mut bytes = vec![0; 128];
        bytes.extend(b"DICM");
        meta.write(&mut bytes).map_err(|_| ObjectError::Meta)?;
        self.digest.update(receipt.transfer_syntax.as_bytes());
        self.digest.update([0]);
        self.data_set_at = bytes.len() as u64;
        self.file.write_all(&bytes).map_err(io_error("writing an incoming file"))
    }

    /// Takes the next bytes of the data set.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), ObjectError> {
        self.digest.update(bytes);
        self.length += bytes.len() as u64;
        self.file.write_all(bytes).map_err(io_error("writing an incoming file"))
    }

    /// Ends the writing: flushes, and syncs the bytes to the disk. What comes out can be looked at
    /// and then committed.
    pub fn finish(mut self) -> Result<Finished, ObjectError> {
        self.file.flush().map_err(io_error("writing an incoming file"))?;
        self.file.get_ref().sync_data().map_err(io_error("syncing an incoming file"))?;
        let id = ObjectId(self.digest.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect());
        Ok(Finished { incoming: self, id })
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // Gone already after a commit; otherwise the peer gave up, or we refused. What stays
        // behind is cleared at the next start.
        drop(fs::remove_file(&self.path));
    }
}

/// An instance whose bytes are on disk, but which has no final name yet.
#[derive(Debug)]
pub struct Finished {
    incoming: Incoming,
    id: ObjectId,
}

impl Finished {
    /// Its name.
    pub fn id(&self) -> &ObjectId {
        &self.id
    }

    /// Length of the data set in bytes.
    pub fn length(&self) -> u64 {
        self.incoming.length
    }

    /// How it came in.
    pub fn receipt(&self) -> &Receipt {
        &self.incoming.receipt
    }

    /// A reader at the data set's first byte.
    pub fn data_set(&self) -> Result<File, ObjectError> {
        let mut file = File::open(&self.incoming.path).map_err(io_error("opening an incoming file"))?;
        file.seek(SeekFrom::Start(self.incoming.data_set_at))
            .map_err(io_error("reading an incoming file"))?;
        Ok(file)
    }

    /// Gives it its final name and syncs that. After this it survives a power cut. Where the same
    /// bytes are already there, the first copy stays, with how *it* came in.
    pub fn commit(self) -> Result<ObjectId, ObjectError> {
        let target = self.incoming.objects.path(&self.id);
        // The first copy may have its name for an instant only, from another association: its
        // bytes are synced, its name is synced below, before anybody is told.
        if !target.exists() {
            fs::rename(&self.incoming.path, &target).map_err(io_error("naming an object"))?;
        }
        if let Some(folder) = target.parent() {
            sync_folder(folder)?;
        }
        Ok(self.id.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn receipt() -> Receipt {
        Receipt {
            sop_class_uid: "1.2.840.10008.5.1.4.1.1.2".into(),
            sop_instance_uid: Phi::from("1.2.3.4"),
            transfer_syntax: "1.2.840.10008.1.2.1".into(),
            calling_ae: "CT1".into(),
            called_ae: "LIGHTBOX".into(),
            peer: "ct-1".into(),
            received_ms: 1_790_000_000_123,
        }
    }

    fn store(objects: &Objects, bytes: &[u8]) -> ObjectId {
        let mut incoming = objects.begin(receipt()).expect("begun");
        for chunk in bytes.chunks(7) {
            incoming.write(chunk).expect("written");
        }
        incoming.finish().expect("finished").commit().expect("committed")
    }

    #[test]
    fn an_object_tells_how_it_came_and_gives_its_bytes_back() {
        let folder = tempfile::tempdir().expect("temp dir");
        let objects = Objects::open(folder.path(), 0).expect("opened");
        let id = store(&objects, b"some data set bytes");
        let (found, mut file, length) = objects.read(&id).expect("read");
        assert_eq!((found, length), (receipt(), 19));
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).expect("read");
        assert_eq!(bytes, b"some data set bytes");
        assert_eq!(objects.list().expect("listed")[0].0, id);
    }

    #[test]
    fn the_same_bytes_fall_on_the_same_object() {
        let folder = tempfile::tempdir().expect("temp dir");
        let objects = Objects::open(folder.path(), 0).expect("opened");
        assert_eq!(store(&objects, b"one"), store(&objects, b"one"));
        assert_ne!(store(&objects, b"one"), store(&objects, b"two"));
        assert_eq!(objects.list().expect("listed").len(), 2);
    }

    #[test]
    fn what_was_not_committed_leaves_nothing() {
        let folder = tempfile::tempdir().expect("temp dir");
        let objects = Objects::open(folder.path(), 0).expect("opened");
        let mut incoming = objects.begin(receipt()).expect("begun");
        incoming.write(b"half").expect("written");
        drop(incoming);
        drop(objects.begin(receipt()).expect("begun").finish().expect("finished"));
        assert_eq!(fs::read_dir(folder.path().join("incoming")).expect("there").count(), 0);
        assert!(objects.list().expect("listed").is_empty());
    }

    #[test]
    fn below_the_reserve_nothing_is_begun() {
        let folder = tempfile::tempdir().expect("temp dir");
        let objects = Objects::open(folder.path(), u64::MAX).expect("opened");
        assert!(matches!(objects.begin(receipt()), Err(ObjectError::Full)));
    }

    #[test]
    fn names_are_digests_and_nothing_else() {
        assert!(ObjectId::parse("../../etc/passwd").is_none());
        assert!(ObjectId::parse(&"g".repeat(64)).is_none());
        assert!(ObjectId::parse(&"a".repeat(64)).is_some());
    }
}
