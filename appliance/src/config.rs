//! From a site file to what the daemon runs with: bundles opened, rules compiled, TLS loaded. All
//! of it is checked before a port opens; every failure names the key of the site file.

use std::collections::BTreeMap;
use std::sync::Arc;

use lightbox_models::Bundle;
use lightbox_provisioning::site::{Problem, Site, SiteError};

use crate::admin;
use crate::dicom::tls::{self, Known, OwnIdentity, Trust};
use crate::ingest::rules::RuleSet;

/// The exit code for a site file that cannot be used (`EX_CONFIG`).
pub const EXIT_BAD_SITE_FILE: u8 = 78;

/// A site file and everything that it names, checked and loaded.
pub struct Config {
    /// The site file.
    pub site: Arc<Site>,
    /// The rules, compiled.
    pub rules: Arc<RuleSet>,
    /// The bundles, by the name that rules use.
    pub bundles: BTreeMap<String, Arc<Bundle>>,
    /// Our certificate and key.
    pub identity: OwnIdentity,
    /// The site's authorities.
    pub roots: Option<Arc<rustls::RootCertStore>>,
    /// Certificates of peers.
    pub peers: Arc<Trust>,
    /// Certificates of operators.
    pub operators: Arc<Trust>,
}

impl Config {
    /// Checks the text, the files, the rules, the bundles and the certificates. Opens no port.
    pub fn load(site: Site) -> Result<Self, SiteError> {
        site.check_files()?;
        let mut problems = Vec::new();
        let rules = RuleSet::compile(&site).map_err(|found| problems.extend(found)).ok();
        let bundles = open_bundles(&site, &mut problems);
        let tls = tls::load(&site.file.appliance.tls)
            .map_err(|error| {
                problems.push(site.problem(
                    "appliance.tls.certificate",
                    chain(&error),
                    "check that the files are PEM and that key and certificate belong together",
                ));
            })
            .ok();
        let trusts = tls.as_ref().and_then(|(identity, roots)| {
            trusts(&site, identity, roots.as_ref())
                .map_err(|error| {
                    problems.push(site.problem(
                        "appliance.tls.key",
                        chain(&error),
                        "check that key, certificate and authorities belong together",
                    ));
                })
                .ok()
        });
        match (rules, tls, trusts) {
            (Some(rules), Some((identity, roots)), Some((peers, operators))) if problems.is_empty() => {
                Ok(Config {
                    site: Arc::new(site),
                    rules: Arc::new(rules),
                    bundles,
                    identity,
                    roots,
                    peers,
                    operators,
                })
            }
            _ => {
                problems.sort_by_key(|problem| problem.line);
                Err(SiteError { path: site.path, problems })
            }
        }
    }
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

fn open_bundles(site: &Site, problems: &mut Vec<Problem>) -> BTreeMap<String, Arc<Bundle>> {
    let mut bundles = BTreeMap::new();
    for (index, model) in site.file.model.iter().enumerate() {
        let key = format!("model[{index}].bundle");
        match Bundle::open(&model.bundle) {
            Ok(_) if !site.file.appliance.allow_unsigned_models => problems.push(site.problem(
                &key,
                format!("the bundle of model \"{}\" is not signed", model.name),
                "unsigned bundles run only with appliance.allow_unsigned_models = true, which stamps every result \"not for clinical use\"",
            )),
            Ok(bundle) => {
                bundles.insert(model.name.clone(), Arc::new(bundle));
            }
            Err(error) => problems.push(site.problem(
                &key,
                chain(&error),
                "mend the bundle, or name another folder",
            )),
        }
    }
    bundles
}

fn trusts(
    site: &Site,
    identity: &OwnIdentity,
    roots: Option<&Arc<rustls::RootCertStore>>,
) -> Result<(Arc<Trust>, Arc<Trust>), tls::TlsError> {
    let peers = site
        .file
        .peer
        .iter()
        .filter_map(|peer| Some((peer.name.clone(), Known::of(peer.certificate.as_ref()?)?)))
        .collect();
    let peers = Arc::new(Trust::new(peers, roots)?);
    let operators = admin::trust(site, roots)?;
    // Made here once so that a key that does not fit its certificate is found before a port opens.
    peers.server_config(identity)?;
    Ok((peers, operators))
}
