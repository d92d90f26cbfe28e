//! What both ends put into an association's user information (PS3.7 Annex D).

use std::collections::BTreeMap;

use dicom_ul::pdu::{RequestorRoles, UserVariableItem};

use crate::dicom::{IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME};

/// Item type of the asynchronous operations window (PS3.7 D.3.3.3), which `dicom-ul` leaves as bytes.
const OPERATIONS_WINDOW: u8 = 0x53;
/// Largest PDU that we send, whatever the peer would take.
const SEND_PDU_MAX: u32 = 256 * 1024;

/// The roles of the association's requestor for a SOP class (SCP/SCU role selection, PS3.7 D.3.3.4).
/// Without negotiation the requestor is SCU and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles {
    /// The requestor may be SCU.
    pub scu: bool,
    /// The requestor may be SCP.
    pub scp: bool,
}

impl Roles {
    /// What holds where nothing is negotiated.
    pub const DEFAULT: Roles = Roles { scu: true, scp: false };
    /// The requestor is the SCP: for storage in C-GET, for N-EVENT-REPORT on an association of its own.
    pub const SCP: Roles = Roles { scu: false, scp: true };
}

/// `window`: the item for the requestor's operations under way at once, if there is to be one. We never invoke more than one
/// as acceptor, and never perform more than one as requestor.
pub(super) fn our_variables(
    max_pdu: u32,
    roles: &BTreeMap<String, Roles>,
    window: Option<u16>,
) -> Vec<UserVariableItem> {
    let mut variables = vec![
        UserVariableItem::MaxLength(max_pdu),
        UserVariableItem::ImplementationClassUID(IMPLEMENTATION_CLASS_UID.into()),
        UserVariableItem::ImplementationVersionName(IMPLEMENTATION_VERSION_NAME.into()),
    ];
    variables.extend(roles.iter().map(|(class, roles)| {
        let roles = RequestorRoles { scu: roles.scu, scp: roles.scp };
        UserVariableItem::ScuScpRoleSelectionSubItem(class.clone(), roles)
    }));
    variables.extend(window.map(|invoked| {
        let [high, low] = invoked.to_be_bytes();
        UserVariableItem::Unknown(OPERATIONS_WINDOW, vec![high, low, 0, 1])
    }));
    variables
}

/// How many operations the requestor may have under way by this side's item; `None` without one, or where it is no such item.
/// 0 stands for any number.
pub(super) fn window_of(variables: &[UserVariableItem]) -> Option<u16> {
    variables.iter().find_map(|item| match item {
        UserVariableItem::Unknown(OPERATIONS_WINDOW, value) => match value[..] {
            [high, low, _, _] => Some(u16::from_be_bytes([high, low])),
            _ => None,
        },
        _ => None,
    })
}

/// What is granted of what was asked for: never more than either side wants, and at least one.
pub(super) fn granted(asked: u16, most: u16) -> u16 {
    let asked = if asked == 0 { u16::MAX } else { asked };
    asked.min(most).max(1)
}

pub(super) fn roles_of(variables: &[UserVariableItem]) -> BTreeMap<String, Roles> {
    let role = |item: &UserVariableItem| match item {
        UserVariableItem::ScuScpRoleSelectionSubItem(class, roles) => {
            let class = class.trim_end_matches(['\0', ' ']).to_owned();
            Some((class, Roles { scu: roles.scu, scp: roles.scp }))
        }
        _ => None,
    };
    variables.iter().filter_map(role).collect()
}

/// What the peer takes: 0 means without limit (PS3.8 D.1); less than a PDV header is nonsense, and
/// treated as the smallest size that makes progress.
pub(super) fn peer_max_pdu(variables: &[UserVariableItem]) -> u32 {
    let announced = variables.iter().find_map(|item| match item {
        UserVariableItem::MaxLength(length) => Some(*length),
        _ => None,
    });
    match announced {
        None => 16_384,
        Some(0) => SEND_PDU_MAX,
        Some(length) => length.clamp(64, SEND_PDU_MAX),
    }
}
