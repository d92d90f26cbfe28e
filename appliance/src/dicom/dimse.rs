//! DIMSE command sets (PS3.7): the few fields that the storage and verification services use.
//!
//! Command sets are always Implicit VR Little Endian and flat, so they are read and written here
//! directly; `dicom-ul` ends below this layer.

use thiserror::Error;

use crate::phi::Phi;

/// Longest command set that we read, in bytes. Real ones have under 500.
pub const COMMAND_MAX: usize = 16 * 1024;

const AFFECTED_SOP_CLASS_UID: u16 = 0x0002;
const COMMAND_FIELD: u16 = 0x0100;
const MESSAGE_ID: u16 = 0x0110;
const MESSAGE_ID_RESPONDED_TO: u16 = 0x0120;
const PRIORITY: u16 = 0x0700;
const DATA_SET_TYPE: u16 = 0x0800;
const STATUS: u16 = 0x0900;
const ERROR_COMMENT: u16 = 0x0902;
const AFFECTED_SOP_INSTANCE_UID: u16 = 0x1000;
/// Command Data Set Type for "no data set".
const NO_DATA_SET: u16 = 0x0101;

/// Command field of a C-STORE request.
pub const C_STORE_RQ: u16 = 0x0001;
/// Command field of a C-STORE response.
pub const C_STORE_RSP: u16 = 0x8001;
/// Command field of a C-ECHO request.
pub const C_ECHO_RQ: u16 = 0x0030;
/// Command field of a C-ECHO response.
pub const C_ECHO_RSP: u16 = 0x8030;

/// A command set that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CommandError {
    /// An element runs over the end.
    #[error("the command set ends inside an element")]
    Truncated,
    /// An element of another group than 0000.
    #[error("the command set holds an element outside group 0000")]
    NotACommand,
    /// A field that every command has is absent.
    #[error("the command set lacks element (0000,{0:04X})")]
    Lacks(u16),
    /// Longer than [`COMMAND_MAX`].
    #[error("the command set is longer than {COMMAND_MAX} bytes")]
    TooLong,
}

/// A command set: requests and responses alike.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Command {
    /// Command Field.
    pub field: u16,
    /// Message ID of a request, or the one that a response answers.
    pub message_id: u16,
    /// Affected SOP Class UID.
    pub sop_class_uid: Option<String>,
    /// Affected SOP Instance UID.
    pub sop_instance_uid: Option<Phi<String>>,
    /// Whether a data set follows.
    pub has_data_set: bool,
    /// Status of a response.
    pub status: Option<u16>,
    /// Error Comment of a response: the peer's own words, which may hold patient data.
    pub error_comment: Option<Phi<String>>,
}

impl Command {
    /// Reads a command set.
    pub fn parse(mut bytes: &[u8]) -> Result<Self, CommandError> {
        if bytes.len() > COMMAND_MAX {
            return Err(CommandError::TooLong);
        }
        let mut command = Command::default();
        let (mut field, mut id, mut answered, mut data_set) = (None, None, None, None);
        while !bytes.is_empty() {
            let (head, rest) = bytes.split_at_checked(8).ok_or(CommandError::Truncated)?;
            if head[..2] != [0, 0] {
                return Err(CommandError::NotACommand);
            }
            let element = u16::from_le_bytes([head[2], head[3]]);
            let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
            let length = usize::try_from(length).map_err(|_| CommandError::Truncated)?;
            let (value, rest) = rest.split_at_checked(length).ok_or(CommandError::Truncated)?;
            bytes = rest;
            let number = || value.first_chunk().map(|two| u16::from_le_bytes(*two));
            match element {
                COMMAND_FIELD => field = number(),
                MESSAGE_ID => id = number(),
                MESSAGE_ID_RESPONDED_TO => answered = number(),
                DATA_SET_TYPE => data_set = number(),
                STATUS => command.status = number(),
                AFFECTED_SOP_CLASS_UID => command.sop_class_uid = Some(text(value)),
                AFFECTED_SOP_INSTANCE_UID => command.sop_instance_uid = Some(Phi::new(text(value))),
                ERROR_COMMENT => command.error_comment = Some(Phi::new(text(value))),
                _ => {}
            }
        }
        command.field = field.ok_or(CommandError::Lacks(COMMAND_FIELD))?;
        let is_response = command.field & 0x8000 != 0;
        command.message_id = if is_response {
            answered.ok_or(CommandError::Lacks(MESSAGE_ID_RESPONDED_TO))?
        } else {
            id.ok_or(CommandError::Lacks(MESSAGE_ID))?
        };
        command.has_data_set = data_set.ok_or(CommandError::Lacks(DATA_SET_TYPE))? != NO_DATA_SET;
        Ok(command)
    }

