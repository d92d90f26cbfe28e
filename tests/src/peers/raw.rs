//! A sender that writes its PDUs byte by byte (PS3.8 §9.3) over TLS: for what no toolkit would do.

use std::io::{self, Read, Write};
use std::net::SocketAddr;

use crate::hospital::{Hospital, Identity};
use crate::peers::tls_client::{Stream, connect};
use crate::site::AE_TITLE;

/// CT Image Storage.
pub const CT: &str = "1.2.840.10008.5.1.4.1.1.2";
/// Verification.
pub const VERIFICATION: &str = "1.2.840.10008.1.1";
/// Explicit VR Little Endian.
pub const EXPLICIT: &str = "1.2.840.10008.1.2.1";
/// Data of one P-DATA-TF PDU.
const FRAGMENT: usize = 16_000;

/// A PDU's type, and what follows its length.
pub type Pdu = (u8, Vec<u8>);

/// An item of an A-ASSOCIATE PDU.
pub fn item(kind: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("short").to_be_bytes();
    [&[kind, 0], &length[..], content].concat()
}

/// A PDU.
pub fn pdu(kind: u8, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).expect("short").to_be_bytes();
    [&[kind, 0], &length[..], content].concat()
}

/// An A-ASSOCIATE-RQ with Verification (context 1) and CT (context 3).
pub fn associate_rq(calling: &str) -> Vec<u8> {
    associate_rq_with(calling, &[(1, VERIFICATION, EXPLICIT), (3, CT, EXPLICIT)])
}

/// An A-ASSOCIATE-RQ with these contexts: id, abstract syntax, transfer syntax.
pub fn associate_rq_with(calling: &str, contexts: &[(u8, &str, &str)]) -> Vec<u8> {
    associate_rq_saying(calling, contexts, &[])
}

/// The same with further items of user information.
pub fn associate_rq_saying(calling: &str, contexts: &[(u8, &str, &str)], more: &[u8]) -> Vec<u8> {
    let context = |(id, class, syntax): &(u8, &str, &str)| {
        let content =
            [&[*id, 0, 0, 0], &item(0x30, class.as_bytes())[..], &item(0x40, syntax.as_bytes())].concat();
        item(0x20, &content)
    };
    let user = [&item(0x51, &16_384_u32.to_be_bytes())[..], &item(0x52, b"1.2.826.0.1.3680043.10.999"), more]
        .concat();
    let content = [
        &[0, 1, 0, 0][..],
        format!("{AE_TITLE:16}{calling:16}").as_bytes(),
        &[0; 32],
        &item(0x10, b"1.2.840.10008.3.1.1.1"),
        &contexts.iter().flat_map(context).collect::<Vec<u8>>(),
        &item(0x50, &user),
    ]
    .concat();
    pdu(1, &content)
}

/// A P-DATA-TF with one value; bit 0 of `control` says command, bit 1 last.
pub fn p_data(context: u8, control: u8, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len() + 2).expect("short").to_be_bytes();
    pdu(4, &[&length[..], &[context, control], data].concat())
}

/// An element of a command set (implicit VR).
pub fn command_element(element: u16, value: &[u8]) -> Vec<u8> {
    let length = u32::try_from(value.len()).expect("short").to_le_bytes();
    [&[0, 0], &element.to_le_bytes()[..], &length, value].concat()
}

/// A UID's bytes, padded to an even length.
pub fn even(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    if bytes.len() % 2 == 1 {
        bytes.push(0);
    }
    bytes
}

/// A command set with its group length.
pub fn command(elements: &[Vec<u8>]) -> Vec<u8> {
    let rest = elements.concat();
    let length = u32::try_from(rest.len()).expect("short").to_le_bytes();
    [command_element(0, &length), rest].concat()
}

/// A C-ECHO-RQ, whole.
pub fn c_echo() -> Vec<u8> {
    let command = command(&[
        command_element(2, &even(VERIFICATION)),
        command_element(0x100, &0x30_u16.to_le_bytes()),
        command_element(0x110, &1_u16.to_le_bytes()),
        command_element(0x800, &0x101_u16.to_le_bytes()),
    ]);
    p_data(1, 3, &command)
}

/// An element in Explicit VR Little Endian.
pub fn element(group: u16, number: u16, vr: &[u8; 2], value: &[u8]) -> Vec<u8> {
    let head = [&group.to_le_bytes()[..], &number.to_le_bytes(), vr].concat();
    let length = value.len();
    match vr {
        b"OW" => [&head[..], &[0, 0], &u32::try_from(length).expect("short").to_le_bytes(), value].concat(),
        _ => [&head[..], &u16::try_from(length).expect("short").to_le_bytes(), value].concat(),
    }
}

/// A C-STORE-RQ with its data set, as the PDUs that make it up: a CT image of `bytes` bytes of pixels.
pub fn c_store(study_uid: &str, instance_uid: &str, bytes: usize) -> Vec<Vec<u8>> {
    let pixels = element(0x7fe0, 0x10, b"OW", &vec![7; bytes & !1]);
    c_store_of(instance_uid, &[identifiers(study_uid, instance_uid), pixels].concat())
}

