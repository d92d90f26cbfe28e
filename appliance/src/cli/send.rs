//! `lightbox send`: a C-STORE SCU over TLS, for trying things.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use lightbox_provisioning::site::parse_fingerprint;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::files::files_under;
use crate::deliver::sender::exchange_store;
use crate::dicom::association::{Association, Incoming, Limits};
use crate::dicom::dimse::{C_ECHO_RQ, C_STORE_RQ, Command};
use crate::dicom::part_ten;
use crate::dicom::services::{IMPLICIT_VR_LITTLE_ENDIAN, VERIFICATION};
use crate::dicom::status::{Class, class_of};
use crate::dicom::tls::{self, Known, OwnIdentity};
use crate::phi::Phi;

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
    /// DICOM files, or folders of them.
    #[arg(value_name = "FILE", required_unless_present = "echo")]
    files: Vec<PathBuf>,
}

/// A file to send.
struct Instance {
    path: PathBuf,
    sop_class_uid: String,
    sop_instance_uid: Phi<String>,
    transfer_syntax: String,
}

impl Args {
    /// Sends the files.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(self.send())
    }

    async fn send(self) -> anyhow::Result<ExitCode> {
        let (mut instances, mut passed_over) = (Vec::new(), 0);
        for path in files_under(&self.files)? {
            match part_ten::open(&path) {
                Ok(found) => instances.push(Instance {
                    sop_class_uid: found.meta.media_storage_sop_class_uid().to_owned(),
                    sop_instance_uid: Phi::new(found.meta.media_storage_sop_instance_uid().to_owned()),
                    transfer_syntax: found.meta.transfer_syntax().to_owned(),
                    path,
                }),
                Err(_) => passed_over += 1,
            }
        }
        if passed_over > 0 {
            eprintln!("{passed_over} files are no DICOM Part 10 files and were passed over");
        }
        if instances.is_empty() && !self.echo {
            bail!("there is nothing to send: name DICOM Part 10 files or folders of them");
        }
        let wait = Duration::from_secs(self.timeout);
        let stream = tokio::time::timeout(wait, TcpStream::connect(&self.to))
            .await
            .map_err(|_| {
                anyhow!("{}: no answer in {} s; check host, port and firewall", self.to, self.timeout)
            })?
            .with_context(|| format!("{} cannot be reached; check host and port", self.to))?;
        stream.set_nodelay(true)?;
        if self.plaintext {
            return self.associate(stream, &instances).await;
        }
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
        let config = tls::client_config(known, roots, identity.as_ref())?;
        let connecting = TlsConnector::from(config).connect(tls::server_name(&self.to), stream);
        let stream = tokio::time::timeout(wait, connecting)
            .await
            .map_err(|_| anyhow!("{}: no TLS handshake in {} s", self.to, self.timeout))?
            .with_context(|| format!("{}: the TLS handshake failed", self.to))?;
        self.associate(stream, &instances).await
    }

    async fn associate<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        instances: &[Instance],
    ) -> anyhow::Result<ExitCode> {
        let mut contexts: BTreeSet<(String, String)> = instances
            .iter()
            .map(|instance| (instance.sop_class_uid.clone(), instance.transfer_syntax.clone()))
            .collect();
        if self.echo {
            contexts.insert((VERIFICATION.into(), IMPLICIT_VR_LITTLE_ENDIAN.into()));
        }
        if contexts.len() > 128 {
            bail!("{} kinds of objects: an association has room for 128; send fewer at once", contexts.len());
        }
        let contexts: Vec<_> = contexts.into_iter().map(|(class, syntax)| (class, vec![syntax])).collect();
        let wait = Duration::from_secs(self.timeout);
        let limits = Limits { max_pdu: 131_072, artim: wait, idle: wait };
        let mut association =
            Association::request(stream, &self.calling, &self.called, &contexts, limits).await?;
        if self.echo {
            echo(&mut association).await?;
            println!("C-ECHO answered");
        }
        let mut failed = 0;
        for (index, instance) in instances.iter().enumerate() {
            let problem = store(&mut association, index, instance).await?;
            let number = index + 1;
            match problem {
                None => println!("{number}/{}: stored", instances.len()),
                Some(problem) => {
                    failed += 1;
                    println!("{number}/{}: NOT stored: {problem}", instances.len());
                }
            }
        }
        association.release().await?;
        Ok(if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

async fn echo<S: AsyncRead + AsyncWrite + Unpin>(association: &mut Association<S>) -> anyhow::Result<()> {
    let context = association
        .context_for(VERIFICATION, IMPLICIT_VR_LITTLE_ENDIAN)
        .ok_or_else(|| anyhow!("the peer does not accept Verification"))?;
    let request = Command {
        field: C_ECHO_RQ,
        message_id: u16::MAX,
        sop_class_uid: Some(VERIFICATION.into()),
        ..Command::default()
    };
    association.send_command(context, &request).await?;
    match association.next().await? {
        Incoming::Command(_, response) if response.status == Some(0) => Ok(()),
        _ => bail!("the peer did not answer C-ECHO with success"),
    }
}

/// Sends one instance; yields why it was not stored.
async fn store<S: AsyncRead + AsyncWrite + Unpin>(
    association: &mut Association<S>,
    index: usize,
    instance: &Instance,
) -> anyhow::Result<Option<String>> {
    let Some(context) = association.context_for(&instance.sop_class_uid, &instance.transfer_syntax) else {
        return Ok(Some(format!(
            "the peer does not accept SOP class {} in transfer syntax {}",
            instance.sop_class_uid, instance.transfer_syntax
        )));
    };
    let request = Command {
        field: C_STORE_RQ,
        message_id: (index % 0xffff) as u16 + 1,
        sop_class_uid: Some(instance.sop_class_uid.clone()),
        sop_instance_uid: Some(instance.sop_instance_uid.clone()),
        has_data_set: true,
        ..Command::default()
    };
    let data_set = tokio::fs::File::from_std(open(&instance.path)?);
    let response = exchange_store(association, context, &request, data_set).await?;
    let status = response.status.unwrap_or(0xffff);
    Ok(match class_of(status) {
        Class::Success | Class::Warning => None,
        _ => {
            let comment =
                response.error_comment.as_ref().map(|text| text.expose().as_str()).unwrap_or_default();
            Some(format!("status {status:#06x} {comment}").trim_end().to_owned())
        }
    })
}

fn open(path: &Path) -> anyhow::Result<std::fs::File> {
    Ok(part_ten::open(path).with_context(|| path.display().to_string())?.file)
}
