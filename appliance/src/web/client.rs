//! Requests to a peer's DICOMweb service: one connection each, HTTP/1.1, bounded in time and length.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use lightbox_provisioning::site::{Peer, Site, WebUrl};
use thiserror::Error;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};

use super::MULTIPART_RELATED;
use super::body::{BodyError, Paced, Parts};
use super::multipart::{MediaType, Reader};
use crate::dicom::peer::{self, PeerError};
use crate::dicom::tls::live::Live;
use crate::phi::Phi;

/// Longest answer that is read whole: matches of a query, the response to a store.
pub const ANSWER_MAX: u64 = 32 << 20;
/// Bytes of a body that are read at once.
const PIECE: usize = 64 * 1024;
/// What is read of a refusal's words.
const WORDS_MAX: u64 = 4096;

/// A request failed. `Display` holds no patient data; the peer's own words do not belong into logs.
#[derive(Debug, Error)]
pub enum WebError {
    /// The peer was not reached.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// It does not speak HTTP, or closed the connection.
    #[error("HTTP: {0}")]
    Http(&'static str),
    /// A status that is no success.
    #[error("the peer answered {service} with HTTP status {status}")]
    Status {
        /// The service.
        service: &'static str,
        /// The status.
        status: u16,
        /// The peer's own words.
        words: Option<Phi<String>>,
    },
    /// The answer's body.
    #[error("the peer's answer: {0}")]
    Body(#[from] BodyError),
    /// An answer that is something else.
    #[error("the peer's answer is not {0}")]
    Unreadable(&'static str),
    /// What was to be sent cannot be read.
    #[error("the stored object cannot be read back")]
    Unsent,
    /// The whole operation took too long.
    #[error("the peer did not finish within {} s", .0.as_secs())]
    Deadline(Duration),
}

/// A peer's DICOMweb service, and who we are to it.
#[derive(Clone, Debug)]
pub struct Remote {
    /// Name of the peer in the site file.
    pub name: String,
    url: WebUrl,
    /// The newest certificates and keys; `None` calls without TLS.
    tls: Option<watch::Receiver<Arc<Live>>>,
    whose: Whose,
    connect: Duration,
    respond: Duration,
    /// Time for a whole query.
    pub deadline: Duration,
    /// Time for a whole retrieval.
    pub retrieve_deadline: Duration,
    /// Longest body of a retrieval, in bytes.
    pub max_body: u64,
    /// Longest instance of a retrieval, in bytes.
    pub max_instance: u64,
    /// Most instances of a retrieval.
    pub max_instances: u32,
}

/// By which entry of the site file the other side's certificate is known.
#[derive(Clone, Copy, Debug)]
enum Whose {
    Peer,
    Mirror(MirrorOf),
}

/// What a mirror inside the hospital offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MirrorOf {
    /// Signed models (`updates.mirror`).
    Models,
    /// Images of the firmware (`system.mirror`).
    Images,
}

impl MirrorOf {
    /// What it is called in errors.
    pub fn name(self) -> &'static str {
        match self {
            MirrorOf::Models => "the mirror of models",
            MirrorOf::Images => "the mirror of images",
        }
    }
}

/// An answer whose body is still to be read. Dropping it closes the connection.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Content-Type, empty where it is missing.
    pub content_type: String,
    /// The body.
    pub body: Paced<Incoming>,
    connection: Task,
}

/// A connection's task, ended when the answer goes.
#[derive(Debug)]
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// How a body that is sent gets on, for who waits for the answer.
#[derive(Clone, Debug)]
struct Progress(Arc<Mutex<(Instant, bool)>>);

impl Progress {
    fn new() -> Self {
        Progress(Arc::new(Mutex::new((Instant::now(), false))))
    }

    /// When bytes were last taken.
    fn last(&self) -> Instant {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    fn is_unreadable(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    fn tell(&self, unreadable: bool) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (Instant::now(), unreadable);
    }
}

/// A body that is read while it is sent.
pub struct Outgoing {
    reader: Box<dyn AsyncRead + Send + Unpin>,
    left: u64,
    progress: Progress,
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing").field("left", &self.left).finish_non_exhaustive()
    }
}

impl Outgoing {
    /// A body of so many bytes.
    pub fn new(reader: impl AsyncRead + Send + Unpin + 'static, length: u64) -> Self {
        Outgoing { reader: Box::new(reader), left: length, progress: Progress::new() }
    }
}

