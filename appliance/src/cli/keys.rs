//! `lightbox keys`: a vendor's signing keys.

use std::path::PathBuf;
use std::process::ExitCode;

use lightbox_models::publish::{FileKey, Signer as _};

use crate::vendor::keys::public;

/// Make signing keys and show their public halves (for vendors of models).
///
/// A key is a file (Ed25519, PKCS #8 PEM, as OpenSSL has it) or lies in a token (smart card, HSM):
/// pkcs11:token=LABEL;object=LABEL?module-path=/path/of/library.so&pin-source=/path/of/file. Keep root keys offline, each
/// with another person; the regulatory keys, which sign plans, with people who do not release.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Make a key in a new file that only you may read; print its public half, which the repository's owner asks for.
    ///
    /// Example: lightbox keys new acme-1.pem
    New {
        /// The file.
        file: PathBuf,
    },
    /// Print a key's public half: 64 hex digits.
    ///
    /// Example: lightbox keys show 'pkcs11:token=Release;object=acme?module-path=/usr/lib/softhsm/libsofthsm2.so'
    Show {
        /// A PEM file, or a pkcs11: URI.
        key: String,
    },
}

impl Args {
    /// Runs the verb.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.verb {
            Verb::New { file } => println!("{}", FileKey::generate(&file)?.public()),
            Verb::Show { key } => println!("{}", public(&key)?),
        }
        Ok(ExitCode::SUCCESS)
    }
}
