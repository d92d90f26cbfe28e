//! Stage 5, deliver: one findings record becomes a DICOM SR and an HL7 ORU^R01, and both reach
//! their destinations through durable queues.

pub mod context;
pub mod mllp;
