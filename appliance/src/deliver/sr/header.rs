//! Everything of the document but its content tree: the patient's and the study's modules as the
//! sender wrote them, and the series, equipment and document modules as this box writes them
//! (PS3.3 §A.35.13, IHE AIR Rev 1.3 §6.5.3.1).

use dicom_core::{DataElement, PrimitiveValue, Tag, VR};
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;
use dicom_object::mem::InMemElement;
use time::OffsetDateTime;

use crate::clock::from_ms;
use crate::finding::{Completeness, InstanceRef};

use super::super::context::ResultContext;
use super::content::{LIGHTBOX_SCHEME, dcm};
use super::tree::{Item, code_item, limited, reference, sequence, text};
use super::{COMPREHENSIVE_3D_SR, SrError};

/// What is copied from the study: every text attribute of the Patient (PS3.3 C.7.1.1), Patient
/// Study (C.7.2.2) and General Study (C.7.2.1) modules, with the VR of the data dictionary, as an
/// implicit VR sender states none. The flag marks type 2: written empty where it is absent.
const COPIED: &[(Tag, VR, bool)] = &[
    (tags::STUDY_DATE, VR::DA, true),
    (tags::STUDY_TIME, VR::TM, true),
    (tags::ACCESSION_NUMBER, VR::SH, true),
    (tags::REFERRING_PHYSICIAN_NAME, VR::PN, true),
    (tags::CONSULTING_PHYSICIAN_NAME, VR::PN, false),
    (tags::STUDY_DESCRIPTION, VR::LO, false),
    (tags::PHYSICIANS_OF_RECORD, VR::PN, false),
    (tags::NAME_OF_PHYSICIANS_READING_STUDY, VR::PN, false),
    (tags::ADMITTING_DIAGNOSES_DESCRIPTION, VR::LO, false),
    (tags::PATIENT_NAME, VR::PN, true),
    (tags::PATIENT_ID, VR::LO, true),
    (tags::ISSUER_OF_PATIENT_ID, VR::LO, false),
    (tags::TYPE_OF_PATIENT_ID, VR::CS, false),
    (tags::PATIENT_BIRTH_DATE, VR::DA, true),
    (tags::PATIENT_BIRTH_TIME, VR::TM, false),
    (tags::PATIENT_SEX, VR::CS, true),
    (tags::QUALITY_CONTROL_SUBJECT, VR::CS, false),
    (tags::OTHER_PATIENT_NAMES, VR::PN, false),
    (tags::PATIENT_AGE, VR::AS, false),
    (tags::PATIENT_SIZE, VR::DS, false),
    (tags::PATIENT_WEIGHT, VR::DS, false),
    (tags::MEDICAL_ALERTS, VR::LO, false),
    (tags::ALLERGIES, VR::LO, false),
    (Tag(0x0010, 0x2160), VR::SH, false), // Ethnic Group, retired in 2024 but still sent
    (tags::OCCUPATION, VR::SH, false),
    (tags::SMOKING_STATUS, VR::CS, false),
    (tags::ADDITIONAL_PATIENT_HISTORY, VR::LT, false),
    (tags::LAST_MENSTRUAL_DATE, VR::DA, false),
    (tags::PATIENT_SEX_NEUTERED, VR::CS, false),
    (tags::PATIENT_COMMENTS, VR::LT, false),
    (tags::PATIENT_IDENTITY_REMOVED, VR::CS, false),
    (tags::DEIDENTIFICATION_METHOD, VR::LO, false),
    (tags::STUDY_ID, VR::SH, true),
    (tags::ADMISSION_ID, VR::LO, false),
    (tags::SERVICE_EPISODE_ID, VR::LO, false),
    (tags::SERVICE_EPISODE_DESCRIPTION, VR::LO, false),
    (tags::PATIENT_STATE, VR::LO, false),
];

/// Series Number of every series that this box makes: far from a modality's own.
pub const SERIES_NUMBER: &str = "9500";

