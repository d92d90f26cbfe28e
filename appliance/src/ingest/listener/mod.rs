//! The DICOM listeners: who may open an association. What is done in one is [`super::session`]'s.
//!
//! The order of the checks: TLS (the certificate must be one that the site file names and that no
//! revocation list names, else a TLS alert), then the A-ASSOCIATE-RQ (certificate ↔ calling AE ↔ network
//! ↔ called AE ↔ user identity, else A-ASSOCIATE-RJ), then room (disk, places), then each context's SOP
//! class. Every refusal is audited and kept for the admin page, with the reason and the remedy.
//!
//! - [`policy`]: what the site file lets each peer do, pure;
//! - [`places`]: the waiting room, and how many associations there are;
//! - [`refusals`]: the record of those turned away;
//! - [`throttle`]: how fast a peer is read.

pub mod places;
pub mod policy;
pub mod refusals;
pub mod throttle;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lightbox_provisioning::site::Site;
use rusqlite::params;
use rustls::pki_types::UnixTime;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use self::places::{Full, Place, Places, Waiting, WaitingRoom};
use self::policy::{Caller, Denied, PeerPolicy, Policy, printable};
use self::refusals::{Refusal, record};
use self::throttle::{Bucket, Throttled};
use super::receive::{Receiver, Sender};
use super::session::Services;
use crate::audit::{Event, EventKind};
use crate::dicom::association::{AssociationError, Limits, Rejection, Requested};
use crate::dicom::tls::live::Live;
use crate::dicom::tls::{SeenCertificate, explain_handshake, watch_handshake};
use crate::store::ledger::Ledger;

/// The listener's policy and means; shared by all connections.
pub struct Listener {
    receiver: Receiver,
    services: Services,
    tls: watch::Receiver<Arc<Live>>,
    policy: Arc<Policy>,
    limits: Limits,
    handshake: Duration,
    /// Free space below which senders are sent away; 0 where they never are.
    congestion_bytes: u64,
    places: Arc<Places>,
    waiting: WaitingRoom,
    throttles: Throttles,
}

/// A peer's way through TLS: whose certificate it is, and which.
#[derive(Debug)]
pub struct Shown {
    /// The peers of the site file that it belongs to.
    pub owners: Vec<String>,
    /// The certificate.
    pub certificate: Option<SeenCertificate>,
}

/// The rates of the peers that have one, by their names; all ports share them.
pub type Throttles = BTreeMap<String, Arc<Bucket>>;

/// The rates that the site file gives.
pub fn throttles(policy: &Policy) -> Throttles {
    let limited = policy.peers().iter().filter_map(|peer| {
        let bytes = peer.throttle?;
        Some((peer.name.clone(), Arc::new(Bucket::new(bytes))))
    });
    limited.collect()
}

/// Finds out by TLS who is calling; both the DICOM port and DICOMweb do it so. An error is the refusal
/// that is to be recorded.
pub async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
    live: &Live,
    stream: S,
    address: SocketAddr,
    within: Duration,
    now_ms: i64,
) -> Result<(TlsStream<S>, Shown), Refusal> {
    let refusal = |reason: String, remedy: &str| Refusal {
        peer: address.ip().to_canonical().to_string(),
        calling_ae: String::new(),
        address,
        code: "TLS".into(),
        reason,
        remedy: remedy.into(),
    };
    let acceptor = TlsAcceptor::from(live.peers_server.clone());
    let (outcome, owner) = watch_handshake(tokio::time::timeout(within, acceptor.accept(stream))).await;
    match outcome {
        Err(_) => {
            let reason = "the peer did not finish the TLS handshake in time".to_owned();
            Err(refusal(reason, "check that the peer speaks TLS on this port"))
        }
        Ok(Err(error)) => {
            let (reason, remedy) = explain_handshake(&error);
            let mut refusal = refusal(reason, remedy);
            if let Some(owner) = owner {
                refusal.peer = owner;
            }
            Err(refusal)
        }
        Ok(Ok(stream)) => {
            let shown = shown(live, stream.get_ref().1, now_ms);
            Ok((stream, shown))
        }
    }
}

