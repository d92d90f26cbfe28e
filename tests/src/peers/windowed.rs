//! A sender that has several C-STOREs under way on one association (asynchronous operations window, PS3.7 D.3.3.3). No
//! toolkit of ours does that.

use std::io::{self, Write};
use std::net::SocketAddr;

use sha2::{Digest, Sha256};

use super::raw::{self, CT, EXPLICIT, Pdu, VERIFICATION};
use super::tls_client::Stream;
use crate::hospital::{Hospital, Identity};

/// Item type of the window.
const WINDOW: u8 = 0x53;

/// An association with a window.
pub struct Windowed {
    /// The stream, for what else a test wants to say.
    pub stream: Stream,
    /// What the receiver answered: operations that we may invoke, operations that we perform; none without an answer.
    pub granted: Option<(u16, u16)>,
    message_id: u16,
}

impl Windowed {
    /// Asks for an association with so many operations under way.
    pub fn associate(
        to: SocketAddr,
        hospital: &Hospital,
        identity: &Identity,
        calling: &str,
        invoked: u16,
    ) -> io::Result<Self> {
        let window = raw::item(WINDOW, &[&invoked.to_be_bytes()[..], &[0, 1]].concat());
        let contexts = [(1, VERIFICATION, EXPLICIT), (3, CT, EXPLICIT)];
        let request = raw::associate_rq_saying(calling, &contexts, &window);
        let (stream, answer) = raw::associate_with(to, hospital, identity, &request)?;
        if answer.0 != 2 {
            return Err(io::Error::other("no A-ASSOCIATE-AC"));
        }
        Ok(Windowed { stream, granted: granted(&answer), message_id: 0 })
    }

    /// Sends one instance and does not wait for its answer; yields its message ID.
    pub fn begin(&mut self, study: &str, instance: &str, pixels: &[u8]) -> io::Result<u16> {
        let data_set = data_set(study, instance, pixels);
        self.message_id = self.message_id.wrapping_add(1).max(1);
        for pdu in raw::numbered_c_store(self.message_id, instance, &data_set) {
            self.stream.write_all(&pdu)?;
        }
        self.stream.flush()?;
        Ok(self.message_id)
    }

    /// The SHA-256 of such an instance's data set.
    pub fn digest(study: &str, instance: &str, pixels: &[u8]) -> [u8; 32] {
        Sha256::digest(data_set(study, instance, pixels)).into()
    }

    /// The next answer: to which message, and its status.
    pub fn answer(&mut self) -> io::Result<(u16, u16)> {
        let answer = raw::read(&mut self.stream)?;
        let missing = || io::Error::other("not the answer to a C-STORE");
        Ok((raw::number(&answer, 0x0120).ok_or_else(missing)?, raw::status(&answer).ok_or_else(missing)?))
    }
}

fn data_set(study: &str, instance: &str, pixels: &[u8]) -> Vec<u8> {
    [raw::identifiers(study, instance), raw::element(0x7fe0, 0x10, b"OW", pixels)].concat()
}

/// The window in an A-ASSOCIATE-AC.
fn granted(answer: &Pdu) -> Option<(u16, u16)> {
    let head = [WINDOW, 0, 0, 4];
    let at = answer.1.windows(8).position(|window| window[..4] == head)? + 4;
    let number = |at: usize| u16::from_be_bytes([answer.1[at], answer.1[at + 1]]);
    Some((number(at), number(at + 2)))
}