    /// Writes the command set with its group length.
    pub fn encode(&self) -> Vec<u8> {
        let is_response = self.field & 0x8000 != 0;
        let mut body = Vec::with_capacity(256);
        let mut put = |element: u16, value: &[u8]| {
            body.extend([0, 0]);
            body.extend(element.to_le_bytes());
            body.extend((value.len() as u32).to_le_bytes());
            body.extend(value);
        };
        if let Some(uid) = &self.sop_class_uid {
            put(AFFECTED_SOP_CLASS_UID, &padded(uid.as_bytes(), 0));
        }
        put(COMMAND_FIELD, &self.field.to_le_bytes());
        put(if is_response { MESSAGE_ID_RESPONDED_TO } else { MESSAGE_ID }, &self.message_id.to_le_bytes());
        if self.field == C_STORE_RQ {
            put(PRIORITY, &0_u16.to_le_bytes());
        }
        let data_set = if self.has_data_set { 0x0001 } else { NO_DATA_SET };
        put(DATA_SET_TYPE, &data_set.to_le_bytes());
        if let Some(status) = self.status {
            put(STATUS, &status.to_le_bytes());
        }
        if let Some(comment) = &self.error_comment {
            // LO: at most 64 characters.
            let comment: Vec<u8> = comment.expose().bytes().take(64).collect();
            put(ERROR_COMMENT, &padded(&comment, b' '));
        }
        if let Some(uid) = &self.sop_instance_uid {
            put(AFFECTED_SOP_INSTANCE_UID, &padded(uid.expose().as_bytes(), 0));
        }
        let mut out = vec![0, 0, 0, 0, 4, 0, 0, 0];
        out.extend((body.len() as u32).to_le_bytes());
        out.extend(body);
        out
    }

    /// The response to this request. `comment` must not hold patient data: it is ours.
    pub fn response(&self, status: u16, comment: Option<&str>) -> Command {
        Command {
            field: self.field | 0x8000,
            message_id: self.message_id,
            sop_class_uid: self.sop_class_uid.clone(),
            sop_instance_uid: self.sop_instance_uid.clone(),
            has_data_set: false,
            status: Some(status),
            error_comment: comment.map(Phi::from),
        }
    }
}

fn text(value: &[u8]) -> String {
    let text: String =
        value.iter().map(|byte| if byte.is_ascii() { char::from(*byte) } else { '?' }).collect();
    text.trim_matches(|c: char| c == ' ' || c == '\0').to_owned()
}

fn padded(value: &[u8], with: u8) -> Vec<u8> {
    let mut value = value.to_vec();
    if !value.len().is_multiple_of(2) {
        value.push(with);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store_request() -> Command {
        Command {
            field: C_STORE_RQ,
            message_id: 7,
            sop_class_uid: Some("1.2.840.10008.5.1.4.1.1.2".into()),
            sop_instance_uid: Some(Phi::from("1.2.3")),
            has_data_set: true,
            ..Command::default()
        }
    }

    #[test]
    fn requests_and_responses_survive_the_round_trip() {
        let request = store_request();
        assert_eq!(Command::parse(&request.encode()), Ok(request.clone()));
        let response = request.response(0xA700, Some("out of resources"));
        assert_eq!(Command::parse(&response.encode()), Ok(response));
    }

    #[test]
    fn what_is_cut_or_foreign_is_refused() {
        let bytes = store_request().encode();
        for end in 1..bytes.len() {
            // A cut between two elements leaves a shorter command set, which lacks something.
            assert!(Command::parse(&bytes[..end]).is_err() || end >= bytes.len() - 14, "cut at {end}");
        }
        assert_eq!(Command::parse(&[8, 0, 0, 0, 0, 0, 0, 0]), Err(CommandError::NotACommand));
        assert_eq!(Command::parse(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]), Err(CommandError::Truncated));
        assert_eq!(Command::parse(&vec![0; COMMAND_MAX + 1]), Err(CommandError::TooLong));
        assert_eq!(Command::parse(&[]), Err(CommandError::Lacks(COMMAND_FIELD)));
    }
}