/// Copies the patient's and the study's modules, byte for byte.
///
/// # Errors
/// [`SrError::HeaderTooLong`].
pub(super) fn copy_study(context: &ResultContext, object: &mut InMemDicomObject) -> Result<(), SrError> {
    let header = &context.header;
    if !header.character_sets.is_empty() {
        // As bytes: dicom-rs would take it as an order to encode our text by its first value.
        let value = header.character_sets.join("\\");
        object.put(verbatim(tags::SPECIFIC_CHARACTER_SET, VR::CS, value.as_bytes())?);
    }
    for (tag, vr, required) in COPIED {
        match header.raw(tag.group(), tag.element()) {
            Some(value) => {
                object.put(verbatim(*tag, *vr, value)?);
            }
            None if *required => {
                object.put(DataElement::empty(*tag, *vr));
            }
            None => {}
        }
    }
    object.put(text(tags::STUDY_INSTANCE_UID, VR::UI, context.study_uid.expose()));
    Ok(())
}

/// An element with exactly these bytes, padded to an even number with the padding of its VR.
fn verbatim(tag: Tag, vr: VR, value: &[u8]) -> Result<InMemElement, SrError> {
    if value.is_empty() {
        return Ok(DataElement::empty(tag, vr));
    }
    // An implicit VR sender can send more than the two bytes of an explicit length can say.
    if value.len() >= usize::from(u16::MAX) {
        return Err(SrError::HeaderTooLong(tag));
    }
    if vr == VR::DS {
        // dicom-rs writes numbers' bytes as numbers under this VR, but text as it is; what is not
        // ASCII here is no decimal string either.
        let ascii = String::from_utf8_lossy(value).replace(|c: char| !c.is_ascii(), "?");
        return Ok(text(tag, vr, &ascii));
    }
    let mut bytes = value.to_vec();
    if !bytes.len().is_multiple_of(2) {
        bytes.push(b' ');
    }
    Ok(DataElement::new(tag, vr, PrimitiveValue::U8(bytes.into())))
}

