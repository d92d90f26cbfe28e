//! The queues: of each destination whether it takes what it is sent, what waits, and what it
//! would not take, in its own words.

use std::collections::BTreeMap;

use lightbox_provisioning::site::Destination;
use maud::{Markup, html};

use super::{Page, counted, duration, state};
use crate::store::queries::{DeliveryLine, DestinationLine, ForwardLine};

/// A destination's queue.
pub struct Queue {
    /// Its numbers.
    pub line: DestinationLine,
    /// What waits or is being sent, the newest first.
    pub waiting: Vec<DeliveryLine>,
    /// Its dead letters, the newest first.
    pub dead: Vec<DeliveryLine>,
    /// What a rule holds until a person releases it, the newest first.
    pub held: Vec<DeliveryLine>,
    /// Series on their way as they were received, the newest first.
    pub forwards: Vec<ForwardLine>,
}

/// The queue page.
pub fn queue(page: &Page<'_>, queues: &BTreeMap<String, Queue>) -> Markup {
    let content = html! {
        h1 { "Queue" }
        @if queues.is_empty() { p { "The site file names no destination." } }
        @for (name, queue) in queues {
            section.card {
                h2 { (name) " " (reach(page, &queue.line)) }
                (address(page, name))
                p {
                    (count(&queue.line, "delivered")) " delivered, " (count(&queue.line, "queued")) " queued"
                    @if let Some(oldest) = queue.line.oldest_queued_at {
                        " (oldest for " (duration(page.now_ms - oldest)) ")"
                    }
                    ", " (counted(count(&queue.line, "dead"), "dead letter", "dead letters"))
                    @if count(&queue.line, "held") > 0 {
                        ", " (count(&queue.line, "held")) " held (by a rule, or in shadow mode)"
                    }
                    "."
                }
                @if !queue.dead.is_empty() {
                    h3 { "Dead letters " (page.action("/queue/replay-all", "Replay all", Some(name))) }
                    (table(page, &queue.dead, false))
                }
                @if !queue.held.is_empty() { h3 { "Held by a rule" } (table(page, &queue.held, false)) }
                @if !queue.waiting.is_empty() { h3 { "Waiting" } (table(page, &queue.waiting, false)) }
                @if !queue.forwards.is_empty() { h3 { "Sent on as received" } (forwards(page, &queue.forwards, false)) }
            }
        }
    };
    page.frame("Queue", "/queue", Some(15), &content)
}

fn count(line: &DestinationLine, state: &str) -> u32 {
    line.deliveries.get(state).copied().unwrap_or_default()
}

/// Whether the destination took what it was sent last.
pub(super) fn reach(page: &Page<'_>, line: &DestinationLine) -> Markup {
    html! {
        @match line.last_attempt {
            Some((at, true)) => span.tag.good title=(format!("{} ago", duration(page.now_ms - at))) { "last try accepted" },
            Some((at, false)) => span.tag.bad title=(format!("{} ago", duration(page.now_ms - at))) { "last try failed" },
            None => span.tag { "not tried yet" },
        }
    }
}

fn address(page: &Page<'_>, name: &str) -> Markup {
    let target = |destination: &Destination| match (&destination.dicom, &destination.hl7) {
        (Some(dicom), _) => {
            let peer = page.site.peer(&dicom.peer);
            let address = peer.and_then(|peer| peer.address.as_deref()).unwrap_or_default();
            let ae_title = peer.map(|peer| peer.ae_title.as_str()).unwrap_or_default();
            format!("DICOM SR to {ae_title} at {address}")
        }
        (None, Some(hl7)) => {
            format!("HL7 ORU^R01 to {}{}", hl7.address, if hl7.tls { " (TLS)" } else { " (without TLS)" })
        }
        (None, None) => {
            let peer = destination.dicomweb.as_ref().and_then(|web| page.site.peer(&web.peer));
            let url = peer.and_then(|peer| peer.dicomweb.as_ref()).map(|web| web.url.as_str());
            format!("DICOM SR by STOW-RS to {}", url.unwrap_or_default())
        }
    };
    html! {
        p.soft { @match page.site.destination(name) {
            Some(destination) => (target(destination)),
            None => "No longer in the site file: what waits here is not sent.",
        } }
    }
}

