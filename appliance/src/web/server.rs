//! The DICOMweb port: HTTPS with a peer's certificate, `POST {prefix}/studies[/{StudyInstanceUID}]`
//! (STOW-RS, PS3.18 §10.5).
//!
//! The order of the checks is the DICOM port's: TLS, then who may send from where, room on the disk, a
//! place; then the request itself, then each part's SOP class. Refusals are recorded with theirs.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use lightbox_provisioning::site::Site;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OnceCell, Semaphore, watch};

use super::answer::{Fault, Report};
use super::body::{Paced, Parts};
use super::multipart::{MediaType, Reader};
use super::store::{Stored, Storing};
use super::{APPLICATION_DICOM, DICOM_JSON, MULTIPART_RELATED};
use crate::dicom::header::is_uid;
use crate::dicom::tls::live::Live;
use crate::ingest::listener::places::{Place, Places, WaitingRoom};
use crate::ingest::listener::policy::{PeerPolicy, Policy};
use crate::ingest::listener::refusals::{Refusal, record};
use crate::ingest::listener::throttle::Throttled;
use crate::ingest::listener::{Shown, Throttles, congestion, explain_full, handshake, let_in};
use crate::ingest::receive::{Receiver, Sender};

/// Longest head of a request, in bytes.
const HEAD_MAX: usize = 64 * 1024;
/// Connections of known peers: more than there are places, as one that waits for its next request has none.
const CONNECTIONS_PER_PLACE: usize = 4;
/// What is read of a body that is refused, so that its sender hears why: bytes, and time.
const DRAIN_MAX: u64 = 64 << 20;
const DRAIN: Duration = Duration::from_secs(10);
/// When to come again, in seconds.
const RETRY_AFTER: &str = "60";

/// The port's policy and means; shared by all connections.
pub struct Server {
    receiver: Receiver,
    policy: Arc<Policy>,
    places: Arc<Places>,
    throttles: Throttles,
    live: watch::Receiver<Arc<Live>>,
    waiting: WaitingRoom,
    connections: Arc<Semaphore>,
    prefix: String,
    max_request: u64,
    max_instance: u64,
    max_parts: u32,
    handshake: Duration,
    head: Duration,
    silence: Duration,
    congestion_bytes: u64,
}

/// A connection: who it is, and whether that is on the audit log yet.
struct Connection {
    shown: Shown,
    address: SocketAddr,
    audited: OnceCell<bool>,
}

/// An answer without instances: status, words for people.
struct Refused {
    status: StatusCode,
    words: String,
}

impl Refused {
    fn new(status: StatusCode, words: impl Into<String>) -> Self {
        Refused { status, words: words.into() }
    }
}

/// What a request asks for.
struct Asked {
    study: Option<String>,
    reader: Reader,
}

impl Server {
    /// A port with the site's policy; `places` and `throttles` are shared with the DICOM port. `live` is
    /// always the newest certificates and keys.
    pub fn new(
        site: &Site,
        receiver: Receiver,
        policy: Arc<Policy>,
        places: Arc<Places>,
        throttles: Throttles,
        live: watch::Receiver<Arc<Live>>,
    ) -> Self {
        let (web, dicom) = (&site.file.dicomweb, &site.file.dicom);
        Server {
            receiver,
            policy,
            places,
            throttles,
            live,
            waiting: WaitingRoom::default(),
            connections: Arc::new(Semaphore::new(dicom.max_associations as usize * CONNECTIONS_PER_PLACE)),
            prefix: web.prefix.clone(),
            max_request: web.max_request_mib << 20,
            max_instance: web.max_instance_mib << 20,
            max_parts: web.max_instances,
            handshake: Duration::from_secs(dicom.handshake_timeout_seconds),
            head: Duration::from_secs(dicom.artim_seconds),
            silence: Duration::from_secs(dicom.idle_timeout_seconds),
            congestion_bytes: site.file.store.congestion_mib << 20,
        }
    }

