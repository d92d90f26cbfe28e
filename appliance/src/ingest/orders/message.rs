//! What an HL7 message says of orders and patients: ORM^O01 (with IHE's ZDS segment), OMI^O23, ADT^A08 and
//! ADT^A40. Pure; nothing in a fault names a value of the message.

use lightbox_provisioning::site::{Orders, field_name};
use thiserror::Error;

use crate::dicom::header::is_uid;
use crate::finding::Code;
use crate::hl7::er7::{Message, Segment};
use crate::phi::Phi;
use crate::store::orders::{Said, Status};

/// Orders that one message may hold.
const ORDERS_MAX: usize = 100;
/// Longest identifier or text that is taken, in characters (HL7 v2.5.1 allows 199 for an EI's first part).
const TEXT_MAX: usize = 256;
/// Versions that are read. They differ in what is new, not in the place of what we read.
const VERSIONS: &[&str] = &["2.3", "2.3.1", "2.4", "2.5", "2.5.1"];

/// What a message asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Orders, new or changed.
    Orders(Vec<Said>),
    /// ADT^A08: demographics changed. Orders hold none but the identifier, which A08 does not change.
    Update,
    /// ADT^A40: prior identifiers and what they mean now.
    Merge(Vec<Merge>),
}

/// A patient identifier and who issued it.
pub type Identifier = (Phi<String>, Phi<String>);

/// Two identifiers of one patient.
#[derive(Clone, Debug, PartialEq)]
pub struct Merge {
    /// MRG-1.1 and MRG-1.4.
    pub prior: Identifier,
    /// PID-3.1 and PID-3.4.
    pub now: Identifier,
}

/// Why a message is not applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// Neither orders nor patients.
    #[error("message type not supported: this receiver takes ORM^O01, OMI^O23, ADT^A08 and ADT^A40")]
    Kind,
    /// A version we do not read.
    #[error("version not supported: this receiver takes HL7 2.3 to 2.5.1")]
    Version,
    /// MSH-10 is empty: a repeat could not be told.
    #[error("MSH-10 (message control id) is empty")]
    ControlId,
    /// There is no order in it.
    #[error("the message has no order (ORC, OBR)")]
    NoOrder,
    /// Too many orders.
    #[error("the message has more than {ORDERS_MAX} orders")]
    TooManyOrders,
    /// Nothing by which a study could be found.
    #[error("an order has neither Study Instance UID, accession number, placer nor filler order number")]
    NoIdentifier,
    /// ZDS-1 or IPC-3 is no UID.
    #[error("the Study Instance UID (ZDS-1 or IPC-3) is not a UID")]
    StudyUid,
    /// PID-3 is empty.
    #[error("the message has no patient identifier (PID-3)")]
    NoPatient,
    /// MRG-1 is empty.
    #[error("the merge names no prior patient identifier (MRG-1)")]
    NoPrior,
    /// A value is too long to be what it should be.
    #[error("a value is longer than {TEXT_MAX} characters")]
    TooLong,
}

impl Fault {
    /// The error code of HL7 table 0357, and whether the type as such is refused (AR) rather than the
    /// content (AE).
    pub fn code(self) -> (u16, bool) {
        match self {
            Fault::Kind => (200, true),
            Fault::Version => (203, true),
            Fault::NoOrder => (100, false),
            Fault::ControlId | Fault::NoIdentifier | Fault::NoPatient | Fault::NoPrior => (101, false),
            Fault::StudyUid | Fault::TooLong | Fault::TooManyOrders => (102, false),
        }
    }
}

/// Type and event of a message, as `ORM^O01`: only what is known, so that no stranger's bytes get into a
/// log by this way.
pub fn kind(message: &Message) -> &'static str {
    let Some(msh) = message.first("MSH") else { return "" };
    let (kind, event) = (msh.get(9, 1), msh.get(9, 2));
    match (kind.expose().as_str(), event.expose().as_str()) {
        // Version 2.3 let the event out where the type has but one.
        ("ORM", "O01" | "") => "ORM^O01",
        ("OMI", "O23") => "OMI^O23",
        ("ADT", "A08") => "ADT^A08",
        ("ADT", "A40") => "ADT^A40",
        _ => "other",
    }
}

