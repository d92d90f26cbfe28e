//! Stage 5, deliver: one findings record becomes a DICOM SR and an HL7 ORU^R01, and both reach
//! their destinations through durable queues.

pub mod commit;
pub mod context;
#[cfg(test)]
pub(crate) mod fixture;
pub mod forward;
pub mod hl7;
pub mod implicit;
mod notes;
pub mod queue;
pub mod sender;
pub mod sr;
mod stow;
