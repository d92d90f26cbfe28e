//! Reads the assembled text against the findings. Shares no code with the template: every word of a
//! finding's sentence must be that finding's own coded meaning or one of a few function words, every
//! number must stand behind the name it belongs to, and nothing may be missing.

use thiserror::Error;

use crate::finding::{Completeness, Finding, ModelResult, Tier};

use super::realise::{Realised, Segment};

/// Why a text was rejected. Line numbers count from 1.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Rejection {
    /// A word that only a reviewing physician may use.
    #[error("a line holds a forbidden word beginning with {0:?}")]
    Forbidden(&'static str),
    /// A line with control characters, or an empty one.
    #[error("a line is empty or holds control characters")]
    Malformed,
    /// The lines do not match the findings that are shown, one for one and in order.
    #[error("the lines do not match the findings one for one")]
    Count,
    /// Words that the finding does not account for.
    #[error("line {0} holds words that its finding does not account for")]
    Unaccounted(usize),
    /// A number that is not the finding's, or stands behind another name.
    #[error("line {0} holds a number that is not bound to its finding")]
    Number(usize),
    /// Something of the finding that is not said.
    #[error("line {0} leaves out a part of its finding")]
    Missing(usize),
    /// Site and laterality name opposite sides.
    #[error("line {0} names both sides")]
    Sides(usize),
    /// A sentence that is about no finding and is not one of the known ones.
    #[error("a sentence about the examination is not true of the result, or missing")]
    Statement,
}

/// Beginnings of words that no draft may hold: they claim a review, or more than a finding.
const FORBIDDEN: &[&str] = &[
    "final",
    "verif",
    "confirm",
    "normal",
    "unremarkable",
    "recommend",
    "advis",
    "diagnos",
    "signed",
    "approv",
    "certif",
    "exclud",
];

/// Checks a text.
///
/// # Errors
/// The first [`Rejection`] found.
pub fn verify(result: &ModelResult, revision: u32, text: &Realised) -> Result<(), Rejection> {
    for segment in text.findings.iter().chain(&text.impression) {
        wording(&segment.text)?;
    }
    let shown: Vec<(usize, &Finding)> =
        result.findings.iter().enumerate().filter(|(_, finding)| finding.tier != Tier::Suppressed).collect();
    let (of_findings, others): (Vec<&Segment>, Vec<&Segment>) =
        text.findings.iter().partition(|segment| !segment.findings.is_empty());
    if of_findings.len() != shown.len() {
        return Err(Rejection::Count);
    }
    for (line, (segment, (index, finding))) in of_findings.iter().zip(&shown).enumerate() {
        if segment.findings != [*index] || !std::ptr::eq(*segment, &text.findings[line]) {
            return Err(Rejection::Count);
        }
        sentence(line + 1, &segment.text, finding)?;
    }
    if matches!(result.completeness, Completeness::NotRun(_)) && !shown.is_empty() {
        return Err(Rejection::Statement);
    }
    let statements = statements(result, &shown);
    let same = |segments: &[&Segment], expected: &[String]| {
        segments.len() == expected.len()
            && segments.iter().zip(expected).all(|(segment, expected)| segment.text == *expected)
    };
    if !same(&others, &statements) {
        return Err(Rejection::Statement);
    }
    let mut impression = Vec::new();
    if !shown.is_empty() {
        impression.push(summary(result, &shown));
        let all: Vec<usize> = shown.iter().map(|(index, _)| *index).collect();
        if text.impression.first().is_none_or(|segment| segment.findings != all) {
            return Err(Rejection::Count);
        }
    }
    impression.extend(statements);
    if revision > 1 {
        impression.push(format!("Study revision {revision}."));
    }
    let lines: Vec<&Segment> = text.impression.iter().collect();
    if same(&lines, &impression) { Ok(()) } else { Err(Rejection::Statement) }
}

fn wording(line: &str) -> Result<(), Rejection> {
    if line.trim().is_empty() || line.chars().any(char::is_control) {
        return Err(Rejection::Malformed);
    }
    let lower = line.to_lowercase();
    for word in lower.split(|c: char| !c.is_alphanumeric()) {
        if let Some(stem) = FORBIDDEN.iter().find(|stem| word.starts_with(**stem)) {
            return Err(Rejection::Forbidden(stem));
        }
    }
    Ok(())
}

/// The sentences about the examination that are true of this result.
fn statements(result: &ModelResult, shown: &[(usize, &Finding)]) -> Vec<String> {
    let model = &result.model;
    let who = [model.name.as_str(), model.version.as_str()].join(" ");
    let absent = ["No", model.looked_for.as_str(), "reported by", &who].join(" ");
    match &result.completeness {
        Completeness::Complete if shown.is_empty() => vec![absent + "."],
        Completeness::Complete => Vec::new(),
        Completeness::Partial(_) => {
            let incomplete = ["Not all images were examined by ", &who, "."].concat();
            if shown.is_empty() {
                vec![absent + " in the images that it examined.", incomplete]
            } else {
                vec![incomplete]
            }
        }
        Completeness::NotRun(_) => vec![["This study was not examined by ", &who, "."].concat()],
    }
}

fn summary(result: &ModelResult, shown: &[(usize, &Finding)]) -> String {
    let flagged = shown.iter().filter(|(_, finding)| finding.tier == Tier::Flagged).count();
    let mut summary = shown.len().to_string();
    summary.push_str(if shown.len() == 1 { " finding" } else { " findings" });
    summary.push_str(&[" reported by ", &result.model.name, " ", &result.model.version].concat());
    if flagged > 0 {
        summary.push_str(&[", ", &flagged.to_string(), " flagged for explicit attention"].concat());
    }
    summary + "."
}

