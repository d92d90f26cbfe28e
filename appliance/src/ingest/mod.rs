//! Stage 1, ingest: associations accepted, instances made durable and acknowledged, studies closed
//! on evidence, and routed by rules.

pub mod announce;
pub mod commitment;
pub mod completion;
pub mod listener;
pub mod orders;
pub mod priors;
pub mod receive;
pub mod retrieved;
pub mod routing;
pub mod rules;
pub mod session;
pub mod status;
mod under_way;