/// Writes the SOP Common, series, equipment and document modules.
///
/// # Errors
/// [`SrError::HeaderTooLong`].
pub(super) fn write_document(
    context: &ResultContext,
    tree: &Item,
    object: &mut InMemDicomObject,
) -> Result<(), SrError> {
    let created = from_ms(context.ids.created_ms);
    let (date, time) = (date(created), time_of_day(created));
    let device = &context.device;
    let model = &context.result.model;
    let mut put = |tag, vr, value: &str| {
        object.put(text(tag, vr, value));
    };

    put(tags::SOP_CLASS_UID, VR::UI, COMPREHENSIVE_3D_SR);
    put(tags::SOP_INSTANCE_UID, VR::UI, context.ids.sr_instance_uid.expose());
    put(tags::INSTANCE_CREATION_DATE, VR::DA, &date);
    put(tags::INSTANCE_CREATION_TIME, VR::TM, &time);

    put(tags::MODALITY, VR::CS, "SR");
    put(tags::SERIES_INSTANCE_UID, VR::UI, context.ids.series_uid.expose());
    put(tags::SERIES_NUMBER, VR::IS, SERIES_NUMBER);
    put(tags::SERIES_DESCRIPTION, VR::LO, &series_description(context));

    put(tags::MANUFACTURER, VR::LO, &limited(&device.manufacturer, 64));
    put(tags::MANUFACTURER_MODEL_NAME, VR::LO, &limited(&device.model, 64));
    put(tags::STATION_NAME, VR::SH, &limited(&device.station, 16));
    put(tags::DEVICE_SERIAL_NUMBER, VR::LO, &limited(&device.serial, 64));
    put(tags::SOFTWARE_VERSIONS, VR::LO, &limited(&device.software, 64));

    put(tags::INSTANCE_NUMBER, VR::IS, &context.revision.to_string());
    put(tags::CONTENT_DATE, VR::DA, &date);
    put(tags::CONTENT_TIME, VR::TM, &time);
    match &context.result.completeness {
        Completeness::Complete => put(tags::COMPLETION_FLAG, VR::CS, "COMPLETE"),
        Completeness::Partial(reason) | Completeness::NotRun(reason) => {
            put(tags::COMPLETION_FLAG, VR::CS, "PARTIAL");
            put(tags::COMPLETION_FLAG_DESCRIPTION, VR::LO, &limited(reason, 64));
        }
    }
    put(tags::VERIFICATION_FLAG, VR::CS, "UNVERIFIED");
    put(tags::PRELIMINARY_FLAG, VR::CS, "PRELIMINARY");

    let box_ = [
        (tags::MANUFACTURER, VR::LO, limited(&device.manufacturer, 64)),
        (tags::MANUFACTURER_MODEL_NAME, VR::LO, limited(&device.model, 64)),
        (tags::STATION_NAME, VR::SH, limited(&device.station, 16)),
        (tags::DEVICE_SERIAL_NUMBER, VR::LO, limited(&device.serial, 64)),
        (tags::SOFTWARE_VERSIONS, VR::LO, limited(&device.software, 64)),
        (tags::DEVICE_UID, VR::UI, device.uid.clone()),
        (tags::CONTRIBUTION_DESCRIPTION, VR::ST, "Ran the algorithm and encoded its result".to_owned()),
    ];
    let algorithm = [
        (tags::MANUFACTURER, VR::LO, limited(&model.vendor, 64)),
        (tags::MANUFACTURER_MODEL_NAME, VR::LO, limited(&model.name, 64)),
        (tags::SOFTWARE_VERSIONS, VR::LO, limited(&model.version, 64)),
        (tags::DEVICE_UID, VR::UI, model.device_uid.clone()),
        (tags::CONTRIBUTION_DESCRIPTION, VR::ST, "Algorithm that made the findings".to_owned()),
    ];
    let equipment = [algorithm.as_slice(), box_.as_slice()].map(|attributes| {
        let mut item = InMemDicomObject::new_empty();
        item.put(sequence(
            tags::PURPOSE_OF_REFERENCE_CODE_SEQUENCE,
            [code_item(&dcm("109102", "Processing Equipment"))],
        ));
        for (tag, vr, value) in attributes {
            item.put(text(*tag, *vr, value));
        }
        item
    });
    object.put(sequence(tags::CONTRIBUTING_EQUIPMENT_SEQUENCE, equipment));

    // Type 2 and empty: no procedure step was performed under a worklist.
    object.put(sequence(tags::REFERENCED_PERFORMED_PROCEDURE_STEP_SEQUENCE, []));
    object.put(sequence(tags::PERFORMED_PROCEDURE_CODE_SEQUENCE, []));
    object.put(sequence(tags::REFERENCED_REQUEST_SEQUENCE, [request(context)?]));
    let evidence = [references(context.study_uid.expose(), &context.evidence)];
    object.put(sequence(tags::CURRENT_REQUESTED_PROCEDURE_EVIDENCE_SEQUENCE, evidence));
    if let Some(earlier) = &context.predecessor {
        let document = InstanceRef {
            series_uid: earlier.series_uid.clone(),
            sop_class_uid: COMPREHENSIVE_3D_SR.to_owned(),
            sop_instance_uid: earlier.sop_instance_uid.clone(),
            modality: "SR".to_owned(),
            frames: 1,
        };
        let documents = [references(context.study_uid.expose(), &[document])];
        object.put(sequence(tags::PREDECESSOR_DOCUMENTS_SEQUENCE, documents));
    }
    object.put(sequence(tags::CODING_SCHEME_IDENTIFICATION_SEQUENCE, schemes(context, tree)));
    Ok(())
}

/// What a worklist shows of the series: the banner first, so that it is not cut off.
fn series_description(context: &ResultContext) -> String {
    let use_note = if context.result.model.not_for_clinical_use { "NOT FOR CLINICAL USE, " } else { "" };
    limited(&format!("AI PRELIMINARY, {use_note}{}", context.result.model.name), 64)
}

