//! A repository on a mirror inside the hospital: plain files over HTTPS.
//!
//! The mirror is not believed, as no source is: what it gives must be signed. TLS keeps others on the network
//! from learning what this box runs, and from keeping it back unseen.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream;
use hyper::Method;
use lightbox_models::trust::{Reading, Source};
use lightbox_provisioning::site::Site;
use tokio::sync::watch;
use tokio_util::io::StreamReader;

use crate::config::chain;
use crate::dicom::tls::live::Live;
use crate::web::body::BodyError;
use crate::web::client::{MirrorOf, Question, Remote, WebError};

/// Longest file that is read; what asks knows its true length, or a smaller limit.
const FILE_BYTES_MAX: u64 = 64 << 30;

/// The mirror that a site names.
#[derive(Clone, Debug)]
pub(crate) struct Mirror {
    of: MirrorOf,
    remote: Remote,
    respond: Duration,
}

impl Mirror {
    /// None where the site names none.
    pub(crate) fn of_site(site: &Site, live: &watch::Receiver<Arc<Live>>, of: MirrorOf) -> Option<Mirror> {
        let remote = Remote::of_mirror(site, live, of)?;
        Some(Mirror { of, respond: remote.respond(), remote })
    }
}

#[async_trait]
impl Source for Mirror {
    async fn open(&self, path: &str) -> io::Result<Reading> {
        let question = Question {
            service: self.of.name(),
            method: Method::GET,
            path: &format!("/{path}"),
            accept: "*/*",
            content: None,
            within: self.respond,
            max: FILE_BYTES_MAX,
        };
        let answer = self.remote.ask(question).await.map_err(of_web)?;
        match answer.status {
            200 => {}
            404 | 410 => return Err(io::ErrorKind::NotFound.into()),
            status => {
                let why = format!("the mirror answered with HTTP status {status}");
                return Err(io::Error::other(why));
            }
        }
        // A body that ends early is an error of its own, not a file that was altered.
        let pieces = stream::try_unfold(answer, |mut answer| async move {
            match answer.body.next().await {
                Ok(piece) => Ok(piece.map(|piece| (piece, answer))),
                Err(error) => Err(of_body(&error)),
            }
        });
        Ok(Box::new(StreamReader::new(Box::pin(pieces))))
    }
}

fn of_web(error: WebError) -> io::Error {
    let kind = match &error {
        WebError::Deadline(_) => io::ErrorKind::TimedOut,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, format!("the mirror: {}", chain(&error)))
}

fn of_body(error: &BodyError) -> io::Error {
    let kind = match error {
        BodyError::Slow(_) => io::ErrorKind::TimedOut,
        _ => io::ErrorKind::UnexpectedEof,
    };
    io::Error::new(kind, format!("the mirror: {error}"))
}
