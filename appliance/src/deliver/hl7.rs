//! The HL7 v2.5.1 message of one result: ORU^R01^ORU_R01, preliminary throughout (OBR-25 and every
//! OBX-11 are `P`, but the study's identifier, `O`). A later revision is again `P` under the same
//! filler order number: `C` would correct a final report, and we never made one.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::clock::from_ms;
use crate::dicom::charset;
use crate::finding::{Code, Finding};
use crate::hl7::time_stamp_utc;

use super::context::ResultContext;
use super::notes::{NOT_FOR_CLINICAL_USE, absence, algorithm_parameters, contradicts_itself, decimal, notes};
use super::sr::tier_codes;

mod field;

use field::{escape, identifier, person_name, time_stamp};

/// First text line of every message.
pub const BANNER: &str = "AI PRELIMINARY - NOT REVIEWED";

/// How one RIS wants its messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OruSettings {
    /// MSH-3.
    pub sending_application: String,
    /// MSH-4.
    pub sending_facility: String,
    /// MSH-5.
    pub receiving_application: String,
    /// MSH-6.
    pub receiving_facility: String,
    /// MSH-11: `P` production, `T` training, `D` debugging.
    pub processing_id: String,
    /// Whether to ask for enhanced acknowledgement (MSH-15 `AL`, MSH-16 `NE`); empty otherwise.
    pub enhanced_acknowledgement: bool,
    /// PID-3.4 where the images name no Issuer of Patient ID (0010,0021).
    pub assigning_authority: String,
    /// PID-3.5, HL7 table 0203.
    pub identifier_type: String,
    /// PV1-2, HL7 table 0004; images do not tell it, so `U` (unknown) by default.
    pub patient_class: String,
    /// OBR-4; `None` takes the procedure of the order, else of the model's manifest.
    pub procedure: Option<Code>,
    /// OBX-3 of the banner and the notes.
    pub report_code: Code,
    /// OBX-3 of the findings' text.
    pub findings_code: Code,
    /// OBX-3 of the impression's text.
    pub impression_code: Code,
}

impl Default for OruSettings {
    fn default() -> Self {
        OruSettings {
            sending_application: "LIGHTBOX".into(),
            sending_facility: String::new(),
            receiving_application: String::new(),
            receiving_facility: String::new(),
            processing_id: "P".into(),
            enhanced_acknowledgement: false,
            assigning_authority: String::new(),
            identifier_type: "MR".into(),
            patient_class: "U".into(),
            procedure: None,
            report_code: Code::new("18782-3", "LN", "Radiology Study observation"),
            findings_code: Code::new("59776-5", "LN", "Procedure findings"),
            impression_code: Code::new("19005-8", "LN", "Radiology Imaging study [Impression]"),
        }
    }
}

/// Why no message can be made of a context. Names what is wrong, never a patient's value.
#[derive(Debug, Error)]
pub enum Hl7Error {
    /// MSH-10 is empty, longer than 20 characters, or not plain.
    #[error("the message control id is empty, longer than 20 characters or not plain ASCII")]
    ControlId,
    /// OBR-3 is empty.
    #[error("the filler order number is empty")]
    FillerOrderNumber,
    /// The images name no patient id, and HL7 requires one.
    #[error("the study has no patient id")]
    NoPatientId,
    /// Findings and tracking UIDs do not match.
    #[error("findings and tracking UIDs do not match")]
    TrackingUids,
    /// The model did not run, and yet there are findings.
    #[error("a result that was not run has findings")]
    Contradiction,
    /// A score or a measurement is not a number in its range.
    #[error("a score or measurement is out of range")]
    Number,
}

/// Builds the message. Segments end in CR; there is no MLLP framing. Text is UTF-8 (MSH-18).
///
/// # Errors
/// See [`Hl7Error`]: every one is a fault of the context, which building again does not mend.
pub fn build_oru(context: &ResultContext, settings: &OruSettings) -> Result<String, Hl7Error> {
    let ids = &context.ids;
    let plain = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    if !plain(&ids.message_control_id) || ids.message_control_id.len() > 20 {
        return Err(Hl7Error::ControlId);
    }
    if ids.filler_order_number.trim().is_empty() {
        return Err(Hl7Error::FillerOrderNumber);
    }
    if ids.tracking_uids.len() != context.result.findings.len() {
        return Err(Hl7Error::TrackingUids);
    }
    if contradicts_itself(context) {
        return Err(Hl7Error::Contradiction);
    }
    let created = time_stamp_utc(from_ms(ids.created_ms));
    let mut message = Message { text: String::new() };
    let (accept, application) = if settings.enhanced_acknowledgement { ("AL", "NE") } else { ("", "") };
    message.segment(
        "MSH",
        &[
            (2, "^~\\&".into()),
            (3, escape(&settings.sending_application)),
            (4, escape(&settings.sending_facility)),
            (5, escape(&settings.receiving_application)),
            (6, escape(&settings.receiving_facility)),
            (7, created.clone()),
            (9, "ORU^R01^ORU_R01".into()),
            (10, escape(&ids.message_control_id)),
            (11, escape(&settings.processing_id)),
            (12, "2.5.1".into()),
            (15, accept.into()),
            (16, application.into()),
            (18, "UNICODE UTF-8".into()),
        ],
    );
    patient(&mut message, context, settings)?;
    order(&mut message, context, settings, &created);
    observations(&mut message, context, settings, &created)?;
    Ok(message.text)
}

