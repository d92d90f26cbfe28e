//! `lightbox send`: a C-STORE SCU over TLS, for trying things.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{anyhow, bail};
use lightbox_provisioning::site::parse_fingerprint;

use super::files::files_under;
use crate::dicom::scu::{Instance, Step, Target};
use crate::dicom::tls::{self, Known, OwnIdentity};

/// Send DICOM files to an application entity (C-STORE over TLS), or just ask for an echo.
///
/// Example: lightbox send --to pacs.example.org:2762 --called PACS --calling TEST
/// --cert me.crt --key me.key --ca site-ca.crt studies/
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Host and port of the receiver.
    #[arg(long, value_name = "HOST:PORT")]
    to: String,
    /// AE title of the receiver.
    #[arg(long, value_name = "AE")]
    called: String,
    /// Our AE title.
    #[arg(long, value_name = "AE", default_value = "LIGHTBOX-SEND")]
    calling: String,
    /// Our certificate, PEM.
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// The key of our certificate, PEM.
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// The authority that issued the receiver's certificate, PEM.
    #[arg(long, value_name = "FILE", conflicts_with = "pin")]
    ca: Option<PathBuf>,
    /// SHA-256 fingerprint of the receiver's certificate.
    #[arg(long, value_name = "HEX")]
    pin: Option<String>,
    /// Send without TLS.
    #[arg(long, conflicts_with_all = ["cert", "ca", "pin"])]
    plaintext: bool,
    /// Ask for a C-ECHO, send nothing.
    #[arg(long)]
    echo: bool,
    /// Seconds to wait for each answer.
    #[arg(long, default_value_t = 30)]
    timeout: u64,
    /// Images that may be under way at once, if the receiver lets us (asynchronous operations window); 1: one after the
    /// other.
    #[arg(long, value_name = "COUNT", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    window: u16,
    /// DICOM files, or folders of them.
    #[arg(value_name = "FILE", required_unless_present = "echo")]
    files: Vec<PathBuf>,
}

impl Args {
    /// Sends the files.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(self.send())
    }

    async fn send(self) -> anyhow::Result<ExitCode> {
        let files = files_under(&self.files)?;
        let instances: Vec<_> = files.iter().filter_map(|path| Instance::open(path)).collect();
        let passed_over = files.len() - instances.len();
        if passed_over > 0 {
            eprintln!("{passed_over} files are no DICOM Part 10 files and were passed over");
        }
        if instances.is_empty() && !self.echo {
            bail!("there is nothing to send: name DICOM Part 10 files or folders of them");
        }
        let target = Target {
            tls: if self.plaintext { None } else { Some(self.tls()?) },
            address: self.to,
            called: self.called,
            calling: self.calling,
            wait: Duration::from_secs(self.timeout),
            window: self.window,
        };
        let count = instances.len();
        let failed = target
            .send(&instances, self.echo, &mut |step| match step {
                Step::Echoed => println!("C-ECHO answered"),
                Step::Sent(index, None) => println!("{}/{count}: stored", index + 1),
                Step::Sent(index, Some(problem)) => println!("{}/{count}: NOT stored: {problem}", index + 1),
            })
            .await?;
        Ok(if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    /// Whom to trust, and who we are.
    fn tls(&self) -> anyhow::Result<std::sync::Arc<rustls::ClientConfig>> {
        let known = match (&self.pin, &self.ca) {
            (Some(pin), _) => Known::Fingerprint(
                parse_fingerprint(pin)
                    .ok_or_else(|| anyhow!("--pin: not a SHA-256 fingerprint (64 hex digits)"))?,
            ),
            (None, Some(_)) => Known::Name(self.to.rsplit_once(':').map_or("", |(host, _)| host).to_owned()),
            (None, None) => bail!("say whom to trust: --ca FILE or --pin HEX (or --plaintext, for no TLS)"),
        };
        let roots = tls::load_authorities(self.ca.as_deref())?;
        let identity = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => Some(OwnIdentity::load(cert, key)?),
            _ => None,
        };
        Ok(tls::client_config(known, roots, identity.as_ref())?)
    }
}