/// The peers whose certificate this is.
fn shown(live: &Live, connection: &rustls::ServerConnection, now_ms: i64) -> Shown {
    let now = UnixTime::since_unix_epoch(Duration::from_millis(now_ms.try_into().unwrap_or_default()));
    match connection.peer_certificates() {
        Some([certificate, intermediates @ ..]) => Shown {
            owners: live
                .peers
                .owners(certificate, intermediates, now)
                .into_iter()
                .map(str::to_owned)
                .collect(),
            certificate: SeenCertificate::of(certificate),
        },
        _ => Shown { owners: Vec::new(), certificate: None },
    }
}

/// Why no peer may begin to send now, and the remedy: the disk is too full.
pub fn congestion(receiver: &Receiver, congestion_bytes: u64) -> Option<(String, String)> {
    // Where the free space cannot be asked for, storing answers by what writing says.
    let free = receiver.objects.free_bytes().ok()?;
    (free < congestion_bytes).then(|| {
        (
            format!("less than store.congestion_mib = {} MiB of the disk are free", congestion_bytes >> 20),
            "make room on the disk of appliance.data_dir; the peer may then send again".to_owned(),
        )
    })
}

/// Why there is no place for a peer, and the remedy.
pub fn explain_full(full: Full, peer: &str) -> (String, String) {
    let (reason, key) = match full {
        Full::Peer(max) => (
            format!("peer \"{peer}\" has {max} associations open already"),
            format!("`max_associations` of [[peer]] \"{peer}\""),
        ),
        Full::All(max) => {
            (format!("{max} associations are open already"), "dicom.max_associations".to_owned())
        }
    };
    (reason, format!("lower the peer's number of parallel associations, or raise {key}"))
}

/// Writes down that a peer was let in, and which certificate it showed. What cannot be audited is not
/// done: false. With a full disk it is let in, and told instance by instance to come back.
pub async fn let_in(
    ledger: &Ledger,
    peer: &str,
    calling_ae: &str,
    address: SocketAddr,
    certificate: Option<SeenCertificate>,
) -> bool {
    let event = Event::new(
        EventKind::AssociationAccepted,
        peer,
        json!({ "calling_ae": calling_ae, "address": address.ip().to_canonical().to_string() }),
    );
    let name = peer.to_owned();
    let written = ledger.write(move |writer| {
        if let Some(seen) = certificate {
            writer.tx().execute(
                "INSERT INTO peer_certificates (peer, sha256, not_after, seen_at) VALUES (?1,?2,?3,?4)
                 ON CONFLICT (peer) DO UPDATE SET sha256 = ?2, not_after = ?3, seen_at = ?4",
                params![name, seen.sha256, seen.not_after_ms, writer.now_ms()],
            )?;
        }
        writer.audit(&event)
    });
    match written.await {
        Ok(()) => true,
        Err(error) => {
            tracing::error!(peer, reason = error.to_string(), "the association could not be audited");
            error.is_full()
        }
    }
}

