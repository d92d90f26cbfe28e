//! The DICOM listeners: who may open an association, and what is done in one.
//!
//! The order of the checks: TLS (the certificate must be one that the site file names, else a TLS
//! alert), then the A-ASSOCIATE-RQ (certificate ↔ calling AE ↔ called AE, else A-ASSOCIATE-RJ).
//! Every refusal is audited and kept for the admin page, with the reason and the remedy.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lightbox_provisioning::site::Site;
use rusqlite::params;
use rustls::pki_types::UnixTime;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::receive::{Receiver, Sender};
use super::session::{self, Services};
use crate::audit::{Event, EventKind, Outcome};
use crate::dicom::association::{AssociationError, Limits, Rejection, Requested};
use crate::dicom::tls::{Trust, explain_handshake};
use crate::store::ledger::LedgerError;

/// Connections that have not yet shown who they are (TLS handshake, A-ASSOCIATE-RQ): in all, and from
/// one address. Strangers can only fill this waiting room, never the places of associations; each is
/// out of it after the handshake's and ARTIM's time.
const WAITING_MAX: u32 = 512;
const WAITING_PER_ADDRESS_MAX: u32 = 128;

/// A peer as the listener sees it.
#[derive(Clone, Debug)]
struct PeerPolicy {
    name: String,
    ae_title: String,
    may_send: bool,
    plaintext: bool,
}

/// The listener's policy and means; shared by all connections.
pub struct Listener {
    receiver: Receiver,
    services: Services,
    trust: Arc<Trust>,
    tls: TlsAcceptor,
    peers: Vec<PeerPolicy>,
    limits: Limits,
    handshake: Duration,
    associations_max: u32,
    open: AtomicU32,
    waiting: Mutex<HashMap<IpAddr, u32>>,
}

/// A place in the waiting room, given back when dropped.
struct Waiting<'a> {
    listener: &'a Listener,
    address: IpAddr,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waiting = self.listener.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = waiting.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&self.address);
            }
        }
    }
}

/// The place of an accepted association, given back when dropped.
struct Place<'a>(&'a Listener);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let open = self.0.open.fetch_sub(1, Ordering::SeqCst) - 1;
        metrics::gauge!("lightbox_associations_open").set(f64::from(open));
    }
}

/// Why a connection or an association was refused.
struct Refusal {
    peer: String,
    calling_ae: String,
    address: SocketAddr,
    reason: String,
    remedy: String,
}

impl Listener {
    /// A listener with the site's policy.
    pub fn new(
        site: &Site,
        receiver: Receiver,
        services: Services,
        trust: Arc<Trust>,
        tls: TlsAcceptor,
    ) -> Self {
        let dicom = &site.file.dicom;
        Listener {
            receiver,
            services,
            trust,
            tls,
            peers: site
                .file
                .peer
                .iter()
                .map(|peer| PeerPolicy {
                    name: peer.name.clone(),
                    ae_title: peer.ae_title.clone(),
                    may_send: session::may_open(site, peer),
                    plaintext: peer.plaintext,
                })
                .collect(),
            limits: Limits {
                max_pdu: dicom.max_pdu_bytes,
                artim: Duration::from_secs(dicom.artim_seconds),
                idle: Duration::from_secs(dicom.idle_timeout_seconds),
            },
            handshake: Duration::from_secs(dicom.handshake_timeout_seconds),
            associations_max: dicom.max_associations,
            open: AtomicU32::new(0),
            waiting: Mutex::default(),
        }
    }

    /// Accepts connections until `stop` turns true. `encrypted` says which of the two ports it is.
    pub async fn run(self: Arc<Self>, port: TcpListener, encrypted: bool, mut stop: watch::Receiver<bool>) {
        loop {
            let accepted = tokio::select! {
                accepted = port.accept() => accepted,
                _ = stop.changed() => return,
            };
            match accepted {
                Ok((stream, address)) => {
                    let listener = self.clone();
                    tokio::spawn(async move { listener.connection(stream, address, encrypted).await });
                }
                Err(error) => {
                    // Out of file descriptors, most likely: breathe, then go on.
                    tracing::error!(kind = %error.kind(), "accepting a connection failed");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }

    async fn connection(&self, stream: TcpStream, address: SocketAddr, encrypted: bool) {
        // Nagle would hold our small responses back for the sender's delayed ACK (40 ms).
        drop(stream.set_nodelay(true));
        let Some(waiting) = self.wait(address.ip()) else {
            metrics::counter!("lightbox_associations_total", "outcome" => "overrun").increment(1);
            return;
        };
        if encrypted {
            self.encrypted(stream, address, waiting).await;
        } else {
            self.associate(stream, address, None, waiting).await;
        }
    }

    /// A place in the waiting room, if there is one.
    fn wait(&self, address: IpAddr) -> Option<Waiting<'_>> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let all: u32 = waiting.values().sum();
        let count = waiting.entry(address).or_default();
        if all >= WAITING_MAX || *count >= WAITING_PER_ADDRESS_MAX {
            return None;
        }
        *count += 1;
        Some(Waiting { listener: self, address })
    }

    /// The place of one more association, if there is one.
    fn take_place(&self) -> Option<Place<'_>> {
        let max = self.associations_max;
        let taken = self
            .open
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |open| (open < max).then_some(open + 1))
            .ok()?;
        metrics::gauge!("lightbox_associations_open").set(f64::from(taken + 1));
        Some(Place(self))
    }

