//! The response to a STOW-RS request: the Store Instances Response Module (PS3.18 I.2) and the status
//! that goes with it (PS3.18 Table 10.5.3-1). Pure.

use hyper::StatusCode;
use serde_json::{Map, Value, json};

use crate::dicom::status;
use crate::phi::Phi;

/// What became of one part of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// SOP class and SOP instance, as far as the part's file meta information says.
    pub instance: Option<(String, Phi<String>)>,
    /// `None`: it is stored. Else the Failure Reason (0008,1197).
    pub failure: Option<u16>,
}

/// What became of the request besides its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The body is no multipart body, or holds no part.
    Malformed,
    /// The sender was too slow.
    Slow,
    /// The body is longer, or has more parts, than allowed.
    TooLong,
}

/// What became of a request.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Its parts, in their order.
    pub outcomes: Vec<Outcome>,
    /// What is wrong with the whole.
    pub fault: Option<Fault>,
}

impl Report {
    /// How many instances are stored.
    pub fn stored(&self) -> usize {
        self.outcomes.iter().filter(|outcome| outcome.failure.is_none()).count()
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        let failures = || self.outcomes.iter().filter_map(|outcome| outcome.failure);
        let all = |fits: fn(u16) -> bool| failures().all(fits);
        match (self.stored(), failures().count(), self.fault) {
            (1.., 0, None) => StatusCode::OK,
            (1.., _, _) => StatusCode::ACCEPTED,
            (0, _, Some(Fault::Slow)) => StatusCode::REQUEST_TIMEOUT,
            (0, _, Some(Fault::TooLong)) => StatusCode::PAYLOAD_TOO_LARGE,
            (0, _, Some(Fault::Malformed)) | (0, 0, None) => StatusCode::BAD_REQUEST,
            (0, _, None) if all(|code| code & 0xFF00 == 0xA700) => StatusCode::INSUFFICIENT_STORAGE,
            (0, _, None) if all(|code| code == status::PROCESSING_FAILURE) => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
            (0, _, None) => StatusCode::CONFLICT,
        }
    }

    /// Whether sending the same again later may go better.
    pub fn is_transient(&self) -> bool {
        matches!(self.status(), StatusCode::INSUFFICIENT_STORAGE | StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The module in the DICOM JSON model. Retrieve URL (type 2) is empty: nothing is served here.
    pub fn json(&self) -> Value {
        let (mut stored, mut failed, mut other) = (Vec::new(), Vec::new(), Vec::new());
        for outcome in &self.outcomes {
            let reason = outcome.failure.map(reason);
            match (&outcome.instance, reason) {
                (Some(instance), None) => stored.push(Value::Object(reference(instance))),
                (Some(instance), Some(reason)) => {
                    let mut item = reference(instance);
                    item.insert(FAILURE_REASON.into(), reason);
                    failed.push(Value::Object(item));
                }
                (None, Some(reason)) => other.push(json!({ FAILURE_REASON: reason })),
                (None, None) => {}
            }
        }
        if let Some(fault) = self.fault {
            let code = match fault {
                Fault::Malformed | Fault::Slow => status::CANNOT_UNDERSTAND,
                Fault::TooLong => status::OUT_OF_RESOURCES,
            };
            other.push(json!({ FAILURE_REASON: reason(code) }));
        }
        let mut module = Map::from_iter([("00081190".to_owned(), json!({ "vr": "UR" }))]);
        // In the order of their tags.
        for (tag, items) in [("00081198", failed), ("00081199", stored), ("0008119A", other)] {
            if !items.is_empty() {
                module.insert(tag.into(), json!({ "vr": "SQ", "Value": items }));
            }
        }
        Value::Object(module)
    }
}

const FAILURE_REASON: &str = "00081197";

fn reason(code: u16) -> Value {
    json!({ "vr": "US", "Value": [code] })
}

fn reference((class, instance): &(String, Phi<String>)) -> Map<String, Value> {
    // To the peer that sent it.
    Map::from_iter([
        ("00081150".to_owned(), json!({ "vr": "UI", "Value": [class] })),
        ("00081155".to_owned(), json!({ "vr": "UI", "Value": [instance.expose()] })),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(uid: &str, failure: Option<u16>) -> Outcome {
        Outcome { instance: Some(("1.2.840.10008.5.1.4.1.1.2".into(), Phi::from(uid))), failure }
    }

    #[test]
    fn the_status_says_how_much_is_stored_and_whether_to_come_again() {
        let status = |outcomes: &[Outcome], fault| Report { outcomes: outcomes.to_vec(), fault }.status();
        let (good, full) = (part("1.2", None), part("1.3", Some(0xA700)));
        let (broken, refused) = (part("1.4", Some(0x0110)), part("1.5", Some(0x0122)));
        assert_eq!(status(std::slice::from_ref(&good), None), 200);
        assert_eq!(status(&[good.clone(), refused.clone()], None), 202);
        assert_eq!(status(std::slice::from_ref(&good), Some(Fault::Malformed)), 202);
        assert_eq!(status(std::slice::from_ref(&full), None), 507);
        assert_eq!(status(std::slice::from_ref(&broken), None), 500);
        assert_eq!(status(&[full, refused], None), 409);
        assert_eq!(status(&[], None), 400);
        assert_eq!(status(&[broken], Some(Fault::Malformed)), 400);
        assert_eq!(status(&[], Some(Fault::Slow)), 408);
        assert_eq!(status(&[], Some(Fault::TooLong)), 413);
    }

    #[test]
    fn every_part_is_answered_for() {
        let report = Report {
            outcomes: vec![
                part("1.2", None),
                part("1.3", Some(0xA901)),
                Outcome { instance: None, failure: Some(0xC000) },
            ],
            fault: Some(Fault::TooLong),
        };
        let json = report.json();
        assert_eq!(json["00081190"], json!({ "vr": "UR" }));
        assert_eq!(json["00081199"]["Value"][0]["00081155"]["Value"], json!(["1.2"]));
        assert_eq!(json["00081198"]["Value"][0]["00081197"]["Value"], json!([0xA901]));
        let other: Vec<_> =
            [0xC000, 0xA700].iter().map(|code| json!({ FAILURE_REASON: reason(*code) })).collect();
        assert_eq!(json["0008119A"]["Value"], json!(other));
        assert_eq!(report.stored(), 1);
    }
}