/// Reads what a message asks for.
pub fn read(message: &Message, settings: &Orders) -> Result<Request, Fault> {
    let version = message.header(12);
    if !VERSIONS.contains(&version.expose().as_str()) {
        return Err(Fault::Version);
    }
    let kind = kind(message);
    if kind == "other" || kind.is_empty() {
        return Err(Fault::Kind);
    }
    if message.header(10).expose().is_empty() {
        return Err(Fault::ControlId);
    }
    match kind {
        "ADT^A08" => patient(message).map(|_| Request::Update),
        "ADT^A40" => merges(message).map(Request::Merge),
        _ => orders(message, settings).map(Request::Orders),
    }
}

fn bounded(value: Phi<String>) -> Result<Phi<String>, Fault> {
    if value.expose().chars().count() > TEXT_MAX { Err(Fault::TooLong) } else { Ok(value) }
}

/// The first identifier of a CX field, with who issued it.
fn identifier(segment: Segment<'_>, field: usize) -> Result<Option<Identifier>, Fault> {
    let found = segment
        .repetitions(field, 1)
        .zip(segment.repetitions(field, 4))
        .find(|(id, _)| !id.expose().is_empty());
    found.map(|(id, issuer)| Ok((bounded(id)?, bounded(issuer)?))).transpose()
}

fn patient(message: &Message) -> Result<Identifier, Fault> {
    let pid = message.first("PID").ok_or(Fault::NoPatient)?;
    identifier(pid, 3)?.ok_or(Fault::NoPatient)
}

/// A40 may hold several pairs of PID and MRG.
fn merges(message: &Message) -> Result<Vec<Merge>, Fault> {
    let (mut merges, mut now) = (Vec::new(), None);
    for segment in message.segments() {
        match segment.name() {
            "PID" => now = Some(identifier(segment, 3)?.ok_or(Fault::NoPatient)?),
            "MRG" => {
                let now = now.clone().ok_or(Fault::NoPatient)?;
                let prior = identifier(segment, 1)?.ok_or(Fault::NoPrior)?;
                merges.push(Merge { prior, now });
            }
            _ => {}
        }
    }
    if merges.is_empty() { Err(Fault::NoPrior) } else { Ok(merges) }
}

/// The segments of one order.
#[derive(Clone, Default)]
struct Group<'a> {
    orc: Option<Segment<'a>>,
    obr: Option<Segment<'a>>,
    tq1: Option<Segment<'a>>,
    ipc: Option<Segment<'a>>,
}

fn orders(message: &Message, settings: &Orders) -> Result<Vec<Said>, Fault> {
    let (patient_id, patient_issuer) = patient(message)?;
    let mut groups: Vec<Group<'_>> = Vec::new();
    for segment in message.segments() {
        match (segment.name(), groups.last_mut()) {
            ("ORC", _) => groups.push(Group { orc: Some(segment), ..Group::default() }),
            ("OBR", Some(group)) if group.obr.is_none() => group.obr = Some(segment),
            // A further OBR under the same ORC, or one without any.
            ("OBR", last) => {
                let orc = last.and_then(|group| group.orc);
                groups.push(Group { orc, obr: Some(segment), ..Group::default() });
            }
            ("TQ1", Some(group)) if group.tq1.is_none() => group.tq1 = Some(segment),
            ("IPC", Some(group)) if group.ipc.is_none() => group.ipc = Some(segment),
            _ => {}
        }
        if groups.len() > ORDERS_MAX {
            return Err(Fault::TooManyOrders);
        }
    }
    if groups.is_empty() {
        return Err(Fault::NoOrder);
    }
    groups
        .iter()
        .map(|group| {
            let said = order(group, message, settings)?;
            Ok(Said { patient_id: patient_id.clone(), patient_issuer: patient_issuer.clone(), ..said })
        })
        .collect()
}

