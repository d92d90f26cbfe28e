//! Studies: the list, and one study with the answer to "why did it (not) go there?".

use maud::{Markup, html};
use serde_json::Value;

use super::{Page, bytes, counted, digest, duration, state};
use crate::finding::{Completeness, Tier};
use crate::job::{JobState, State, StudyState};
use crate::store::priors::FetchLine;
use crate::store::queries::{
    Decision, FindingLine, Job, Outcome, Revision, Series, StudyDetail, StudyFilter, StudyLine,
};

/// The list of studies.
pub fn studies(page: &Page<'_>, filter: &StudyFilter, lines: &[StudyLine]) -> Markup {
    let state_query = filter.state.map(|state| format!("state={}&", state.as_str())).unwrap_or_default();
    let problems_query = if filter.problems_only { "problems=1&" } else { "" };
    let current = |chosen: bool| chosen.then_some("page");
    let content = html! {
        h1 { "Studies" }
        div.filter {
            a href="/studies" aria-current=[current(filter.state.is_none() && !filter.problems_only)] { "all" }
            @for one in StudyState::ALL {
                a href=(format!("/studies?state={}", one.as_str())) aria-current=[current(filter.state == Some(*one))] { (one.as_str()) }
            }
            a href="/studies?problems=1" aria-current=[current(filter.problems_only)] { "to look at" }
        }
        section.card {
            @if lines.is_empty() { p { "No study." } } @else {
                div.scroll { table {
                    tr {
                        th { "Study" } th { "State" } th.number { "Rev." } th { "Images" }
                        th { "Last image" } th { "Models" } th { "Deliveries" } th {}
                    }
                    @for line in lines {
                    tr.split[!line.note.is_empty()] {
                        td { a href=(format!("/studies/{}", line.key)) { code { (line.key) } } }
                        td { (state(&line.state)) }
                        td.number { (line.revision) }
                        td { (line.instances) " in " (line.series) " series" }
                        td.time { (page.time(line.last_at)) }
                        td { @if let Some(worst) = line.worst_job() { (state(worst)) } }
                        td { @if let Some(worst) = line.worst_delivery() { (state(worst)) } }
                        td { @if line.problem { span.tag.bad { "look" } } }
                    }
                    @if !line.note.is_empty() { tr { td {} td.soft colspan="7" { (line.note) } } }
                    }
                } }
            }
        }
        @if lines.len() as u32 == filter.limit && let Some(last) = lines.last() {
            p { a href=(format!("/studies?{state_query}{problems_query}before={}", last.id)) { "Older studies" } }
        }
    };
    page.frame("Studies", "/studies", None, &content)
}

/// Why a study is one to look at, in the fewest words.
pub(super) fn summary(line: &StudyLine) -> Markup {
    html! {
        (state(&line.state)) " "
        @if let Some(worst) = line.worst_job() { "model " (state(worst)) " " }
        @if let Some(worst) = line.worst_delivery() { "delivery " (state(worst)) " " }
        (line.note)
    }
}

/// One study.
pub fn study(page: &Page<'_>, detail: &StudyDetail) -> Markup {
    let line = &detail.line;
    let content = html! {
        h1 { "Study " code { (line.key) } " " (state(&line.state)) @if detail.stat { " " span.tag.warn { "STAT" } } }
        section.card {
            dl.facts {
                dt { "Revision" } dd { @if line.revision == 0 { "none closed yet" } @else { (line.revision) } }
                dt { "First image" } dd { (page.time(line.first_at)) }
                dt { "Last image" } dd { (page.time(line.last_at)) }
                @if !line.note.is_empty() { dt { "Note" } dd { (line.note) } }
            }
            h2 { "Series" }
            (series_table(&detail.series_list))
        }
        @if !detail.priors.is_empty() {
            section.card {
                h2 { "Earlier studies that were looked for" }
                @for fetch in &detail.priors { (priors(fetch)) }
            }
        }
        @if line.state == StudyState::Fetched.as_str() {
            p { "It was fetched for another study: no rule decides on it, unless it is sent to this box." }
        } @else if detail.revisions.is_empty() {
            p { "No revision is closed: the study goes to the rules when evidence says that it is complete, or when no image has come for "
                (page.site.file.timers.quiet_seconds) " s." }
        }
        @if !detail.early_jobs.is_empty() {
            section.card {
                h2 { "Series given to their models before the study is complete" }
                @for job in &detail.early_jobs { (one_job(page, detail, line.revision + 1, job)) }
            }
        }
        @for revision in &detail.revisions { (one_revision(page, detail, revision)) }
        p.soft { "This view is on the audit log." }
    };
    page.frame("Study", "/studies", None, &content)
}

