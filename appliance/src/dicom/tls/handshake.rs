//! Why a handshake failed, in words, and what to do.

use std::cell::RefCell;

use rustls::{CertificateError, OtherError};
use thiserror::Error;

use super::hex;

/// The peer showed a certificate that the site file does not name. rustls turns it into the TLS
/// alert `certificate_unknown`; the fingerprint lets the site pin it, if it is the right one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the certificate with SHA-256 fingerprint {} is not named in the site file", hex(.sha256))]
pub struct UnknownCertificate {
    /// SHA-256 of the certificate.
    pub sha256: [u8; 32],
}

tokio::task_local! {
    /// Whose revoked or outdated certificate the handshake of this task has met. rustls' error has no
    /// room for it.
    pub(super) static REFUSED_OWNER: RefCell<Option<String>>;
}

/// Runs a handshake; yields besides its outcome the owner of a certificate that was refused as
/// revoked or out of date.
pub async fn watch_handshake<T>(handshake: impl Future<Output = T>) -> (T, Option<String>) {
    REFUSED_OWNER
        .scope(RefCell::default(), async {
            let outcome = handshake.await;
            (outcome, REFUSED_OWNER.with(|owner| owner.take()))
        })
        .await
}

/// Why a TLS handshake failed, and what the site can do about it.
pub fn explain_handshake(error: &std::io::Error) -> (String, &'static str) {
    let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return (
            "the peer ended the TLS handshake".into(),
            "check on the peer's side whether it trusts our certificate and speaks TLS on this port",
        );
    };
    let (why, remedy) = match error {
        rustls::Error::NoCertificatesPresented => (
            "the peer showed no client certificate".to_owned(),
            "configure a client certificate on the peer, and name it in the site file",
        ),
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(other))) => (
            other.to_string(),
            "if this is the right peer, add certificate = { sha256 = \"…\" } to its [[peer]]",
        ),
        rustls::Error::InvalidCertificate(CertificateError::Revoked) => (
            "the peer's certificate is on a revocation list of its issuer".to_owned(),
            "give the peer a new certificate and name it in the site file; if the list is wrong, correct the files of appliance.tls.crl",
        ),
        rustls::Error::InvalidCertificate(CertificateError::UnknownRevocationStatus) => (
            "the revocation list of the certificate's issuer is past its next update".to_owned(),
            "put the issuer's newest list into the files of appliance.tls.crl, or set appliance.tls.expired_crl = \"warn\"",
        ),
        rustls::Error::InvalidCertificate(CertificateError::Expired) => (
            "the peer's certificate has expired".to_owned(),
            "give the peer a new certificate from its authority; if it has not expired, set this machine's clock",
        ),
        rustls::Error::InvalidCertificate(CertificateError::NotValidYet) => (
            "the peer's certificate is not valid yet".to_owned(),
            "check the clocks of this machine and of the authority that issued it",
        ),
        rustls::Error::PeerIncompatible(_) => (
            "the peer offers no TLS version or cipher suite that we take".into(),
            "enable TLS 1.2 or 1.3 with an ECDHE AES-GCM cipher suite on the peer (PS3.15 B.12)",
        ),
        rustls::Error::AlertReceived(_) => (
            format!("the peer ended the handshake: {error}"),
            "the peer does not trust our certificate: give it our certificate or its authority's",
        ),
        rustls::Error::InvalidMessage(_) => (
            "the peer does not speak TLS on the TLS port".into(),
            "switch TLS on for this destination on the peer",
        ),
        other => (format!("TLS handshake: {other}"), "check certificate and key of the peer"),
    };
    (why, remedy)
}
