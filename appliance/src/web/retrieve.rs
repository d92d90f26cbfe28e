//! WADO-RS (PS3.18 §10.4): instances come as the parts of an answer, in the transfer syntaxes in which
//! the PACS has them.

use bytes::Bytes;
use hyper::Method;
use tokio::time::timeout;

use super::body::BodyError;
use super::client::{Instances, Question, Remote, WebError};
use super::multipart::Event;
use super::store::{Stored, Storing};
use crate::dicom::retrieve::{Retrieved, Wanted};
use crate::ingest::receive::{Receiver, Sender};

const ACCEPT: &str = "multipart/related; type=\"application/dicom\"; transfer-syntax=*";

/// Where the instances of an answer go.
pub trait Sink: Send {
    /// An instance begins: a Part 10 file.
    fn begin(&mut self) -> impl Future<Output = std::io::Result<()>> + Send;
    /// Bytes of it.
    fn write(&mut self, bytes: Bytes) -> impl Future<Output = std::io::Result<()>> + Send;
    /// It has come whole.
    fn end(&mut self) -> impl Future<Output = std::io::Result<()>> + Send;
}

/// Why a retrieval into a sink failed.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// The peer, or its answer.
    #[error(transparent)]
    Web(#[from] WebError),
    /// The sink.
    #[error("writing failed")]
    Sink(#[from] std::io::Error),
}

/// The parts of an answer for what is wanted, one answer for each instance that is named.
fn paths(wanted: &Wanted) -> Vec<String> {
    let study = format!("/studies/{}", wanted.study_uid.expose());
    let Some(series) = &wanted.series_uid else { return vec![study] };
    let series = format!("{study}/series/{}", series.expose());
    if wanted.instance_uids.is_empty() {
        return vec![series];
    }
    wanted.instance_uids.iter().map(|uid| format!("{series}/instances/{}", uid.expose())).collect()
}

async fn open(remote: &Remote, path: &str) -> Result<Instances, WebError> {
    let answer = remote
        .get(Question {
            service: "WADO-RS",
            method: Method::GET,
            path,
            accept: ACCEPT,
            content: None,
            // A PACS may say nothing while it fetches from tape: the deadline bounds the silence.
            within: remote.retrieve_deadline,
            max: remote.max_body,
        })
        .await?;
    answer.into_instances(remote.max_instances)
}

/// Gets instances into our own store: each is durable, with its ledger entry, before it counts as
/// completed.
pub async fn into_store(
    remote: &Remote,
    wanted: &Wanted,
    receiver: &Receiver,
    sender: &Sender,
) -> Result<Retrieved, WebError> {
    let all = async {
        let mut retrieved = Retrieved::default();
        for path in paths(wanted) {
            let mut answer = open(remote, &path).await?;
            let storing = Storing {
                receiver,
                policy: None,
                sender,
                study: Some(wanted.study_uid.expose()),
                max_instance: remote.max_instance,
            };
            let Stored { report, ended, .. } = storing.run(&mut answer.parts).await;
            retrieved.completed += report.stored() as u32;
            retrieved.failed += (report.outcomes.len() - report.stored()) as u32;
            let failed = report.outcomes.into_iter().filter(|outcome| outcome.failure.is_some());
            retrieved.failed_instances.extend(failed.filter_map(|outcome| Some(outcome.instance?.1)));
            if let Some(error) = ended {
                return Err(error.into());
            }
        }
        Ok(retrieved)
    };
    timeout(remote.retrieve_deadline, all).await.map_err(|_| WebError::Deadline(remote.retrieve_deadline))?
}

/// Gets instances into `sink`; yields how many have come.
pub async fn get(remote: &Remote, wanted: &Wanted, sink: &mut impl Sink) -> Result<u32, GetError> {
    let all = async {
        let mut count = 0;
        for path in paths(wanted) {
            let mut answer = open(remote, &path).await?;
            let mut length = 0;
            loop {
                match answer.parts.next().await.map_err(WebError::from)? {
                    Event::Part(_) => {
                        length = 0;
                        sink.begin().await?;
                    }
                    Event::Data(bytes) => {
                        length += bytes.len() as u64;
                        if length > remote.max_instance {
                            return Err(WebError::Body(BodyError::TooLong(remote.max_instance)).into());
                        }
                        sink.write(bytes).await?;
                    }
                    Event::PartEnd => {
                        sink.end().await?;
                        count += 1;
                    }
                    Event::End => break,
                }
            }
        }
        Ok(count)
    };
    timeout(remote.retrieve_deadline, all).await.map_err(|_| WebError::Deadline(remote.retrieve_deadline))?
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::phi::Phi;
    use crate::store::fixture::{Fixture, STUDY_UID};
    use crate::store::objects::Receipt;

    /// A PACS that gives this answer to whatever it is asked; yields where, and then what it was asked.
    async fn pacs(answer: Vec<u8>) -> (Remote, tokio::task::JoinHandle<String>) {
        let port = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let remote = Remote::plain(&port.local_addr().expect("bound").to_string());
        let asked = tokio::spawn(async move {
            let (mut stream, _) = port.accept().await.expect("a connection");
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.expect("a request"));
            }
            stream.write_all(&answer).await.expect("sent");
            stream.shutdown().await.expect("sent");
            String::from_utf8(request).expect("text")
        });
        (remote, asked)
    }

    fn part_ten(study: &str, instance: &str) -> Vec<u8> {
        let receipt = Receipt {
            sop_class_uid: "1.2.840.10008.5.1.4.1.1.2".into(),
            sop_instance_uid: Phi::from(instance),
            transfer_syntax: "1.2.840.10008.1.2.1".into(),
            calling_ae: "PACS".into(),
            called_ae: "LIGHTBOX".into(),
            peer: "pacs".into(),
            received_ms: 0,
        };
        let data_set = crate::dicom::data_set::DataSet::new()
            .with(dicom_dictionary_std::tags::SOP_CLASS_UID, &receipt.sop_class_uid)
            .with(dicom_dictionary_std::tags::SOP_INSTANCE_UID, instance)
            .with(dicom_dictionary_std::tags::STUDY_INSTANCE_UID, study)
            .with(dicom_dictionary_std::tags::SERIES_INSTANCE_UID, "1.2.9");
        let mut bytes = receipt.part_ten_head().expect("a head");
        bytes.extend(data_set.encode(&receipt.transfer_syntax));
        bytes
    }

    fn answer(parts: &[Vec<u8>], end: &str) -> Vec<u8> {
        let mut answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: multipart/related; type=\"application/dicom\"; boundary=\"x y\"\r\n\r\n".to_vec();
        for part in parts {
            answer.extend(
                b"\r\n--x y\r\nContent-Type: application/dicom; transfer-syntax=1.2.840.10008.1.2.1\r\n\r\n",
            );
            answer.extend(part);
        }
        answer.extend(end.as_bytes());
        answer
    }

    async fn retrieve(fixture: &Fixture, answer: Vec<u8>) -> (Result<Retrieved, WebError>, String) {
        let (remote, asked) = pacs(answer).await;
        let receiver = Receiver {
            objects: fixture.objects.clone(),
            ledger: fixture.ledger.clone(),
            identity: fixture.identity.clone(),
            clock: fixture.clock.clone(),
            ae_title: "LIGHTBOX".into(),
        };
        let sender = Sender { peer: "pacs".into(), calling_ae: "PACS".into() };
        let wanted = Wanted::study(Phi::from(STUDY_UID));
        let retrieved = into_store(&remote, &wanted, &receiver, &sender).await;
        (retrieved, asked.await.expect("asked"))
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_counts_as_completed_is_in_the_store_and_of_the_study() {
        let fixture = Fixture::new();
        let parts = [part_ten(STUDY_UID, "1.2.1"), part_ten("1.2.77", "1.2.2"), vec![7; 70_000]];
        let (retrieved, asked) = retrieve(&fixture, answer(&parts, "\r\n--x y--")).await;
        let retrieved = retrieved.expect("retrieved");
        assert_eq!((retrieved.completed, retrieved.failed), (1, 2));
        assert_eq!(retrieved.failed_instances, [Phi::from("1.2.2")]);
        assert_eq!(
            fixture.objects.list_in_segments().len() + fixture.objects.list_files().expect("listed").len(),
            1
        );
        let line = format!("GET /dicom-web/studies/{STUDY_UID} HTTP/1.1\r\n");
        assert!(asked.starts_with(&line), "{asked}");
        assert!(
            asked
                .to_ascii_lowercase()
                .contains("accept: multipart/related; type=\"application/dicom\"; transfer-syntax=*")
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_answer_that_breaks_off_or_is_none_is_an_error() {
        let fixture = Fixture::new();
        let cut = answer(&[part_ten(STUDY_UID, "1.2.1"), part_ten(STUDY_UID, "1.2.2")], "");
        let (cut, _) = retrieve(&fixture, cut).await;
        assert!(matches!(cut, Err(WebError::Body(BodyError::Malformed(_)))), "{cut:?}");
        // What had come whole is kept.
        assert_eq!(
            fixture.objects.list_in_segments().len() + fixture.objects.list_files().expect("listed").len(),
            1
        );
        let page = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi".to_vec();
        assert!(matches!(retrieve(&fixture, page).await.0, Err(WebError::Unreadable(_))));
        let refused = b"HTTP/1.1 404 Not Found\r\nContent-Length: 8\r\n\r\nDOE^JANE".to_vec();
        let error = retrieve(&fixture, refused).await.0.expect_err("refused");
        assert!(!format!("{error} {error:?}").contains("DOE"), "the peer's words are not for logs");
        assert!(matches!(error, WebError::Status { status: 404, words: Some(_), .. }));
        let noise = retrieve(&fixture, b"SSH-2.0-noise\r\n".to_vec()).await.0;
        assert!(matches!(noise, Err(WebError::Http(_))), "{noise:?}");
        let large = answer(&vec![vec![0; 60_000]; 20], "\r\n--x y--");
        assert!(matches!(retrieve(&fixture, large).await.0, Err(WebError::Body(_))));
    }
}
