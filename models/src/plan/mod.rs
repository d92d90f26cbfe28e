//! The predetermined change control plan (PCCP, section 515C FD&C Act) as a document that a
//! machine can rule by.
//!
//! A plan says what may change of a model without a new submission, how far, on what evidence, and
//! what the site owes. [`Plan::read`] takes it apart and refuses what it does not know;
//! [`evaluate`] rules on a candidate: every clause met, broken or not applicable, with a sentence
//! that names the numbers. It fails closed: a clause that cannot be judged is broken, and so is a
//! difference between two manifests that no allowed modification covers.
//!
//! Nothing here reads a file or a clock. That the plan is authentic, and signed by the regulatory
//! keys, is proved before it comes here.

mod changes;
mod check;
mod clauses;
mod document;
mod evaluate;
mod evidence;
mod lint;
mod monitoring;
mod verdict;

pub use changes::{Change, Threshold, changes};
pub use document::*;
pub use evaluate::{evaluate, site_threshold, updates_after};
pub use evidence::{Candidate, Equivalence, Evidence, GoldenOutcome, Installed, Stage};
pub use monitoring::{Alarm, Observed, judge, reading};
pub use verdict::{Clause, ClauseName, Outcome, Verdict, explain};
