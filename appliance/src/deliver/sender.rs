//! Sending one result to one destination: C-STORE over TLS, STOW-RS, or an MLLP message.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use lightbox_provisioning::site::{Destination, OnNegative, Site};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use super::hl7::OruSettings;
use super::implicit;
use super::stow;
use crate::dicom::association::{Association, AssociationError, Limits};
use crate::dicom::dimse::{C_STORE_RQ, C_STORE_RSP, Command};
use crate::dicom::peer::{self, Stream};
use crate::dicom::services::{COMPREHENSIVE_3D_SR, EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN};
use crate::dicom::status;
use crate::dicom::tls::live::Live;
use crate::hl7::mllp::{self, AckPolicy, Disposition};
use crate::phi::Phi;
use crate::web::client::Remote;

/// How a try to send ended.
#[derive(Clone, Debug)]
pub enum Sent {
    /// The destination has it, with what it remarked.
    Delivered(Option<Phi<String>>),
    /// It may go better later.
    Later(Reason),
    /// It never will as it stands.
    Never(Reason),
}

/// Why something was not delivered.
#[derive(Clone, Debug)]
pub struct Reason {
    /// Codes only, for log, metric and audit.
    pub code: String,
    /// The peer's own words, for the ledger and the operator's page.
    pub text: Phi<String>,
}

impl Reason {
    /// The same for so many objects.
    pub(super) fn counted(self, count: usize) -> Self {
        if count < 2 {
            return self;
        }
        let text = format!("{count} instances; the first: {}", self.text.expose());
        Reason { code: self.code, text: Phi::new(text) }
    }

    pub(super) fn plain(text: impl Into<String>) -> Self {
        let text = text.into();
        Reason { code: text.clone(), text: Phi::new(text) }
    }
}

/// The way to one destination.
pub struct Route {
    /// Name in the site file.
    pub name: String,
    address: String,
    /// The newest certificates; `None` without TLS.
    live: Option<watch::Receiver<Arc<Live>>>,
    connect: Duration,
    respond: Duration,
    kind: Kind,
}

enum Kind {
    Dicom { calling_ae: String, called_ae: String, limits: Limits },
    Web(Box<Remote>),
    Hl7 { policy: AckPolicy },
}

impl Route {
    /// The way to a destination of the site file, whose check has made sure that it is whole.
    pub fn new(site: &Site, destination: &Destination, live: watch::Receiver<Arc<Live>>) -> Option<Self> {
        let deliver = &site.file.deliver;
        let (address, encrypted, kind) = if let Some(dicom) = &destination.dicom {
            let peer = site.peer(&dicom.peer)?;
            let limits = Limits {
                max_pdu: site.file.dicom.max_pdu_bytes,
                artim: Duration::from_secs(site.file.dicom.artim_seconds),
                idle: Duration::from_secs(deliver.response_timeout_seconds),
                operations: 1,
            };
            let kind = Kind::Dicom {
                calling_ae: site.file.appliance.ae_title.clone(),
                called_ae: peer.ae_title.clone(),
                limits,
            };
            (peer.address.clone().unwrap_or_default(), !peer.plaintext, kind)
        } else if let Some(web) = &destination.dicomweb {
            let remote = Remote::of_site(site, site.peer(&web.peer)?, &live)?;
            (String::new(), false, Kind::Web(Box::new(remote)))
        } else if let Some(hl7) = &destination.hl7 {
            let policy = |on: OnNegative| match on {
                OnNegative::Retry => mllp::OnNegative::Retry,
                OnNegative::DeadLetter => mllp::OnNegative::DeadLetter,
            };
            let kind = Kind::Hl7 {
                policy: AckPolicy {
                    on_ae: policy(hl7.on_error),
                    on_ce: policy(hl7.on_error),
                    on_ar: policy(hl7.on_reject),
                    on_cr: policy(hl7.on_reject),
                    await_application: hl7.enhanced_wait_for_application,
                },
            };
            (hl7.address.clone(), hl7.tls, kind)
        } else {
            return None;
        };
        Some(Route {
            name: destination.name.clone(),
            address,
            live: encrypted.then_some(live),
            connect: Duration::from_secs(deliver.connect_timeout_seconds),
            respond: Duration::from_secs(deliver.response_timeout_seconds),
            kind,
        })
    }

    /// The DICOMweb service, where the destination is one.
    pub(super) fn web(&self) -> Option<&Remote> {
        match &self.kind {
            Kind::Web(remote) => Some(remote),
            _ => None,
        }
    }