/// A message as it grows.
struct Message {
    text: String,
}

impl Message {
    /// Adds a segment from its fields by number, in ascending order; their text is encoded.
    fn segment(&mut self, name: &str, fields: &[(usize, String)]) {
        self.text.push_str(name);
        // MSH-1 is the separator after the name.
        let mut at = usize::from(name == "MSH");
        for (number, value) in fields.iter().filter(|(_, value)| !value.is_empty()) {
            for _ in at..*number {
                self.text.push('|');
            }
            at = *number;
            self.text.push_str(value);
        }
        self.text.push('\r');
    }
}

fn header_text(context: &ResultContext, group: u16, element: u16) -> String {
    let raw = context.header.raw(group, element).unwrap_or_default();
    charset::decode(raw, &context.header.character_sets).trim().to_owned()
}

fn patient(message: &mut Message, context: &ResultContext, settings: &OruSettings) -> Result<(), Hl7Error> {
    let id = header_text(context, 0x0010, 0x0020);
    if id.is_empty() {
        return Err(Hl7Error::NoPatientId);
    }
    let issuer = header_text(context, 0x0010, 0x0021);
    let authority = if issuer.is_empty() { &settings.assigning_authority } else { &issuer };
    let name = charset::person_name_groups(
        context.header.raw(0x0010, 0x0010).unwrap_or_default(),
        &context.header.character_sets,
    );
    let sex = header_text(context, 0x0010, 0x0040);
    let sex = if matches!(sex.as_str(), "M" | "F" | "O") { sex } else { String::new() };
    message.segment(
        "PID",
        &[
            (1, "1".into()),
            (3, identifier(&id, authority, &settings.identifier_type)),
            (5, person_name(&name)),
            (7, time_stamp(context.header.raw(0x0010, 0x0030), None)),
            (8, sex),
        ],
    );
    let visit = header_text(context, 0x0038, 0x0010);
    let visit = if visit.is_empty() { visit } else { identifier(&visit, authority, "VN") };
    message.segment("PV1", &[(1, "1".into()), (2, escape(&settings.patient_class)), (19, visit)]);
    Ok(())
}

/// When the study was made, as far as its header tells in valid values.
fn studied(context: &ResultContext) -> String {
    time_stamp(context.header.raw(0x0008, 0x0020), context.header.raw(0x0008, 0x0030))
}

fn order(message: &mut Message, context: &ResultContext, settings: &OruSettings, created: &str) {
    let device = &context.device;
    let filler = format!("{}^{}", escape(&context.ids.filler_order_number), escape(&device.station));
    let ordered = context.order.as_ref();
    let procedure =
        settings.procedure.as_ref().or_else(|| ordered.and_then(|order| order.procedure.as_ref()));
    let procedure = procedure.unwrap_or(&context.result.model.procedure);
    let placer = ordered.map(|order| escape(order.placer.expose())).unwrap_or_default();
    // The images' accession number is the one that their study was made under.
    let mut accession = header_text(context, 0x0008, 0x0050);
    if accession.is_empty() {
        accession = ordered.map(|order| order.accession.expose().clone()).unwrap_or_default();
    }
    message.segment("ORC", &[(1, "RE".into()), (2, placer.clone()), (3, filler.clone())]);
    message.segment(
        "OBR",
        &[
            (1, "1".into()),
            (2, placer),
            (3, filler),
            (4, coded(procedure)),
            (7, studied(context)),
            (18, escape(&accession)),
            (22, created.to_owned()),
            (24, "RAD".into()),
            (25, "P".into()),
        ],
    );
}

/// One OBX, before it gets its number.
struct Observation {
    value_type: &'static str,
    code: Code,
    sub_id: String,
    value: String,
    unit: Option<Code>,
}

