//! The plan's clauses, by what they look at.

pub(super) mod acceptance;
pub(super) mod engine;
pub(super) mod identity;
pub(super) mod locked;
pub(super) mod modifications;
pub(super) mod site;
