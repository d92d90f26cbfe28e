//! The one place where our errors become what a sender sees: a DIMSE status and a comment. Comments
//! are ours and hold no patient data.

use crate::dicom::status::{
    CANNOT_UNDERSTAND, DATA_SET_MISMATCH, OUT_OF_RESOURCES, PROCESSING_FAILURE, RESOURCE_LIMITATION,
};
use crate::store::index::NotIdentified;
use crate::store::ledger::LedgerError;
use crate::store::objects::ObjectError;

/// A status and its comment (at most 64 characters, LO).
pub type Status = (u16, Option<&'static str>);

/// The status for a failure of the object store.
pub fn of_object_error(error: &ObjectError) -> Status {
    match error {
        ObjectError::Full => (OUT_OF_RESOURCES, Some("disk full, nothing was kept: send again later")),
        ObjectError::Meta => (CANNOT_UNDERSTAND, Some("identifiers cannot be written to a file")),
        ObjectError::Io { .. } | ObjectError::Damaged => {
            (PROCESSING_FAILURE, Some("storing failed, nothing was kept: send again"))
        }
    }
}

/// The status for a failure of the ledger.
pub fn of_ledger_error(error: &LedgerError) -> Status {
    if error.is_full() {
        (OUT_OF_RESOURCES, Some("disk full, nothing was recorded: send again later"))
    } else {
        (PROCESSING_FAILURE, Some("recording failed: send again"))
    }
}

/// The status of an N-service for a failure of the ledger (PS3.7 Annex C).
pub fn of_service_error(error: &LedgerError) -> Status {
    if error.is_full() {
        (RESOURCE_LIMITATION, Some("disk full, nothing was recorded: send again later"))
    } else {
        (PROCESSING_FAILURE, Some("recording failed: send again"))
    }
}

/// The status for a data set that cannot be identified.
pub fn of_not_identified(error: NotIdentified) -> Status {
    match error {
        NotIdentified::Study => (CANNOT_UNDERSTAND, Some("no usable Study Instance UID")),
        NotIdentified::Series => (CANNOT_UNDERSTAND, Some("no usable Series Instance UID")),
        NotIdentified::SopInstance => (DATA_SET_MISMATCH, Some("SOP Instance UID differs from the request")),
        NotIdentified::SopClass => (DATA_SET_MISMATCH, Some("SOP Class UID differs from the request")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_out_of_resources_wherever_it_shows() {
        let ledger = LedgerError::Sqlite { operation: "writing", reason: String::new(), full: true };
        assert_eq!(of_object_error(&ObjectError::Full).0 & 0xff00, 0xA700);
        assert_eq!(of_ledger_error(&ledger).0 & 0xff00, 0xA700);
        assert_eq!(of_ledger_error(&LedgerError::Closed).0, PROCESSING_FAILURE);
    }
}
