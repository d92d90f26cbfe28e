//! The certificates, keys, authorities and revocation lists in use: one value, replaced as a whole
//! when the files change. A connection keeps the value with which its handshake began.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use lightbox_provisioning::site::{Mirror, Site};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::revocation::Revocations;
use super::{
    Known, OwnIdentity, SeenCertificate, TlsError, Trust, authority_certificates, client_config_with,
    common_name, load_authorities,
};

/// Warn this long before something expires, milliseconds.
pub const WARN_MS: i64 = 30 * 24 * 3600 * 1000;
/// From here on it is urgent, milliseconds.
pub const URGENT_MS: i64 = 7 * 24 * 3600 * 1000;

/// When a certificate or a revocation list expires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// `own certificate`, `authority NAME`, `revocation list of NAME`, `peer NAME`.
    pub who: String,
    /// When, milliseconds since the epoch.
    pub not_after_ms: i64,
}

/// Everything of TLS that may be replaced while the daemon runs.
pub struct Live {
    /// Our certificate and key.
    pub identity: Arc<OwnIdentity>,
    /// The site's authorities.
    pub roots: Option<Arc<RootCertStore>>,
    /// Certificates of peers.
    pub peers: Arc<Trust>,
    /// Certificates of operators.
    pub operators: Arc<Trust>,
    /// For the DICOM port.
    pub peers_server: Arc<ServerConfig>,
    /// For the administration page.
    pub operators_server: Arc<ServerConfig>,
    /// Certificates of the sources of orders.
    pub sources: Arc<Trust>,
    /// For the port for orders.
    pub sources_server: Arc<ServerConfig>,
    /// For destinations by TLS, by the destination's name.
    pub clients: BTreeMap<String, Arc<ClientConfig>>,
    /// For peers by TLS that we call, by the peer's name.
    pub peer_clients: BTreeMap<String, Arc<ClientConfig>>,
    /// For the mirror of the repository of models, where the site names one.
    pub mirror_client: Option<Arc<ClientConfig>>,
    /// For the mirror of the repository of images, where the site names one.
    pub system_mirror_client: Option<Arc<ClientConfig>>,
    /// What expires when; certificates of peers are known only when they have called.
    pub expiries: Vec<Expiry>,
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").field("expiries", &self.expiries).finish_non_exhaustive()
    }
}

impl Live {
    /// Reads all that the site file names.
    pub fn load(site: &Site) -> Result<Self, TlsError> {
        let tls = &site.file.appliance.tls;
        let identity = Arc::new(OwnIdentity::load(&tls.certificate, &tls.key)?);
        let roots = load_authorities(tls.authorities.iter().map(PathBuf::as_path))?;
        let authorities = authority_certificates(tls.authorities.iter().map(PathBuf::as_path))?;
        let lists = Revocations::load(tls.crl.iter().map(PathBuf::as_path), tls.expired_crl, &authorities)?;
        let mut expiries = Vec::new();
        let mut expires = |who: String, not_after_ms| expiries.push(Expiry { who, not_after_ms });
        if let Some(own) = identity.certificate().and_then(|own| SeenCertificate::of(own)) {
            expires("own certificate".into(), own.not_after_ms);
        }
        for der in &authorities {
            if let Ok((_, authority)) = X509Certificate::from_der(der) {
                let not_after = authority.validity().not_after.timestamp().saturating_mul(1000);
                expires(format!("authority {}", common_name(authority.subject())), not_after);
            }
        }
        for (issuer, next_update) in lists.next_updates() {
            expires(format!("revocation list of {issuer}"), next_update);
        }
        let lists = Arc::new(lists);
        let entries = site
            .file
            .peer
            .iter()
            .filter_map(|peer| Some((peer.name.clone(), Known::of(peer.certificate.as_ref()?)?)));
        let peers = Arc::new(Trust::new(entries.collect(), roots.as_ref())?.with_revocations(lists.clone()));
        let entries = site
            .file
            .operator
            .iter()
            .filter_map(|operator| Some((operator.name.clone(), Known::of(&operator.certificate)?)));
        let operators =
            Arc::new(Trust::new(entries.collect(), roots.as_ref())?.with_revocations(lists.clone()));
        let entries = site
            .file
            .orders
            .source
            .iter()
            .filter_map(|source| Some((source.name.clone(), Known::of(source.certificate.as_ref()?)?)));
        let sources =
            Arc::new(Trust::new(entries.collect(), roots.as_ref())?.with_revocations(lists.clone()));
        let mut peer_clients = BTreeMap::new();
        for peer in site.file.peer.iter().filter(|peer| peer.address.is_some() || peer.dicomweb.is_some()) {
            if let Some(known) = peer.certificate.as_ref().and_then(Known::of) {
                let config = client_config_with(known, roots.clone(), Some(&identity), lists.clone())?;
                peer_clients.insert(peer.name.clone(), config);
            }
        }
        let mirror_of = |mirror: &Option<Mirror>| {
            let known = mirror.as_ref().and_then(|mirror| Known::of(&mirror.certificate));
            known
                .map(|known| client_config_with(known, roots.clone(), Some(&identity), lists.clone()))
                .transpose()
        };
        let mirror_client = mirror_of(&site.file.updates.mirror)?;
        let system_mirror_client = mirror_of(&site.file.system.mirror)?;
        let mut clients = BTreeMap::new();
        for destination in &site.file.destination {
            let certificate = match (&destination.dicom, &destination.hl7) {
                (Some(dicom), _) => site.peer(&dicom.peer).and_then(|peer| peer.certificate.as_ref()),
                (None, Some(hl7)) => hl7.certificate.as_ref(),
                (None, None) => None,
            };
            if let Some(known) = certificate.and_then(Known::of) {
                let config = client_config_with(known, roots.clone(), Some(&identity), lists.clone())?;
                clients.insert(destination.name.clone(), config);
            }
        }
        Ok(Live {
            peers_server: peers.server_config(&identity)?,
            operators_server: operators.server_config(&identity)?,
            sources_server: sources.server_config(&identity)?,
            sources,
            peer_clients,
            mirror_client,
            system_mirror_client,
            identity,
            roots,
            peers,
            operators,
            clients,
            expiries,
        })
    }
}
