//! STOW-RS out: a result or an image to a peer's DICOMweb service, each in a request of its own, and what
//! the answer makes of it.

use bytes::Bytes;
use dicom_dictionary_std::tags;
use dicom_object::meta::FileMetaTableBuilder;
use hyper::Method;
use memchr::memmem;

use super::forward::prepare::Prepared;
use super::forward::source::{Piece, Source};
use super::sender::{Reason, Sent};
use crate::dicom::data_set::DataSet;
use crate::dicom::status::{self, Class};
use crate::dicom::{IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME};
use crate::phi::Phi;
use crate::store::forwards::Instance;
use crate::web::client::{ANSWER_MAX, Content, Outgoing, Question, Remote, WebError};
use crate::web::{APPLICATION_DICOM, DICOM_JSON, MULTIPART_RELATED, json};

/// Stores one Part 10 file at a peer.
pub(super) async fn store(remote: &Remote, part_ten: &[u8]) -> Sent {
    let (boundary, body) = body(part_ten);
    match ask(remote, &boundary, Content::Whole(body)).await {
        Ok(sent) => sent,
        Err(error) => Sent::Later(Reason::plain(error.to_string())),
    }
}

/// Stores an instance that is read while it is sent. An error is one of the way, not of the instance.
pub(super) async fn forward(
    remote: &Remote,
    instance: &Instance,
    prepared: Prepared,
    transfer_syntax: &str,
) -> Result<Sent, WebError> {
    let Some(head) = head(instance, transfer_syntax) else {
        return Ok(Sent::Never(Reason::plain("its identifiers cannot be written to a file")));
    };
    // What the boundary is made of is not in the instance, as a digest cannot hold itself.
    let boundary = boundary(instance.object.as_str().as_bytes());
    let mut pieces = vec![Piece::Bytes([opening(&boundary), head].concat())];
    pieces.extend(prepared.pieces);
    pieces.push(Piece::Bytes(closing(&boundary)));
    let length = pieces.iter().map(|piece| match piece {
        Piece::Copy { length, .. } => *length,
        Piece::Bytes(bytes) => bytes.len() as u64,
    });
    let length = length.sum();
    let body = Outgoing::new(Source::new(prepared.reader, pieces), length);
    ask(remote, &boundary, Content::Read(body)).await
}

/// Preamble, `DICM` and file meta information (PS3.10 §7.1), without a word of who sent it to us.
fn head(instance: &Instance, transfer_syntax: &str) -> Option<Vec<u8>> {
    let meta = FileMetaTableBuilder::new()
        .media_storage_sop_class_uid(instance.sop_class_uid.as_str())
        .media_storage_sop_instance_uid(instance.sop_instance_uid.expose().as_str())
        .transfer_syntax(transfer_syntax)
        .implementation_class_uid(IMPLEMENTATION_CLASS_UID)
        .implementation_version_name(IMPLEMENTATION_VERSION_NAME)
        .build()
        .ok()?;
    let mut bytes = vec![0; 128];
    bytes.extend(b"DICM");
    meta.write(&mut bytes).ok()?;
    Some(bytes)
}

async fn ask(remote: &Remote, boundary: &str, content: Content) -> Result<Sent, WebError> {
    let media_type = format!("{MULTIPART_RELATED}; type=\"{APPLICATION_DICOM}\"; boundary={boundary}");
    let question = Question {
        service: "STOW-RS",
        method: Method::POST,
        path: "/studies",
        accept: DICOM_JSON,
        content: Some((media_type, content)),
        within: remote.respond(),
        max: ANSWER_MAX,
    };
    let mut answer = remote.ask(question).await?;
    if !answer.content_type.contains("json") {
        let words = answer.words().await;
        return Ok(judge(answer.status, &[], words));
    }
    // Where this fails it is not known whether it has been stored: the same instance again harms nobody.
    let bytes = answer.body.all().await?;
    Ok(judge(answer.status, &json::data_sets(&bytes).unwrap_or_default(), None))
}

fn boundary(of: &[u8]) -> String {
    blake3::hash(of).to_hex().as_str()[..32].to_owned()
}

fn opening(boundary: &str) -> Vec<u8> {
    format!("--{boundary}\r\nContent-Type: {APPLICATION_DICOM}\r\n\r\n").into_bytes()
}

fn closing(boundary: &str) -> Vec<u8> {
    format!("\r\n--{boundary}--\r\n").into_bytes()
}

/// A multipart body of one part, under a boundary that the part does not hold.
fn body(part_ten: &[u8]) -> (String, Bytes) {
    let mut boundary = boundary(part_ten);
    while memmem::find(part_ten, boundary.as_bytes()).is_some() {
        boundary = self::boundary(boundary.as_bytes());
    }
    let body = [&opening(&boundary)[..], part_ten, &closing(&boundary)].concat();
    (boundary, body.into())
}