fn order(group: &Group<'_>, message: &Message, settings: &Orders) -> Result<Said, Fault> {
    let of = |segment: Option<Segment<'_>>, field: usize, component: usize| {
        bounded(segment.map(|segment| segment.get(field, component)).unwrap_or_default())
    };
    let first = |values: [Result<Phi<String>, Fault>; 2]| -> Result<Phi<String>, Fault> {
        let [one, other] = values;
        let one = one?;
        if one.expose().is_empty() { other } else { Ok(one) }
    };
    let Group { orc, obr, tq1, ipc } = *group;
    let study_uid = first([of(ipc, 3, 1), of(message.first("ZDS"), 1, 1)])?;
    if !study_uid.expose().is_empty() && !is_uid(study_uid.expose()) {
        return Err(Fault::StudyUid);
    }
    let said = Said {
        status: Status::of_control(of(orc, 1, 1)?.expose()),
        placer: first([of(orc, 2, 1), of(obr, 2, 1)])?,
        filler: first([of(orc, 3, 1), of(obr, 3, 1)])?,
        accession: first([of(ipc, 1, 1), of(obr, 18, 1)])?,
        study_uid,
        stat: stat(&[of(tq1, 9, 1)?, of(orc, 7, 6)?, of(obr, 27, 6)?, of(obr, 5, 1)?]),
        modality: first([of(ipc, 5, 1), of(obr, 24, 1)])?.into_exposed(),
        station_ae: of(ipc, 9, 1)?.into_exposed(),
        procedure: procedure(obr)?,
        scheduled: first([of(tq1, 7, 1), first([of(orc, 7, 4), of(obr, 36, 1)])])?,
        expected_series: expected(message, settings.expected_series_field.as_deref()),
        expected_instances: expected(message, settings.expected_instances_field.as_deref()),
        ..Said::default()
    };
    let named = [&said.study_uid, &said.accession, &said.placer, &said.filler];
    if named.iter().all(|value| value.expose().is_empty()) {
        return Err(Fault::NoIdentifier);
    }
    Ok(said)
}

/// Whether a priority asks for haste (HL7 table 0485, 0027): S stat, A as soon as possible. Timing critical
/// (T…) and callbacks are times, not haste.
fn stat(priorities: &[Phi<String>]) -> Option<bool> {
    let mut given = priorities.iter().map(|value| value.expose().to_ascii_uppercase());
    let first = given.find(|value| !value.is_empty())?;
    Some(matches!(first.as_str(), "S" | "STAT" | "A" | "ASAP"))
}

fn procedure(obr: Option<Segment<'_>>) -> Result<Option<Code>, Fault> {
    let part =
        |component| bounded(obr.map(|obr| obr.get(4, component)).unwrap_or_default()).map(Phi::into_exposed);
    let (value, meaning, scheme) = (part(1)?, part(2)?, part(3)?);
    Ok((!value.is_empty()).then(|| Code::new(&value, &scheme, &meaning)))
}

