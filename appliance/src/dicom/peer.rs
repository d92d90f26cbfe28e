//! The way to a peer: a connection over TLS or plain, and an association on it, each with a deadline.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lightbox_provisioning::site::{Peer, Site};
use rustls::ClientConfig;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::association::{Association, AssociationError, Limits, Roles};
use super::tls::{self, live::Live};

/// A connection, encrypted or not.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection to a peer.
pub type Stream = Box<dyn Duplex>;

/// A peer could not be reached, or did not want us. Holds no data of the peer's.
#[derive(Debug, Error)]
pub enum PeerError {
    /// No TCP connection.
    #[error("cannot connect: {0}")]
    Unreachable(std::io::ErrorKind),
    /// No TCP connection in time.
    #[error("cannot connect: no answer in time")]
    NoAnswer,
    /// The site file does not say how the peer's certificate is known.
    #[error("TLS: the site file names no certificate of this peer")]
    NoCertificate,
    /// The TLS handshake failed.
    #[error("TLS: {0}")]
    Tls(std::io::Error),
    /// The TLS handshake took too long.
    #[error("TLS: no handshake in time")]
    NoHandshake,
    /// The association failed, or was rejected.
    #[error(transparent)]
    Association(#[from] AssociationError),
}

/// Opens a connection; `tls` `None` opens a plain one. Connecting and the handshake may each take
/// `within`.
pub async fn open(
    address: &str,
    tls: Option<&Arc<ClientConfig>>,
    within: Duration,
) -> Result<Stream, PeerError> {
    let stream = timeout(within, TcpStream::connect(address))
        .await
        .map_err(|_| PeerError::NoAnswer)?
        .map_err(|error| PeerError::Unreachable(error.kind()))?;
    // Nagle would hold our small messages back for the peer's delayed ACK (40 ms).
    drop(stream.set_nodelay(true));
    let Some(config) = tls else { return Ok(Box::new(stream)) };
    let handshake = TlsConnector::from(config.clone()).connect(tls::server_name(address), stream);
    let stream =
        timeout(within, handshake).await.map_err(|_| PeerError::NoHandshake)?.map_err(PeerError::Tls)?;
    Ok(Box::new(stream))
}

/// An application entity that we call, and who we are to it.
#[derive(Clone, Debug)]
pub struct RemoteAe {
    /// Name of the peer in the site file.
    pub name: String,
    /// Host and port.
    pub address: String,
    /// Its AE title.
    pub called_ae: String,
    /// Our AE title.
    pub calling_ae: String,
    /// The newest certificates and keys; `None` calls without TLS.
    pub tls: Option<watch::Receiver<Arc<Live>>>,
    /// Sizes and deadlines of the association.
    pub limits: Limits,
    /// Time to connect, and again for the TLS handshake.
    pub connect: Duration,
    /// Time for a whole operation, such as a query with all its answers.
    pub deadline: Duration,
    /// Time for a whole retrieval.
    pub retrieve_deadline: Duration,
}

impl RemoteAe {
    /// A peer of the site file; `None` if it has no address.
    pub fn of_site(site: &Site, peer: &Peer, live: &watch::Receiver<Arc<Live>>) -> Option<Self> {
        let address = peer.address.clone()?;
        let (dicom, deliver) = (&site.file.dicom, &site.file.deliver);
        Some(RemoteAe {
            name: peer.name.clone(),
            address,
            called_ae: peer.ae_title.clone(),
            calling_ae: site.file.appliance.ae_title.clone(),
            tls: (!peer.plaintext).then(|| live.clone()),
            limits: Limits {
                max_pdu: dicom.max_pdu_bytes,
                artim: Duration::from_secs(dicom.artim_seconds),
                idle: Duration::from_secs(deliver.response_timeout_seconds),
                operations: 1,
            },
            connect: Duration::from_secs(deliver.connect_timeout_seconds),
            deadline: Duration::from_secs(site.file.query.deadline_seconds),
            retrieve_deadline: Duration::from_secs(site.file.query.retrieve_deadline_seconds),
        })
    }

    /// An association for these abstract syntaxes with their transfer syntaxes.
    pub async fn connect(
        &self,
        contexts: &[(String, Vec<String>)],
    ) -> Result<Association<Stream>, PeerError> {
        self.connect_with_roles(contexts, &BTreeMap::new()).await
    }

    /// As [`connect`](Self::connect), proposing our roles for some of the SOP classes.
    pub async fn connect_with_roles(
        &self,
        contexts: &[(String, Vec<String>)],
        roles: &BTreeMap<String, Roles>,
    ) -> Result<Association<Stream>, PeerError> {
        let config = match &self.tls {
            None => None,
            Some(live) => {
                let config = live.borrow().peer_clients.get(&self.name).cloned();
                Some(config.ok_or(PeerError::NoCertificate)?)
            }
        };
        let stream = open(&self.address, config.as_ref(), self.connect).await?;
        let (calling, called) = (&self.calling_ae, &self.called_ae);
        Ok(Association::request_with_roles(stream, calling, called, contexts, roles, self.limits).await?)
    }
}
