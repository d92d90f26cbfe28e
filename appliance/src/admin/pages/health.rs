//! The overview: can the box do its work, how much of it is there, and what needs a person.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::{Page, bytes, counted, digest, duration, state};
use crate::admin::ModelLine;
use crate::clock::utc_text;
use crate::dicom::tls::live::{Expiry, URGENT_MS, WARN_MS};
use crate::store::queries::{ByState, Counts, DeliveryLine, RefusalLine, StudyLine};

/// What the overview shows.
pub struct Health {
    /// Why the box cannot do its work; empty when it can.
    pub faults: Vec<String>,
    /// Numbers from the ledger.
    pub counts: Counts,
    /// The last dead letters.
    pub dead: Vec<DeliveryLine>,
    /// The last studies that a person should look at.
    pub problems: Vec<StudyLine>,
    /// The last refusal of each caller.
    pub refusals: BTreeMap<String, Vec<RefusalLine>>,
    /// What expires when.
    pub expiries: Vec<Expiry>,
    /// Why the newest files of certificates are not in use, where they are not.
    pub reload_fault: Option<String>,
    /// The models.
    pub models: Vec<ModelLine>,
    /// Free space of the store.
    pub free_bytes: Option<u64>,
    /// Studies older than `store.keep_days` of which something is still to be done.
    pub stuck: u32,
    /// When the daemon started.
    pub started_ms: i64,
    /// Name of the device's key.
    pub fingerprint: String,
}

/// Refusals that the overview shows.
const REFUSALS_SHOWN: usize = 5;

/// The overview.
pub fn overview(page: &Page<'_>, health: &Health) -> Markup {
    let file = &page.site.file;
    let counts = &health.counts;
    let content = html! {
        h1 { "Health" }
        @if health.faults.is_empty() {
            div.banner.good { "Ready: studies are received, models can run, results leave." }
        } @else {
            div.banner.bad { strong { "Not ready" } ul { @for fault in &health.faults { li { (fault) } } } }
        }
        div.grid {
            section.card {
                h2 { "This box" }
                dl.facts {
                    dt { "Station" } dd { (file.appliance.name) }
                    dt { "AE title" } dd { code { (file.appliance.ae_title) } }
                    dt { "DICOM TLS" } dd { (page.listening.dicom) }
                    @if let Some(plaintext) = &page.listening.plaintext {
                        dt { "DICOM without TLS" } dd { span.tag.warn { (plaintext) } }
                    }
                    dt { "Version" } dd { (env!("CARGO_PKG_VERSION")) }
                    dt { "Up for" } dd { (duration(page.now_ms - health.started_ms)) }
                    dt { "Disk free" } dd {
                        @match health.free_bytes { Some(free) => (bytes(free)), None => "unknown" }
                        span.soft { " (" (bytes(file.store.reserve_mib << 20)) " kept in reserve)" }
                    }
                    @if health.stuck > 0 {
                        dt { "Kept longer" }
                        dd { span.tag.warn { (health.stuck) " studies" } " are older than the "
                            (file.store.keep_days) " days of store.keep_days: something of them waits, failed or was given up" }
                    }
                    dt { "Site file" } dd { (digest(&page.site.revision)) }
                    dt { "Device key" } dd { code { (health.fingerprint) } }
                    dt { "Audit log" } dd { (counts.audit_head) " records" }
                }
            }
            section.card {
                h2 { "Work" }
                table {
                    tr { th { "Studies" } td { (numbers(&counts.studies, Some("/studies?state="))) } }
                    tr { th { "Jobs" } td { (numbers(&counts.jobs, None)) } }
                    tr { th { "To look at" } td {
                        @if counts.problem_studies == 0 { "nothing" }
                        @else { a href="/studies?problems=1" { (counted(counts.problem_studies, "study", "studies")) } }
                    } }
                }
                h3 { "Destinations" }
                @if counts.destinations.is_empty() { p.soft { "Nothing has been sent yet." } }
                @for (name, line) in &counts.destinations {
                    p { a href="/queue" { (name) } " " (super::queue::reach(page, line)) " " (numbers(&line.deliveries, None)) }
                }
            }
        }
        @if let Some(fault) = &health.reload_fault {
            div.banner.bad {
                strong { "The changed certificates are not in use, the old ones are" }
                p.words { (fault) }
            }
        }
        (expiring(page, &health.expiries))
        section.card {
            h2 { "Models" }
            (models(&health.models))
        }
        @if !health.problems.is_empty() || !health.dead.is_empty() || !health.refusals.is_empty() {
            section.card { h2 { "Last problems" } (problems(page, health)) }
        }
    };
    page.frame("Health", "/", Some(30), &content)
}