    /// Longest time that one try can take; a lease must outlast it.
    pub fn longest(&self) -> Duration {
        self.connect * 2 + self.respond * 4
    }

    /// Whether the destination takes HL7 messages (else DICOM objects).
    pub fn is_hl7(&self) -> bool {
        matches!(self.kind, Kind::Hl7 { .. })
    }

    /// Sends an SR file or an ORU message; `control_id` is the message's MSH-10.
    pub async fn send(&self, content: Vec<u8>, sr_instance_uid: &Phi<String>, control_id: &str) -> Sent {
        if let Kind::Web(remote) = &self.kind {
            return stow::store(remote, &content).await;
        }
        match self.connect().await {
            Ok(stream) => self.exchange(stream, content, sr_instance_uid, control_id).await,
            Err(reason) => Sent::Later(reason),
        }
    }

    /// Connects, with TLS where the site file says so.
    pub(super) async fn connect(&self) -> Result<Stream, Reason> {
        let config = match &self.live {
            None => None,
            Some(live) => {
                let config = live.borrow().clients.get(&self.name).cloned();
                Some(config.ok_or_else(|| Reason::plain("TLS: the site file names no certificate"))?)
            }
        };
        peer::open(&self.address, config.as_ref(), self.connect)
            .await
            .map_err(|error| Reason::plain(error.to_string()))
    }

    /// Connects and asks for an association. `Err` holds what the try comes to.
    pub(super) async fn associate(
        &self,
        contexts: &[(String, Vec<String>)],
    ) -> Result<Association<Stream>, Sent> {
        let Kind::Dicom { calling_ae, called_ae, limits } = &self.kind else {
            return Err(Sent::Never(Reason::plain("the destination does not take DICOM objects")));
        };
        let stream = self.connect().await.map_err(Sent::Later)?;
        request(stream, calling_ae, called_ae, contexts, *limits).await
    }

    async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        content: Vec<u8>,
        sr_instance_uid: &Phi<String>,
        control_id: &str,
    ) -> Sent {
        match &self.kind {
            Kind::Dicom { calling_ae, called_ae, limits } => {
                store(stream, calling_ae, called_ae, *limits, &content, sr_instance_uid).await
            }
            Kind::Web(remote) => stow::store(remote, &content).await,
            Kind::Hl7 { policy } => message(stream, content, control_id, self.respond, policy).await,
        }
    }
}

async fn message<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    content: Vec<u8>,
    control_id: &str,
    respond: Duration,
    policy: &AckPolicy,
) -> Sent {
    let Ok(text) = String::from_utf8(content) else {
        return Sent::Never(Reason::plain("the message on disk is not UTF-8"));
    };
    match mllp::send(&mut stream, &text, control_id, respond, policy).await {
        Ok(ack) => match mllp::disposition(&ack, policy) {
            Disposition::Delivered => Sent::Delivered(None),
            Disposition::Retry(reason) => Sent::Later(negative(reason)),
            Disposition::DeadLetter(reason) => Sent::Never(negative(reason)),
        },
        Err(error) => Sent::Later(Reason::plain(format!("MLLP: {error}"))),
    }
}

/// A negative acknowledgement, with its code before the peer's words.
fn negative(reason: mllp::Reason) -> Reason {
    let text = format!("{}: {}", reason.code, reason.text.expose());
    Reason { code: reason.code, text: Phi::new(text) }
}

async fn request<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    calling_ae: &str,
    called_ae: &str,
    contexts: &[(String, Vec<String>)],
    limits: Limits,
) -> Result<Association<S>, Sent> {
    match Association::request(stream, calling_ae, called_ae, contexts, limits).await {
        Ok(association) => Ok(association),
        Err(AssociationError::Rejected(rejection)) => {
            let reason = Reason::plain(rejection.to_string());
            Err(if rejection.is_transient() { Sent::Later(reason) } else { Sent::Never(reason) })
        }
        Err(error) => Err(Sent::Later(Reason::plain(error.to_string()))),
    }
}

