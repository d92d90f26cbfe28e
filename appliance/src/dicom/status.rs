//! DIMSE status codes (PS3.4 B.2.3, PS3.7 Annex C).

/// Success.
pub const SUCCESS: u16 = 0x0000;
/// Refused: out of resources.
pub const OUT_OF_RESOURCES: u16 = 0xA700;
/// Error: data set does not match SOP class.
pub const DATA_SET_MISMATCH: u16 = 0xA900;
/// Error: the data set is of another study than the target of the request (STOW-RS; one of A9xx).
pub const OTHER_STUDY: u16 = 0xA901;
/// Error: transfer syntax not supported (STOW-RS, PS3.18 I.2.2).
pub const TRANSFER_SYNTAX_NOT_SUPPORTED: u16 = 0xC122;
/// Error: cannot understand.
pub const CANNOT_UNDERSTAND: u16 = 0xC000;
/// Processing failure.
pub const PROCESSING_FAILURE: u16 = 0x0110;
/// Invalid attribute value.
pub const INVALID_ATTRIBUTE_VALUE: u16 = 0x0106;
/// Duplicate SOP instance.
pub const DUPLICATE_INSTANCE: u16 = 0x0111;
/// No such object instance.
pub const NO_SUCH_INSTANCE: u16 = 0x0112;
/// No such event type.
pub const NO_SUCH_EVENT: u16 = 0x0113;
/// Invalid argument value.
pub const INVALID_ARGUMENT: u16 = 0x0115;
/// Invalid object instance: its UID cannot be used.
pub const INVALID_INSTANCE: u16 = 0x0117;
/// Class-instance conflict.
pub const CLASS_INSTANCE_CONFLICT: u16 = 0x0119;
/// Missing attribute.
pub const MISSING_ATTRIBUTE: u16 = 0x0120;
/// No such action.
pub const NO_SUCH_ACTION: u16 = 0x0123;
/// Refused: not authorized.
pub const NOT_AUTHORIZED: u16 = 0x0124;
/// Resource limitation.
pub const RESOURCE_LIMITATION: u16 = 0x0213;
/// SOP class not supported.
pub const SOP_CLASS_NOT_SUPPORTED: u16 = 0x0122;
/// Unrecognized operation.
pub const UNRECOGNIZED_OPERATION: u16 = 0x0211;

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
}
