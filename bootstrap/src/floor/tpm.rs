//! The few TPM 2.0 commands that the floor needs (TPM 2.0 Library, Part 3), over a device that takes a command and
//! gives its answer, such as `/dev/tpmrm0`.
//!
//! A library of its own would bring C libraries and sessions into the initrd; these are seven commands with empty
//! passwords.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::FloorError;

/// TPM_RH_OWNER.
const OWNER: u32 = 0x4000_0001;
/// TPM_RS_PW: a password instead of a session.
const PASSWORD: u32 = 0x4000_0009;
/// TPMA_NV bits (Part 2, 13.4).
const AUTHWRITE: u32 = 1 << 2;
const COUNTER: u32 = 1 << 4;
const WRITELOCKED: u32 = 1 << 11;
const WRITEDEFINE: u32 = 1 << 13;
const AUTHREAD: u32 = 1 << 18;
const NO_DA: u32 = 1 << 25;
const WRITTEN: u32 = 1 << 29;
/// What is fixed of an index' attributes: the rest is state.
const FIXED: u32 = !(WRITELOCKED | WRITTEN);
/// TPM_ALG_SHA256.
const SHA256: u16 = 0x000b;
/// Longest answer.
const ANSWER_MAX: usize = 4096;
/// Answers that mean: ask again (TPM_RC_YIELDED, _TESTING, _RETRY, _NV_RATE).
const AGAIN: [u32; 4] = [0x908, 0x90a, 0x922, 0x920];
/// TPM_RC_HANDLE for the first handle: there is no such index.
const NO_SUCH_INDEX: u32 = 0x18b;
const TRIES: u32 = 50;

/// What an index is for; it is made that way and refused any other way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Rises by one, never falls: not for the box's own root, not by making it anew (Part 3, 31.8).
    Counter,
    /// Written once and then locked for good.
    Once,
}

impl Kind {
    fn attributes(self) -> u32 {
        let all = AUTHREAD | AUTHWRITE | NO_DA;
        match self {
            Kind::Counter => all | COUNTER,
            Kind::Once => all | WRITEDEFINE,
        }
    }
}

/// An index as the TPM tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Index {
    /// Whether it has a value.
    pub written: bool,
    /// Whether its value is fixed.
    pub locked: bool,
}

/// What takes commands.
pub trait Transport {
    /// Sends a command, yields the answer.
    fn exchange(&mut self, command: &[u8]) -> std::io::Result<Vec<u8>>;
}

/// A device, or an emulator's socket (for tests).
#[derive(Debug)]
pub enum Device {
    /// `/dev/tpmrm0`.
    File(File),
    /// swtpm.
    Socket(UnixStream),
}

impl Device {
    /// Opens it; a path that begins with `unix:` is a socket.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        match path.to_str().and_then(|text| text.strip_prefix("unix:")) {
            Some(socket) => {
                let stream = UnixStream::connect(socket)?;
                stream.set_read_timeout(Some(Duration::from_secs(30)))?;
                Ok(Device::Socket(stream))
            }
            None => Ok(Device::File(OpenOptions::new().read(true).write(true).open(path)?)),
        }
    }
}

impl Transport for Device {
    fn exchange(&mut self, command: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut answer = vec![0; ANSWER_MAX];
        // The kernel's device takes a command and gives an answer by one call each.
        let count = match self {
            Device::File(file) => {
                file.write_all(command)?;
                file.read(&mut answer)?
            }
            Device::Socket(stream) => {
                stream.write_all(command)?;
                stream.read(&mut answer)?
            }
        };
        answer.truncate(count);
        Ok(answer)
    }
}

/// A TPM.
pub struct Tpm<T> {
    transport: T,
}

/// A command in the making.
struct Command(Vec<u8>);

impl Command {
    fn new(tag: u16, code: u32) -> Self {
        let mut bytes = tag.to_be_bytes().to_vec();
        bytes.extend([0; 4]);
        bytes.extend(code.to_be_bytes());
        Command(bytes)
    }

    /// With handles, and an empty password for the first of them.
    fn authorized(code: u32, handles: &[u32]) -> Self {
        let mut command = Command::new(0x8002, code);
        handles.iter().for_each(|handle| command.0.extend(handle.to_be_bytes()));
        command.0.extend(9_u32.to_be_bytes());
        command.0.extend(PASSWORD.to_be_bytes());
        command.0.extend([0; 5]);
        command
    }

    fn u16(mut self, value: u16) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    fn bytes(mut self, value: &[u8]) -> Self {
        self.0.extend(value);
        self
    }