    /// Accepts connections until `stop` turns true.
    pub async fn run(self: Arc<Self>, port: TcpListener, mut stop: watch::Receiver<bool>) {
        loop {
            let accepted = tokio::select! {
                accepted = port.accept() => accepted,
                _ = stop.changed() => return,
            };
            match accepted {
                Ok((stream, address)) => {
                    let (server, stop) = (self.clone(), stop.clone());
                    tokio::spawn(async move { server.connection(stream, address, stop).await });
                }
                Err(error) => {
                    tracing::error!(kind = %error.kind(), "accepting a DICOMweb connection failed");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }

    async fn connection(&self, stream: TcpStream, address: SocketAddr, mut stop: watch::Receiver<bool>) {
        drop(stream.set_nodelay(true));
        let Some(waiting) = self.waiting.enter(address.ip()) else {
            metrics::counter!("lightbox_associations_total", "outcome" => "overrun").increment(1);
            return;
        };
        let live = self.live.borrow().clone();
        let now_ms = self.receiver.clock.now_ms();
        let stream = Throttled::new(stream);
        let (mut stream, shown) = match handshake(&live, stream, address, self.handshake, now_ms).await {
            Ok(known) => known,
            Err(refusal) => return record(&self.receiver.ledger, refusal).await,
        };
        drop(waiting);
        let Ok(_connection) = self.connections.clone().try_acquire_owned() else { return };
        let bucket = shown.owners.iter().find_map(|owner| self.throttles.get(owner));
        stream.get_mut().0.set_bucket(bucket.cloned());
        let known = Connection { shown, address, audited: OnceCell::new() };
        let service = service_fn(|request| self.answer(request, &known));
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.head)
            .max_buf_size(HEAD_MAX)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = async { drop(stop.wait_for(|stop| *stop).await) } => {
                connection.as_mut().graceful_shutdown();
                connection.as_mut().await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(reason = error.to_string(), "a DICOMweb connection ended early");
        }
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        connection: &Connection,
    ) -> Result<Response<Body>, Infallible> {
        let (head, body) = request.into_parts();
        let outcome = match self.admit(connection).await {
            Err(refused) => Err(refused),
            Ok((peer, place)) => match self.asked(&head.method, head.uri.path(), &head.headers) {
                Err(refused) => Err(refused),
                Ok(asked) => {
                    let response = self.store(asked, body, peer, connection).await;
                    drop(place);
                    return Ok(response);
                }
            },
        };
        // Whoever sends its whole body before it reads would hear of a broken pipe only.
        let mut rest = Paced::new(body, DRAIN_MAX, DRAIN);
        drop(tokio::time::timeout(DRAIN, rest.drain(DRAIN_MAX, DRAIN)).await);
        Ok(match outcome {
            Ok(response) => response,
            Err(refused) => refusal(&refused),
        })
    }

    /// Who is calling, and a place for the request.
    async fn admit(&self, connection: &Connection) -> Result<(&PeerPolicy, Place<'_>), Refused> {
        let known_as =
            |peer: Option<String>| peer.unwrap_or_else(|| connection.address.ip().to_canonical().to_string());
        let denied = |peer, status: StatusCode, reason: String, remedy| async move {
            let refusal = Refusal {
                peer,
                calling_ae: String::new(),
                address: connection.address,
                code: format!("HTTP {}", status.as_u16()),
                reason: format!("DICOMweb: {reason}"),
                remedy,
            };
            record(&self.receiver.ledger, refusal).await;
            Refused::new(status, reason)
        };
        let peer = match self.policy.decide_web(&connection.shown.owners, connection.address.ip()) {
            Ok(peer) => peer,
            Err(why) => {
                let peer = known_as(why.peer);
                return Err(denied(peer, StatusCode::FORBIDDEN, why.reason, why.remedy).await);
            }
        };
        let busy = StatusCode::SERVICE_UNAVAILABLE;
        if let Some((reason, remedy)) = congestion(&self.receiver, self.congestion_bytes) {
            return Err(denied(peer.name.clone(), busy, reason, remedy).await);
        }
        let place = match self.places.take(&peer.name, peer.max_associations) {
            Ok(place) => place,
            Err(full) => {
                let (reason, remedy) = explain_full(full, &peer.name);
                return Err(denied(peer.name.clone(), busy, reason, remedy).await);
            }
        };
        // Once a connection: a client may send each instance in a request of its own.
        let let_in = || async {
            metrics::counter!("lightbox_associations_total", "outcome" => "accepted").increment(1);
            let certificate = connection.shown.certificate.clone();
            let_in(&self.receiver.ledger, &peer.name, peer.ae_title(), connection.address, certificate).await
        };
        if !*connection.audited.get_or_init(let_in).await {
            return Err(Refused::new(busy, "the request could not be audited: send again later"));
        }
        Ok((peer, place))
    }

    /// What is asked for, before the body is looked at.
    fn asked(&self, method: &Method, path: &str, headers: &HeaderMap) -> Result<Asked, Refused> {
        let refuse = |status, words: &str| Err(Refused::new(status, words));
        let studies = path.strip_prefix(&self.prefix).and_then(|rest| rest.strip_prefix("/studies"));
        let study = match studies.map(|rest| rest.strip_suffix('/').unwrap_or(rest)) {
            Some("") => None,
            Some(rest) => match rest.strip_prefix('/') {
                Some(uid) if is_uid(uid) => Some(uid.to_owned()),
                Some(uid) if !uid.contains('/') => {
                    return refuse(StatusCode::BAD_REQUEST, "the path names no Study Instance UID");
                }
                _ => return refuse(StatusCode::NOT_FOUND, "there is nothing at this path"),
            },
            None => return refuse(StatusCode::NOT_FOUND, "there is nothing at this path"),
        };
        if method != Method::POST {
            let words = "only the store transaction is offered here: POST";
            return refuse(StatusCode::METHOD_NOT_ALLOWED, words);
        }
        let text = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or("?"));
        if !text(header::ACCEPT).is_none_or(takes_json) {
            let words = format!("the response is {DICOM_JSON}; the Accept header does not take it");
            return Err(Refused::new(StatusCode::NOT_ACCEPTABLE, words));
        }
        let wanted = || {
            let words = format!("send {MULTIPART_RELATED}; type=\"{APPLICATION_DICOM}\"; boundary=…");
            Refused::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, words)
        };
        let media_type = text(header::CONTENT_TYPE).and_then(MediaType::parse).ok_or_else(wanted)?;
        let root = media_type.parameter("type").unwrap_or(APPLICATION_DICOM);
        if media_type.essence != MULTIPART_RELATED || !root.eq_ignore_ascii_case(APPLICATION_DICOM) {
            return Err(wanted());
        }
        if text(header::CONTENT_ENCODING).is_some_and(|coding| !coding.eq_ignore_ascii_case("identity")) {
            return refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send without a Content-Encoding");
        }
        let length = text(header::CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
        if length.is_some_and(|length| length > self.max_request) {
            let words = format!("a request may have at most {} MiB", self.max_request >> 20);
            return Err(Refused::new(StatusCode::PAYLOAD_TOO_LARGE, words));
        }
        match media_type.parameter("boundary").and_then(Reader::new) {
            Some(reader) => Ok(Asked { study, reader }),
            None => refuse(StatusCode::BAD_REQUEST, "the Content-Type has no usable boundary"),
        }
    }

    async fn store(
        &self,
        asked: Asked,
        body: Incoming,
        peer: &PeerPolicy,
        connection: &Connection,
    ) -> Response<Body> {
        let sender = Sender { peer: peer.name.clone(), calling_ae: peer.ae_title().to_owned() };
        let storing = Storing {
            receiver: &self.receiver,
            policy: Some(peer),
            sender: &sender,
            study: asked.study.as_deref(),
            max_instance: self.max_instance,
        };
        let body = Paced::new(body, self.max_request, self.silence);
        let mut parts = Parts::new(body, asked.reader, self.max_parts);
        let Stored { report, not_allowed, ended } = storing.run(&mut parts).await;
        if not_allowed > 0 {
            let refusal = Refusal {
                peer: peer.name.clone(),
                calling_ae: sender.calling_ae,
                address: connection.address,
                code: format!("HTTP {}", report.status().as_u16()),
                reason: format!(
                    "DICOMweb: {not_allowed} instances are of SOP classes that are not among the `sop_classes` of this peer, or in transfer syntaxes that are not supported"
                ),
                remedy: format!(
                    "add the SOP classes to `sop_classes` of [[peer]] \"{}\", or take the key out; for transfer syntaxes see CONFORMANCE.md",
                    peer.name
                ),
            };
            record(&self.receiver.ledger, refusal).await;
        }
        if let Some(why) = ended {
            tracing::warn!(
                peer = peer.name,
                stored = report.stored(),
                reason = why.to_string(),
                "a DICOMweb request was not read to its end"
            );
        }
        // What follows the closing delimiter, or the fault.
        if report.fault != Some(Fault::Slow) {
            drop(tokio::time::timeout(DRAIN, parts.rest().drain(DRAIN_MAX, DRAIN)).await);
        }
        response(&report)
    }
}

/// Whether an Accept header takes the DICOM JSON model (RFC 9110 §12.5.1).
fn takes_json(accept: &str) -> bool {
    let ranges: Vec<MediaType> =
        accept.split(',').filter_map(|range| MediaType::parse(range.trim())).collect();
    accept.trim().is_empty()
        || ranges.iter().any(|range| {
            matches!(range.essence.as_str(), "*/*" | "application/*" | DICOM_JSON | "application/json")
                && range
                    .parameter("q")
                    .is_none_or(|weight| weight.parse::<f32>().is_ok_and(|weight| weight > 0.0))
        })
}

fn refusal(refused: &Refused) -> Response<Body> {
    let mut response = Response::new(Body::from(format!("{}\n", refused.words)));
    *response.status_mut() = refused.status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if refused.status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
    }
    if refused.status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(header::ALLOW, HeaderValue::from_static("POST"));
    }
    response
}

fn response(report: &Report) -> Response<Body> {
    let mut response = Response::new(Body::from(report.json().to_string()));
    *response.status_mut() = report.status();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(DICOM_JSON));
    if report.is_transient() {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
    }
    if report.fault.is_some() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_headers_are_asked_for_json() {
        for accept in
            ["*/*", "application/dicom+json", "text/html, application/json;q=0.5", "", "application/*"]
        {
            assert!(takes_json(accept), "{accept}");
        }
        for accept in ["application/dicom+xml", "application/dicom+json;q=0", "text/html"] {
            assert!(!takes_json(accept), "{accept}");
        }
    }
}