fn priors(fetch: &FetchLine) -> Markup {
    html! {
        p { strong { "For rule " (fetch.rule) ": " } (fetch.words()) }
        @if !fetch.priors.is_empty() { div.scroll { table {
            tr { th { "Study" } th { "Date" } th { "State" } th.number { "Images here" } th.number { "At the peer" } th { "Why not all" } }
            @for prior in &fetch.priors { tr {
                td { @if prior.held > 0 { a href=(format!("/studies/{}", prior.study)) { code { (prior.study) } } } @else { code { (prior.study) } } }
                td { (prior.date.expose()) }
                td { (state(&prior.state)) }
                td.number { (prior.held) }
                td.number { @match prior.instances { Some(there) => (there), None => "not told" } }
                td { (prior.reason) }
            } }
        } } }
    }
}

fn series_table(list: &[Series]) -> Markup {
    html! {
        div.scroll { table {
            tr { th.number { "No." } th { "Modality" } th { "Description" } th.number { "Images" } th { "Size" } th { "Sent by" } th {} }
            @for series in list { tr {
                td.number { (series.number) }
                td { (series.modality) }
                td { (series.description.expose()) }
                td.number { (series.instances) }
                td { (bytes(series.bytes)) }
                td { (series.peers) }
                td {
                    @if series.conflicts > 0 { span.tag.bad { (series.conflicts) " came twice with different content" } }
                    @if series.unreadable > 0 { span.tag.bad { (series.unreadable) " unreadable" } }
                }
            } }
        } }
    }
}

fn one_revision(page: &Page<'_>, detail: &StudyDetail, revision: &Revision) -> Markup {
    html! {
        section.card {
            h2 { "Revision " (revision.revision) }
            dl.facts {
                dt { "Closed" } dd { (page.time(revision.closed_at)) }
                dt { "Because" } dd { (revision.verdict) }
                dt { "Evidence" } dd { (evidence(&revision.evidence)) }
                dt { "Rules" } dd { (digest(&revision.rule_set)) " (" code { "lightbox rules show " (revision.rule_set.get(..12).unwrap_or_default()) } " prints them)" }
            }
            h3 { "Why it went where it went" }
            @if revision.decisions.is_empty() { p { "The site file had no rule." } }
            @for series in series_of(&revision.decisions) { (decisions(detail, revision, series)) }
            @if revision.jobs.is_empty() {
                p { strong { "It went to no model." } " It is kept; the rules above say why." }
            }
            @if !revision.forwards.is_empty() {
                h3 { "Sent on as received" }
                (super::queue::forwards(page, &revision.forwards, true))
            }
            @for job in &revision.jobs { (one_job(page, detail, revision.revision, job)) }
        }
    }
}

/// What a verdict rests on: the facts, each piece of evidence, each series' own verdict.
fn evidence(object: &Value) -> Markup {
    let mut facts = object.clone();
    let mut take = |name: &str| match facts.as_object_mut().and_then(|fields| fields.remove(name)) {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    };
    let (pieces, by_series) = (take("evidence"), take("by_series"));
    let text = |item: &Value, name: &str| item[name].as_str().unwrap_or_default().to_owned();
    html! {
        (values(&facts))
        @if !pieces.is_empty() || !by_series.is_empty() { ul {
            @for piece in &pieces {
                li { b { (text(piece, "kind")) } " says " (text(piece, "says")) ": " (text(piece, "text")) }
            }
            @for series in &by_series {
                li {
                    "series " (series["series"].to_string()) ": "
                    @if series["complete"] == true { "complete, " } @else { b { "not complete, " } }
                    (text(series, "because"))
                }
            }
        } }
    }
}

fn series_of(decisions: &[Decision]) -> Vec<u32> {
    let mut found: Vec<u32> = decisions.iter().map(|decision| decision.series).collect();
    found.dedup();
    found
}

fn decisions(detail: &StudyDetail, revision: &Revision, number: u32) -> Markup {
    let series = detail.series_list.iter().find(|series| series.number == number);
    let of_series: Vec<&Decision> =
        revision.decisions.iter().filter(|decision| decision.series == number).collect();
    html! {
        p { strong { "Series " (number) } @if let Some(series) = series { " · " (series.modality) " · " (series.description.expose()) } }
        // All rules saw the same values of a series.
        @if let Some(first) = of_series.first() { (values(first.inputs.expose())) }
        div.scroll { table {
            tr { th { "Rule" } th { "Matched" } th { "The condition that decided" } }
            @for decision in of_series { tr {
                td { (decision.rule) }
                td { @if decision.matched { span.tag.good { "yes" } } @else { span.tag { "no" } } }
                td.words { (decision.because.expose()) }
            } }
        } }
    }
}

/// A JSON object as names and values.
fn values(object: &Value) -> Markup {
    let text = |value: &Value| match value {
        Value::Null => "—".to_owned(),
        Value::String(text) => text.clone(),
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    };
    html! {
        @if let Value::Object(fields) = object {
            div.values { @for (name, value) in fields { span {
                b { (name.replace('_', " ")) ": " }
                // The ledger's times are counts of milliseconds.
                @match value.as_i64() {
                    Some(at) if name.ends_with("_at") => (crate::clock::utc_text(at)),
                    _ => (text(value)),
                }
            } } }
        }
    }
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}