impl hyper::body::Body for Outgoing {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let this = self.get_mut();
        if this.left == 0 {
            return Poll::Ready(None);
        }
        let mut piece = vec![0; PIECE.min(usize::try_from(this.left).unwrap_or(PIECE))];
        let mut buffer = ReadBuf::new(&mut piece);
        let read = ready!(Pin::new(&mut this.reader).poll_read(cx, &mut buffer));
        let length = buffer.filled().len();
        match read {
            Ok(()) if length > 0 => {
                piece.truncate(length);
                this.left -= length as u64;
                this.progress.tell(false);
                Poll::Ready(Some(Ok(Frame::data(piece.into()))))
            }
            other => {
                this.progress.tell(true);
                let short = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
                Poll::Ready(Some(Err(other.err().unwrap_or(short))))
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// What is sent with a request.
#[derive(Debug)]
pub enum Content {
    /// Bytes at hand.
    Whole(Bytes),
    /// Bytes that are read while they are sent.
    Read(Outgoing),
}

/// One request.
#[derive(Debug)]
pub struct Question<'a> {
    /// Name for errors.
    pub service: &'static str,
    /// Method.
    pub method: Method,
    /// Path behind the service's base, and query.
    pub path: &'a str,
    /// What may come back.
    pub accept: &'a str,
    /// Media type and body.
    pub content: Option<(String, Content)>,
    /// Time for the peer to take the next bytes of the body, then for the head of the answer.
    pub within: Duration,
    /// Longest body of the answer, in bytes.
    pub max: u64,
}

impl Remote {
    /// A peer of the site file; `None` if it offers no DICOMweb.
    pub fn of_site(site: &Site, peer: &Peer, live: &watch::Receiver<Arc<Live>>) -> Option<Self> {
        let url = WebUrl::parse(&peer.dicomweb.as_ref()?.url)?;
        let (file, deliver) = (&site.file, &site.file.deliver);
        Some(Remote {
            name: peer.name.clone(),
            tls: url.encrypted.then(|| live.clone()),
            whose: Whose::Peer,
            url,
            connect: Duration::from_secs(deliver.connect_timeout_seconds),
            respond: Duration::from_secs(deliver.response_timeout_seconds),
            deadline: Duration::from_secs(file.query.deadline_seconds),
            retrieve_deadline: Duration::from_secs(file.query.retrieve_deadline_seconds),
            max_body: file.dicomweb.max_request_mib << 20,
            max_instance: file.dicomweb.max_instance_mib << 20,
            max_instances: file.dicomweb.max_instances,
        })
    }

    /// The mirror of the repository of models; `None` if the site names none.
    pub fn of_mirror(site: &Site, live: &watch::Receiver<Arc<Live>>, of: MirrorOf) -> Option<Self> {
        let mirror = match of {
            MirrorOf::Models => &site.file.updates.mirror,
            MirrorOf::Images => &site.file.system.mirror,
        };
        let url = WebUrl::parse(&mirror.as_ref()?.url)?;
        let deliver = &site.file.deliver;
        let within = Duration::from_secs(deliver.response_timeout_seconds);
        Some(Remote {
            name: of.name().into(),
            // The site file's check lets no other pass.
            tls: Some(live.clone()),
            whose: Whose::Mirror(of),
            url,
            connect: Duration::from_secs(deliver.connect_timeout_seconds),
            respond: within,
            deadline: within,
            retrieve_deadline: within,
            max_body: 0,
            max_instance: 0,
            max_instances: 0,
        })
    }

    /// A peer at this address, without TLS.
    #[cfg(test)]
    pub fn plain(authority: &str) -> Self {
        let within = Duration::from_secs(5);
        Remote {
            name: "pacs".into(),
            url: WebUrl { encrypted: false, authority: authority.to_owned(), path: "/dicom-web".into() },
            tls: None,
            whose: Whose::Peer,
            connect: within,
            respond: within,
            deadline: within,
            retrieve_deadline: within,
            max_body: 1 << 20,
            max_instance: 1 << 16,
            max_instances: 10,
        }
    }

    /// Time for the answer to a store request.
    pub fn respond(&self) -> Duration {
        self.respond
    }

    /// Asks, and yields the answer whatever its status.
    pub async fn ask(&self, question: Question<'_>) -> Result<Answer, WebError> {
        let config = match &self.tls {
            None => None,
            Some(live) => {
                let config = match self.whose {
                    Whose::Peer => live.borrow().peer_clients.get(&self.name).cloned(),
                    Whose::Mirror(MirrorOf::Models) => live.borrow().mirror_client.clone(),
                    Whose::Mirror(MirrorOf::Images) => live.borrow().system_mirror_client.clone(),
                };
                Some(config.ok_or(PeerError::NoCertificate)?)
            }
        };
        let stream = peer::open(&self.url.authority, config.as_ref(), self.connect).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|_| WebError::Http("no connection"))?;
        let task = Task(tokio::spawn(async move { drop(connection.await) }).abort_handle());
        let mut request = Request::builder()
            .method(question.method)
            .uri(format!("{}{}", self.url.path, question.path))
            .header(header::HOST, &self.url.authority)
            .header(header::ACCEPT, question.accept)
            .header(header::USER_AGENT, "lightbox");
        let mut body = Body::empty();
        let mut progress = Progress::new();
        if let Some((media_type, content)) = question.content {
            request = request.header(header::CONTENT_TYPE, media_type);
            body = match content {
                Content::Whole(bytes) => Body::from(bytes),
                Content::Read(outgoing) => {
                    progress = outgoing.progress.clone();
                    Body::new(outgoing)
                }
            };
        }
        let request = request.body(body).map_err(|_| WebError::Http("the request cannot be written"))?;
        let sending = sender.send_request(request);
        tokio::pin!(sending);
        let answer = loop {
            let until = progress.last() + question.within;
            match timeout_at(until, sending.as_mut()).await {
                Ok(answer) => break answer,
                // It goes on as long as the peer takes something.
                Err(_) if progress.last() + question.within > until => {}
                Err(_) => return Err(WebError::Deadline(question.within)),
            }
        };
        let answer = answer.map_err(|error| {
            if progress.is_unreadable() {
                return WebError::Unsent;
            }
            WebError::Http(match () {
                () if error.is_parse() => "the peer does not answer in HTTP",
                () if error.is_incomplete_message() => "the peer closed the connection without an answer",
                () => "the connection failed",
            })
        })?;
        let (head, body) = answer.into_parts();
        let text = |value: &HeaderValue| value.to_str().unwrap_or_default().to_owned();
        Ok(Answer {
            status: head.status.as_u16(),
            content_type: head.headers.get(header::CONTENT_TYPE).map(text).unwrap_or_default(),
            body: Paced::new(body, question.max, question.within),
            connection: task,
        })
    }

    /// Asks; every other status than 200 to 206 is an error, with the peer's words.
    pub async fn get(&self, question: Question<'_>) -> Result<Answer, WebError> {
        let service = question.service;
        let mut answer = self.ask(question).await?;
        match answer.status {
            200..=206 => Ok(answer),
            status => Err(WebError::Status { service, status, words: answer.words().await }),
        }
    }
}

/// An answer whose body is instances. Dropping it closes the connection.
#[derive(Debug)]
pub struct Instances {
    /// The instances, each a part.
    pub parts: Parts<Incoming>,
    _connection: Task,
}

impl Answer {
    /// Takes the body for `multipart/related` of at most so many instances.
    pub fn into_instances(self, max: u32) -> Result<Instances, WebError> {
        let media_type = MediaType::parse(&self.content_type)
            .filter(|found| found.essence == MULTIPART_RELATED)
            .ok_or(WebError::Unreadable("of multipart/related"))?;
        let reader = media_type
            .parameter("boundary")
            .and_then(Reader::new)
            .ok_or(WebError::Unreadable("of multipart/related with a usable boundary"))?;
        Ok(Instances { parts: Parts::new(self.body, reader, max), _connection: self.connection })
    }

    /// What the body of a refusal says, in so far as it is text.
    pub async fn words(&mut self) -> Option<Phi<String>> {
        let mut words = Vec::new();
        while (words.len() as u64) < WORDS_MAX {
            match self.body.next().await {
                Ok(Some(bytes)) => words.extend_from_slice(&bytes),
                // What there is, is said.
                Ok(None) | Err(_) => break,
            }
        }
        words.truncate(WORDS_MAX as usize);
        let text = String::from_utf8_lossy(&words);
        let text: Vec<&str> = text.split_whitespace().collect();
        (!text.is_empty()).then(|| Phi::new(text.join(" ")))
    }
}
