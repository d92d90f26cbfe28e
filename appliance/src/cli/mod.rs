//! The command line: one folder entry a verb.

pub mod conformance;
pub mod demo;
pub mod phantom;
pub mod rules;
pub mod send;
pub mod serve;
pub mod site;

use std::path::{Path, PathBuf};

use lightbox_provisioning::site::Site;

/// Where the site file is looked for when nobody names it.
pub const DEFAULT_SITE_FILE: &str = "/etc/lightbox/site.toml";

/// The option `--site`, which most verbs take.
#[derive(Clone, Debug, clap::Args)]
pub struct SiteOption {
    /// The site file.
    #[arg(long = "site", value_name = "FILE", env = "LIGHTBOX_SITE", default_value = DEFAULT_SITE_FILE)]
    pub path: PathBuf,
}

impl SiteOption {
    /// Reads the site file and checks its text.
    pub fn load(&self) -> anyhow::Result<Site> {
        Ok(Site::load(&self.path)?)
    }
}

/// All files under the given files and folders, sorted.
pub fn files_under(paths: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    fn walk(path: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
        if path.is_dir() {
            for entry in std::fs::read_dir(path)? {
                walk(&entry?.path(), found)?;
            }
        } else {
            found.push(path.to_owned());
        }
        Ok(())
    }
    let mut found = Vec::new();
    for path in paths {
        walk(path, &mut found).map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
    }
    found.sort();
    Ok(found)
}
