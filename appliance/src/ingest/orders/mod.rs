//! Orders from the RIS: HL7 v2 (2.3 to 2.5.1) over MLLP.
//!
//! - [`message`]: what a message says, pure;
//! - [`inbox`]: kept and applied in one transaction, before any acknowledgement;
//! - [`listener`]: connections, frames, answers;
//! - [`retention`]: what has aged goes.

pub mod inbox;
pub mod listener;
pub mod message;
pub mod retention;