/// What identifies a CT image, in Explicit VR Little Endian.
pub fn identifiers(study_uid: &str, instance_uid: &str) -> Vec<u8> {
    [
        element(8, 0x16, b"UI", &even(CT)),
        element(8, 0x18, b"UI", &even(instance_uid)),
        element(8, 0x60, b"CS", b"CT"),
        element(0x20, 0xd, b"UI", &even(study_uid)),
        element(0x20, 0xe, b"UI", &even(&format!("{study_uid}.1"))),
    ]
    .concat()
}

/// The command set of a C-STORE-RQ for a CT image.
pub fn store_command(instance_uid: &str) -> Vec<u8> {
    numbered_store_command(1, instance_uid)
}

fn numbered_store_command(message_id: u16, instance_uid: &str) -> Vec<u8> {
    command(&[
        command_element(2, &even(CT)),
        command_element(0x100, &1_u16.to_le_bytes()),
        command_element(0x110, &message_id.to_le_bytes()),
        command_element(0x700, &0_u16.to_le_bytes()),
        command_element(0x800, &0_u16.to_le_bytes()),
        command_element(0x1000, &even(instance_uid)),
    ])
}

/// A C-STORE-RQ in context 3 with any data set, as the PDUs that make it up.
pub fn c_store_of(instance_uid: &str, data_set: &[u8]) -> Vec<Vec<u8>> {
    numbered_c_store(1, instance_uid, data_set)
}

/// The same with a message ID.
pub fn numbered_c_store(message_id: u16, instance_uid: &str, data_set: &[u8]) -> Vec<Vec<u8>> {
    let mut pdus = vec![p_data(3, 3, &numbered_store_command(message_id, instance_uid))];
    let last = data_set.chunks(FRAGMENT).count() - 1;
    pdus.extend(
        data_set
            .chunks(FRAGMENT)
            .enumerate()
            .map(|(index, piece)| p_data(3, if index == last { 2 } else { 0 }, piece)),
    );
    pdus
}

/// An A-RELEASE-RQ.
pub fn release() -> Vec<u8> {
    pdu(5, &[0; 4])
}

/// An A-ABORT by the user.
pub fn abort() -> Vec<u8> {
    pdu(7, &[0; 4])
}

/// Reads one PDU.
pub fn read(stream: &mut impl Read) -> io::Result<Pdu> {
    let mut head = [0; 6];
    stream.read_exact(&mut head)?;
    let length = u32::from_be_bytes([head[2], head[3], head[4], head[5]]) as usize;
    if length > 1 << 20 {
        return Err(io::Error::other("a PDU longer than any of ours"));
    }
    let mut content = vec![0; length];
    stream.read_exact(&mut content)?;
    Ok((head[0], content))
}

/// The status (0000,0900) of the response in a P-DATA-TF PDU.
pub fn status(pdu: &Pdu) -> Option<u16> {
    number(pdu, 0x0900)
}

/// A number of the command set in a P-DATA-TF PDU.
pub fn number(pdu: &Pdu, element: u16) -> Option<u16> {
    let [low, high] = element.to_le_bytes();
    let tag = [0, 0, low, high, 2, 0, 0, 0];
    let at = pdu.1.windows(tag.len()).position(|window| window == tag)? + tag.len();
    Some(u16::from_le_bytes([*pdu.1.get(at)?, *pdu.1.get(at + 1)?]))
}

/// A TLS connection to the daemon as this peer.
pub fn dial(to: SocketAddr, hospital: &Hospital, identity: &Identity) -> io::Result<Stream> {
    connect(to, &hospital.ca(), &identity.certificate, &identity.key)
}

/// Connects and asks for an association; yields the stream and the answer.
pub fn associate(
    to: SocketAddr,
    hospital: &Hospital,
    identity: &Identity,
    calling: &str,
) -> io::Result<(Stream, Pdu)> {
    associate_with(to, hospital, identity, &associate_rq(calling))
}

/// The same with a request of the test's own.
pub fn associate_with(
    to: SocketAddr,
    hospital: &Hospital,
    identity: &Identity,
    request: &[u8],
) -> io::Result<(Stream, Pdu)> {
    let mut stream = dial(to, hospital, identity)?;
    stream.write_all(request)?;
    stream.flush()?;
    let answer = read(&mut stream)?;
    Ok((stream, answer))
}

/// Sends one instance and yields the status of the response.
pub fn send(stream: &mut Stream, study_uid: &str, instance_uid: &str, bytes: usize) -> io::Result<u16> {
    for pdu in c_store(study_uid, instance_uid, bytes) {
        stream.write_all(&pdu)?;
    }
    stream.flush()?;
    let response = read(stream)?;
    status(&response).ok_or_else(|| io::Error::other("no status"))
}
