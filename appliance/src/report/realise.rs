//! The template: one sentence for each finding that is shown, and what they come to.

use crate::finding::{Completeness, Finding, ModelResult, Tier};

/// A sentence and the findings behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The sentence.
    pub text: String,
    /// Indices into [`ModelResult::findings`]; empty for a sentence about the examination itself.
    pub findings: Vec<usize>,
}

/// A text made of segments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Realised {
    /// The findings section.
    pub findings: Vec<Segment>,
    /// The impression.
    pub impression: Vec<Segment>,
}

/// Fills the template. Coded meanings and names from the bundle are used word for word.
pub fn realise(result: &ModelResult, revision: u32) -> Realised {
    let model = format!("{} {}", result.model.name, result.model.version);
    let shown: Vec<(usize, &Finding)> =
        result.findings.iter().enumerate().filter(|(_, finding)| finding.tier != Tier::Suppressed).collect();
    let about = |text: String| Segment { text, findings: Vec::new() };
    let mut realised = Realised::default();

    for (number, (index, finding)) in shown.iter().enumerate() {
        let text = sentence(number + 1, finding);
        realised.findings.push(Segment { text, findings: vec![*index] });
    }
    if !shown.is_empty() {
        realised.impression.push(Segment {
            text: count(&shown, &model),
            findings: shown.iter().map(|(index, _)| *index).collect(),
        });
    }
    let looked_for = &result.model.looked_for;
    let statement = match (&result.completeness, shown.is_empty()) {
        (Completeness::Complete, true) => Some(format!("No {looked_for} reported by {model}.")),
        (Completeness::Partial(_), true) => {
            Some(format!("No {looked_for} reported by {model} in the images that it examined."))
        }
        (Completeness::NotRun(_), _) => Some(format!("This study was not examined by {model}.")),
        (_, false) => None,
    };
    let partial = matches!(result.completeness, Completeness::Partial(_))
        .then(|| format!("Not all images were examined by {model}."));
    for line in statement.into_iter().chain(partial) {
        realised.findings.push(about(line.clone()));
        realised.impression.push(about(line));
    }
    if revision > 1 {
        realised.impression.push(about(format!("Study revision {revision}.")));
    }
    realised
}

fn sentence(number: usize, finding: &Finding) -> String {
    let mut what = vec![finding.finding.meaning.clone()];
    what.extend(finding.site.iter().map(|site| site.meaning.clone()));
    what.extend(finding.laterality.iter().map(|side| side.meaning.clone()));
    let mut clauses = vec![what.join(", ")];
    if finding.source.instance.frames > 1 {
        clauses.push(format!("frame {}", finding.source.frame));
    }
    for measurement in &finding.measurements {
        let (name, unit) = (&measurement.name.meaning, measurement.unit.value.as_str());
        let value = rounded(measurement.value);
        // UCUM's 1 and its annotations in braces say that there is no unit.
        if unit == "1" || unit.starts_with('{') {
            clauses.push(format!("{name} {value}"));
        } else {
            clauses.push(format!("{name} {value} {unit}"));
        }
    }
    clauses.push(format!("certainty {} %", rounded(finding.score * 100.0)));
    if finding.tier == Tier::Flagged {
        clauses.push("flagged, needs explicit attention".to_owned());
    }
    format!("Finding {number}: {}.", clauses.join("; "))
}

fn count(shown: &[(usize, &Finding)], model: &str) -> String {
    let flagged = shown.iter().filter(|(_, finding)| finding.tier == Tier::Flagged).count();
    let noun = if shown.len() == 1 { "finding" } else { "findings" };
    let flagged =
        if flagged > 0 { format!(", {flagged} flagged for explicit attention") } else { String::new() };
    format!("{} {noun} reported by {model}{flagged}.", shown.len())
}

/// At most two decimals: more would claim a precision that no reader needs.
fn rounded(value: f64) -> String {
    let text = format!("{value:.2}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}