    async fn encrypted(&self, stream: TcpStream, address: SocketAddr, waiting: Waiting<'_>) {
        let refusal = |reason: String, remedy: &str| Refusal {
            peer: address.ip().to_string(),
            calling_ae: String::new(),
            address,
            reason,
            remedy: remedy.into(),
        };
        match tokio::time::timeout(self.handshake, self.tls.accept(stream)).await {
            Err(_) => {
                let reason = "the peer did not finish the TLS handshake in time".to_owned();
                self.refused(refusal(reason, "check that the peer speaks TLS on this port")).await;
            }
            Ok(Err(error)) => {
                let (reason, remedy) = explain_handshake(&error);
                self.refused(refusal(reason, remedy)).await;
            }
            Ok(Ok(stream)) => {
                let owners = self.owners(stream.get_ref().1);
                self.associate(stream, address, Some(owners), waiting).await;
            }
        }
    }

    /// The peers whose certificate this is.
    fn owners(&self, connection: &rustls::ServerConnection) -> Vec<String> {
        let now = UnixTime::since_unix_epoch(Duration::from_millis(
            self.receiver.clock.now_ms().try_into().unwrap_or_default(),
        ));
        match connection.peer_certificates() {
            Some([certificate, intermediates @ ..]) => {
                self.trust.owners(certificate, intermediates, now).into_iter().map(str::to_owned).collect()
            }
            _ => Vec::new(),
        }
    }

