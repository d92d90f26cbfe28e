//! Our side of TLS to destinations: the server's certificate must be the one that the site file names.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::revocation::{Revocations, Revoked};
use super::{Known, OwnIdentity, TlsError, carries_name, check_signature, ms, provider};

/// Checks a server that we connect to: its certificate must be the one that the site file names.
#[derive(Debug)]
struct ServerCheck {
    known: Known,
    roots: Option<Arc<RootCertStore>>,
    revocations: Arc<Revocations>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for ServerCheck {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let refused = |error| Err(rustls::Error::InvalidCertificate(error));
        match &self.known {
            Known::Name(name) => {
                let Some(roots) = &self.roots else { return refused(CertificateError::UnknownIssuer) };
                rustls::client::verify_server_cert_signed_by_trust_anchor(
                    &ParsedCertificate::try_from(end_entity)?,
                    roots,
                    intermediates,
                    now,
                    self.algorithms.all,
                )?;
                if !carries_name(end_entity, name) {
                    return refused(CertificateError::NotValidForName);
                }
            }
            pin if !pin.pin_fits(end_entity) => {
                return refused(CertificateError::ApplicationVerificationFailure);
            }
            _ => {}
        }
        match self.revocations.check(std::iter::once(end_entity).chain(intermediates), ms(now)) {
            Ok(()) => {}
            Err(Revoked::Listed) => return refused(CertificateError::Revoked),
            Err(Revoked::ListExpired) => return refused(CertificateError::UnknownRevocationStatus),
        }
        Ok(ServerCertVerified::assertion())
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

/// A client configuration for one server, showing our certificate if there is one.
pub fn client_config(
    known: Known,
    roots: Option<Arc<RootCertStore>>,
    identity: Option<&OwnIdentity>,
) -> Result<Arc<ClientConfig>, TlsError> {
    client_config_with(known, roots, identity, Arc::default())
}

/// The same, less the servers that these lists name.
pub fn client_config_with(
    known: Known,
    roots: Option<Arc<RootCertStore>>,
    identity: Option<&OwnIdentity>,
    revocations: Arc<Revocations>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let refused = |source| TlsError::Refused { what: "the client's certificate and key", source };
    let algorithms = provider().signature_verification_algorithms;
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(refused)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ServerCheck { known, roots, revocations, algorithms }));
    let config = match identity {
        Some(identity) => {
            let (chain, key) = identity.parts();
            builder.with_client_auth_cert(chain, key).map_err(refused)?
        }
        None => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

/// The name to put into the handshake for an address `host:port`.
pub fn server_name(address: &str) -> ServerName<'static> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
    ServerName::try_from(host.to_owned())
        .unwrap_or_else(|_| ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into()))
}