/// Referenced Request Sequence (PS3.3 Table C.17-2): the order as far as the images know it.
fn request(context: &ResultContext) -> Result<InMemDicomObject, SrError> {
    let mut item = InMemDicomObject::new_empty();
    item.put(text(tags::STUDY_INSTANCE_UID, VR::UI, context.study_uid.expose()));
    item.put(sequence(tags::REFERENCED_STUDY_SEQUENCE, []));
    let accession = context.header.raw(0x0008, 0x0050).unwrap_or_default();
    item.put(verbatim(tags::ACCESSION_NUMBER, VR::SH, accession)?);
    item.put(DataElement::empty(tags::PLACER_ORDER_NUMBER_IMAGING_SERVICE_REQUEST, VR::LO));
    item.put(DataElement::empty(tags::FILLER_ORDER_NUMBER_IMAGING_SERVICE_REQUEST, VR::LO));
    item.put(DataElement::empty(tags::REQUESTED_PROCEDURE_ID, VR::SH));
    item.put(DataElement::empty(tags::REQUESTED_PROCEDURE_DESCRIPTION, VR::LO));
    item.put(sequence(tags::REQUESTED_PROCEDURE_CODE_SEQUENCE, []));
    Ok(item)
}

/// Hierarchical SOP Instance Reference (PS3.3 Table C.17-3): instances by series, both in the
/// order in which they first appear, each once.
fn references(study_uid: &str, instances: &[InstanceRef]) -> InMemDicomObject {
    let mut series: Vec<(&str, Vec<&InstanceRef>)> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    let mut places = std::collections::HashMap::new();
    for instance in instances {
        if !seen.insert(instance.sop_instance_uid.expose()) {
            continue;
        }
        let uid = instance.series_uid.expose().as_str();
        let place = *places.entry(uid).or_insert_with(|| {
            series.push((uid, Vec::new()));
            series.len() - 1
        });
        series[place].1.push(instance);
    }
    let mut item = InMemDicomObject::new_empty();
    item.put(text(tags::STUDY_INSTANCE_UID, VR::UI, study_uid));
    item.put(sequence(
        tags::REFERENCED_SERIES_SEQUENCE,
        series.into_iter().map(|(uid, instances)| {
            let mut item = InMemDicomObject::new_empty();
            item.put(text(tags::SERIES_INSTANCE_UID, VR::UI, uid));
            item.put(sequence(
                tags::REFERENCED_SOP_SEQUENCE,
                instances
                    .into_iter()
                    .map(|instance| reference(&instance.sop_class_uid, instance.sop_instance_uid.expose())),
            ));
            item
        }),
    ));
    item
}

/// Coding Scheme Identification Sequence (PS3.3 §C.12.1.1.9): every private scheme in the tree.
fn schemes(context: &ResultContext, tree: &Item) -> Vec<InMemDicomObject> {
    let mut codes = Vec::new();
    tree.codes(&mut codes);
    let private = codes.iter().map(|code| code.scheme.as_str()).filter(|scheme| scheme.starts_with("99"));
    let mut names: Vec<&str> = private.collect();
    // Named even where no finding uses it, so that a reader of our objects always finds it.
    names.push(LIGHTBOX_SCHEME);
    names.sort_unstable();
    names.dedup();
    names
        .into_iter()
        .map(|scheme| {
            let owner = if scheme == LIGHTBOX_SCHEME {
                &context.device.manufacturer
            } else {
                &context.result.model.vendor
            };
            let mut item = InMemDicomObject::new_empty();
            item.put(text(tags::CODING_SCHEME_DESIGNATOR, VR::SH, &limited(scheme, 16)));
            let name = format!("Private coding scheme of {owner}");
            item.put(text(tags::CODING_SCHEME_NAME, VR::ST, &limited(&name, 1024)));
            item.put(text(tags::CODING_SCHEME_RESPONSIBLE_ORGANIZATION, VR::ST, &limited(owner, 1024)));
            item
        })
        .collect()
}

fn date(at: OffsetDateTime) -> String {
    format!("{:04}{:02}{:02}", at.year(), u8::from(at.month()), at.day())
}

fn time_of_day(at: OffsetDateTime) -> String {
    format!("{:02}{:02}{:02}.{:03}", at.hour(), at.minute(), at.second(), at.millisecond())
}
