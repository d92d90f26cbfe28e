//! The peers of the site file, how each is known, and who was refused why, with the remedy.

use std::collections::BTreeMap;

use lightbox_provisioning::site::{Capability, Peer};
use maud::{Markup, html};

use super::Page;
use crate::store::queries::{RECENT_INSTANCES, RefusalLine};

/// The peers page. `received` says when each peer last sent an instance.
pub fn peers(
    page: &Page<'_>,
    refusals: &BTreeMap<String, Vec<RefusalLine>>,
    received: &BTreeMap<String, i64>,
) -> Markup {
    let known = |name: &str| page.site.file.peer.iter().any(|peer| peer.name == name);
    let unknown: Vec<RefusalLine> =
        refusals.iter().filter(|(name, _)| !known(name)).flat_map(|(_, lines)| lines.clone()).collect();
    let content = html! {
        h1 { "Peers" }
        p.soft { "They call " code { (page.site.file.appliance.ae_title) } " at " (page.listening.dicom)
            " with TLS and their own certificate." }
        @for peer in &page.site.file.peer { section.card {
            h2 { (peer.name) }
            (facts(page, peer, received.get(&peer.name).copied()))
            @match refusals.get(&peer.name) {
                Some(lines) => { h3 { "Last refusals" } (table(page, lines)) }
                None => p.soft { "No refusal on record." },
            }
        } }
        section.card {
            h2 { "Callers that the site file does not name" }
            @if unknown.is_empty() { p.soft { "None on record." } } @else { (table(page, &unknown)) }
        }
    };
    page.frame("Peers", "/peers", Some(30), &content)
}

fn facts(page: &Page<'_>, peer: &Peer, received: Option<i64>) -> Markup {
    let destinations: Vec<&str> = page
        .site
        .file
        .destination
        .iter()
        .filter(|destination| destination.dicom.as_ref().is_some_and(|dicom| dicom.peer == peer.name))
        .map(|destination| destination.name.as_str())
        .collect();
    let certificate = peer.certificate.clone().unwrap_or_default();
    html! {
        dl.facts {
            dt { "AE title" } dd { code { (peer.ae_title) } }
            dt { "Address" } dd { @match &peer.address { Some(address) => (address), None => span.soft { "none: it is never called" } } }
            dt { "Certificate" } dd {
                @if peer.plaintext { span.tag.warn { "without TLS" } }
                @if let Some(pin) = &certificate.sha256 { "pinned by its fingerprint " code { (pin) } }
                @if let Some(pin) = &certificate.spki_sha256 { "pinned by its public key " code { (pin) } }
                @if let Some(name) = &certificate.name { "issued by the site's authority for " code { (name) } }
            }
            dt { "May" } dd {
                @if peer.may.contains(&Capability::Send) { span.tag { "send to us" } " " }
                @if peer.may.contains(&Capability::Receive) { span.tag { "receive results" } " " }
                @if peer.may.contains(&Capability::Query) { span.tag { "be queried" } " " }
                @if peer.may.contains(&Capability::Retrieve) { span.tag { "be retrieved from" } " " }
                @if peer.may.contains(&Capability::Announce) { span.tag { "announce" } " " }
                @if peer.may.contains(&Capability::Commit) { span.tag { "ask for commitment" } }
            }
            @if !destinations.is_empty() { dt { "Destination" } dd { a href="/queue" { (destinations.join(", ")) } } }
            dt { "Last instance" } dd { @match received {
                Some(at) => (page.time(at)),
                None => span.soft { "none among the last " (RECENT_INSTANCES) },
            } }
        }
    }
}

fn table(page: &Page<'_>, lines: &[RefusalLine]) -> Markup {
    html! {
        div.scroll { table {
            tr { th { "Last" } th.number { "Times" } th { "From" } th { "AE" } th { "Why" } th { "Remedy" } }
            @for line in lines { tr {
                td.time { (page.time(line.last_at)) }
                td.number { (line.count) }
                td { (line.address) }
                td { code { (line.calling_ae) } }
                td.words { span.reason { (line.reason) } }
                td.words { (line.remedy) }
            } }
        } }
    }
}
