//! What a manifest may say, and hardly means.

use crate::doubt::Doubt;
use crate::manifest::Manifest;

/// The highest release that still looks like a count or a date: twelve digits hold `202601311200`.
const RELEASE_MAX: u64 = 999_999_999_999;

/// Everything that is doubtful in a manifest that reads.
pub(crate) fn doubts(manifest: &Manifest) -> Vec<Doubt> {
    let mut found = Vec::new();
    let release = manifest.model.release;
    if release > RELEASE_MAX {
        let left = i64::MAX.unsigned_abs().saturating_sub(release);
        let what = match left {
            0 => "is the highest number that there is: no later release can ever be installed".to_owned(),
            left => format!(
                "is so high that only {left} later releases are possible, and boxes take no lower one ever again"
            ),
        };
        found.push(Doubt::warning("model.release", what, "count 1, 2, 3, or write the date, e.g. 20260131"));
    }
    for (at, label) in manifest.label.iter().enumerate().filter(|(_, label)| !label.negative) {
        if label.flagged_min.is_some_and(|least| least <= 0.0) {
            found.push(Doubt::warning(
                format!("label[{at}].flagged_min"),
                "is 0: every box of the network is flagged, whatever its score",
                "write the score from which on a person should look",
            ));
        }
    }
    found
}
