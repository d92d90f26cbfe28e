//! DIMSE command sets (PS3.7): the fields of the C- and N-services that we speak.
//!
//! Command sets are always Implicit VR Little Endian and flat, so they are read and written here
//! directly; `dicom-ul` ends below this layer.

use dicom_core::Tag;
use thiserror::Error;

use crate::phi::Phi;

/// Longest command set that we read, in bytes. Real ones have under 500.
pub const COMMAND_MAX: usize = 16 * 1024;

const AFFECTED_SOP_CLASS_UID: u16 = 0x0002;
const REQUESTED_SOP_CLASS_UID: u16 = 0x0003;
const COMMAND_FIELD: u16 = 0x0100;
const MESSAGE_ID: u16 = 0x0110;
const MESSAGE_ID_RESPONDED_TO: u16 = 0x0120;
const MOVE_DESTINATION: u16 = 0x0600;
const PRIORITY: u16 = 0x0700;
const DATA_SET_TYPE: u16 = 0x0800;
const STATUS: u16 = 0x0900;
const OFFENDING_ELEMENT: u16 = 0x0901;
const ERROR_COMMENT: u16 = 0x0902;
const ERROR_ID: u16 = 0x0903;
const AFFECTED_SOP_INSTANCE_UID: u16 = 0x1000;
const REQUESTED_SOP_INSTANCE_UID: u16 = 0x1001;
const EVENT_TYPE_ID: u16 = 0x1002;
const ATTRIBUTE_IDENTIFIER_LIST: u16 = 0x1005;
const ACTION_TYPE_ID: u16 = 0x1008;
const REMAINING: u16 = 0x1020;
const COMPLETED: u16 = 0x1021;
const FAILED: u16 = 0x1022;
const WARNING: u16 = 0x1023;
const MOVE_ORIGINATOR_AE: u16 = 0x1030;
const MOVE_ORIGINATOR_ID: u16 = 0x1031;
/// Command Data Set Type for "no data set".
const NO_DATA_SET: u16 = 0x0101;

/// Command field of a C-STORE request.
pub const C_STORE_RQ: u16 = 0x0001;
/// Command field of a C-STORE response.
pub const C_STORE_RSP: u16 = 0x8001;
/// Command field of a C-GET request.
pub const C_GET_RQ: u16 = 0x0010;
/// Command field of a C-GET response.
pub const C_GET_RSP: u16 = 0x8010;
/// Command field of a C-FIND request.
pub const C_FIND_RQ: u16 = 0x0020;
/// Command field of a C-FIND response.
pub const C_FIND_RSP: u16 = 0x8020;
/// Command field of a C-MOVE request.
pub const C_MOVE_RQ: u16 = 0x0021;
/// Command field of a C-MOVE response.
pub const C_MOVE_RSP: u16 = 0x8021;
/// Command field of a C-CANCEL request, which has no response of its own.
pub const C_CANCEL_RQ: u16 = 0x0FFF;
/// Command field of an N-EVENT-REPORT request.
pub const N_EVENT_REPORT_RQ: u16 = 0x0100;
/// Command field of an N-EVENT-REPORT response.
pub const N_EVENT_REPORT_RSP: u16 = 0x8100;
/// Command field of an N-SET request.
pub const N_SET_RQ: u16 = 0x0120;
/// Command field of an N-ACTION request.
pub const N_ACTION_RQ: u16 = 0x0130;
/// Command field of an N-ACTION response.
pub const N_ACTION_RSP: u16 = 0x8130;
/// Command field of an N-CREATE request.
pub const N_CREATE_RQ: u16 = 0x0140;
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
    /// Requested SOP Class UID, of N-SET and N-ACTION.
    pub requested_sop_class_uid: Option<String>,
    /// Requested SOP Instance UID, of N-SET and N-ACTION.
    pub requested_sop_instance_uid: Option<Phi<String>>,
    /// Move Destination of C-MOVE: an AE title.
    pub move_destination: Option<String>,
    /// Priority: 0 medium, 1 high, 2 low. Only requests of composite services carry it.
    pub priority: u16,
    /// Whether a data set follows.
    pub has_data_set: bool,
    /// Status of a response.
    pub status: Option<u16>,
    /// Offending Element of a response.
    pub offending_elements: Vec<Tag>,
    /// Error Comment of a response: the peer's own words, which may hold patient data.
    pub error_comment: Option<Phi<String>>,
    /// Error ID of a response.
    pub error_id: Option<u16>,
    /// Event Type ID of N-EVENT-REPORT.
    pub event_type_id: Option<u16>,
    /// Attribute Identifier List.
    pub attribute_identifiers: Vec<Tag>,
    /// Action Type ID of N-ACTION.
    pub action_type_id: Option<u16>,
    /// Sub-operations of C-MOVE and C-GET.
    pub sub_operations: SubOperations,
    /// Of a C-STORE that a C-MOVE set off: the AE that asked for the move.
    pub move_originator_ae: Option<String>,
    /// Of a C-STORE that a C-MOVE set off: the message ID of the C-MOVE.
    pub move_originator_id: Option<u16>,
}

