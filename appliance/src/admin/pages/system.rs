//! The system page: the firmware image that runs, the ones that were offered, and how far an update is.

use lightbox_provisioning::site::{Install, Role};
use maud::{Markup, html};

use super::Page;
use crate::store::models::Trust;
use crate::store::system::{Started, State, Version};
use crate::system::System;

/// What the page shows.
pub struct SystemPage {
    /// What runs.
    pub running: Option<System>,
    /// The last look at the repository.
    pub trust: Option<Trust>,
    /// The last start of the machine that was called good.
    pub start: Option<Started>,
    /// The images, the first one first.
    pub versions: Vec<Version>,
}

/// The system page.
pub fn system(page: &Page<'_>, found: &SystemPage) -> Markup {
    let here = found.running.as_ref().and_then(System::here);
    let settings = &page.site.file.system;
    let content = html! {
        h1 { "System" }
        @if let Some(last) = found.versions.iter().rfind(|one| one.state == State::FellBack) {
            @let newer = found.versions.iter().any(|one| one.state == State::Installed && one.since > last.since);
            @if !newer { section.card { p { span.tag.bad { "fell back" } " " strong { "from " (last.version) ": " } (last.note) } } }
        }
        section.card {
            h2 { "Running" }
            @match &here {
                None => p { "This machine was not started from a firmware image: it takes no updates of one." },
                Some(here) => dl.facts {
                    dt { "Image" } dd { (found.running.as_ref().map_or("", |system| &system.pretty_name)) }
                    dt { "Machine" } dd { (here.machine) }
                    @if let Some(start) = &found.start {
                        dt { "Started" }
                        dd { (page.time(start.at)) " from " (start.entry)
                            @if !start.trouble.is_empty() { " " span.tag.bad { "trouble" } " " (start.trouble) } }
                    }
                    dt { "Rollback floor" } dd { @match here.floor { Some(floor) => (floor), None => "not known" } }
                },
            }
            p { a href="/system/inspection" { "Inspection" } ": what was started, what runs, what listens; with a signed report." }
        }
        section.card {
            h2 { "Updates " (button(page, "/system/check", "Look now")) }
            dl.facts {
                dt { "Repository" }
                dd { @match (&settings.repository, &settings.mirror) {
                    (Some(folder), _) => (folder.display()),
                    (None, Some(mirror)) => (mirror.url),
                    (None, None) => "none: [system] of the site file names none",
                } }
                dt { "Installs" }
                dd { @match settings.install { Install::Asked => "when somebody asks", Install::Window => "by itself" } }
                dt { "Restarts" }
                dd { @match &settings.window {
                    None => "when no study is in flight",
                    Some(window) => {
                        "from " (window.from) " to " (window.to) " (UTC" (page.site.file.appliance.utc_offset)
                        "), when no study is in flight"
                    }
                } }
                dt { "Last look" }
                dd { @match &found.trust {
                    None => "none yet",
                    Some(trust) => {
                        @if let Some(at) = trust.checked_at { (page.time(at)) " " }
                        @if trust.problem.is_empty() { span.tag.good { "verified" } }
                        @else { span.tag.bad { "refused" } " " span.reason { (trust.problem) } }
                    }
                } }
            }
            @if found.versions.is_empty() { p.soft { "No newer image was offered yet." } } @else { (table(page, &found.versions)) }
        }
    };
    page.frame("System", "/system", Some(5), &content)
}

fn table(page: &Page<'_>, versions: &[Version]) -> Markup {
    html! {
        div.scroll { table {
            tr { th { "Image" } th { "State" } th { "Since" } th { "Asked by" } th { "Why" } th {} }
            @for one in versions.iter().rev() { tr {
                td { (one.version) }
                td { span class=(class(one.state)) { (one.state.as_str()) } }
                td.time { (page.time(one.since)) }
                td { (one.asked_by) }
                td.words { (one.note) }
                td {
                    @if matches!(one.state, State::Offered | State::FellBack | State::Refused) {
                        (button(page, &format!("/system/install/{}", one.version), "Install"))
                    }
                }
            } }
        } }
    }
}

fn class(state: State) -> &'static str {
    match state {
        State::Installed => "tag good",
        State::FellBack | State::Refused => "tag bad",
        State::Replaced => "tag",
        _ => "tag warn",
    }
}

fn button(page: &Page<'_>, path: &str, name: &str) -> Markup {
    html! {
        @if page.operator.role == Role::Operator {
            form method="post" action=(path) {
                input type="hidden" name="token" value=(page.token);
                button { (name) }
            }
        }
    }
}