fn observations(
    message: &mut Message,
    context: &ResultContext,
    settings: &OruSettings,
    created: &str,
) -> Result<(), Hl7Error> {
    message.segment(
        "OBX",
        &[
            (1, "1".into()),
            (2, "ST".into()),
            (3, "113014^DICOM Study^DCM".into()),
            (5, escape(context.study_uid.expose())),
            (11, "O".into()),
        ],
    );
    let mut all = texts(context, settings);
    let findings = context.result.findings.iter().zip(&context.ids.tracking_uids);
    let shown = findings.filter(|(finding, _)| tier_codes(finding.tier).is_some());
    for (index, (finding, tracking_uid)) in shown.enumerate() {
        all.extend(group(finding, tracking_uid, &(index + 1).to_string())?);
    }
    all.extend(algorithm(context));
    let model = &context.result.model;
    let instrument = |entity: &str, uid: &str| format!("{}^^{}^ISO", escape(entity), escape(uid));
    let equipment = format!(
        "{}~{}",
        instrument(&format!("{} {}", model.name, model.version), &model.device_uid),
        instrument(&context.device.station, &context.device.uid)
    );
    for (index, observation) in all.iter().enumerate() {
        message.segment(
            "OBX",
            &[
                (1, (index + 2).to_string()),
                (2, observation.value_type.into()),
                (3, coded(&observation.code)),
                (4, observation.sub_id.clone()),
                (5, observation.value.clone()),
                (6, observation.unit.as_ref().map(coded).unwrap_or_default()),
                (11, "P".into()),
                (14, studied(context)),
                (17, "123110^Artificial Intelligence^DCM".into()),
                (18, equipment.clone()),
                (19, created.to_owned()),
            ],
        );
    }
    Ok(())
}

/// Banner, notes, findings and impression: a sentence an OBX, so that a reader that takes one
/// value an OBX loses none. OBX-4 tells them apart.
fn texts(context: &ResultContext, settings: &OruSettings) -> Vec<Observation> {
    let absence = absence(context);
    let findings = &context.findings_text;
    let absence = absence.iter().filter(|absence| !findings.contains(absence));
    let notes = notes(context);
    let notes = notes.iter().map(|note| {
        if note == NOT_FOR_CLINICAL_USE {
            note.to_uppercase().trim_end_matches('.').to_owned()
        } else {
            note.clone()
        }
    });
    let lines = std::iter::once(BANNER.to_owned())
        .chain(notes)
        .map(|line| (&settings.report_code, line))
        .chain(absence.chain(findings).map(|line| (&settings.findings_code, line.clone())))
        .chain(context.impression_text.iter().map(|line| (&settings.impression_code, line.clone())));
    lines
        .filter(|(_, line)| !line.trim().is_empty())
        .enumerate()
        .map(|(index, (code, line))| Observation {
            value_type: "TX",
            code: code.clone(),
            sub_id: format!("T{}", index + 1),
            value: escape(&line),
            unit: None,
        })
        .collect()
}

/// Which bundle made the result, under which plan it runs and by which record it was accepted: the same
/// parameters that the SR names (TID 4019), for whoever has the message only.
fn algorithm(context: &ResultContext) -> impl Iterator<Item = Observation> {
    algorithm_parameters(&context.result.model).into_iter().enumerate().map(|(index, parameter)| {
        Observation {
            value_type: "ST",
            code: Code::new("111002", "DCM", "Algorithm Parameters"),
            sub_id: format!("A{}", index + 1),
            value: escape(&parameter),
            unit: None,
        }
    })
}

/// The coded form of one finding, grouped by OBX-4; it says what the SR's group says.
fn group(finding: &Finding, tracking_uid: &str, sub_id: &str) -> Result<Vec<Observation>, Hl7Error> {
    let observation = |value_type, code: Code, value: String, unit: Option<Code>| Observation {
        value_type,
        code,
        sub_id: sub_id.to_owned(),
        value,
        unit,
    };
    // CE, not CWE: hl7apy holds table 0125 of v2.5.1 without CWE, and the two begin alike.
    let is = |code: Code, value: &Code| observation("CE", code, coded(value), None);
    let number = |code: Code, value: f64, unit: Code| {
        decimal(value).map(|value| observation("NM", code, value, Some(unit))).ok_or(Hl7Error::Number)
    };
    if !(0.0..=1.0).contains(&finding.score) {
        return Err(Hl7Error::Number);
    }
    let mut all = vec![
        is(Code::new("121071", "DCM", "Finding"), &finding.finding),
        is(Code::new("276214006", "SCT", "Finding category"), &finding.category),
    ];
    all.extend(finding.site.iter().map(|site| is(Code::new("363698007", "SCT", "Finding Site"), site)));
    all.extend(finding.laterality.iter().map(|side| is(Code::new("272741003", "SCT", "Laterality"), side)));
    all.push(number(
        Code::new("111012", "DCM", "Certainty of Finding"),
        finding.score * 100.0,
        Code::new("%", "UCUM", "percent"),
    )?);
    for measurement in &finding.measurements {
        all.push(number(measurement.name.clone(), measurement.value, measurement.unit.clone())?);
    }
    if let Some((concept, tier)) = tier_codes(finding.tier) {
        all.push(is(concept, &tier));
    }
    all.push(observation(
        "ST",
        Code::new("112040", "DCM", "Tracking Unique Identifier"),
        escape(tracking_uid),
        None,
    ));
    Ok(all)
}

/// CE.
fn coded(code: &Code) -> String {
    format!("{}^{}^{}", escape(&code.value), escape(&code.meaning), escape(&code.scheme))
}

#[cfg(test)]
mod tests;