/// A piece of a sentence.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Token<'a> {
    /// One of the finding's own phrases.
    Phrase(&'a str),
    /// Anything else between spaces and punctuation.
    Word(&'a str),
}

/// Cuts a sentence into the finding's phrases, longest first at each place, and other words.
fn tokens<'a>(mut rest: &'a str, phrases: &[&'a str]) -> Vec<Token<'a>> {
    let mut tokens = Vec::new();
    let is_word = |c: char| !matches!(c, ' ' | ',' | ';' | ':');
    while let Some(first) = rest.chars().next() {
        if !is_word(first) {
            rest = &rest[first.len_utf8()..];
            continue;
        }
        let ends = |phrase: &str| rest[phrase.len()..].chars().next().is_none_or(|c| !c.is_alphanumeric());
        let phrase = phrases.iter().filter(|phrase| rest.starts_with(**phrase) && ends(phrase));
        if let Some(phrase) = phrase.max_by_key(|phrase| phrase.len()) {
            tokens.push(Token::Phrase(phrase));
            rest = &rest[phrase.len()..];
        } else {
            let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            tokens.push(Token::Word(&rest[..end]));
            rest = &rest[end..];
        }
    }
    tokens
}

fn sentence(line: usize, text: &str, finding: &Finding) -> Result<(), Rejection> {
    let body = text.strip_prefix(&format!("Finding {line}: ")).and_then(|text| text.strip_suffix('.'));
    let body = body.ok_or(Rejection::Unaccounted(line))?;
    let plain: Vec<&str> = [Some(&finding.finding), finding.site.as_ref(), finding.laterality.as_ref()]
        .into_iter()
        .flatten()
        .map(|code| code.meaning.as_str())
        .collect();
    sides(line, &plain)?;
    let names = finding.measurements.iter().map(|measurement| measurement.name.meaning.as_str());
    let phrases: Vec<&str> = plain.iter().copied().chain(names).filter(|phrase| !phrase.is_empty()).collect();
    let tokens = tokens(body, &phrases);

    let mut unsaid = plain;
    let mut unmeasured: Vec<_> = finding.measurements.iter().collect();
    let (mut certain, mut framed, mut flagged) = (false, false, false);
    let mut rest = tokens.as_slice();
    while let Some((token, after)) = rest.split_first() {
        rest = after;
        match *token {
            Token::Phrase(phrase) => {
                // A phrase with a number behind it is a measurement, else a statement.
                let measured = matches!(rest.first(), Some(Token::Word(word)) if word.parse::<f64>().is_ok());
                if measured {
                    let at = unmeasured.iter().position(|measurement| measurement.name.meaning == phrase);
                    let measurement = unmeasured.remove(at.ok_or(Rejection::Number(line))?);
                    rest = number(line, rest, measurement.value)?;
                    rest = unit(line, rest, &measurement.unit.value)?;
                } else {
                    let at = unsaid.iter().position(|unsaid| *unsaid == phrase);
                    unsaid.remove(at.ok_or(Rejection::Unaccounted(line))?);
                }
            }
            Token::Word("certainty") if !certain => {
                certain = true;
                rest = unit(line, number(line, rest, finding.score * 100.0)?, "%")?;
            }
            Token::Word("frame") if !framed && finding.source.instance.frames > 1 => {
                framed = true;
                rest = number(line, rest, f64::from(finding.source.frame))?;
            }
            Token::Word("flagged") if !flagged && finding.tier == Tier::Flagged => {
                flagged = true;
                for expected in ["needs", "explicit", "attention"] {
                    rest = word(rest, expected).ok_or(Rejection::Unaccounted(line))?;
                }
            }
            Token::Word(word) if word.parse::<f64>().is_ok() => return Err(Rejection::Number(line)),
            Token::Word(_) => return Err(Rejection::Unaccounted(line)),
        }
    }
    let complete = unsaid.is_empty()
        && unmeasured.is_empty()
        && certain
        && framed == (finding.source.instance.frames > 1)
        && flagged == (finding.tier == Tier::Flagged);
    if complete { Ok(()) } else { Err(Rejection::Missing(line)) }
}

fn word<'a, 'b>(tokens: &'b [Token<'a>], expected: &str) -> Option<&'b [Token<'a>]> {
    match tokens.split_first() {
        Some((Token::Word(word), rest)) if *word == expected => Some(rest),
        _ => None,
    }
}

/// Takes a number that is `expected`, to the two decimals that text has.
fn number<'a, 'b>(line: usize, tokens: &'b [Token<'a>], expected: f64) -> Result<&'b [Token<'a>], Rejection> {
    match tokens.split_first() {
        Some((Token::Word(word), rest)) => {
            let written = word.parse::<f64>().map_err(|_| Rejection::Number(line))?;
            let near = (written - expected).abs() <= 0.005 + expected.abs() * 1e-12;
            // Not a comparison that a NaN could slip through.
            if near { Ok(rest) } else { Err(Rejection::Number(line)) }
        }
        _ => Err(Rejection::Number(line)),
    }
}

fn unit<'a, 'b>(line: usize, tokens: &'b [Token<'a>], unit: &str) -> Result<&'b [Token<'a>], Rejection> {
    if unit == "1" || unit.starts_with('{') {
        return Ok(tokens);
    }
    word(tokens, unit).ok_or(Rejection::Number(line))
}

/// A left finding in a right lung is a fault of the model or its manifest: it is not put in words.
fn sides(line: usize, phrases: &[&str]) -> Result<(), Rejection> {
    let names = |side: &str| {
        phrases.iter().any(|phrase| {
            phrase.split(|c: char| !c.is_alphanumeric()).any(|word| word.eq_ignore_ascii_case(side))
        })
    };
    if names("left") && names("right") { Err(Rejection::Sides(line)) } else { Ok(()) }
}