/// Numbers of the sub-operations of a C-MOVE or C-GET, as far as the peer tells them (PS3.7 §9.1.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubOperations {
    /// Still to be done.
    pub remaining: Option<u16>,
    /// Done.
    pub completed: Option<u16>,
    /// Failed.
    pub failed: Option<u16>,
    /// Done, with a warning.
    pub warning: Option<u16>,
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
                REQUESTED_SOP_CLASS_UID => command.requested_sop_class_uid = Some(text(value)),
                REQUESTED_SOP_INSTANCE_UID => {
                    command.requested_sop_instance_uid = Some(Phi::new(text(value)));
                }
                MOVE_DESTINATION => command.move_destination = Some(text(value)),
                PRIORITY => command.priority = number().unwrap_or_default(),
                OFFENDING_ELEMENT => command.offending_elements = tags_of(value),
                ERROR_ID => command.error_id = number(),
                EVENT_TYPE_ID => command.event_type_id = number(),
                ATTRIBUTE_IDENTIFIER_LIST => command.attribute_identifiers = tags_of(value),
                ACTION_TYPE_ID => command.action_type_id = number(),
                REMAINING => command.sub_operations.remaining = number(),
                COMPLETED => command.sub_operations.completed = number(),
                FAILED => command.sub_operations.failed = number(),
                WARNING => command.sub_operations.warning = number(),
                MOVE_ORIGINATOR_AE => command.move_originator_ae = Some(text(value)),
                MOVE_ORIGINATOR_ID => command.move_originator_id = number(),
                _ => {}
            }
        }
        command.field = field.ok_or(CommandError::Lacks(COMMAND_FIELD))?;
        command.message_id = if command.answers() {
            answered.ok_or(CommandError::Lacks(MESSAGE_ID_RESPONDED_TO))?
        } else {
            id.ok_or(CommandError::Lacks(MESSAGE_ID))?
        };
        command.has_data_set = data_set.ok_or(CommandError::Lacks(DATA_SET_TYPE))? != NO_DATA_SET;
        Ok(command)
    }

    /// Whether it is a request, C-CANCEL aside.
    pub fn is_request(&self) -> bool {
        self.field & 0x8000 == 0 && self.field != C_CANCEL_RQ
    }

    /// Whether it names the message that it answers: responses do, and C-CANCEL.
    fn answers(&self) -> bool {
        self.field & 0x8000 != 0 || self.field == C_CANCEL_RQ
    }

    /// Writes the command set with its group length.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Body(Vec::with_capacity(256));
        out.text(AFFECTED_SOP_CLASS_UID, self.sop_class_uid.as_deref(), 0);
        out.text(REQUESTED_SOP_CLASS_UID, self.requested_sop_class_uid.as_deref(), 0);
        out.number(COMMAND_FIELD, Some(self.field));
        let id = if self.answers() { MESSAGE_ID_RESPONDED_TO } else { MESSAGE_ID };
        out.number(id, Some(self.message_id));
        out.text(MOVE_DESTINATION, self.move_destination.as_deref(), b' ');
        if matches!(self.field, C_STORE_RQ | C_GET_RQ | C_FIND_RQ | C_MOVE_RQ) {
            out.number(PRIORITY, Some(self.priority));
        }
        out.number(DATA_SET_TYPE, Some(if self.has_data_set { 0x0001 } else { NO_DATA_SET }));
        out.number(STATUS, self.status);
        out.tags(OFFENDING_ELEMENT, &self.offending_elements);
        if let Some(comment) = &self.error_comment {
            // LO: at most 64 characters.
            let comment: Vec<u8> = comment.expose().bytes().take(64).collect();
            out.put(ERROR_COMMENT, &padded(&comment, b' '));
        }
        out.number(ERROR_ID, self.error_id);
        let exposed = |uid: &Option<Phi<String>>| uid.as_ref().map(|uid| uid.expose().clone());
        out.text(AFFECTED_SOP_INSTANCE_UID, exposed(&self.sop_instance_uid).as_deref(), 0);
        out.text(REQUESTED_SOP_INSTANCE_UID, exposed(&self.requested_sop_instance_uid).as_deref(), 0);
        out.number(EVENT_TYPE_ID, self.event_type_id);
        out.tags(ATTRIBUTE_IDENTIFIER_LIST, &self.attribute_identifiers);
        out.number(ACTION_TYPE_ID, self.action_type_id);
        out.number(REMAINING, self.sub_operations.remaining);
        out.number(COMPLETED, self.sub_operations.completed);
        out.number(FAILED, self.sub_operations.failed);
        out.number(WARNING, self.sub_operations.warning);
        out.text(MOVE_ORIGINATOR_AE, self.move_originator_ae.as_deref(), b' ');
        out.number(MOVE_ORIGINATOR_ID, self.move_originator_id);
        let Body(body) = out;
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
            sop_class_uid: self.sop_class_uid.clone().or_else(|| self.requested_sop_class_uid.clone()),
            sop_instance_uid: self
                .sop_instance_uid
                .clone()
                .or_else(|| self.requested_sop_instance_uid.clone()),
            status: Some(status),
            error_comment: comment.map(Phi::from),
            event_type_id: self.event_type_id,
            action_type_id: self.action_type_id,
            ..Command::default()
        }
    }
}

