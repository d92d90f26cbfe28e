//! Our edge to HL7 v2 on the wire, in both directions: frames and acknowledgements ([`mllp`]), and the
//! segments of a message that came ([`er7`]). What we say ourselves is built in `deliver/hl7.rs`.

pub mod er7;
pub mod mllp;

use time::OffsetDateTime;

/// An HL7 time stamp (TS) in UTC, to the second.
pub fn time_stamp_utc(at: OffsetDateTime) -> String {
    format!(
        "{:04}{:02}{:02}{:02}{:02}{:02}+0000",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    )
}
