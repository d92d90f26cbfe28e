//! Certificate revocation lists (RFC 5280 §5) that the site file names.
//!
//! A certificate is revoked when a list of its issuer names its serial number, whether the certificate
//! is known by name or by a pin. Where the issuer is an authority of the site, the list's signature
//! must be that authority's; a list of another issuer concerns pins only, and is taken because the
//! site file names it.

use std::collections::HashSet;
use std::path::Path;

use lightbox_provisioning::site::ExpiredCrl;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::revocation_list::CertificateRevocationList;

use super::{TlsError, common_name};

/// Delta CRL Indicator: such a list is only the change of another one.
const DELTA_CRL: &str = "2.5.29.27";
/// Certificate Issuer of an entry: only in indirect lists.
const CERTIFICATE_ISSUER: &str = "2.5.29.29";

/// The revocation lists of a site.
#[derive(Debug, Default)]
pub struct Revocations {
    lists: Vec<List>,
    expired: ExpiredCrl,
}

#[derive(Debug)]
struct List {
    /// Common name of the issuer, for people.
    issuer_name: String,
    /// The issuer's distinguished name, DER.
    issuer: Vec<u8>,
    serials: HashSet<Vec<u8>>,
    next_update_ms: Option<i64>,
}

/// Why a certificate does not count although the site file knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revoked {
    /// A list names it.
    Listed,
    /// Every list of its issuer is past its next update, and the site wants such certificates refused.
    ListExpired,
}

impl Revocations {
    /// Reads the lists; `authorities` are the certificates whose signature they must bear.
    pub fn load<'a>(
        files: impl IntoIterator<Item = &'a Path>,
        expired: ExpiredCrl,
        authorities: &[CertificateDer<'_>],
    ) -> Result<Self, TlsError> {
        let mut lists = Vec::new();
        for path in files {
            let refused = |why: &str| TlsError::Crl { path: path.display().to_string(), why: why.to_owned() };
            let bytes = std::fs::read(path).map_err(|error| refused(&error.kind().to_string()))?;
            let before = lists.len();
            // DER begins with the tag of a SEQUENCE; PEM is text.
            if bytes.first() == Some(&0x30) {
                lists.push(List::read(&bytes, authorities).map_err(refused)?);
            } else {
                for der in CertificateRevocationListDer::pem_slice_iter(&bytes) {
                    let der = der.map_err(|error| refused(&error.to_string()))?;
                    lists.push(List::read(&der, authorities).map_err(refused)?);
                }
            }
            if lists.len() == before {
                return Err(refused("holds no revocation list"));
            }
        }
        Ok(Revocations { lists, expired })
    }

    /// Whether one of the certificates may not be used, at `now_ms`.
    pub fn check<'a, 'b: 'a>(
        &self,
        certificates: impl IntoIterator<Item = &'a CertificateDer<'b>>,
        now_ms: i64,
    ) -> Result<(), Revoked> {
        if self.lists.is_empty() {
            return Ok(());
        }
        for der in certificates {
            let Ok((_, certificate)) = X509Certificate::from_der(der) else { continue };
            let issuer = certificate.issuer().as_raw();
            let mut of_issuer = self.lists.iter().filter(|list| list.issuer == issuer).peekable();
            let known = of_issuer.peek().is_some();
            let mut fresh = false;
            for list in of_issuer {
                if list.serials.contains(certificate.raw_serial()) {
                    return Err(Revoked::Listed);
                }
                fresh |= list.next_update_ms.is_none_or(|next| next >= now_ms);
            }
            if known && !fresh && self.expired == ExpiredCrl::Refuse {
                return Err(Revoked::ListExpired);
            }
        }
        Ok(())
    }

    /// Issuer and next update of each list that names one, milliseconds since the epoch.
    pub fn next_updates(&self) -> impl Iterator<Item = (&str, i64)> {
        self.lists.iter().filter_map(|list| Some((list.issuer_name.as_str(), list.next_update_ms?)))
    }
}

impl List {
    fn read(der: &[u8], authorities: &[CertificateDer<'_>]) -> Result<Self, &'static str> {
        let (rest, list) =
            CertificateRevocationList::from_der(der).map_err(|_| "is not a revocation list")?;
        if !rest.is_empty() {
            return Err("has bytes after the revocation list");
        }
        if list.extensions().iter().any(|extension| extension.oid.to_id_string() == DELTA_CRL) {
            return Err("is a delta list; a complete list is needed");
        }
        let indirect = list.iter_revoked_certificates().any(|entry| {
            entry.extensions().iter().any(|extension| extension.oid.to_id_string() == CERTIFICATE_ISSUER)
        });
        if indirect {
            return Err("is an indirect list; the list of the issuing authority itself is needed");
        }
        let mut of_issuer = authorities
            .iter()
            .filter_map(|der| Some(X509Certificate::from_der(der).ok()?.1))
            .filter(|authority| authority.subject().as_raw() == list.issuer().as_raw())
            .peekable();
        if of_issuer.peek().is_some()
            && !of_issuer.any(|authority| list.verify_signature(authority.public_key()).is_ok())
        {
            return Err("is not signed by the authority of appliance.tls.authorities whose name it bears");
        }
        Ok(List {
            issuer_name: common_name(list.issuer()),
            issuer: list.issuer().as_raw().to_vec(),
            serials: list.iter_revoked_certificates().map(|entry| entry.raw_serial().to_vec()).collect(),
            next_update_ms: list.next_update().map(|at| at.timestamp().saturating_mul(1000)),
        })
    }
}