/// A number at the place that the site file names. What is no number says nothing.
fn expected(message: &Message, field: Option<&str>) -> Option<u32> {
    let (segment, field, component) = field_name(field?)?;
    let value = message.first(segment)?.get(field, component);
    value.expose().parse().ok().filter(|number| (1..=100_000).contains(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(body: &str) -> Result<Request, Fault> {
        let text = format!("MSH|^~\\&|RIS|HOSP|LIGHTBOX||20260101||{body}");
        read(
            &Message::parse(text.as_bytes()).expect("a message"),
            &Orders { expected_series_field: Some("ZDS-5".into()), ..Orders::default() },
        )
    }

    fn orders_of(body: &str) -> Vec<Said> {
        match said(body).expect("readable") {
            Request::Orders(orders) => orders,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_orm_with_a_zds_segment() {
        let orders = orders_of(
            "ORM^O01|1|P|2.3.1\rPID|||12^^^HOSP||DOE^JANE\rPV1||I\rORC|NW|P1^RIS|F1^RIS||||^^^202601011200^^S\r\
             OBR|1|P1|F1|CTCHEST^CT Chest^L||||||||||||||A77||||||CT\rZDS|1.2.3^DICOM^Application^L||||3",
        );
        let [order] = &orders[..] else { panic!("{orders:?}") };
        assert_eq!(order.status, Some(Status::Nw));
        let texts = [&order.placer, &order.filler, &order.accession, &order.study_uid, &order.patient_id];
        assert_eq!(texts.map(|text| text.expose().as_str()), ["P1", "F1", "A77", "1.2.3", "12"]);
        assert_eq!(order.patient_issuer.expose(), "HOSP");
        assert_eq!((order.stat, order.expected_series), (Some(true), Some(3)));
        assert_eq!(order.modality, "CT");
        assert_eq!(order.procedure, Some(Code::new("CTCHEST", "L", "CT Chest")));
        assert_eq!(order.scheduled.expose(), "202601011200");
    }

    #[test]
    fn an_omi_with_two_orders() {
        let orders = orders_of(
            "OMI^O23^OMI_O23|1|P|2.5.1\rPID|||12\rORC|NW|P1\rTQ1|1||||||20260101|||R\rTQ1|2||||||||S\rOBR|1|P1||X^Y^L\r\
             IPC|A1|RP1|1.2.3|SPS1|MR||||MR_AE\rORC|CA|P2\rTQ1|||||||||STAT\rOBR|2|P2||X^Y^L\rIPC|A2|RP2|1.2.4",
        );
        let [one, two] = &orders[..] else { panic!("{orders:?}") };
        assert_eq!((one.study_uid.expose().as_str(), one.accession.expose().as_str()), ("1.2.3", "A1"));
        assert_eq!((one.modality.as_str(), one.station_ae.as_str(), one.stat), ("MR", "MR_AE", None));
        assert_eq!(
            (two.study_uid.expose().as_str(), two.status, two.stat),
            ("1.2.4", Some(Status::Ca), Some(true))
        );
    }

    #[test]
    fn where_priorities_stand() {
        let with = |orc: &str, obr: &str| {
            orders_of(&format!("ORM^O01|1|P|2.4\rPID|||1\rORC|NW|P1{orc}\rOBR|1|P1{obr}")).remove(0).stat
        };
        assert_eq!(with("", ""), None);
        assert_eq!(with("|||||^^^^^R", ""), Some(false));
        assert_eq!(with("|||||^^^^^A", ""), Some(true));
        assert_eq!(with("", &format!("{}^^^^^S", "|".repeat(25))), Some(true));
        assert_eq!(with("", "|||STAT"), Some(true));
        assert_eq!(with("|||||^^^^^R", "|||STAT"), Some(false), "the first that speaks decides");
    }

    #[test]
    fn patients() {
        assert_eq!(said("ADT^A08|1|P|2.3.1\rPID|||1"), Ok(Request::Update));
        let Ok(Request::Merge(merges)) = said("ADT^A40|1|P|2.5\rEVN\rPID|||new^^^H\rMRG|old^^^H") else {
            panic!("no merge")
        };
        assert_eq!(merges[0].prior, (Phi::from("old"), Phi::from("H")));
        assert_eq!(merges[0].now, (Phi::from("new"), Phi::from("H")));
    }

    #[test]
    fn what_is_not_taken_and_why() {
        let long = "9".repeat(TEXT_MAX + 1);
        for (body, fault) in [
            ("ORU^R01|1|P|2.5.1\rPID|||1".to_owned(), Fault::Kind),
            ("|1|P|2.5.1".into(), Fault::Kind),
            ("ORM^O01|1|P|2.7\rPID|||1\rORC|NW|P1".into(), Fault::Version),
            ("ORM^O01||P|2.5\rPID|||1\rORC|NW|P1".into(), Fault::ControlId),
            ("ORM^O01|1|P|2.5\rORC|NW|P1".into(), Fault::NoPatient),
            ("ORM^O01|1|P|2.5\rPID|||1".into(), Fault::NoOrder),
            ("ORM^O01|1|P|2.5\rPID|||1\rORC|NW".into(), Fault::NoIdentifier),
            ("ORM^O01|1|P|2.5\rPID|||1\rORC|NW|P1\rZDS|../etc".into(), Fault::StudyUid),
            (format!("ORM^O01|1|P|2.5\rPID|||1\rORC|NW|{long}"), Fault::TooLong),
            ("ADT^A40|1|P|2.5\rPID|||1".into(), Fault::NoPrior),
            (format!("ORM^O01|1|P|2.5\rPID|||1{}", "\rORC|NW|P1".repeat(101)), Fault::TooManyOrders),
        ] {
            assert_eq!(said(&body).expect_err("refused"), fault, "{}", &body[..20.min(body.len())]);
        }
    }
}
