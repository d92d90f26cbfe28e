//! A small certificate authority, for a site that has none, for the demo and for tests.
//!
//! Keys are ECDSA P-256: every DICOM toolkit that speaks TLS 1.2 takes them (PS3.15 B.12).

use std::net::IpAddr;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use thiserror::Error;
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer, X509Certificate};

/// A certificate could not be made.
#[derive(Debug, Error)]
pub enum PkiError {
    /// The generator refused.
    #[error("making a certificate for \"{subject}\" failed")]
    Generate {
        /// Common name asked for.
        subject: String,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
}

/// A certificate and its key, both PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate.
    pub certificate_pem: String,
    /// Its private key (PKCS #8).
    pub key_pem: String,
    /// SHA-256 fingerprint of the certificate, lower-case hex: what a pin names.
    pub sha256: String,
}

/// An authority that signs the certificates of one site.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate, PEM.
    pub certificate_pem: String,
}

fn params(subject: &str, hosts: &[&str], now: OffsetDateTime, days: i64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, subject);
    // An hour back: clocks in a hospital's network differ.
    // One that is issued as expired, for trying things, is a certificate all the same.
    params.not_before = now + Duration::days(days.min(0)) - Duration::hours(1);
    params.not_after = now + Duration::days(days);
    for host in hosts {
        params.subject_alt_names.push(match host.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => match (*host).try_into() {
                Ok(name) => SanType::DnsName(name),
                Err(_) => continue,
            },
        });
    }
    params
}

fn identity(certificate: &rcgen::Certificate, key: &KeyPair) -> Identity {
    Identity {
        certificate_pem: certificate.pem(),
        key_pem: key.serialize_pem(),
        sha256: Sha256::digest(certificate.der()).iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

impl Authority {
    /// Makes a new authority, valid for ten years from `now`.
    pub fn new(name: &str, now: OffsetDateTime) -> Result<Self, PkiError> {
        let wrap = |source| PkiError::Generate { subject: name.to_owned(), source };
        let key = KeyPair::generate().map_err(wrap)?;
        let mut params = params(name, &[], now, 3650);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(wrap)?;
        Ok(Authority { certificate_pem: certificate.pem(), issuer: Issuer::new(params, key) })
    }

    /// Issues a certificate for a node or a person, for both ends of TLS. `hosts` are DNS names
    /// and IP addresses.
    pub fn issue(
        &self,
        subject: &str,
        hosts: &[&str],
        now: OffsetDateTime,
        days: i64,
    ) -> Result<Identity, PkiError> {
        let wrap = |source| PkiError::Generate { subject: subject.to_owned(), source };
        let key = KeyPair::generate().map_err(wrap)?;
        let mut params = params(subject, hosts, now, days);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).map_err(wrap)?;
        Ok(identity(&certificate, &key))
    }

    /// Issues a revocation list (PEM) over these certificates (PEM), valid for `days` from `now`.
    pub fn revoke(&self, certificates: &[&str], now: OffsetDateTime, days: i64) -> Result<String, PkiError> {
        let subject = "revocation list".to_owned();
        let unreadable = || PkiError::Generate {
            subject: subject.clone(),
            source: rcgen::Error::CouldNotParseCertificate,
        };
        let mut revoked_certs = Vec::new();
        for pem in certificates {
            let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| unreadable())?;
            let (_, parsed) = X509Certificate::from_der(&der).map_err(|_| unreadable())?;
            revoked_certs.push(RevokedCertParams {
                serial_number: SerialNumber::from_slice(parsed.raw_serial()),
                revocation_time: now,
                reason_code: None,
                invalidity_date: None,
            });
        }
        let params = CertificateRevocationListParams {
            this_update: now - Duration::days(2),
            next_update: now + Duration::days(days),
            crl_number: SerialNumber::from(now.unix_timestamp().unsigned_abs()),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.issuer).and_then(|list| list.pem());
        list.map_err(|source| PkiError::Generate { subject, source })
    }
}

/// A self-signed certificate, marked as an authority when `ca_marked`: what many PACS show.
pub fn self_signed(
    subject: &str,
    hosts: &[&str],
    ca_marked: bool,
    now: OffsetDateTime,
) -> Result<Identity, PkiError> {
    let wrap = |source| PkiError::Generate { subject: subject.to_owned(), source };
    let key = KeyPair::generate().map_err(wrap)?;
    let mut params = params(subject, hosts, now, 3650);
    if ca_marked {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    let certificate = params.self_signed(&key).map_err(wrap)?;
    Ok(identity(&certificate, &key))
}
