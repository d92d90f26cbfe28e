//! The anti-rollback floor: the lowest number of an image that this machine still starts, kept in the TPM.
//!
//! Secure Boot and the data's policy accept every image that was ever signed, so also an old one whose faults are known.
//! Each image therefore carries a number (`LIGHTBOX_ROLLBACK` in its `os-release`, which is measured and signed with
//! it), and refuses to go on, in its initrd and so before the data is opened, where the TPM's floor is higher.
//!
//! The floor is the difference of two indices in the TPM's non-volatile memory: a counter, which by the TPM's own rules
//! never falls, and its value at the beginning, which is written once and locked. After the first good start the owner
//! hierarchy gets a password that nobody keeps: then the indices can be removed only by clearing the TPM, and
//! with that the key to the data is gone as well. So without indices and with data, nothing is started.

pub mod tpm;

use std::io;

use thiserror::Error;

use tpm::{Kind, Tpm, Transport};

/// The counter, in the range of the owner (Registry of Reserved TPM 2.0 Handles, 2.2).
pub const COUNTER: u32 = 0x0180_4c42;
/// The counter's value at the beginning.
pub const BASE: u32 = 0x0180_4c43;
/// Furthest that one good start raises the floor: each step writes into the TPM's memory, which wears.
pub const STEPS_MAX: u64 = 64;

/// Why an image may not start, or the floor is not known.
#[derive(Debug, Error)]
pub enum FloorError {
    /// The image is older than what this machine has to accept.
    #[error(
        "REFUSED: this system has the rollback number {number}, this machine starts none below {floor}; the other slot is tried next. Remedy: install a newer system"
    )]
    Below {
        /// The image's number.
        number: u64,
        /// The machine's.
        floor: u64,
    },
    /// There is data, and no floor: somebody has cleared the TPM, or exchanged it.
    #[error(
        "REFUSED: this machine has data, and its TPM no rollback floor (was the TPM cleared, or the board exchanged?). Remedy: bring the old TPM back, or install the box anew; the data opens with the recovery key"
    )]
    Missing,
    /// An index is there that we have not made.
    #[error(
        "REFUSED: the TPM's index {0:#010x} is somebody else's. Remedy: clear the TPM and install the box anew"
    )]
    Foreign(u32),
    /// The TPM cannot be reached.
    #[error(
        "REFUSED: the TPM does not answer ({what}: {source}). Remedy: switch the TPM on in the firmware's settings"
    )]
    Tpm {
        /// The command.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The TPM's answer cannot be understood.
    #[error("REFUSED: the TPM's answer to {0} cannot be understood. Remedy: update the TPM's firmware")]
    Answer(&'static str),
    /// The TPM refuses a command.
    #[error(
        "REFUSED: the TPM refuses {what} with code {code:#x}. Remedy: look the code up (TPM 2.0 Library, Part 2, 6.6)"
    )]
    Refused {
        /// The command.
        what: &'static str,
        /// Its code.
        code: u32,
    },
    /// No random numbers.
    #[error("the machine gives no random numbers")]
    Random,
}

/// The floor; `None` where its indices are not all there and finished.
pub fn read<T: Transport>(tpm: &mut Tpm<T>) -> Result<Option<u64>, FloorError> {
    let (Some(counter), Some(base)) = (tpm.index(COUNTER, Kind::Counter)?, tpm.index(BASE, Kind::Once)?)
    else {
        return Ok(None);
    };
    if !counter.written || !base.written || !base.locked {
        return Ok(None);
    }
    let (now, then) = (tpm.read(COUNTER)?, tpm.read(BASE)?);
    // A counter below its own beginning is none of ours.
    now.checked_sub(then).map(Some).ok_or(FloorError::Foreign(BASE))
}

/// Judges an image by its number, before the data is opened; yields the floor. On a machine without data, which has
/// never been started, the floor is made, at 0.
pub fn check<T: Transport>(tpm: &mut Tpm<T>, number: u64, has_data: bool) -> Result<u64, FloorError> {
    let floor = match read(tpm)? {
        Some(floor) => floor,
        None if has_data => return Err(FloorError::Missing),
        None => make(tpm)?,
    };
    match number < floor {
        true => Err(FloorError::Below { number, floor }),
        false => Ok(floor),
    }
}

/// Makes what is missing of the indices; an earlier start may have been cut in the middle.
fn make<T: Transport>(tpm: &mut Tpm<T>) -> Result<u64, FloorError> {
    if tpm.index(COUNTER, Kind::Counter)?.is_none() {
        tpm.define(COUNTER, Kind::Counter)?;
    }
    if !tpm.index(COUNTER, Kind::Counter)?.is_some_and(|index| index.written) {
        tpm.increment(COUNTER)?;
    }
    if tpm.index(BASE, Kind::Once)?.is_none() {
        tpm.define(BASE, Kind::Once)?;
    }
    if !tpm.index(BASE, Kind::Once)?.is_some_and(|index| index.locked) {
        let now = tpm.read(COUNTER)?;
        tpm.write(BASE, now)?;
        tpm.lock(BASE)?;
    }
    read(tpm)?.ok_or(FloorError::Missing)
}

/// Raises the floor to `to` after a good start, by at most [`STEPS_MAX`]; yields it. It never falls.
pub fn raise<T: Transport>(tpm: &mut Tpm<T>, to: u64) -> Result<u64, FloorError> {
    let mut floor = read(tpm)?.ok_or(FloorError::Missing)?;
    for _ in 0..to.saturating_sub(floor).min(STEPS_MAX) {
        tpm.increment(COUNTER)?;
        floor += 1;
    }
    Ok(floor)
}

/// Gives the owner hierarchy away, if it is not yet; yields whether it was this time.
pub fn give_away<T: Transport>(tpm: &mut Tpm<T>) -> Result<bool, FloorError> {
    if tpm.is_owned()? {
        return Ok(false);
    }
    let mut password = [0; 32];
    getrandom::fill(&mut password).map_err(|_| FloorError::Random)?;
    tpm.give_away(&password)?;
    Ok(true)
}

#[cfg(test)]
mod tests;
