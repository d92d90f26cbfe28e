//! The one place where our errors become what a peer sees: DIMSE status codes (PS3.4 B.2.3,
//! PS3.7 Annex C) and their comments. Comments are ours and hold no patient data.

use crate::store::index::NotIdentified;
use crate::store::ledger::LedgerError;
use crate::store::objects::ObjectError;

/// Success.
pub const SUCCESS: u16 = 0x0000;
/// Refused: out of resources.
pub const OUT_OF_RESOURCES: u16 = 0xA700;
/// Error: data set does not match SOP class.
pub const DATA_SET_MISMATCH: u16 = 0xA900;
/// Error: cannot understand.
pub const CANNOT_UNDERSTAND: u16 = 0xC000;
/// Processing failure.
pub const PROCESSING_FAILURE: u16 = 0x0110;
/// SOP class not supported.
pub const SOP_CLASS_NOT_SUPPORTED: u16 = 0x0122;
/// Unrecognized operation.
pub const UNRECOGNIZED_OPERATION: u16 = 0x0211;

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

/// The status for a data set that cannot be identified.
pub fn of_not_identified(error: NotIdentified) -> Status {
    match error {
        NotIdentified::Study => (CANNOT_UNDERSTAND, Some("no usable Study Instance UID")),
        NotIdentified::Series => (CANNOT_UNDERSTAND, Some("no usable Series Instance UID")),
        NotIdentified::SopInstance => (DATA_SET_MISMATCH, Some("SOP Instance UID differs from the request")),
        NotIdentified::SopClass => (DATA_SET_MISMATCH, Some("SOP Class UID differs from the request")),
    }
}

/// What a status from a peer means for a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Stored.
    Success,
    /// Stored, with a remark (Bxxx).
    Warning,
    /// Not stored, but may be later: out of resources (A7xx), or a failure of processing.
    Transient,
    /// Not stored, and the same object never will be.
    Permanent,
}

/// The class of a C-STORE response status (PS3.4 B.2.3, PS3.7 Annex C).
pub fn class_of(status: u16) -> Class {
    match status {
        0x0000 => Class::Success,
        0x0001 | 0x0107 | 0x0116 | 0xB000..=0xBFFF => Class::Warning,
        0xA700..=0xA7FF | PROCESSING_FAILURE | 0x0213 => Class::Transient,
        _ => Class::Permanent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_answers_are_classed_as_the_standard_says() {
        assert_eq!(class_of(0x0000), Class::Success);
        assert_eq!(class_of(0xB007), Class::Warning);
        assert_eq!(class_of(0xA701), Class::Transient);
        assert_eq!(class_of(0xA900), Class::Permanent);
        assert_eq!(class_of(0xC123), Class::Permanent);
        assert_eq!(class_of(0x0124), Class::Permanent);
    }

    #[test]
    fn a_full_disk_is_out_of_resources_wherever_it_shows() {
        let ledger = LedgerError::Sqlite { operation: "writing", reason: String::new(), full: true };
        assert_eq!(of_object_error(&ObjectError::Full).0 & 0xff00, 0xA700);
        assert_eq!(of_ledger_error(&ledger).0 & 0xff00, 0xA700);
        assert_eq!(of_ledger_error(&LedgerError::Closed).0, PROCESSING_FAILURE);
    }
}