fn one_job(page: &Page<'_>, detail: &StudyDetail, revision: u32, job: &Job) -> Markup {
    let failed = job.state == JobState::Failed.as_str();
    let can_replay = failed && revision >= detail.line.revision;
    let series: Vec<String> = job.series.iter().map(u32::to_string).collect();
    html! {
        h3 {
            "Model " (job.model) " " (state(&job.state)) " "
            @if can_replay { (page.action(&format!("/jobs/{}/replay", job.id), "Run again", None)) }
        }
        dl.facts {
            dt { "Series" } dd { (series.join(", ")) }
            @if let Some(verdict) = &job.verdict { dt { "By itself, because" } dd { (verdict) } }
            dt { "Result goes to" } dd {
                @if job.deliver.is_empty() { "nobody: no rule names a destination" }
                (joined(job.deliver.iter().map(|(destination, mode)| {
                    match mode.words() {
                        words if words.is_empty() => destination.clone(),
                        words => format!("{destination} ({words})"),
                    }
                })))
            }
            dt { "Made" } dd { (page.time(job.created_at)) }
            @if let Some(at) = job.finished_at {
                dt { "Ended" } dd { (page.time(at)) " after " (duration(at - job.created_at)) ", " (counted(job.attempts, "try", "tries")) }
            }
            @if !job.timings.is_empty() {
                dt { "Time" } dd { (joined(job.timings.iter().map(|(stage, ms)| format!("{} {ms:.0} ms", stage.replace('_', " "))))) }
            }
            @if let Some(hex) = &job.model_digest { dt { "Bundle" } dd { (digest(hex)) } }
            @for fetch in &job.priors { dt { "Priors at its start" } dd { (fetch.words()) } }
            @if let Some(error) = &job.error { dt { "Error" } dd.reason { (error) } }
        }
        @if let Some(said) = &job.outcome { (outcome(said)) }
        @if job.outcome_unreadable { p.reason { "What the model said is kept, but this release cannot read it." } }
        @for result in &job.results {
            h3 { "Result, made " (page.time(result.created_at)) }
            @if result.deliveries.is_empty() { p { "No delivery." } } @else { (super::queue::table(page, &result.deliveries, true)) }
        }
    }
}

fn outcome(outcome: &Outcome) -> Markup {
    html! {
        h3 {
            (outcome.model) " "
            @if outcome.not_for_clinical_use { span.tag.warn { "not for clinical use" } }
        }
        @if let (Some(plan), Some(record)) = (&outcome.plan, &outcome.acceptance) {
            p { "Under plan " (plan) ", acceptance record " (digest(record)) "." }
        }
        p {
            @match &outcome.completeness {
                Completeness::Complete => { "All " (outcome.examined) " selected images examined: " }
                Completeness::Partial(why) => span.reason { "Incomplete (" (outcome.examined) " images examined): " (why) ". " },
                Completeness::NotRun(why) => span.reason { "Not examined: " (why) ". " },
            }
            (joined([Tier::Reported, Tier::Flagged, Tier::Suppressed].into_iter().map(|tier| {
                format!("{} {}", outcome.tiers.get(tier.as_str()).copied().unwrap_or_default(), tier.as_str())
            })))
            "."
        }
        @if !outcome.findings.is_empty() { div.scroll { table {
            tr { th { "Tier" } th { "Finding" } th { "Where" } th.number { "Score" } th { "Measured" } th { "Source" } }
            @for finding in &outcome.findings {
                tr.soft[finding.tier == Tier::Suppressed] { (one_finding(finding)) }
            }
        } } }
    }
}

fn one_finding(finding: &FindingLine) -> Markup {
    let tag = match finding.tier {
        Tier::Reported => "tag good",
        Tier::Flagged => "tag warn",
        Tier::Suppressed => "tag",
    };
    let place: Vec<&str> = [&finding.laterality, &finding.site]
        .into_iter()
        .flatten()
        .map(|code| code.meaning.as_str())
        .collect();
    html! {
        td { span class=(tag) { (finding.tier.as_str()) } }
        td { (finding.finding.meaning) " " span.soft { "(" (finding.label) ")" } }
        td { (place.join(" ")) }
        td.number { (format!("{:.3}", finding.score)) }
        td { (finding.measurements.join(", ")) }
        td {
            "series " (finding.series)
            @if let Some(image) = finding.image { ", image " (image) }
            @if finding.frame > 1 { ", frame " (finding.frame) }
            @if let Some(region) = finding.region {
                ", " (format!("{:.0}×{:.0} at {:.0},{:.0}", region.width(), region.height(), region.left, region.top))
            }
        }
    }
}
