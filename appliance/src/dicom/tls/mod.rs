//! TLS for every edge of the box (PS3.15 B.12: TLS 1.2 and 1.3, client certificate required here).
//!
//! A certificate is known in one of three ways (site file, `certificate = { … }`): pinned by its
//! fingerprint, pinned by its public key, or by a name that an authority of the site vouches for.
//! A pin says by itself who the peer is, so self-signed, CA-marked and version 1 certificates
//! work, as many PACS have them; the handshake signature is always checked, so the peer must hold
//! the key. A certificate that no entry of the site file names is refused by a TLS alert, before
//! any association.

mod client;
mod handshake;
pub mod live;
pub mod revocation;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lightbox_provisioning::site::{Certificate, parse_fingerprint};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, RootCertStore, ServerConfig,
    SignatureScheme,
};
use sha2::{Digest, Sha256};
use thiserror::Error;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate, X509Name, X509Version};

pub use self::client::{client_config, client_config_with, server_name};
use self::handshake::REFUSED_OWNER;
pub use self::handshake::{UnknownCertificate, explain_handshake, watch_handshake};
use self::revocation::{Revocations, Revoked};

/// TLS could not be set up from the site file.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A PEM file could not be read.
    #[error("{path} cannot be read as PEM")]
    Pem {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// rustls refused certificate, key or authorities.
    #[error("{what} cannot be used")]
    Refused {
        /// Which setting.
        what: &'static str,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// A revocation list cannot be used.
    #[error("appliance.tls.crl: {path} {why}")]
    Crl {
        /// The file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// The client verifier could not be made of the site's authorities.
    #[error("appliance.tls.authorities cannot be used: {0}")]
    Authorities(String),
}

/// How one certificate is known, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// SHA-256 of the certificate.
    Fingerprint([u8; 32]),
    /// SHA-256 of the SubjectPublicKeyInfo.
    PublicKey([u8; 32]),
    /// A name, vouched for by an authority of the site.
    Name(String),
}

impl Known {
    /// From the site file, whose check has made sure that exactly one way is given.
    pub fn of(certificate: &Certificate) -> Option<Self> {
        if let Some(pin) = certificate.sha256.as_deref() {
            return parse_fingerprint(pin).map(Known::Fingerprint);
        }
        if let Some(pin) = certificate.spki_sha256.as_deref() {
            return parse_fingerprint(pin).map(Known::PublicKey);
        }
        certificate.name.clone().map(Known::Name)
    }

    /// Whether a pin fits; a name never does by itself.
    fn pin_fits(&self, der: &[u8]) -> bool {
        match self {
            Known::Fingerprint(pin) => Sha256::digest(der).as_slice() == pin,
            Known::PublicKey(pin) => X509Certificate::from_der(der).is_ok_and(|(_, parsed)| {
                Sha256::digest(parsed.tbs_certificate.subject_pki.raw).as_slice() == pin
            }),
            Known::Name(_) => false,
        }
    }
}

fn ms(at: UnixTime) -> i64 {
    i64::try_from(at.as_secs()).unwrap_or(i64::MAX).saturating_mul(1000)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a certificate carries the name: DNS or IP subject alternative name, or common name.
fn carries_name(der: &[u8], name: &str) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(der) else { return false };
    let address = name.parse::<std::net::IpAddr>().ok();
    if let Ok(Some(names)) = parsed.subject_alternative_name()
        && names.value.general_names.iter().any(|candidate| match candidate {
            GeneralName::DNSName(dns) => dns.eq_ignore_ascii_case(name),
            GeneralName::IPAddress(bytes) => match address {
                Some(std::net::IpAddr::V4(address)) => address.octets() == *bytes,
                Some(std::net::IpAddr::V6(address)) => address.octets() == *bytes,
                None => false,
            },
            _ => false,
        })
    {
        return true;
    }
    parsed.subject().iter_common_name().any(|common| common.as_str().is_ok_and(|text| text == name))
}

/// Our certificate chain and key.
#[derive(Debug)]
pub struct OwnIdentity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl OwnIdentity {
    /// Reads two PEM files.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let pem = |path: &Path| {
            let path = path.display().to_string();
            move |source| TlsError::Pem { path, source }
        };
        let chain = CertificateDer::pem_file_iter(certificate)
            .and_then(Iterator::collect)
            .map_err(pem(certificate))?;
        let key = PrivateKeyDer::from_pem_file(key).map_err(pem(key))?;
        Ok(OwnIdentity { chain, key })
    }

    /// Our own certificate, without its chain.
    pub fn certificate(&self) -> Option<&CertificateDer<'static>> {
        self.chain.first()
    }

    /// Our own certificate, as whoever connects to us knows it.
    pub fn known(&self) -> Option<Known> {
        self.certificate().map(|der| Known::Fingerprint(Sha256::digest(der).into()))
    }

    fn parts(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        (self.chain.clone(), self.key.clone_key())
    }
}

