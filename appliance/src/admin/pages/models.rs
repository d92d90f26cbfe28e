//! The models: which version of each runs, which wait and for what, what the plan says of each; and what
//! people decide of them.

use std::collections::BTreeMap;

use lightbox_models::life_cycle::State;
use lightbox_models::plan::{Outcome, Plan, Verdict};
use lightbox_provisioning::site::Role;
use maud::{Markup, html};

use super::{Page, digest};
use crate::store::models::{Approval, EventRow, Recall, RefusedTarget, SlotRow, Trust, VersionRow};

/// Events shown of a model.
const EVENTS_SHOWN: usize = 12;

/// Everything of all models.
pub struct Models {
    /// How the repository was found last.
    pub trust: Option<Trust>,
    /// The models that the site file names, or named.
    pub slots: Vec<SlotRow>,
    /// Their versions.
    pub versions: Vec<VersionRow>,
    /// Their events, the newest first.
    pub events: BTreeMap<String, Vec<EventRow>>,
    /// What never became a version.
    pub refused: Vec<RefusedTarget>,
    /// Notices of recall.
    pub recalls: Vec<Recall>,
}

/// One version, and what may be decided of it.
pub struct Version {
    /// It.
    pub row: VersionRow,
    /// Its events, the oldest first.
    pub events: Vec<EventRow>,
    /// Who has approved it as it stands.
    pub approvals: Vec<Approval>,
    /// The plan in force.
    pub plan: Option<Plan>,
    /// Why it cannot be approved now, if it cannot.
    pub not_now: Option<String>,
    /// Whether there is a report of its time in shadow.
    pub has_report: bool,
    /// How many studies have a result of it.
    pub studies: usize,
}

fn path(version: &VersionRow) -> String {
    format!("/models/{}/{}", version.slot, version.digest)
}

/// The page of all models.
pub fn models(page: &Page<'_>, models: &Models) -> Markup {
    let content = html! {
        h1 { "Models" }
        (repository(page, models))
        @for slot in &models.slots {
            @let versions: Vec<&VersionRow> = models.versions.iter().filter(|version| version.slot == slot.slot).collect();
            section.card {
                h2 {
                    (slot.slot) " "
                    @if !slot.managed { span.tag.warn { "no longer in the site file" } }
                    @if versions.iter().any(|version| version.state == State::Active) {
                        (order(page, &format!("/models/{}/rollback", slot.slot), "Go back to the version before", false))
                        (order(page, &format!("/models/{}/disable", slot.slot), "Take out of service", false))
                    } @else { span.tag.bad { "no version is active: its studies wait" } }
                }
                p.soft { (slot.target) ", plan " (slot.plan_target) }
                @if !slot.note.is_empty() { p.reason { (slot.note) } }
                (table(page, &versions))
                @if let Some(events) = models.events.get(&slot.slot) {
                    h3 { "What happened last" }
                    (history(page, events.iter().take(EVENTS_SHOWN)))
                }
            }
        }
        @if !models.refused.is_empty() || !models.recalls.is_empty() { (others(page, models)) }
    };
    page.frame("Models", "/models", Some(15), &content)
}

fn repository(page: &Page<'_>, models: &Models) -> Markup {
    let updates = &page.site.file.updates;
    let place = match (&updates.repository, &updates.mirror) {
        (Some(folder), _) => folder.display().to_string(),
        (None, Some(mirror)) => mirror.url.clone(),
        (None, None) => "none".to_owned(),
    };
    html! {
        section.card {
            h2 { "Repository " (order(page, "/models/check", "Look now", false)) }
            dl.facts {
                dt { "Where" } dd { (place) }
                @match &models.trust {
                    None => { dt { "Last look" } dd { "none yet" } }
                    Some(trust) => {
                        dt { "Last look" }
                        dd {
                            @if let Some(at) = trust.checked_at { (page.time(at)) " " }
                            @if trust.problem.is_empty() { span.tag.good { "verified" } }
                            @else { span.tag.bad { "refused" } " " span.reason { (trust.problem) } }
                        }
                        @if let Some(at) = trust.expires_at { dt { "Its dates end" } dd { (page.time(at)) } }
                    }
                }
            }
        }
    }
}

fn table(page: &Page<'_>, versions: &[&VersionRow]) -> Markup {
    html! {
        @if versions.is_empty() { p.soft { "The repository has no version of it that this box has seen." } } @else {
            div.scroll { table {
                tr { th { "Version" } th { "Digest" } th { "State" } th { "Since" } th { "Plan" } th { "Why" } }
                @for version in versions.iter().rev() { tr {
                    td { a href=(path(version)) { (version.version) } }
                    td { (digest(&version.digest)) }
                    td { (state(version.state)) }
                    td.time { (page.time(version.since)) }
                    td { @if let Some((plan, number)) = &version.plan { (plan) " v" (number) } }
                    td.words { (version.note) }
                } }
            } }
        }
    }
}

fn history<'a>(page: &Page<'_>, events: impl Iterator<Item = &'a EventRow>) -> Markup {
    html! {
        div.scroll { table {
            tr { th { "When" } th { "Version" } th { "What" } th { "By" } th { "Why" } }
            @for event in events { tr {
                td.time { (page.time(event.at)) }
                td { (digest(&event.digest)) }
                td { (event.event) @if event.before != event.after { " → " (event.after) } }
                td { (event.actor) }
                td.words { (event.reason) }
            } }
        } }
    }
}