/// What the answer makes of the delivery (PS3.18 Table 10.5.3-1): where it names the instance as failed,
/// the Failure Reason says whether it may go better later, else the HTTP status.
fn judge(http: u16, answer: &[DataSet], words: Option<Phi<String>>) -> Sent {
    let first = |sequence, tag| {
        answer.iter().flat_map(|one| one.items(sequence)).find_map(|item: &DataSet| item.u16(tag))
    };
    let failure = first(tags::FAILED_SOP_SEQUENCE, tags::FAILURE_REASON)
        .or_else(|| first(tags::OTHER_FAILURES_SEQUENCE, tags::FAILURE_REASON));
    let code = match failure {
        Some(failure) => format!("STOW-RS HTTP status {http}, failure reason {failure:#06x}"),
        None => format!("STOW-RS HTTP status {http}"),
    };
    let text = match &words {
        Some(words) => Phi::new(format!("{code}: {}", words.expose())),
        None => Phi::new(code.clone()),
    };
    let reason = Reason { code, text };
    let speaks_of_the_instance =
        answer.iter().any(|one| !one.items(tags::REFERENCED_SOP_SEQUENCE).is_empty());
    match (http, failure.map(status::class_of)) {
        (200..=299, Some(Class::Transient)) | (409, Some(Class::Transient)) => Sent::Later(reason),
        (200..=299, Some(Class::Permanent)) => Sent::Never(reason),
        // "Accepted" means that something failed or was changed, and what, stands in the answer (PS3.18
        // Table 10.5.3-1). An answer without a word of the instance, or one that cannot be read, leaves open
        // whether it is there: the same instance again harms nobody.
        (202, None) if !speaks_of_the_instance => Sent::Later(reason),
        (200..=299, None) => match first(tags::REFERENCED_SOP_SEQUENCE, tags::WARNING_REASON) {
            Some(warning) => {
                Sent::Delivered(Some(Phi::new(format!("STOW-RS warning reason {warning:#06x}"))))
            }
            None => Sent::Delivered(None),
        },
        (200..=299, Some(Class::Success | Class::Warning)) => Sent::Delivered(Some(reason.text)),
        (408 | 425 | 429 | 500..=599, _) => Sent::Later(reason),
        _ => Sent::Never(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::multipart::{Event, Reader};

    fn failed(code: u16) -> Vec<DataSet> {
        let item = DataSet::new().with_u16(tags::FAILURE_REASON, code);
        vec![DataSet::new().with_items(tags::FAILED_SOP_SEQUENCE, vec![item])]
    }

    #[test]
    fn what_we_send_is_one_part() {
        let (boundary, body) = body(b"\r\n--abc--\r\n");
        let mut reader = Reader::new(&boundary).expect("a boundary");
        reader.push(&body);
        let mut events = Vec::new();
        while let Some(event) = reader.event().expect("sound") {
            events.push(event);
        }
        assert!(
            matches!(&events[..], [Event::Part(_), Event::Data(bytes), Event::PartEnd, Event::End] if bytes == "\r\n--abc--\r\n")
        );
    }

    #[test]
    fn answers_are_judged_by_the_instance_before_the_status() {
        let judge = |http, answer: &[DataSet]| judge(http, answer, None);
        assert!(matches!(judge(200, &[]), Sent::Delivered(None)));
        assert!(matches!(judge(202, &failed(0xA700)), Sent::Later(_)));
        assert!(matches!(judge(200, &failed(0x0122)), Sent::Never(_)));
        assert!(matches!(judge(409, &failed(0xA700)), Sent::Later(_)));
        assert!(matches!(judge(409, &failed(0xC000)), Sent::Never(_)));
        assert!(matches!(judge(503, &[]), Sent::Later(_)));
        assert!(matches!(judge(507, &failed(0xA700)), Sent::Later(_)));
        for http in [301, 400, 401, 403, 404, 413, 415] {
            assert!(matches!(judge(http, &[]), Sent::Never(_)), "{http}");
        }
        let warned = DataSet::new().with_u16(tags::WARNING_REASON, 0xB000);
        let warned = [DataSet::new().with_items(tags::REFERENCED_SOP_SEQUENCE, vec![warned])];
        assert!(matches!(judge(202, &warned), Sent::Delivered(Some(_))));
        // Accepted, but the answer is empty or could not be read.
        assert!(matches!(judge(202, &[]), Sent::Later(_)));
    }

    #[test]
    fn the_peers_words_stay_out_of_the_code() {
        let Sent::Never(reason) = super::judge(400, &[], Some(Phi::from("DOE^JANE"))) else {
            panic!("refused for good")
        };
        assert!(!reason.code.contains("DOE") && reason.text.expose().contains("DOE"));
    }
}