/// A command set's elements while they are written, in the order of their tags.
struct Body(Vec<u8>);

impl Body {
    fn put(&mut self, element: u16, value: &[u8]) {
        self.0.extend([0, 0]);
        self.0.extend(element.to_le_bytes());
        self.0.extend((value.len() as u32).to_le_bytes());
        self.0.extend(value);
    }

    fn text(&mut self, element: u16, value: Option<&str>, padding: u8) {
        if let Some(value) = value {
            self.put(element, &padded(value.as_bytes(), padding));
        }
    }

    fn number(&mut self, element: u16, value: Option<u16>) {
        if let Some(value) = value {
            self.put(element, &value.to_le_bytes());
        }
    }

    fn tags(&mut self, element: u16, tags: &[Tag]) {
        if tags.is_empty() {
            return;
        }
        let bytes: Vec<u8> = tags
            .iter()
            .flat_map(|tag| [tag.group().to_le_bytes(), tag.element().to_le_bytes()])
            .flatten()
            .collect();
        self.put(element, &bytes);
    }
}

/// The tags of an AT value.
fn tags_of(value: &[u8]) -> Vec<Tag> {
    let number = |bytes: &[u8]| u16::from_le_bytes([bytes[0], bytes[1]]);
    value.chunks_exact(4).map(|four| Tag(number(&four[..2]), number(&four[2..]))).collect()
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
    fn every_field_survives_the_round_trip() {
        let request = Command {
            field: C_MOVE_RQ,
            message_id: 3,
            sop_class_uid: Some("1.2.840.10008.5.1.4.1.2.2.2".into()),
            move_destination: Some("LIGHTBOX".into()),
            priority: 1,
            has_data_set: true,
            ..Command::default()
        };
        assert_eq!(Command::parse(&request.encode()), Ok(request.clone()));
        let response = Command {
            sub_operations: SubOperations {
                remaining: Some(4),
                completed: Some(3),
                failed: Some(2),
                warning: Some(1),
            },
            offending_elements: vec![Tag(0x0020, 0x000D)],
            ..request.response(0xFF00, None)
        };
        assert_eq!(Command::parse(&response.encode()), Ok(response));
        let action = Command {
            field: N_ACTION_RQ,
            message_id: 4,
            requested_sop_class_uid: Some("1.2.840.10008.1.20.1".into()),
            requested_sop_instance_uid: Some(Phi::from("1.2.840.10008.1.20.1.1")),
            action_type_id: Some(1),
            attribute_identifiers: vec![Tag(8, 0x1195), Tag(8, 0x1199)],
            error_id: Some(0xA710),
            event_type_id: Some(2),
            move_originator_ae: Some("LIGHTBOX".into()),
            move_originator_id: Some(9),
            ..Command::default()
        };
        assert_eq!(Command::parse(&action.encode()), Ok(action.clone()));
        let answer = action.response(0, None);
        assert_eq!(answer.sop_class_uid.as_deref(), Some("1.2.840.10008.1.20.1"));
        let cancel = Command { field: C_CANCEL_RQ, message_id: 5, ..Command::default() };
        assert_eq!(Command::parse(&cancel.encode()), Ok(cancel));
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
