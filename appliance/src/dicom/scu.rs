//! A storage SCU for trying things: `lightbox send` and the demo. Results leave the box another
//! way, by `deliver::sender`, which knows queues and retries.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::association::{Association, Incoming, Limits};
use super::dimse::{C_ECHO_RQ, C_STORE_RQ, C_STORE_RSP, Command};
use super::services::{IMPLICIT_VR_LITTLE_ENDIAN, VERIFICATION};
use super::status::{Class, class_of};
use super::{part_ten, peer};
use crate::phi::Phi;

/// A file to send.
#[derive(Clone, Debug)]
pub struct Instance {
    path: PathBuf,
    sop_class_uid: String,
    sop_instance_uid: Phi<String>,
    transfer_syntax: String,
}

impl Instance {
    /// Reads what an association must know of a file; `None` if it is no Part 10 file.
    pub fn open(path: &Path) -> Option<Self> {
        let found = part_ten::open(path).ok()?;
        Some(Instance {
            path: path.to_owned(),
            sop_class_uid: found.meta.media_storage_sop_class_uid().to_owned(),
            sop_instance_uid: Phi::new(found.meta.media_storage_sop_instance_uid().to_owned()),
            transfer_syntax: found.meta.transfer_syntax().to_owned(),
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// SOP Instance UID.
    pub fn sop_instance_uid(&self) -> &Phi<String> {
        &self.sop_instance_uid
    }
}

/// The application entity that is sent to, and who we are to it.
#[derive(Clone, Debug)]
pub struct Target {
    /// Host and port.
    pub address: String,
    /// Its AE title.
    pub called: String,
    /// Our AE title.
    pub calling: String,
    /// `None` sends without TLS.
    pub tls: Option<Arc<ClientConfig>>,
    /// Time for each answer.
    pub wait: Duration,
    /// Instances that may be under way at once, if the peer lets us (asynchronous operations window, PS3.7 D.3.3.3); 1 does
    /// not ask for it.
    pub window: u16,
}

/// What happened, as it happens.
#[derive(Debug)]
pub enum Step<'a> {
    /// The peer answered C-ECHO.
    Echoed,
    /// The instance at this position was stored, or why it was not.
    Sent(usize, Option<&'a NotStored>),
}

/// Why an instance was not stored. `Display` for people.
#[derive(Debug, thiserror::Error)]
pub enum NotStored {
    /// No presentation context for it was accepted.
    #[error("the peer does not accept SOP class {sop_class} in transfer syntax {transfer_syntax}")]
    NoContext {
        /// SOP class.
        sop_class: String,
        /// Transfer syntax.
        transfer_syntax: String,
    },
    /// The file is gone, or cannot be read any more.
    #[error("the file cannot be read any more")]
    Unreadable,
    /// The peer's answer (PS3.4 §B.2.3), with its error comment.
    #[error("status {status:#06x}{}{comment}", if comment.is_empty() { "" } else { " " })]
    Status {
        /// The status.
        status: u16,
        /// Error Comment (0000,0902); may be empty.
        comment: String,
    },
}

impl NotStored {
    /// Whether the peer has no room (A7xx).
    pub fn is_out_of_resources(&self) -> bool {
        matches!(self, NotStored::Status { status: 0xA700..=0xA7FF, .. })
    }
}

impl Target {
    /// Sends the instances over one association, after a C-ECHO if one is asked for; yields how
    /// many were not stored.
    pub async fn send(
        &self,
        instances: &[Instance],
        with_echo: bool,
        report: &mut (dyn FnMut(Step<'_>) + Send),
    ) -> anyhow::Result<usize> {
        let stream = peer::open(&self.address, self.tls.as_ref(), self.wait)
            .await
            .with_context(|| format!("{}: check host, port, firewall and certificates", self.address))?;
        self.associate(stream, instances, with_echo, report).await
    }

    async fn associate<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        instances: &[Instance],
        with_echo: bool,
        report: &mut (dyn FnMut(Step<'_>) + Send),
    ) -> anyhow::Result<usize> {
        let mut contexts: BTreeSet<(String, String)> = instances
            .iter()
            .map(|instance| (instance.sop_class_uid.clone(), instance.transfer_syntax.clone()))
            .collect();
        if with_echo {
            contexts.insert((VERIFICATION.into(), IMPLICIT_VR_LITTLE_ENDIAN.into()));
        }
        if contexts.len() > 128 {
            bail!("{} kinds of objects: an association has room for 128; send fewer at once", contexts.len());
        }
        let contexts: Vec<_> = contexts.into_iter().map(|(class, syntax)| (class, vec![syntax])).collect();
        let limits = Limits { max_pdu: 131_072, artim: self.wait, idle: self.wait, operations: self.window };
        let mut association =
            Association::request(stream, &self.calling, &self.called, &contexts, limits).await?;
        if with_echo {
            echo(&mut association).await?;
            report(Step::Echoed);
        }
        let mut failed = 0;
        let mut tell = |index, problem: Option<NotStored>| {
            failed += usize::from(problem.is_some());
            report(Step::Sent(index, problem.as_ref()));
        };
        // Which instance a message ID stands for.
        let mut under_way = BTreeMap::new();
        for (index, instance) in instances.iter().enumerate() {
            match begin(&mut association, index, instance).await? {
                Ok(message_id) => drop(under_way.insert(message_id, index)),
                Err(problem) => tell(index, Some(problem)),
            }
            while under_way.len() >= association.window() {
                let (index, problem) = answer(&mut association, &mut under_way).await?;
                tell(index, problem);
            }
        }
        while !under_way.is_empty() {
            let (index, problem) = answer(&mut association, &mut under_way).await?;
            tell(index, problem);
        }
        association.release().await?;
        Ok(failed)
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

/// Sends one instance; yields the message ID under which it will be answered, or why it was not sent.
async fn begin<S: AsyncRead + AsyncWrite + Unpin>(
    association: &mut Association<S>,
    index: usize,
    instance: &Instance,
) -> anyhow::Result<Result<u16, NotStored>> {
    let Some(context) = association.context_for(&instance.sop_class_uid, &instance.transfer_syntax) else {
        return Ok(Err(NotStored::NoContext {
            sop_class: instance.sop_class_uid.clone(),
            transfer_syntax: instance.transfer_syntax.clone(),
        }));
    };
    // The window is far smaller than the numbers there are.
    let message_id = (index % 0xffff) as u16 + 1;
    let request = Command {
        field: C_STORE_RQ,
        message_id,
        sop_class_uid: Some(instance.sop_class_uid.clone()),
        sop_instance_uid: Some(instance.sop_instance_uid.clone()),
        has_data_set: true,
        ..Command::default()
    };
    // It was there a moment ago.
    let Ok(opened) = part_ten::open(&instance.path) else { return Ok(Err(NotStored::Unreadable)) };
    association.send_command(context, &request).await?;
    association.send_data_set(context, Here(opened.file)).await?;
    Ok(Ok(message_id))
}

/// A file, read where and when it is asked for: whoever tries things has nothing else to do meanwhile, and another thread
/// would cost a copy and a wait.
struct Here(std::fs::File);

impl AsyncRead for Here {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = self.0.read(into.initialize_unfilled())?;
        into.advance(read);
        Poll::Ready(Ok(()))
    }
}

/// The next answer: to which instance, and why it was not stored.
async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    association: &mut Association<S>,
    under_way: &mut BTreeMap<u16, usize>,
) -> anyhow::Result<(usize, Option<NotStored>)> {
    let Incoming::Command(_, response) = association.next().await? else {
        bail!("the peer asked to release the association before it had answered");
    };
    let Some(index) = under_way.remove(&response.message_id).filter(|_| response.field == C_STORE_RSP) else {
        bail!("the peer answered what it had not been asked");
    };
    let status = response.status.unwrap_or(0xffff);
    let problem = match class_of(status) {
        Class::Success | Class::Warning => None,
        _ => {
            let comment = response.error_comment.as_ref().map(|text| text.expose().trim_end().to_owned());
            Some(NotStored::Status { status, comment: comment.unwrap_or_default() })
        }
    };
    Ok((index, problem))
}
