//! The command line: one file a verb, and beside them what verbs share ([`files`], [`place`],
//! [`print`], [`progress`], [`quiet`]).

pub mod acceptance_set;
pub mod audit;
pub mod boot;
pub mod bundle;
pub mod commitments;
pub mod conformance;
pub mod demo;
mod files;
pub mod health;
pub mod inspect;
pub mod keys;
pub mod models;
pub mod orders;
pub mod peers;
pub mod phantom;
mod place;
pub mod plan;
mod print;
mod progress;
pub mod query;
pub mod queue;
pub mod quiet;
pub mod recall;
pub mod repository;
pub mod rules;
pub mod send;
pub mod serve;
pub mod site;
pub mod studies;
pub mod system;

use std::path::PathBuf;

/// Where the site file is.
#[derive(Clone, Debug, clap::Args)]
pub struct SiteArg {
    /// The site file; it says where the ledger is.
    #[arg(
        long,
        value_name = "FILE",
        global = true,
        env = "LIGHTBOX_SITE",
        default_value = "/etc/lightbox/site.toml"
    )]
    pub site: PathBuf,
}

#[cfg(test)]
mod tests;
