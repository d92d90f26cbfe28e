//! What the object store can fail with.

use std::io;

use thiserror::Error;

/// The object store could not do what was asked. No variant names a patient's data.
#[derive(Debug, Error)]
pub enum ObjectError {
    /// The disk is full, or so full that only the reserve is left.
    #[error("object store: out of space")]
    Full,
    /// The index is far behind: the ledger cannot be written.
    #[error("object store: the ledger cannot keep up")]
    Behind,
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
    /// More pieces than a commit record holds.
    #[error("object store: the instance is too long")]
    TooLong,
    /// There is no object of that name.
    #[error("object store: no such object")]
    Absent,
    /// The file is not one of ours, or damaged.
    #[error("object store: the object cannot be read back")]
    Damaged,
    /// The store is closing.
    #[error("object store: closing")]
    Closed,
}

impl ObjectError {
    /// The same error for one more of those whom it concerns.
    pub(super) fn again(&self) -> Self {
        match self {
            ObjectError::Full => ObjectError::Full,
            ObjectError::Behind => ObjectError::Behind,
            ObjectError::Io { operation, source } => {
                let source = match source.raw_os_error() {
                    Some(code) => io::Error::from_raw_os_error(code),
                    None => source.kind().into(),
                };
                ObjectError::Io { operation, source }
            }
            ObjectError::Meta => ObjectError::Meta,
            ObjectError::TooLong => ObjectError::TooLong,
            ObjectError::Absent => ObjectError::Absent,
            ObjectError::Damaged => ObjectError::Damaged,
            ObjectError::Closed => ObjectError::Closed,
        }
    }

    /// An earlier chunk lies in a segment that could not be synced.
    pub(super) fn lost_segment() -> Self {
        io_error("syncing an earlier chunk")(io::Error::other("see the log"))
    }
}

pub(super) fn io_error(operation: &'static str) -> impl FnOnce(io::Error) -> ObjectError {
    move |source| {
        if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            ObjectError::Full
        } else {
            ObjectError::Io { operation, source }
        }
    }
}
