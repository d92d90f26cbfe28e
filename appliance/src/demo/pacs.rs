//! The demo's PACS: Orthanc where it is installed, else a small one in this process, on our own
//! association layer. Both speak mutual TLS and take the box's certificate only.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::orthanc::Orthanc;
use super::site::ae;
use crate::clock::SharedClock;
use crate::dicom::association::{Association, AssociationError, Incoming, Limits, Rejection, Requested};
use crate::dicom::dimse::{C_ECHO_RQ, C_STORE_RQ, Command};
use crate::dicom::{part_ten, services, status};
use crate::phi::Phi;
use crate::store::objects::Receipt;

const LIMITS: Limits =
    Limits { max_pdu: 131_072, artim: Duration::from_secs(10), idle: Duration::from_secs(30), operations: 1 };

/// An object that the PACS has.
#[derive(Debug)]
pub struct Held {
    /// SOP Instance UID.
    pub sop_instance_uid: Phi<String>,
    /// The Part 10 file, as the PACS gives it out.
    pub file: Phi<Vec<u8>>,
}

/// The demo's PACS.
#[derive(Debug)]
pub enum Pacs {
    /// In this process.
    InProcess(Small),
    /// Orthanc, as a child process.
    Orthanc(Box<Orthanc>),
}

impl Pacs {
    /// What it is.
    pub fn describe(&self) -> String {
        match self {
            Pacs::InProcess(_) => "a small PACS in this process".into(),
            Pacs::Orthanc(orthanc) => format!("Orthanc {}", orthanc.version),
        }
    }

    /// Host and port for DICOM.
    pub fn address(&self) -> &str {
        match self {
            Pacs::InProcess(small) => &small.address,
            Pacs::Orthanc(orthanc) => &orthanc.address,
        }
    }

    /// Everything that it has.
    pub async fn held(&self) -> anyhow::Result<Vec<Held>> {
        match self {
            Pacs::InProcess(small) => small.held(),
            Pacs::Orthanc(orthanc) => orthanc.held().await,
        }
    }
}

/// A PACS in this process: C-ECHO and C-STORE. It ends when it is dropped.
#[derive(Debug)]
pub struct Small {
    address: String,
    folder: PathBuf,
    task: JoinHandle<()>,
}

impl Drop for Small {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Small {
    /// Listens on a free port and keeps what comes in `folder`, each object in a file of its own that is
    /// durable before the sender hears of success.
    pub async fn start(tls: Arc<ServerConfig>, folder: &Path, clock: SharedClock) -> anyhow::Result<Small> {
        std::fs::create_dir_all(folder).context("making the PACS's folder")?;
        let listener = TcpListener::bind("127.0.0.1:0").await.context("no free port for the demo's PACS")?;
        let address = listener.local_addr()?.to_string();
        let (into, count) = (folder.to_owned(), Arc::new(AtomicUsize::new(0)));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = TlsAcceptor::from(tls.clone());
                let connection =
                    Connection { folder: into.clone(), count: count.clone(), clock: clock.clone() };
                tokio::spawn(async move {
                    // A peer that fails the handshake sees the alert, and one that breaks off an
                    // association sees the abort: a demo's PACS keeps no record of either.
                    if let Ok(stream) = acceptor.accept(stream).await {
                        drop(connection.serve(stream).await);
                    }
                });
            }
        });
        Ok(Small { address, folder: folder.to_owned(), task })
    }

    fn held(&self) -> anyhow::Result<Vec<Held>> {
        let mut held = Vec::new();
        for item in std::fs::read_dir(&self.folder)? {
            let path = item?.path();
            if path.extension().is_some_and(|extension| extension == "dcm") {
                let meta = part_ten::open(&path)?.meta;
                let file = std::fs::read(&path).context("reading an object of the PACS")?;
                let sop_instance_uid = Phi::new(meta.media_storage_sop_instance_uid().to_owned());
                held.push(Held { sop_instance_uid, file: Phi::new(file) });
            }
        }
        Ok(held)
    }
}

/// One peer's connection.
struct Connection {
    folder: PathBuf,
    /// Numbers the files of all connections.
    count: Arc<AtomicUsize>,
    clock: SharedClock,
}

impl Connection {
    async fn serve<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> Result<(), AssociationError> {
        let requested = Requested::read(stream, LIMITS).await?;
        let rejection = requested.fault().or_else(|| {
            (requested.called_ae() != ae::PACS)
                .then_some(Rejection::CALLED_AE)
                .or_else(|| (requested.calling_ae() != ae::BOX).then_some(Rejection::CALLING_AE))
        });
        if let Some(rejection) = rejection {
            return requested.reject(rejection).await;
        }
        let mut association = requested.accept(services::judge).await?;
        loop {
            match self.message(&mut association).await {
                Ok(true) => {}
                Ok(false) => return association.answer_release().await,
                Err(error) => {
                    association.abort(&error).await;
                    return Err(error);
                }
            }
        }
    }

