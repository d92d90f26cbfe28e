//! What the vendor declares that the network reaches.

use serde::{Deserialize, Serialize};

use crate::plan::{Metric, Tier};

/// A figure that the vendor measured on an acceptance set. A box that runs the same set must come to the same: another
/// figure means another network, another preparation of images or another engine than the clearance is about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Performance {
    /// Digest of the set, as the plan's criterion names it.
    pub set_sha256: String,
    /// The label's name.
    pub label: String,
    /// The measure.
    pub metric: Metric,
    /// For proportions: found from this tier on; as in the plan's criterion.
    #[serde(default)]
    pub tier: Option<Tier>,
    /// What was measured, 0 to 1.
    pub estimate: f64,
    /// How far the figure on a box may be off, to either side; 0 to 0.1.
    pub tolerance: f64,
}
