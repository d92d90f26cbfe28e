//! STOW-RS out: a result to a peer's DICOMweb service, and what its answer makes of the delivery.

use bytes::Bytes;
use dicom_dictionary_std::tags;
use hyper::Method;
use memchr::memmem;

use super::sender::{Reason, Sent};
use crate::dicom::data_set::DataSet;
use crate::dicom::status::{self, Class};
use crate::phi::Phi;
use crate::web::client::{ANSWER_MAX, Question, Remote, WebError};
use crate::web::{APPLICATION_DICOM, DICOM_JSON, MULTIPART_RELATED, json};

/// Stores one Part 10 file at a peer.
pub(super) async fn store(remote: &Remote, part_ten: &[u8]) -> Sent {
    let (boundary, body) = body(part_ten);
    let media_type = format!("{MULTIPART_RELATED}; type=\"{APPLICATION_DICOM}\"; boundary={boundary}");
    let question = Question {
        service: "STOW-RS",
        method: Method::POST,
        path: "/studies",
        accept: DICOM_JSON,
        content: Some((media_type, body)),
        within: remote.respond(),
        max: ANSWER_MAX,
    };
    let mut answer = match remote.ask(question).await {
        Ok(answer) => answer,
        Err(error) => return Sent::Later(Reason::plain(error.to_string())),
    };
    if !answer.content_type.contains("json") {
        let words = answer.words().await;
        return judge(answer.status, &[], words);
    }
    match answer.body.all().await {
        Ok(bytes) => judge(answer.status, &json::data_sets(&bytes).unwrap_or_default(), None),
        // Whether it has been stored is not known: the same instance again harms nobody.
        Err(error) => Sent::Later(Reason::plain(WebError::from(error).to_string())),
    }
}

/// A multipart body of one part, under a boundary that the part does not hold.
fn body(part_ten: &[u8]) -> (String, Bytes) {
    let digest = blake3::hash(part_ten).to_hex();
    let mut boundary = digest.as_str()[..32].to_owned();
    while memmem::find(part_ten, boundary.as_bytes()).is_some() {
        boundary = blake3::hash(boundary.as_bytes()).to_hex().as_str()[..32].to_owned();
    }
    let mut body = format!("--{boundary}\r\nContent-Type: {APPLICATION_DICOM}\r\n\r\n").into_bytes();
    body.extend_from_slice(part_ten);
    body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
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
    match (http, failure.map(status::class_of)) {
        (200..=299, Some(Class::Transient)) | (409, Some(Class::Transient)) => Sent::Later(reason),
        (200..=299, Some(Class::Permanent)) => Sent::Never(reason),
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
        while let Some(event) = reader.next().expect("sound") {
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
    }

    #[test]
    fn the_peers_words_stay_out_of_the_code() {
        let Sent::Never(reason) = super::judge(400, &[], Some(Phi::from("DOE^JANE"))) else {
            panic!("refused for good")
        };
        assert!(!reason.code.contains("DOE") && reason.text.expose().contains("DOE"));
    }
}