/// Reads PEM files of authorities into a store; `None` when there are no files.
pub fn load_authorities<'a>(
    files: impl IntoIterator<Item = &'a Path>,
) -> Result<Option<Arc<RootCertStore>>, TlsError> {
    let mut store = RootCertStore::empty();
    for path in files {
        let wrap = |source| TlsError::Pem { path: path.display().to_string(), source };
        for certificate in CertificateDer::pem_file_iter(path).map_err(wrap)? {
            store
                .add(certificate.map_err(wrap)?)
                .map_err(|source| TlsError::Refused { what: "appliance.tls.authorities", source })?;
        }
    }
    Ok((!store.is_empty()).then(|| Arc::new(store)))
}

/// The certificates in PEM files of authorities.
pub fn authority_certificates<'a>(
    files: impl IntoIterator<Item = &'a Path>,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let mut all = Vec::new();
    for path in files {
        let wrap = |source| TlsError::Pem { path: path.display().to_string(), source };
        for certificate in CertificateDer::pem_file_iter(path).map_err(wrap)? {
            all.push(certificate.map_err(wrap)?);
        }
    }
    Ok(all)
}

/// The first common name, or the whole name where there is none, with nothing that moves a cursor.
fn common_name(name: &X509Name<'_>) -> String {
    let common = name.iter_common_name().find_map(|common| common.as_str().ok());
    let text = common.map_or_else(|| name.to_string(), str::to_owned);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(64).collect()
}

/// A certificate that a peer has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenCertificate {
    /// SHA-256 fingerprint, hex.
    pub sha256: String,
    /// When it expires, milliseconds since the epoch.
    pub not_after_ms: i64,
}

impl SeenCertificate {
    /// What there is to remember of a certificate; `None` where it cannot be parsed.
    pub fn of(der: &[u8]) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(der).ok()?;
        let not_after_ms = parsed.validity().not_after.timestamp().saturating_mul(1000);
        Some(SeenCertificate { sha256: hex(&Sha256::digest(der)), not_after_ms })
    }
}

/// Whose certificates we accept, and who each one is.
pub struct Trust {
    /// Owner (a peer's or operator's name) and how its certificate is known.
    entries: Vec<(String, Known)>,
    chains: Option<Arc<dyn ClientCertVerifier>>,
    revocations: Arc<Revocations>,
    subjects: Vec<DistinguishedName>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").field("entries", &self.entries.len()).finish_non_exhaustive()
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

impl Trust {
    /// Trust in the listed certificates, and no other.
    pub fn new(entries: Vec<(String, Known)>, roots: Option<&Arc<RootCertStore>>) -> Result<Self, TlsError> {
        let chains = roots
            .map(|roots| WebPkiClientVerifier::builder_with_provider(roots.clone(), provider()).build())
            .transpose()
            .map_err(|error| TlsError::Authorities(error.to_string()))?;
        Ok(Trust {
            subjects: roots.map(|roots| roots.subjects()).unwrap_or_default(),
            entries,
            chains,
            revocations: Arc::default(),
            algorithms: provider().signature_verification_algorithms,
        })
    }

    /// The same trust, less what these lists name.
    #[must_use]
    pub fn with_revocations(self, revocations: Arc<Revocations>) -> Self {
        Trust { revocations, ..self }
    }