async fn store<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    calling_ae: &str,
    called_ae: &str,
    limits: Limits,
    part_ten: &[u8],
    sr_instance_uid: &Phi<String>,
) -> Sent {
    let Some(data_set) = data_set_of(part_ten) else {
        return Sent::Never(Reason::plain("the SR on disk is not a Part 10 file"));
    };
    let proposed = [EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN]
        .map(|syntax| (COMPREHENSIVE_3D_SR.to_owned(), vec![syntax.to_owned()]));
    let mut association = match request(stream, calling_ae, called_ae, &proposed, limits).await {
        Ok(association) => association,
        Err(sent) => return sent,
    };
    let explicit = association.context_for(COMPREHENSIVE_3D_SR, EXPLICIT_VR_LITTLE_ENDIAN);
    let implicit = association.context_for(COMPREHENSIVE_3D_SR, IMPLICIT_VR_LITTLE_ENDIAN);
    let (context, data_set) = match (explicit, implicit) {
        (Some(context), _) => (context, Cow::Borrowed(data_set)),
        (None, Some(context)) => match implicit::from_explicit(data_set) {
            Some(converted) => (context, Cow::Owned(converted)),
            None => return Sent::Never(Reason::plain("the SR on disk cannot be converted to Implicit VR")),
        },
        (None, None) => {
            let why = association.refusal_of(COMPREHENSIVE_3D_SR).unwrap_or("no answer to the context");
            drop(association.release().await);
            return Sent::Never(Reason::plain(format!(
                "the peer does not accept Comprehensive 3D SR Storage: {why}"
            )));
        }
    };
    let request = Command {
        field: C_STORE_RQ,
        message_id: 1,
        sop_class_uid: Some(COMPREHENSIVE_3D_SR.into()),
        sop_instance_uid: Some(sr_instance_uid.clone()),
        has_data_set: true,
        ..Command::default()
    };
    match exchange_store(&mut association, context, &request, &data_set[..]).await {
        Ok(response) => {
            // The peer has answered; how the association ends changes nothing.
            drop(association.release().await);
            judge(&response)
        }
        Err(error) => {
            let reason = Reason::plain(error.to_string());
            association.abort(&error).await;
            Sent::Later(reason)
        }
    }
}

/// One C-STORE: request and data set out, response in.
pub async fn exchange_store<S: AsyncRead + AsyncWrite + Unpin>(
    association: &mut Association<S>,
    context: u8,
    request: &Command,
    data_set: impl AsyncRead + Unpin,
) -> Result<Command, AssociationError> {
    use crate::dicom::association::Incoming;
    association.send_command(context, request).await?;
    association.send_data_set(context, data_set).await?;
    let expected = "a C-STORE response";
    match association.next().await? {
        Incoming::Command(_, response)
            if response.field == C_STORE_RSP && response.message_id == request.message_id =>
        {
            Ok(response)
        }
        Incoming::Command(..) => Err(AssociationError::Unexpected { found: "another message", expected }),
        Incoming::Release => Err(AssociationError::Unexpected { found: "A-RELEASE-RQ", expected }),
    }
}

/// What a C-STORE response makes of a delivery (PS3.4 B.2.3).
pub(super) fn judge(response: &Command) -> Sent {
    let code = response.status.unwrap_or(status::PROCESSING_FAILURE);
    let comment =
        response.error_comment.as_ref().map(|comment| comment.expose().as_str()).unwrap_or_default();
    let reason = Reason {
        code: format!("C-STORE status {code:#06x}"),
        text: Phi::new(format!("C-STORE status {code:#06x} {comment}").trim_end().to_owned()),
    };
    match status::class_of(code) {
        status::Class::Success => Sent::Delivered(None),
        status::Class::Warning => Sent::Delivered(Some(reason.text)),
        status::Class::Transient => Sent::Later(reason),
        status::Class::Permanent => Sent::Never(reason),
    }
}

/// The data set of a Part 10 file that we wrote: behind preamble, "DICM" and the meta group.
fn data_set_of(part_ten: &[u8]) -> Option<&[u8]> {
    let group: [u8; 4] = part_ten.get(140..144)?.try_into().ok()?;
    if part_ten.get(128..132)? != b"DICM" {
        return None;
    }
    part_ten.get(144 + u32::from_le_bytes(group) as usize..)
}

/// The settings of the messages for an HL7 destination.
pub fn oru_settings(site: &Site, destination: &Destination) -> Option<OruSettings> {
    let hl7 = destination.hl7.as_ref()?;
    Some(OruSettings {
        sending_application: site.file.appliance.ae_title.clone(),
        sending_facility: hl7.sending_facility.clone(),
        receiving_application: hl7.receiving_application.clone(),
        receiving_facility: hl7.receiving_facility.clone(),
        assigning_authority: hl7.assigning_authority.clone(),
        enhanced_acknowledgement: hl7.enhanced_wait_for_application,
        ..OruSettings::default()
    })
}