fn others(page: &Page<'_>, models: &Models) -> Markup {
    html! {
        section.card {
            h2 { "Turned away" }
            div.scroll { table {
                tr { th { "When" } th { "What" } th { "Why" } }
                @for recall in &models.recalls { tr {
                    td.time { (page.time(recall.at)) }
                    td { "Recall " (recall.target) }
                    td.words {
                        @if !recall.clause.is_empty() { span.tag.bad { "not obeyed" } " " }
                        (recall.note)
                    }
                } }
                @for target in &models.refused { tr {
                    td.time { (page.time(target.at)) }
                    td { (target.target) " for " (target.slot) }
                    td.words { span.reason { (target.clause) ": " (target.why) } }
                } }
            } }
        }
    }
}

/// The page of one version.
pub fn version(page: &Page<'_>, version: &Version) -> Markup {
    let row = &version.row;
    let content = html! {
        h1 { (row.slot) " " (row.version) " " (state(row.state)) }
        section.card {
            dl.facts {
                dt { "Bundle" } dd { code { (row.digest) } }
                dt { "Came as" } dd { (row.target) }
                dt { "Release" } dd { (row.release) }
                @if let Some((plan, number)) = &row.plan { dt { "Accepted under" } dd { "plan " (plan) " version " (number) } }
                @if let Some(record) = &row.acceptance { dt { "Acceptance record" } dd { code { (record) } } }
                dt { "Results" } dd { (version.studies) " studies" }
                @if !row.note.is_empty() { dt { "Why" } dd { (row.note) } }
            }
            @if version.has_report { p { a href=(format!("{}/shadow", path(row))) { "Report of its time in shadow" } } }
        }
        (decisions(page, version))
        @for event in version.events.iter().rev() {
            @if let Some(verdict) = &event.verdict {
                section.card {
                    h2 { (event.event) ", " (page.time(event.at)) }
                    (ruling(verdict))
                }
            }
        }
        section.card { h2 { "History" } (history(page, version.events.iter().rev())) }
    };
    page.frame("Model", "/models", None, &content)
}

fn decisions(page: &Page<'_>, version: &Version) -> Markup {
    let row = &version.row;
    let waits = matches!(row.state, State::Accepted | State::Shadow | State::RolledBack);
    let on_its_way = waits || matches!(row.state, State::Received | State::Verified | State::PlannedIn);
    let wanted = version.plan.as_ref().map_or(0, |plan| plan.site.approvals);
    let labelling =
        version.plan.as_ref().map(|plan| &plan.labelling).filter(|labelling| labelling.acknowledge);
    html! {
        @if on_its_way {
            section.card {
                h2 { "Decide" }
                p { (version.approvals.len()) " of " (wanted.max(1)) " people have approved." }
                @if !version.approvals.is_empty() {
                    ul { @for approval in &version.approvals { li { (approval.person) ", " (page.time(approval.at)) } } }
                }
                @if let Some(labelling) = labelling {
                    p { "Instructions for use, version " (labelling.version) ": " (labelling.notice) }
                }
                @match &version.not_now {
                    Some(why) => p.reason { (why) },
                    None if waits => (order(page, &format!("{}/approve", path(row)), "Approve", labelling.is_some())),
                    None => {}
                }
                " "
                @if row.state != State::RolledBack {
                    (order(page, &format!("{}/refuse", path(row)), "Refuse for good", false))
                }
            }
        }
    }
}

/// A decision of the person whose certificate this is, with their reason.
fn order(page: &Page<'_>, path: &str, name: &str, acknowledge: bool) -> Markup {
    html! {
        @if page.operator.role == Role::Operator {
            form method="post" action=(path) {
                input type="hidden" name="token" value=(page.token);
                @if acknowledge {
                    label { input type="checkbox" name="acknowledge" value="yes" required; " I have read them. " }
                }
                label { "Reason: " input name="reason" maxlength="500"; " " }
                button { (name) }
            } " "
        }
    }
}

fn ruling(verdict: &Verdict) -> Markup {
    html! {
        p {
            "Plan " (verdict.plan) " version " (verdict.plan_version) ": "
            @if verdict.allows() { span.tag.good { "allows it" } } @else { span.tag.bad { "does not allow it" } }
            @if !verdict.modifications.is_empty() { " Modifications: " (verdict.modifications.join(", ")) "." }
        }
        div.scroll { table {
            tr { th { "Clause" } th { "Of what" } th { "Outcome" } th { "Why" } }
            @for clause in &verdict.clauses { tr {
                td { (clause.name) }
                td { (clause.subject) }
                td { @match clause.outcome {
                    Outcome::Met => span.tag.good { "met" },
                    Outcome::Broken => span.tag.bad { "broken" },
                    Outcome::NotApplicable => span.tag { "not applicable" },
                } }
                td.words { (clause.why) }
            } }
        } }
    }
}

fn state(state: State) -> Markup {
    let class = match state {
        State::Active => "tag good",
        State::Refused | State::Recalled => "tag bad",
        State::Accepted | State::Shadow | State::RolledBack => "tag warn",
        _ => "tag",
    };
    html! { span class=(class) { (state) } }
}
