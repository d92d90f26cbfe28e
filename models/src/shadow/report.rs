//! The report that people read before they approve.

use std::fmt::Write;

use super::{Comparison, Pair, TIERS, both, plot};

/// Studies from which on the stability index is worth reading: some for each of its ten bins.
const STUDIES_FOR_INDEX: u64 = 100;

/// Markdown for a terminal: for each label what agrees, what flips, what drifts, how long it takes. Versions are
/// for people.
pub fn text(active: &str, candidate: &str, found: &[Comparison]) -> String {
    let mut text = format!("# Shadow comparison\n\n{}\n", versions(active, candidate));
    for comparison in found {
        figures(&mut text, comparison);
    }
    text
}

/// What is compared.
pub(super) fn versions(active: &str, candidate: &str) -> String {
    format!(
        "Active: {}. Candidate: {}. The candidate's results left the box nowhere.",
        plain(active),
        plain(candidate)
    )
}

/// On how many studies each ran.
pub(super) fn studies(found: &Comparison) -> String {
    format!(
        "{} studies; the active model failed on {}, the candidate on {}; both ran on {}.",
        found.studies,
        found.active_failed,
        found.candidate_failed,
        found.flips.total()
    )
}

/// How often they say the same.
pub(super) fn agreement(found: &Comparison) -> String {
    let flips = &found.flips;
    let kappa =
        flips.kappa().map_or("not defined: one tier holds all".to_owned(), |kappa| format!("{kappa:.3}"));
    format!(
        "Same tier: {} of {} (95 % interval {:.1} to {:.1} %), kappa {kappa}. The candidate puts {} higher and {} lower.",
        flips.same(),
        flips.total(),
        100.0 * found.agreement.lower,
        100.0 * found.agreement.upper,
        flips.up(),
        flips.down()
    )
}

/// How far the scores lie apart.
pub(super) fn drift(found: &Comparison) -> String {
    // Of few studies most of the index' bins hold one or none, and it is large for scores that hardly differ.
    let few = if found.flips.total() < STUDIES_FOR_INDEX {
        format!(
            " Of {} studies the stability index says little: look at the mean difference.",
            found.flips.total()
        )
    } else {
        String::new()
    };
    format!(
        "Scores: stability index {:.4} (from 0.1 on a change, from 0.25 on a large one), Kolmogorov-Smirnov {:.4} \
         (p {:.3}), mean difference {:+.4}.{few}",
        found.psi, found.ks.statistic, found.ks.p, found.mean_difference
    )
}

fn figures(text: &mut String, found: &Comparison) {
    let label = plain(&found.label);
    // Writing to a String cannot fail.
    let _infallible = writeln!(
        text,
        "\n## {label}\n\n{}\n\n{}\n\n| active \\\\ candidate | {} | {} | {} |\n|---|---|---|---|",
        studies(found),
        agreement(found),
        TIERS[0].name(),
        TIERS[1].name(),
        TIERS[2].name(),
    );
    for (tier, row) in TIERS.iter().zip(&found.flips.counts) {
        let _infallible = writeln!(text, "| {} | {} | {} | {} |", tier.name(), row[0], row[1], row[2]);
    }
    let (before, now) = (&found.active_latency, &found.candidate_latency);
    let _infallible = writeln!(
        text,
        "\n{}\n\n| time, ms | median | 95th percentile | longest |\n|---|---|---|---|\n\
         | active | {:.1} | {:.1} | {:.1} |\n| candidate | {:.1} | {:.1} | {:.1} |\n",
        drift(found),
        before.p50,
        before.p95,
        before.max,
        now.p50,
        now.p95,
        now.max,
    );
}

/// Scores of each study, and their distributions.
pub(super) fn plots(label: &str, pairs: &[Pair]) -> [String; 2] {
    let scores: Vec<(f64, f64)> =
        both(label, pairs).iter().map(|(active, candidate)| (active.0, candidate.0)).collect();
    let (active, candidate): (Vec<f64>, Vec<f64>) = scores.iter().copied().unzip();
    let label = plain(label);
    let title = format!("{label}: scores, active grey, candidate blue");
    [
        plot::scatter(&format!("{label}: scores of each study"), "active", "candidate", &scores),
        plot::histograms(&title, "score", &active, &candidate),
    ]
}

/// Text that is neither Markdown nor markup: a vendor's names go into a page that people trust.
pub(super) fn plain(text: &str) -> String {
    let allowed = |char: char| char.is_alphanumeric() || " .,-+()/:".contains(char);
    text.chars().take(128).map(|char| if allowed(char) { char } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::super::compare;
    use super::super::tests::pair;
    use super::*;
    use crate::metrics::MetricError;

    /// The text with the plots behind it.
    fn report(active: &str, candidate: &str, labels: &[&str], pairs: &[Pair]) -> Result<String, MetricError> {
        let found = labels.iter().map(|label| compare(label, pairs)).collect::<Result<Vec<_>, _>>()?;
        let plots = labels.iter().flat_map(|label| plots(label, pairs));
        Ok(text(active, candidate, &found) + &plots.collect::<String>())
    }

    #[test]
    fn the_report_has_its_numbers_and_names_no_study() {
        let pairs: Vec<Pair> = (0..40).map(|at| pair(at, at as f64 / 40.0, at as f64 / 41.0)).collect();
        let text = report("1.0.0", "2.0.0", &["disk"], &pairs).expect("defined");
        for wanted in [
            "## disk",
            "40 studies",
            "| suppressed |",
            "kappa 0.9",
            "stability index",
            "| candidate | 20.0 |",
        ] {
            assert!(text.contains(wanted), "{wanted}: {text}");
        }
        assert_eq!(text.matches("<circle").count(), 40);
        assert_eq!(text.matches("<svg").count(), 2);
        assert_eq!(text.matches("</svg>").count(), 2);
        assert!(!text.contains("key-"), "{text}");
    }

    #[test]
    fn a_vendors_name_is_no_markup() {
        let pairs: Vec<Pair> =
            (0..3).map(|at| Pair { label: "<script>".into(), ..pair(at, 0.5, 0.5) }).collect();
        let text = report("1<b>", "[x](y)", &["<script>"], &pairs).expect("defined");
        assert!(!text.contains("<script") && !text.contains("<b>") && !text.contains("]("), "{text}");
    }

    #[test]
    fn without_a_common_study_there_is_no_report() {
        assert_eq!(report("1", "2", &["disk"], &[]), Err(MetricError::Empty));
    }
}