/// Deliveries as a table, on the page of their destination or of their study: what is the same for
/// all of them stays away. The destination's words get a row of their own, as they can be long.
pub(super) fn table(page: &Page<'_>, deliveries: &[DeliveryLine], of_study: bool) -> Markup {
    html! {
        div.scroll { table {
            tr {
                th { "No." }
                @if of_study { th { "To" } } @else { th { "Study" } th { "Model" } }
                th { "State" } th { "Last try" } th { "Next try" } th {}
            }
            @for delivery in deliveries {
                tr.split[delivery.last_reason.is_some()] {
                    td { (delivery.id) }
                    @if of_study { td { (delivery.destination) } } @else {
                        td { a href=(format!("/studies/{}", delivery.study)) { code { (delivery.study) } } " rev. " (delivery.revision) }
                        td { (delivery.model) }
                    }
                    td { (state(&delivery.state)) " " (counted(delivery.attempts, "try", "tries")) }
                    td.time { @if let Some(at) = delivery.last_at { (page.time(at)) } }
                    td.time { @if delivery.state == "queued" {
                        @if delivery.next_at <= page.now_ms { "now" }
                        @else { "in " (duration(delivery.next_at - page.now_ms)) }
                    } }
                    td {
                        @if delivery.state == "dead" {
                            (page.action(&format!("/queue/{}/replay", delivery.id), "Replay", None))
                        }
                        @if delivery.can_release() {
                            (page.action(&format!("/queue/{}/release", delivery.id), "Release", None))
                        }
                    }
                }
                @if let Some(reason) = &delivery.last_reason { tr {
                    td {}
                    td.words colspan="6" {
                        span.soft { "It said: " }
                        span.reason[delivery.state != "delivered"] { (reason.expose()) }
                    }
                } }
            }
        } }
    }
}

/// Forwards as a table, on the page of their destination or of their study.
pub(super) fn forwards(page: &Page<'_>, forwards: &[ForwardLine], of_study: bool) -> Markup {
    html! {
        div.scroll { table {
            tr {
                th { "No." }
                @if of_study { th { "To" } } @else { th { "Study" } }
                th { "Series" } th { "Rule" } th { "State" } th { "Images" } th { "Last try" } th { "Next try" } th {}
            }
            @for forward in forwards {
                tr.split[forward.last_reason.is_some()] {
                    td { "f" (forward.id) }
                    @if of_study { td { (forward.destination) } } @else {
                        td { a href=(format!("/studies/{}", forward.study)) { code { (forward.study) } } " rev. " (forward.revision) }
                    }
                    td { (forward.series) }
                    td { (forward.rule) }
                    td { (state(&forward.state)) " " (counted(forward.attempts, "try", "tries")) " " (forward.dispatch.words()) }
                    td { (forward.sent) " of " (forward.total) }
                    td.time { @if let Some(at) = forward.last_at { (page.time(at)) } }
                    td.time { @if forward.state == "queued" {
                        @if forward.next_at <= page.now_ms { "now" }
                        @else { "in " (duration(forward.next_at - page.now_ms)) }
                    } }
                    td {
                        @if forward.state == "dead" {
                            (page.action(&format!("/queue/f{}/replay", forward.id), "Replay", None))
                        }
                        @if forward.can_release() {
                            (page.action(&format!("/queue/f{}/release", forward.id), "Release", None))
                        }
                    }
                }
                @if let Some(reason) = &forward.last_reason { tr {
                    td {}
                    td.words colspan="8" { span.reason[forward.state != "delivered"] { (reason.expose()) } }
                } }
            }
        } }
    }
}