/// What expires within the next 30 days, or has expired.
fn expiring(page: &Page<'_>, expiries: &[Expiry]) -> Markup {
    let mut soon: Vec<&Expiry> =
        expiries.iter().filter(|expiry| expiry.not_after_ms - page.now_ms < WARN_MS).collect();
    soon.sort_by_key(|expiry| expiry.not_after_ms);
    html! {
        @if !soon.is_empty() { section.card {
            h2 { "Expires soon" }
            div.scroll { table {
                tr { th { "What" } th { "When" } th { "Left" } }
                @for expiry in soon {
                    @let left = expiry.not_after_ms - page.now_ms;
                    tr {
                        td { (expiry.who) }
                        td.time { (utc_text(expiry.not_after_ms)) }
                        td {
                            span class=(if left < URGENT_MS { "tag bad" } else { "tag warn" }) {
                                @if left < 0 { "expired" } @else { (duration(left)) }
                            }
                        }
                    }
                }
            } }
        } }
    }
}

/// Numbers by state; the ones that are 0 stay away.
fn numbers(counts: &ByState, link: Option<&str>) -> Markup {
    html! {
        @if counts.values().all(|count| *count == 0) { span.soft { "none" } }
        @for (name, count) in counts.iter().filter(|(_, count)| **count > 0) {
            span title=(name) {
                (count) " "
                @match link {
                    Some(link) => a href=(format!("{link}{name}")) { (state(name)) },
                    None => (state(name)),
                }
                " "
            }
        }
    }
}

fn models(models: &[ModelLine]) -> Markup {
    html! {
        @if models.is_empty() { p.soft { "The site file names no model." } } @else {
            div.scroll { table {
                tr { th { "Name" } th { "Model" } th { "Digest" } th { "State" } }
                @for model in models { tr {
                    td { a href="/models" { (model.name) } }
                    td { (model.title) " " @if model.not_for_clinical_use { span.tag.warn { "not for clinical use" } } }
                    td { (digest(&model.digest)) }
                    td.words { @match &model.fault {
                        Some(fault) => span.reason { (fault) },
                        None => span.tag.good { "loaded" },
                    } }
                } }
            } }
        }
    }
}

fn problems(page: &Page<'_>, health: &Health) -> Markup {
    let mut refusals: Vec<&RefusalLine> = health.refusals.values().flatten().collect();
    refusals.sort_by_key(|refusal| std::cmp::Reverse(refusal.last_at));
    refusals.truncate(REFUSALS_SHOWN);
    html! {
        div.scroll { table {
            tr { th { "When" } th { "What" } th { "Why" } }
            @for study in &health.problems { tr {
                td.time { (page.time(study.last_at)) }
                td { "Study " a href=(format!("/studies/{}", study.key)) { code { (study.key) } } }
                td { (super::study::summary(study)) }
            } }
            @for letter in &health.dead { tr {
                td.time { (page.time(letter.last_at.unwrap_or(letter.queued_at))) }
                td { a href="/queue" { (letter.destination) } " " (state(&letter.state)) }
                td.words { @if let Some(reason) = &letter.last_reason { span.reason { (reason.expose()) } } }
            } }
            @for refusal in refusals { tr {
                td.time { (page.time(refusal.last_at)) }
                td { a href="/peers" { (refusal.peer) } " was refused" }
                td.words { (refusal.reason) }
            } }
        } }
    }
}
