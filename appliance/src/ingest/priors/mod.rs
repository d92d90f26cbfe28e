//! Earlier studies of a patient, fetched from a PACS before the models run that a rule wants them for.
//!
//! The wish is written as soon as the rule matches what has come of a study, so that the fetch overlaps with the
//! rest of it; the rules decide again when the study closes. A rule that matches early and not at the end
//! has cost a fetch, and nothing else. Jobs carry the deadline as the time of their first try, so that
//! neither a PACS nor a crash can hold one up: whoever ends a wish sooner lets them start.
//!
//! - [`choose`]: which earlier studies and series, pure;
//! - [`fetch`]: asks the PACS, and retrieves;
//! - [`way`]: how a peer is asked: C-FIND with C-MOVE or C-GET, or DICOMweb.

pub mod choose;
pub mod fetch;
pub mod way;