    fn done(mut self) -> Vec<u8> {
        let size = self.0.len() as u32;
        self.0[2..6].copy_from_slice(&size.to_be_bytes());
        self.0
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

impl<T: Transport> Tpm<T> {
    /// A TPM behind a transport.
    pub fn new(transport: T) -> Self {
        Tpm { transport }
    }

    /// Runs a command; yields what follows the answer's header, or the code with which the TPM refuses.
    fn run(&mut self, what: &'static str, command: &[u8]) -> Result<Result<Vec<u8>, u32>, FloorError> {
        for _ in 0..TRIES {
            let answer =
                self.transport.exchange(command).map_err(|source| FloorError::Tpm { what, source })?;
            let (size, code) = (u32_at(&answer, 2), u32_at(&answer, 6));
            let (Some(size), Some(code)) = (size, code) else { return Err(FloorError::Answer(what)) };
            if size as usize != answer.len() {
                return Err(FloorError::Answer(what));
            }
            match code {
                0 => return Ok(Ok(answer[10..].to_vec())),
                code if AGAIN.contains(&code) => std::thread::sleep(Duration::from_millis(100)),
                code => return Ok(Err(code)),
            }
        }
        Err(FloorError::Refused { what, code: AGAIN[2] })
    }

    fn must(&mut self, what: &'static str, command: &[u8]) -> Result<Vec<u8>, FloorError> {
        self.run(what, command)?.map_err(|code| FloorError::Refused { what, code })
    }

    /// What an index is; `None` where there is none. One that is there and of another kind is refused.
    pub fn index(&mut self, handle: u32, kind: Kind) -> Result<Option<Index>, FloorError> {
        let what = "TPM2_NV_ReadPublic";
        let answer = match self.run(what, &Command::new(0x8001, 0x169).u32(handle).done())? {
            Ok(answer) => answer,
            Err(NO_SUCH_INDEX) => return Ok(None),
            Err(code) => return Err(FloorError::Refused { what, code }),
        };
        // TPM2B size, then TPMS_NV_PUBLIC: index, name algorithm, attributes, policy, data size.
        let (found, attributes) = (u32_at(&answer, 2), u32_at(&answer, 8));
        let (Some(found), Some(attributes)) = (found, attributes) else {
            return Err(FloorError::Answer(what));
        };
        let (policy, size) = (u16_at(&answer, 12), u16_at(&answer, 14));
        if found != handle || attributes & FIXED != kind.attributes() || policy != Some(0) || size != Some(8)
        {
            return Err(FloorError::Foreign(handle));
        }
        Ok(Some(Index { written: attributes & WRITTEN != 0, locked: attributes & WRITELOCKED != 0 }))
    }

    /// Makes an index of eight bytes.
    pub fn define(&mut self, handle: u32, kind: Kind) -> Result<(), FloorError> {
        let public = Command(Vec::new()).u32(handle).u16(SHA256).u32(kind.attributes()).u16(0).u16(8).0;
        let command = Command::authorized(0x12a, &[OWNER]).u16(0).u16(public.len() as u16).bytes(&public);
        self.must("TPM2_NV_DefineSpace", &command.done()).map(drop)
    }

    /// Its value.
    pub fn read(&mut self, handle: u32) -> Result<u64, FloorError> {
        let what = "TPM2_NV_Read";
        let answer = self.must(what, &Command::authorized(0x14e, &[handle, handle]).u16(8).u16(0).done())?;
        // Size of the parameters, then a TPM2B.
        let value = answer.get(6..14).and_then(|eight| eight.try_into().ok()).map(u64::from_be_bytes);
        match (u16_at(&answer, 4), value) {
            (Some(8), Some(value)) => Ok(value),
            _ => Err(FloorError::Answer(what)),
        }
    }

    /// Counts one up.
    pub fn increment(&mut self, handle: u32) -> Result<(), FloorError> {
        self.must("TPM2_NV_Increment", &Command::authorized(0x134, &[handle, handle]).done()).map(drop)
    }

    /// Writes a value.
    pub fn write(&mut self, handle: u32, value: u64) -> Result<(), FloorError> {
        let command = Command::authorized(0x137, &[handle, handle]).u16(8).bytes(&value.to_be_bytes()).u16(0);
        self.must("TPM2_NV_Write", &command.done()).map(drop)
    }

    /// Fixes the value for as long as the index is there.
    pub fn lock(&mut self, handle: u32) -> Result<(), FloorError> {
        self.must("TPM2_NV_WriteLock", &Command::authorized(0x138, &[handle, handle]).done()).map(drop)
    }

    /// Removes an index, as somebody would who wants the floor gone.
    pub fn undefine(&mut self, handle: u32) -> Result<(), FloorError> {
        self.must("TPM2_NV_UndefineSpace", &Command::authorized(0x122, &[OWNER, handle]).done()).map(drop)
    }

    /// Whether the owner hierarchy has a password (TPM_PT_PERMANENT, ownerAuthSet).
    pub fn is_owned(&mut self) -> Result<bool, FloorError> {
        let what = "TPM2_GetCapability";
        let answer = self.must(what, &Command::new(0x8001, 0x17a).u32(6).u32(0x200).u32(1).done())?;
        // moreData, capability, count, property, value.
        match (u32_at(&answer, 5), u32_at(&answer, 9), u32_at(&answer, 13)) {
            (Some(1..), Some(0x200), Some(value)) => Ok(value & 1 == 1),
            _ => Err(FloorError::Answer(what)),
        }
    }

    /// Gives the owner hierarchy a password that nobody keeps, so that nobody removes an index but by clearing the TPM,
    /// which takes the data's key with it.
    pub fn give_away(&mut self, password: &[u8; 32]) -> Result<(), FloorError> {
        let command = Command::authorized(0x129, &[OWNER]).u16(32).bytes(password);
        self.must("TPM2_HierarchyChangeAuth", &command.done()).map(drop)
    }
}
