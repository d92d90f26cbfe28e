//! Stage 1, ingest: associations accepted, instances made durable and acknowledged, studies closed
//! on evidence, and routed by rules.

pub mod completion;
pub mod listener;
pub mod receive;
pub mod routing;
pub mod rules;
pub mod status;
