//! From a site file to what the daemon runs with: rules compiled, TLS loaded. All
//! of it is checked before a port opens; every failure names the key of the site file.

use std::sync::Arc;

use lightbox_provisioning::site::{Problem, Site, SiteError};

use crate::dicom::tls::TlsError;
use crate::dicom::tls::live::Live;
use crate::ingest::listener::policy::Policy;
use crate::ingest::rules::RuleSet;

/// The exit code for a site file that cannot be used (`EX_CONFIG`).
pub const EXIT_BAD_SITE_FILE: u8 = 78;

/// A site file and everything that it names, checked and loaded.
pub struct Config {
    /// The site file.
    pub site: Arc<Site>,
    /// The rules, compiled.
    pub rules: Arc<RuleSet>,
    /// Certificates, keys, authorities and revocation lists, as they were at the start.
    pub live: Arc<Live>,
    /// What each peer may do.
    pub policy: Arc<Policy>,
}

impl Config {
    /// Checks the text, the files, the rules and the certificates. Opens no port.
    pub fn load(site: Site) -> Result<Self, SiteError> {
        site.check_files()?;
        let mut problems = Vec::new();
        let rules = RuleSet::compile(&site).map_err(|found| problems.extend(found)).ok();
        let live = Live::load(&site).map_err(|error| problems.push(tls_problem(&site, &error))).ok();
        let policy = Policy::new(&site).map_err(|found| problems.extend(found)).ok();
        match (rules, live, policy) {
            (Some(rules), Some(live), Some(policy)) if problems.is_empty() => Ok(Config {
                site: Arc::new(site),
                rules: Arc::new(rules),
                live: Arc::new(live),
                policy: Arc::new(policy),
            }),
            _ => {
                problems.sort_by_key(|problem| problem.line);
                Err(SiteError { path: site.path, problems })
            }
        }
    }
}

/// What to do about certificates, keys, authorities or revocation lists that cannot be used.
pub fn tls_problem(site: &Site, error: &TlsError) -> Problem {
    let (key, remedy) = match error {
        TlsError::Crl { .. } => (
            "appliance.tls.crl",
            "name complete revocation lists, PEM or DER, of the authorities that the site file names",
        ),
        TlsError::Pem { .. } => (
            "appliance.tls.certificate",
            "check that the files are PEM and that key and certificate belong together",
        ),
        TlsError::Refused { .. } | TlsError::Authorities(_) => {
            ("appliance.tls.key", "check that key, certificate and authorities belong together")
        }
    };
    site.problem(key, chain(error), remedy)
}

/// An error with all its causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