    /// `owners` are the peers that the certificate belongs to; `None` without TLS.
    async fn associate<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        address: SocketAddr,
        owners: Option<Vec<String>>,
        waiting: Waiting<'_>,
    ) {
        let known_as = || match &owners {
            Some(owners) if !owners.is_empty() => owners.join(" or "),
            _ => address.ip().to_string(),
        };
        let requested = match Requested::read(stream, self.limits).await {
            Ok(requested) => requested,
            Err(AssociationError::Closed) => return, // a port check by a monitor
            Err(error) => {
                let remedy = "check that the peer speaks DICOM on this port";
                return self
                    .refused(Refusal {
                        peer: known_as(),
                        calling_ae: String::new(),
                        address,
                        reason: error.to_string(),
                        remedy: remedy.into(),
                    })
                    .await;
            }
        };
        let calling_ae = printable(requested.calling_ae());
        match self.decide(&requested, owners.as_deref()) {
            Ok((peer, place)) => {
                drop(waiting);
                self.serve(requested, peer, calling_ae, address).await;
                drop(place);
            }
            Err((rejection, reason, remedy)) => {
                let reason = format!("{reason}: {rejection}");
                let refusal = Refusal { peer: known_as(), calling_ae, address, reason, remedy };
                // The record first: the peer's next step may depend on what our page shows.
                self.refused(refusal).await;
                if let Err(error) = requested.reject(rejection).await {
                    tracing::debug!(reason = error.to_string(), "the rejection did not reach the peer");
                }
            }
        }
    }

    fn decide<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        requested: &Requested<S>,
        owners: Option<&[String]>,
    ) -> Result<(PeerPolicy, Place<'_>), (Rejection, String, String)> {
        if let Some(fault) = requested.fault() {
            return Err((fault, "the request is not DICOM's".into(), "check the peer's software".into()));
        }
        let calling = requested.calling_ae();
        let shown = printable(calling);
        let allowed = self.peers.iter().filter(|peer| match owners {
            Some(owners) => owners.contains(&peer.name),
            None => peer.plaintext,
        });
        let mut expected = Vec::new();
        let mut found = None;
        for peer in allowed {
            if peer.ae_title == calling {
                found = Some(peer.clone());
            }
            expected.push(peer.ae_title.clone());
        }
        let Some(peer) = found else {
            let reason = match owners {
                Some(_) => format!(
                    "calling AE \"{shown}\" does not go with this certificate, which belongs to AE {}",
                    expected.join(", ")
                ),
                None => format!("calling AE \"{shown}\" is not a plaintext peer of the site file"),
            };
            let remedy = match owners {
                Some(_) => format!(
                    "set the peer's AE title to one of these, or add a [[peer]] with ae_title = \"{shown}\" and this certificate"
                ),
                None => {
                    format!("send by TLS, or add a [[peer]] with ae_title = \"{shown}\" and plaintext = true")
                }
            };
            return Err((Rejection::CALLING_AE, reason, remedy));
        };
        if !peer.may_send {
            return Err((
                Rejection::CALLING_AE,
                format!("peer \"{}\" may not send", peer.name),
                format!("add \"send\" to `may` of [[peer]] \"{}\"", peer.name),
            ));
        }
        if requested.called_ae() != self.receiver.ae_title {
            return Err((
                Rejection::CALLED_AE,
                format!("called AE \"{}\" is not ours", printable(requested.called_ae())),
                format!(
                    "set the called AE title on the peer to \"{}\" (case counts)",
                    self.receiver.ae_title
                ),
            ));
        }
        let place = self.take_place().ok_or_else(|| {
            (
                Rejection::LOCAL_LIMIT,
                format!("{} associations are open already", self.associations_max),
                "lower the peer's number of parallel associations, or raise dicom.max_associations"
                    .to_owned(),
            )
        })?;
        Ok((peer, place))
    }

    async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        requested: Requested<S>,
        peer: PeerPolicy,
        calling_ae: String,
        address: SocketAddr,
    ) {
        let event = Event::new(
            EventKind::AssociationAccepted,
            peer.name.as_str(),
            json!({ "calling_ae": calling_ae, "address": address.ip().to_string() }),
        );
        if let Err(error) = self.receiver.ledger.write(move |writer| writer.audit(&event)).await {
            // What cannot be audited is not done. With a full disk the sender is told to come back.
            tracing::error!(
                peer = peer.name,
                reason = error.to_string(),
                "the association could not be audited"
            );
            if !error.is_full() {
                return;
            }
        }
        metrics::counter!("lightbox_associations_total", "outcome" => "accepted").increment(1);
        let sender = Sender { peer: peer.name.clone(), calling_ae };
        if let Err(error) = self.services.run(requested, &sender).await {
            tracing::info!(
                peer = peer.name,
                reason = error.to_string(),
                "association ended without a release"
            );
        }
    }

    /// Audits a refusal and keeps it for the admin page.
    async fn refused(&self, refusal: Refusal) {
        metrics::counter!("lightbox_associations_total", "outcome" => "refused").increment(1);
        tracing::warn!(
            peer = refusal.peer,
            address = %refusal.address.ip(),
            reason = refusal.reason,
            remedy = refusal.remedy,
            "refused"
        );
        let written = self.receiver.ledger.write(move |writer| {
            writer.tx().execute(
                "INSERT INTO refusals (at, peer, calling_ae, address, reason, remedy) VALUES (?1,?2,?3,?4,?5,?6)",
                params![
                    writer.now_ms(),
                    refusal.peer,
                    refusal.calling_ae,
                    refusal.address.ip().to_string(),
                    refusal.reason,
                    refusal.remedy
                ],
            )?;
            // The page shows the last ones; the audit log keeps them all.
            writer.tx().execute("DELETE FROM refusals WHERE id <= (SELECT max(id) FROM refusals) - 1000", [])?;
            writer.audit(
                &Event::new(
                    EventKind::AssociationRefused,
                    refusal.peer,
                    json!({
                        "calling_ae": refusal.calling_ae,
                        "address": refusal.address.ip().to_string(),
                        "reason": refusal.reason,
                    }),
                )
                .with_outcome(Outcome::Minor),
            )
        });
        if let Err(error) = written.await {
            log_unaudited(&error);
        }
    }
}

fn log_unaudited(error: &LedgerError) {
    tracing::error!(reason = error.to_string(), "a refusal could not be recorded");
}

/// An AE title for logs and pages: a stranger's bytes, so only what an AE title may hold.
fn printable(ae_title: &str) -> String {
    ae_title.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).take(16).collect()
}