    /// The owners of a certificate: every entry that it fits. Empty means unknown, or revoked.
    pub fn owners(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Vec<&str> {
        let owners = self.known_as(certificate, intermediates, now);
        match self.revoked(certificate, intermediates, now) {
            Ok(()) => owners,
            Err(_) => Vec::new(),
        }
    }

    fn revoked(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Revoked> {
        self.revocations.check(std::iter::once(certificate).chain(intermediates), ms(now))
    }

    /// Every entry that the certificate fits, revoked or not.
    fn known_as(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Vec<&str> {
        let vouched = self
            .chains
            .as_ref()
            .is_some_and(|chains| chains.verify_client_cert(certificate, intermediates, now).is_ok());
        self.entries
            .iter()
            .filter(|(_, known)| match known {
                Known::Name(name) => vouched && carries_name(certificate, name),
                pin => pin.pin_fits(certificate),
            })
            .map(|(owner, _)| owner.as_str())
            .collect()
    }

    /// The entries that a certificate fitted or will fit within its own dates, and which end of them `now`
    /// lies beyond. Its issuer is checked as of those dates: nobody else can name an owner here.
    fn out_of_date(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Option<(Vec<&str>, CertificateError)> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let (from, to) = (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
        let now = i64::try_from(now.as_secs()).ok()?;
        let (then, error) = if now > to {
            (to, CertificateError::Expired)
        } else if now < from {
            (from, CertificateError::NotValidYet)
        } else {
            return None;
        };
        let then = UnixTime::since_unix_epoch(Duration::from_secs(then.try_into().ok()?));
        let owners = self.known_as(certificate, intermediates, then);
        (!owners.is_empty()).then_some((owners, error))
    }

    /// A server configuration that asks for a client certificate and takes only those listed.
    pub fn server_config(self: &Arc<Self>, identity: &OwnIdentity) -> Result<Arc<ServerConfig>, TlsError> {
        let refused = |source| TlsError::Refused { what: "appliance.tls.certificate and key", source };
        let (chain, key) = identity.parts();
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(refused)?
            .with_client_cert_verifier(self.clone())
            .with_single_cert(chain, key)
            .map_err(refused)?;
        // Each connection proves its certificate anew: no resumption, no tickets.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

/// Checks the handshake's signature against the certificate's key, whatever the certificate's form.
///
/// rustls' own check parses the certificate as version 3 and fails on the version 1 certificates
/// of older PACS, so those are taken apart here; the signature algorithms are the same.
fn check_signature(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
    tls13: bool,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    let bad = || rustls::Error::InvalidCertificate(CertificateError::BadEncoding);
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| bad())?;
    if parsed.version() == X509Version::V3 {
        return if tls13 {
            rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
        } else {
            rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
        };
    }
    let spki = &parsed.tbs_certificate.subject_pki;
    if tls13 {
        let spki = rustls::pki_types::SubjectPublicKeyInfoDer::from(spki.raw);
        return rustls::crypto::verify_tls13_signature_with_raw_key(message, &spki, signed, algorithms);
    }
    let key_algorithm = der_contents(der_contents(spki.raw).ok_or_else(bad)?).ok_or_else(bad)?;
    let candidates = algorithms.mapping.iter().filter(|(scheme, _)| *scheme == signed.scheme);
    let verified = candidates.flat_map(|(_, found)| found.iter()).any(|algorithm| {
        algorithm.public_key_alg_id().as_ref() == key_algorithm
            && algorithm.verify_signature(&spki.subject_public_key.data, message, signed.signature()).is_ok()
    });
    if verified {
        Ok(HandshakeSignatureValid::assertion())
    } else {
        Err(rustls::Error::InvalidCertificate(CertificateError::BadSignature))
    }
}

/// The contents of the DER element at the start of `bytes` (lengths up to 65535).
fn der_contents(bytes: &[u8]) -> Option<&[u8]> {
    let (&length, rest) = bytes.get(1..)?.split_first()?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        0x81 => (usize::from(*rest.first()?), rest.get(1..)?),
        0x82 => (usize::from(*rest.first()?) << 8 | usize::from(*rest.get(1)?), rest.get(2..)?),
        _ => return None,
    };
    rest.get(..length)
}

impl ClientCertVerifier for Trust {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // A hint makes some clients keep a pinned self-signed certificate to themselves, because
        // no named authority has issued it: hint only when every entry goes by name.
        if self.entries.iter().all(|(_, known)| matches!(known, Known::Name(_))) {
            &self.subjects
        } else {
            &[]
        }
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let owners = self.known_as(end_entity, intermediates, now);
        // Whoever awaits this handshake learns whose certificate it was (`explain_handshake`).
        let refused_of = |owners: &[&str]| {
            let names = owners.join(" or ");
            drop(REFUSED_OWNER.try_with(|owner| owner.replace(Some(names))));
        };
        if owners.is_empty() {
            if let Some((owners, error)) = self.out_of_date(end_entity, intermediates, now) {
                refused_of(&owners);
                return Err(rustls::Error::InvalidCertificate(error));
            }
            let unknown = Arc::new(UnknownCertificate { sha256: Sha256::digest(end_entity).into() });
            return Err(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(unknown))));
        }
        if let Err(revoked) = self.revoked(end_entity, intermediates, now) {
            refused_of(&owners);
            return Err(rustls::Error::InvalidCertificate(match revoked {
                Revoked::Listed => CertificateError::Revoked,
                Revoked::ListExpired => CertificateError::UnknownRevocationStatus,
            }));
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        check_signature(message, certificate, signed, &self.algorithms, false)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        check_signature(message, certificate, signed, &self.algorithms, true)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
