//! `lightbox peers`: who may call, when each was last heard of, and who was refused why.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use lightbox_provisioning::site::{Capability, Peer};
use serde::Serialize;

use super::SiteArg;
use super::place::Place;
use super::print::{plain, print_json};
use crate::clock::utc_text;
use crate::store::queries::{self, CertificateLine, RECENT_INSTANCES, RefusalLine};

/// Refusals shown of a peer.
const REFUSALS_SHOWN: usize = 5;

/// Shows each DICOM peer of the site file: how it is known, when it last sent something, when the
/// certificate that it showed expires, and its last refusals with the reason and what to do.
///
/// A refusal's code is result/source/reason of the A-ASSOCIATE-RJ (PS3.8 §9.3.4), `context 3` for SOP
/// classes that were not allowed, or `TLS` for a connection that got no further. Callers whom the
/// site file does not name come last, by their address.
#[derive(Debug, Parser)]
#[command(after_help = "Examples:\n  lightbox peers\n  lightbox peers --peer ct-1 --json")]
pub struct Args {
    #[command(flatten)]
    site: SiteArg,
    /// Only the peer of this name.
    #[arg(long, value_name = "NAME")]
    peer: Option<String>,
    /// Write JSON for programs.
    #[arg(long)]
    json: bool,
}

/// A peer, as this verb shows it.
#[derive(Debug, Serialize)]
struct PeerLine {
    name: String,
    ae_titles: Vec<String>,
    may: Vec<Capability>,
    networks: Vec<String>,
    /// `sha256 …`, `spki_sha256 …`, `name …` or `plaintext`.
    known_by: String,
    /// Milliseconds since the epoch.
    last_received: Option<i64>,
    /// The certificate that it showed last.
    certificate: Option<CertificateLine>,
    refusals: Vec<RefusalLine>,
}

#[derive(Debug, Serialize)]
struct Lines {
    peers: Vec<PeerLine>,
    /// Refusals of callers that the site file does not name, by their address.
    others: BTreeMap<String, Vec<RefusalLine>>,
}

/// How a peer is known, as the site file says it.
fn known_by(peer: &Peer) -> String {
    let certificate = peer.certificate.clone().unwrap_or_default();
    let ways = [
        ("sha256", certificate.sha256),
        ("spki_sha256", certificate.spki_sha256),
        ("name", certificate.name),
    ];
    ways.into_iter()
        .find_map(|(way, value)| Some(format!("{way} {}", value?)))
        .unwrap_or_else(|| "plaintext".into())
}

impl Args {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        self.write(&mut std::io::stdout().lock())
    }

    pub(super) fn write(self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        let place = Place::open(&self.site)?;
        let wanted = |name: &str| self.peer.as_deref().is_none_or(|peer| peer == name);
        if let Some(name) = &self.peer
            && place.site.peer(name).is_none()
        {
            anyhow::bail!("there is no [[peer]] \"{name}\" in {}", place.site.path.display());
        }
        let reader = place.reader()?;
        let mut refusals = queries::refusals(&reader, REFUSALS_SHOWN)?;
        let received = queries::last_received(&reader)?;
        let mut certificates = queries::peer_certificates(&reader)?;
        let peers: Vec<PeerLine> = place
            .site
            .file
            .peer
            .iter()
            .map(|peer| PeerLine {
                name: peer.name.clone(),
                ae_titles: [&peer.ae_title].into_iter().chain(&peer.more_ae_titles).cloned().collect(),
                may: peer.may.clone(),
                networks: peer.networks.clone(),
                known_by: known_by(peer),
                last_received: received.get(&peer.name).copied(),
                certificate: certificates.remove(&peer.name),
                refusals: refusals.remove(&peer.name).unwrap_or_default(),
            })
            .filter(|peer| wanted(&peer.name))
            .collect();
        if self.peer.is_some() {
            refusals.clear();
        }
        let lines = Lines { peers, others: refusals };
        if self.json {
            print_json(out, &lines)?
        } else {
            print(out, &lines)?
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn print(out: &mut impl Write, lines: &Lines) -> std::io::Result<()> {
    for peer in &lines.peers {
        let may: Vec<&str> = peer
            .may
            .iter()
            .map(|may| match may {
                Capability::Send => "send",
                Capability::Receive => "receive",
                Capability::Query => "query",
                Capability::Retrieve => "retrieve",
                Capability::Announce => "announce",
                Capability::Commit => "commit",
            })
            .collect();
        writeln!(out, "{}  AE {}  may {}", peer.name, peer.ae_titles.join(", "), may.join(", "))?;
        writeln!(out, "  known by       {}", plain(&peer.known_by))?;
        if !peer.networks.is_empty() {
            writeln!(out, "  calls from     {}", peer.networks.join(", "))?;
        }
        match peer.last_received {
            Some(at) => writeln!(out, "  last instance  {}", utc_text(at))?,
            None => writeln!(out, "  last instance  none among the last {RECENT_INSTANCES}")?,
        }
        match &peer.certificate {
            Some(seen) => writeln!(
                out,
                "  certificate    {}…, expires {}, shown {}",
                seen.sha256.get(..16).unwrap_or(&seen.sha256),
                utc_text(seen.not_after),
                utc_text(seen.seen_at)
            )?,
            None => writeln!(out, "  certificate    not shown yet")?,
        }
        refusals(out, &peer.refusals)?;
        writeln!(out)?;
    }
    for (address, lines) in &lines.others {
        writeln!(out, "{}  not named by the site file", plain(address))?;
        refusals(out, lines)?;
        writeln!(out)?;
    }
    Ok(())
}

fn refusals(out: &mut impl Write, lines: &[RefusalLine]) -> std::io::Result<()> {
    for line in lines {
        let code = if line.code.is_empty() { "–" } else { &line.code };
        writeln!(
            out,
            "  refused        {}, {} times, from {} AE \"{}\"  [{code}]\n                 {}\n                 remedy: {}",
            utc_text(line.last_at),
            line.count,
            plain(&line.address),
            plain(&line.calling_ae),
            plain(&line.reason),
            plain(&line.remedy)
        )?;
    }
    Ok(())
}
