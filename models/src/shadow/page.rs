//! The report as one page of HTML: no script, no style sheet, nothing from elsewhere.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::report::{agreement, drift, plain, plots, studies, versions};
use super::{Comparison, Latency, Pair, TIERS, compare};

/// What the page is about.
#[derive(Clone, Copy, Debug)]
pub struct Heading<'a> {
    /// The model, as the site names it.
    pub model: &'a str,
    /// The active version.
    pub active: &'a str,
    /// The candidate.
    pub candidate: &'a str,
    /// Why the candidate failed, each with the number of studies.
    pub failures: &'a BTreeMap<String, u32>,
}

/// The page. The same rows make the same bytes. A label without a study on which both ran says so.
pub fn page(heading: &Heading<'_>, labels: &[&str], pairs: &[Pair]) -> String {
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>Shadow comparison of {0}</title>\n\
         </head>\n<body>\n<h1>Shadow comparison of {0}</h1>\n\
         <p>{1}</p>\n",
        plain(heading.model),
        versions(heading.active, heading.candidate)
    );
    for label in labels {
        // Writing to a String cannot fail.
        let _infallible = writeln!(html, "<h2>{}</h2>", plain(label));
        match compare(label, pairs) {
            Ok(found) => one(&mut html, &found, pairs),
            Err(_) => html.push_str("<p>There is no study yet on which both ran.</p>\n"),
        }
    }
    if !heading.failures.is_empty() {
        html.push_str("<h2>Why the candidate failed</h2>\n<table border=\"1\">\n<tr><th>studies</th><th>reason</th></tr>\n");
        for (reason, count) in heading.failures {
            let _infallible = writeln!(html, "<tr><td>{count}</td><td>{}</td></tr>", plain(reason));
        }
        html.push_str("</table>\n");
    }
    html.push_str("</body>\n</html>\n");
    html
}

fn one(html: &mut String, found: &Comparison, pairs: &[Pair]) {
    let _infallible = write!(
        html,
        "<p>{}</p>\n<p>{}</p>\n<table border=\"1\">\n<tr><th>active \\ candidate</th>",
        studies(found),
        agreement(found),
    );
    for tier in TIERS {
        let _infallible = write!(html, "<th>{}</th>", tier.name());
    }
    html.push_str("</tr>\n");
    for (tier, row) in TIERS.iter().zip(&found.flips.counts) {
        let _infallible = writeln!(
            html,
            "<tr><th>{}</th><td>{}</td><td>{}</td><td>{}</td></tr>",
            tier.name(),
            row[0],
            row[1],
            row[2]
        );
    }
    let _infallible = write!(
        html,
        "</table>\n<p>{}</p>\n<table border=\"1\">\n<tr><th>time, ms</th><th>median</th><th>95th percentile</th><th>longest</th></tr>\n",
        drift(found)
    );
    let times: [(&str, &Latency); 2] =
        [("active", &found.active_latency), ("candidate", &found.candidate_latency)];
    for (who, time) in times {
        let _infallible = writeln!(
            html,
            "<tr><th>{who}</th><td>{:.1}</td><td>{:.1}</td><td>{:.1}</td></tr>",
            time.p50, time.p95, time.max
        );
    }
    html.push_str("</table>\n");
    for plot in plots(&found.label, pairs) {
        html.push_str(&plot);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::super::tests::pair;
    use super::*;

    fn heading(failures: &BTreeMap<String, u32>) -> Heading<'_> {
        Heading { model: "<b>x", active: "1.0.0", candidate: "2.0.0", failures }
    }

    #[test]
    fn the_page_has_the_figures_of_the_report_and_no_markup_of_others() {
        let mut pairs: Vec<Pair> = (0..40).map(|at| pair(at, at as f64 / 40.0, at as f64 / 41.0)).collect();
        pairs[0].candidate = Outcome::Failed;
        let failures = BTreeMap::from([("the run <failed>".to_owned(), 1)]);
        let html = page(&heading(&failures), &["disk"], &pairs);
        for wanted in
            ["<h2>disk</h2>", "40 studies", "the candidate on 1", "both ran on 39", "the run _failed_"]
        {
            assert!(html.contains(wanted), "{wanted}: {html}");
        }
        assert!(!html.contains("<b>") && !html.contains("key-"), "{html}");
        assert_eq!(html.matches("<circle").count(), 39);
        assert_eq!(html, page(&heading(&failures), &["disk"], &pairs));
        for tag in ["table", "tr", "p", "svg", "body", "html"] {
            let opened =
                html.matches(&format!("<{tag}>")).count() + html.matches(&format!("<{tag} ")).count();
            assert_eq!(opened, html.matches(&format!("</{tag}>")).count(), "{tag}");
        }
    }

    #[test]
    fn a_page_without_a_study_says_so() {
        let html = page(&heading(&BTreeMap::new()), &["disk"], &[]);
        assert!(html.contains("no study yet"), "{html}");
    }
}