    /// Answers one message; false when the peer wants to release.
    async fn message<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        association: &mut Association<S>,
    ) -> Result<bool, AssociationError> {
        let Incoming::Command(context, command) = association.next().await? else { return Ok(false) };
        let response = match command.field {
            C_ECHO_RQ => command.response(status::SUCCESS, None),
            C_STORE_RQ if command.has_data_set => self.store(association, context, &command).await?,
            _ if command.has_data_set => {
                return Err(AssociationError::Unexpected {
                    found: "a request of a service that was not negotiated",
                    expected: "C-STORE or C-ECHO",
                });
            }
            _ => command.response(status::UNRECOGNIZED_OPERATION, None),
        };
        association.send_command(context, &response).await?;
        Ok(true)
    }

    async fn store<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        association: &mut Association<S>,
        context: u8,
        request: &Command,
    ) -> Result<Command, AssociationError> {
        let receipt = match (association.context(context), &request.sop_class_uid, &request.sop_instance_uid)
        {
            (Some(accepted), Some(class), Some(instance)) if *class == accepted.abstract_syntax => {
                Some(Receipt {
                    sop_class_uid: class.clone(),
                    sop_instance_uid: instance.clone(),
                    transfer_syntax: accepted.transfer_syntax.clone(),
                    calling_ae: ae::BOX.into(),
                    called_ae: ae::PACS.into(),
                    peer: "lightbox".into(),
                    received_ms: self.clock.now_ms(),
                })
            }
            _ => None,
        };
        // The data set is read to its end whatever becomes of it: the response comes after it.
        let mut file = match receipt.map(|receipt| receipt.part_ten_head()) {
            None => None,
            Some(Ok(head)) => Some(head),
            Some(Err(_)) => None,
        };
        loop {
            let (bytes, last) = association.fragment(context).await?;
            if let Some(file) = &mut file {
                file.extend_from_slice(&bytes);
            }
            if last {
                break;
            }
        }
        let Some(file) = file else {
            return Ok(request.response(status::SOP_CLASS_NOT_SUPPORTED, None));
        };
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.join(format!("{number:06}.dcm"));
        let kept = tokio::task::spawn_blocking(move || -> std::io::Result<()> {
            let part = path.with_extension("part");
            let mut out = std::fs::File::create_new(&part)?;
            out.write_all(&file)?;
            out.sync_all()?;
            std::fs::rename(&part, &path)
        });
        Ok(match kept.await {
            Ok(Ok(())) => request.response(status::SUCCESS, None),
            _ => request.response(status::PROCESSING_FAILURE, None),
        })
    }
}

/// Starts the PACS: Orthanc if it is on the `PATH` and wanted, else the small one.
pub async fn start(
    site: &super::site::DemoSite,
    folder: &super::folder::Folder,
    in_process: bool,
    clock: SharedClock,
) -> anyhow::Result<Pacs> {
    if !in_process && let Some(program) = super::orthanc::find() {
        return match Orthanc::start(&program, site, folder).await {
            Ok(orthanc) => Ok(Pacs::Orthanc(Box::new(orthanc))),
            Err(error) => bail!(
                "{} does not start: {error:#}; remedy: see {}, or use --in-process-pacs",
                program.display(),
                folder.join("orthanc.log").display()
            ),
        };
    }
    let small = Small::start(site.server(super::site::party::PACS)?, &folder.make("pacs")?, clock).await?;
    Ok(Pacs::InProcess(small))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock as _, SystemClock};
    use crate::demo::site::{DemoSite, party};
    use crate::dicom::scu::{Instance, Step, Target};
    use crate::phantom::{Kind, Spec, generate};

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_sent_over_mutual_tls_is_held_and_strangers_are_rejected() {
        let temp = tempfile::tempdir().unwrap();
        let site = DemoSite::make(&temp.path().join("site"), SystemClock.now()).unwrap();
        let server = site.server(party::PACS).unwrap();
        let pacs = Small::start(server, &temp.path().join("pacs"), Arc::new(SystemClock)).await.unwrap();
        let pacs = Pacs::InProcess(pacs);

        let phantom = generate(&Spec { rows: 128, columns: 128, ..Spec::new(Kind::Dx, 3) }).unwrap();
        let path = temp.path().join("a.dcm");
        std::fs::write(&path, &phantom.files[0].bytes).unwrap();
        let instances = [Instance::open(&path).unwrap()];
        let target = Target {
            address: pacs.address().to_owned(),
            called: ae::PACS.into(),
            calling: ae::BOX.into(),
            tls: Some(site.client(party::BOX, party::PACS).unwrap()),
            wait: Duration::from_secs(10),
            window: 1,
        };
        let mut echoed = false;
        let failed =
            target.send(&instances, true, &mut |step| echoed |= matches!(step, Step::Echoed)).await.unwrap();
        assert_eq!((failed, echoed), (0, true));
        let held = pacs.held().await.unwrap();
        assert_eq!(held.len(), 1);
        assert_eq!(held[0].sop_instance_uid, phantom.files[0].instance.sop_instance_uid);
        assert!(held[0].file.expose().ends_with(&phantom.files[0].bytes[1024..]));

        let stranger = Target { calling: "SOMEBODY".into(), ..target.clone() };
        let error = stranger.send(&instances, false, &mut |_| ()).await.unwrap_err();
        assert!(format!("{error:#}").contains("calling AE title not recognized"), "{error:#}");
        let modality = site.client(party::MODALITY, party::PACS).unwrap();
        let wrong = Target { tls: Some(modality), ..target };
        assert!(wrong.send(&instances, false, &mut |_| ()).await.is_err());
    }
}
