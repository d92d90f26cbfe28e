//! The peers of the site file, how each is known, and who was refused why, with the remedy.

use std::collections::BTreeMap;

use lightbox_provisioning::site::{Capability, Peer};
use maud::{Markup, html};

use super::{Page, digest};
use crate::clock::utc_text;
use crate::dicom::tls::live::{URGENT_MS, WARN_MS};
use crate::store::queries::{CertificateLine, RECENT_INSTANCES, RefusalLine};

/// What was heard of the peers, by their names; refused strangers by their addresses.
pub struct Heard {
    /// The last refusals.
    pub refusals: BTreeMap<String, Vec<RefusalLine>>,
    /// When each last sent an instance.
    pub received: BTreeMap<String, i64>,
    /// The certificate that each showed last.
    pub certificates: BTreeMap<String, CertificateLine>,
    /// Open associations; a peer without one is not named.
    pub open: BTreeMap<String, u32>,
}

/// The peers page.
pub fn peers(page: &Page<'_>, heard: &Heard) -> Markup {
    let refusals = &heard.refusals;
    let known = |name: &str| page.site.file.peer.iter().any(|peer| peer.name == name);
    let unknown: Vec<RefusalLine> =
        refusals.iter().filter(|(name, _)| !known(name)).flat_map(|(_, lines)| lines.clone()).collect();
    let content = html! {
        h1 { "Peers" }
        p.soft { "They call " code { (page.site.file.appliance.ae_title) } " at " (page.listening.dicom)
            " with TLS and their own certificate." }
        @for peer in &page.site.file.peer { section.card {
            h2 { (peer.name) }
            (facts(page, peer, heard))
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

fn facts(page: &Page<'_>, peer: &Peer, heard: &Heard) -> Markup {
    let destinations: Vec<&str> = page
        .site
        .file
        .destination
        .iter()
        .filter(|destination| {
            destination.dicom.as_ref().is_some_and(|dicom| dicom.peer == peer.name)
                || destination.dicomweb.as_ref().is_some_and(|web| web.peer == peer.name)
        })
        .map(|destination| destination.name.as_str())
        .collect();
    let certificate = peer.certificate.clone().unwrap_or_default();
    html! {
        dl.facts {
            dt { "AE title" } dd {
                code { (peer.ae_title) }
                @for title in &peer.more_ae_titles { ", " code { (title) } }
            }
            dt { "Address" } dd { @match &peer.address { Some(address) => (address), None => span.soft { "none: it is never called" } } }
            dt { "Certificate" } dd {
                @if peer.plaintext { span.tag.warn { "without TLS" } }
                @if let Some(pin) = &certificate.sha256 { "pinned by its fingerprint " code { (pin) } }
                @if let Some(pin) = &certificate.spki_sha256 { "pinned by its public key " code { (pin) } }
                @if let Some(name) = &certificate.name { "issued by the site's authority for " code { (name) } }
            }
            @if let Some(seen) = heard.certificates.get(&peer.name) {
                dt { "Showed last" } dd {
                    (digest(&seen.sha256)) ", expires " (utc_text(seen.not_after)) " "
                    @if seen.not_after - page.now_ms < URGENT_MS { span.tag.bad { "renew now" } }
                    @else if seen.not_after - page.now_ms < WARN_MS { span.tag.warn { "renew soon" } }
                }
            }
            @if !peer.networks.is_empty() { dt { "Calls from" } dd { (peer.networks.join(", ")) } }
            @if !peer.sop_classes.is_empty() { dt { "SOP classes" } dd { (peer.sop_classes.join(", ")) } }
            @if let Some(identity) = &peer.user_identity { dt { "User identity" } dd { (identity.username) } }
            dt { "Associations" } dd {
                (heard.open.get(&peer.name).copied().unwrap_or_default()) " open"
                @if let Some(max) = peer.max_associations { " of " (max) }
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
            dt { "Last instance" } dd { @match heard.received.get(&peer.name) {
                Some(at) => (page.time(*at)),
                None => span.soft { "none among the last " (RECENT_INSTANCES) },
            } }
        }
    }
}

fn table(page: &Page<'_>, lines: &[RefusalLine]) -> Markup {
    html! {
        div.scroll { table {
            tr { th { "Last" } th.number { "Times" } th { "From" } th { "AE" } th { "Code" } th { "Why" } th { "Remedy" } }
            @for line in lines { tr {
                td.time { (page.time(line.last_at)) }
                td.number { (line.count) }
                td { (line.address) }
                td { code { (line.calling_ae) } }
                td { (line.code) }
                td.words { span.reason { (line.reason) } }
                td.words { (line.remedy) }
            } }
        } }
    }
}