impl Listener {
    /// A listener with the site's policy. `tls` is always the newest certificates and keys.
    pub fn new(
        site: &Site,
        receiver: Receiver,
        services: Services,
        policy: Arc<Policy>,
        places: Arc<Places>,
        throttles: Throttles,
        tls: watch::Receiver<Arc<Live>>,
    ) -> Self {
        let (dicom, store) = (&site.file.dicom, &site.file.store);
        Listener {
            receiver,
            services,
            tls,
            throttles,
            policy,
            limits: Limits {
                max_pdu: dicom.max_pdu_bytes,
                artim: Duration::from_secs(dicom.artim_seconds),
                idle: Duration::from_secs(dicom.idle_timeout_seconds),
                operations: dicom.operations_at_once,
            },
            handshake: Duration::from_secs(dicom.handshake_timeout_seconds),
            congestion_bytes: store.congestion_mib << 20,
            places,
            waiting: WaitingRoom::default(),
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
        let Some(waiting) = self.waiting.enter(address.ip()) else {
            metrics::counter!("lightbox_associations_total", "outcome" => "overrun").increment(1);
            return;
        };
        if encrypted {
            self.encrypted(stream, address, waiting).await;
        } else {
            self.associate(stream, address, None, waiting).await;
        }
    }

    async fn encrypted(&self, stream: TcpStream, address: SocketAddr, waiting: Waiting<'_>) {
        // One state of certificates for the whole handshake, whatever is reloaded meanwhile.
        let live = self.tls.borrow().clone();
        let now_ms = self.receiver.clock.now_ms();
        match handshake(&live, stream, address, self.handshake, now_ms).await {
            Err(refusal) => self.refused(refusal).await,
            Ok((stream, shown)) => self.associate(stream, address, Some(shown), waiting).await,
        }
    }

    /// `shown` is what the peer's certificate says; `None` without TLS.
    async fn associate<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        address: SocketAddr,
        shown: Option<Shown>,
        waiting: Waiting<'_>,
    ) {
        let known_as = || match &shown {
            Some(Shown { owners, .. }) if !owners.is_empty() => owners.join(" or "),
            _ => address.ip().to_canonical().to_string(),
        };
        let mut requested = match Requested::read(Throttled::new(stream), self.limits).await {
            Ok(requested) => requested,
            Err(AssociationError::Closed) => return, // a port check by a monitor
            Err(error) => {
                let remedy = "check that the peer speaks DICOM on this port";
                return self
                    .refused(Refusal {
                        peer: known_as(),
                        calling_ae: String::new(),
                        address,
                        code: String::new(),
                        reason: error.to_string(),
                        remedy: remedy.into(),
                    })
                    .await;
            }
        };
        let calling_ae = printable(requested.calling_ae());
        match self.decide(&requested, address, shown.as_ref()) {
            Ok((peer, place)) => {
                drop(waiting);
                requested.set_max_pdu(peer.max_pdu.unwrap_or(self.limits.max_pdu));
                requested.stream_mut().set_bucket(self.throttles.get(&peer.name).cloned());
                if peer.wants_identity() {
                    requested.accept_identity();
                }
                if let Some((reason, remedy)) = peer.nothing_usable(&requested.proposals()) {
                    // The standard has us accept the association and refuse its contexts (PS3.8 §9.3.3).
                    self.refused(Refusal {
                        peer: peer.name.clone(),
                        calling_ae: calling_ae.clone(),
                        address,
                        code: "context 3".into(),
                        reason,
                        remedy,
                    })
                    .await;
                }
                let certificate = shown.and_then(|shown| shown.certificate);
                self.serve(requested, peer, calling_ae, address, certificate).await;
                drop(place);
            }
            Err(Denied { rejection, reason, remedy }) => {
                let refusal = Refusal {
                    peer: known_as(),
                    calling_ae,
                    address,
                    code: rejection.numbers(),
                    reason: format!("{reason}: {rejection}"),
                    remedy,
                };
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
        address: SocketAddr,
        shown: Option<&Shown>,
    ) -> Result<(&PeerPolicy, Place<'_>), Denied> {
        if let Some(rejection) = requested.fault() {
            let (reason, remedy) = ("the request is not DICOM's", "check the peer's software");
            return Err(Denied { rejection, reason: reason.into(), remedy: remedy.into() });
        }
        let identity = requested.identity();
        let peer = self.policy.decide(&Caller {
            calling_ae: requested.calling_ae(),
            called_ae: requested.called_ae(),
            address: address.ip(),
            owners: shown.map(|shown| shown.owners.as_slice()),
            identity: identity.as_ref(),
        })?;
        // The box's own question whether it works must not be answered by how busy it is.
        let self_test = peer.is_self_test(address.ip());
        let congested = if self_test { None } else { congestion(&self.receiver, self.congestion_bytes) };
        if let Some((reason, remedy)) = congested {
            return Err(Denied { rejection: Rejection::CONGESTION, reason, remedy });
        }
        let place = match self_test {
            true => self.places.take_for_self_test(&peer.name),
            false => self.places.take(&peer.name, peer.max_associations),
        };
        let place = place.map_err(|full| {
            let (reason, remedy) = explain_full(full, &peer.name);
            Denied { rejection: Rejection::LOCAL_LIMIT, reason, remedy }
        })?;
        Ok((peer, place))
    }

    async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        requested: Requested<S>,
        peer: &PeerPolicy,
        calling_ae: String,
        address: SocketAddr,
        certificate: Option<SeenCertificate>,
    ) {
        if !let_in(&self.receiver.ledger, &peer.name, &calling_ae, address, certificate).await {
            return;
        }
        metrics::counter!("lightbox_associations_total", "outcome" => "accepted").increment(1);
        let sender = Sender { peer: peer.name.clone(), calling_ae };
        if let Err(error) = self.services.run(requested, peer, &sender).await {
            tracing::info!(
                peer = peer.name,
                reason = error.to_string(),
                "association ended without a release"
            );
        }
    }

    async fn refused(&self, refusal: Refusal) {
        record(&self.receiver.ledger, refusal).await;
    }
}
