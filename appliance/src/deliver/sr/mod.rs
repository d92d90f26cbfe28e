//! The DICOM structured report of one result: Comprehensive 3D SR (PS3.3 §A.35.13), TID 1500
//! (PS3.16), with the attributes that IHE AI Results (AIR Rev 1.3 §6.5.3) asks for.
//!
//! Always preliminary and unverified; building again yields the same bytes. [`check`] looks for
//! what the public validators let pass.

pub mod check;
mod content;
mod header;
mod tree;

use dicom_dictionary_std::uids;
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};
use thiserror::Error;

use super::context::ResultContext;
use super::notes::contradicts_itself;
use crate::dicom::{IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME};

pub use content::{LIGHTBOX_SCHEME, tier_codes};
pub use header::SERIES_NUMBER;

/// Comprehensive 3D SR Storage.
pub const COMPREHENSIVE_3D_SR: &str = uids::COMPREHENSIVE3_DSR_STORAGE;

/// Why no report can be made of a context. Names what is wrong, never a patient's value.
#[derive(Debug, Error)]
pub enum SrError {
    /// There are no instances to refer to.
    #[error("the result names no evidence")]
    NoEvidence,
    /// A finding comes from an instance that is not in the evidence.
    #[error("a finding refers to an instance that is not among the evidence")]
    NotInEvidence,
    /// Findings and tracking UIDs do not match.
    #[error("{tracking_uids} tracking UIDs for {findings} findings")]
    TrackingUids {
        /// How many findings there are.
        findings: usize,
        /// How many UIDs there are.
        tracking_uids: usize,
    },
    /// A UID is not one (PS3.5 §9.1).
    #[error("the UID of {0} is malformed")]
    Uid(&'static str),
    /// A score or a measurement is not a number in its range.
    #[error("a score or measurement is out of range")]
    Number,
    /// A region has no area, or lies left of or above the image.
    #[error("a region is empty or out of range")]
    Region,
    /// A frame number is zero or above the number of frames.
    #[error("a finding's frame does not exist")]
    Frame,
    /// A text that the standard requires is empty.
    #[error("{0} is empty")]
    Empty(&'static str),
    /// The model did not run, and yet there are findings.
    #[error("a result that was not run has findings")]
    Contradiction,
    /// A code has an empty part, or a designator that VR SH cannot hold.
    #[error("a code is incomplete, or its scheme's designator is longer than 16 characters")]
    Code,
    /// A copied header element is longer than its VR can hold.
    #[error("the study's header element {0} is too long")]
    HeaderTooLong(dicom_core::Tag),
    /// dicom-rs could not build the file meta group.
    #[error("the file meta group could not be built")]
    Meta(#[source] Box<dicom_object::meta::Error>),
    /// dicom-rs could not encode the object.
    #[error("the report could not be encoded")]
    Encode(#[source] Box<dicom_object::WriteError>),
}

/// Builds the report as a complete Part 10 file, Explicit VR Little Endian.
///
/// A result that was not run makes a report too (PARTIAL, with the reason): whether to send one is
/// the caller's decision. Suppressed findings leave no trace in it.
///
/// # Errors
/// See [`SrError`]: every one is a fault of the context, which building again does not mend.
pub fn build(context: &ResultContext) -> Result<Vec<u8>, SrError> {
    check_context(context)?;
    let tree = content::report(context)?;
    let mut codes = Vec::new();
    tree.codes(&mut codes);
    let sound = |text: &str| !text.trim().is_empty();
    if !codes.iter().all(|code| {
        sound(&code.value) && sound(&code.meaning) && sound(&code.scheme) && code.scheme.len() <= 16
    }) {
        return Err(SrError::Code);
    }
    let mut object = InMemDicomObject::new_empty();
    header::copy_study(context, &mut object)?;
    header::write_document(context, &tree, &mut object)?;
    tree.write(&mut object);
    let meta = FileMetaTableBuilder::new()
        .media_storage_sop_class_uid(COMPREHENSIVE_3D_SR)
        .media_storage_sop_instance_uid(context.ids.sr_instance_uid.expose())
        .transfer_syntax(uids::EXPLICIT_VR_LITTLE_ENDIAN)
        .implementation_class_uid(IMPLEMENTATION_CLASS_UID)
        .implementation_version_name(IMPLEMENTATION_VERSION_NAME)
        .build()
        .map_err(|error| SrError::Meta(Box::new(error)))?;
    let mut file = Vec::new();
    object.with_exact_meta(meta).write_all(&mut file).map_err(|error| SrError::Encode(Box::new(error)))?;
    Ok(file)
}

fn check_context(context: &ResultContext) -> Result<(), SrError> {
    let (result, ids) = (&context.result, &context.ids);
    if context.evidence.is_empty() {
        return Err(SrError::NoEvidence);
    }
    if ids.tracking_uids.len() != result.findings.len() {
        return Err(SrError::TrackingUids {
            findings: result.findings.len(),
            tracking_uids: ids.tracking_uids.len(),
        });
    }
    if contradicts_itself(context) {
        return Err(SrError::Contradiction);
    }
    let model = &result.model;
    for (what, text) in [
        ("the model's name", &model.name),
        ("the model's version", &model.version),
        ("the model's vendor", &model.vendor),
        ("the device's serial number", &context.device.serial),
    ] {
        if text.trim().is_empty() {
            return Err(SrError::Empty(what));
        }
    }
    if result.visible().any(|finding| finding.tracking_id.trim().is_empty()) {
        return Err(SrError::Empty("a finding's tracking identifier"));
    }
    let predecessor = context.predecessor.iter();
    let uids = [
        ("the study", context.study_uid.expose()),
        ("the report's series", ids.series_uid.expose()),
        ("the report", ids.sr_instance_uid.expose()),
        ("the device", &context.device.uid),
        ("the model", &model.device_uid),
    ];
    let uids = uids
        .into_iter()
        .chain(ids.tracking_uids.iter().map(|uid| ("a finding's tracking", uid)))
        .chain(predecessor.clone().map(|earlier| ("the earlier report", earlier.sop_instance_uid.expose())))
        .chain(predecessor.map(|earlier| ("the earlier report's series", earlier.series_uid.expose())))
        .chain(context.evidence.iter().flat_map(|instance| {
            let uids =
                [instance.series_uid.expose(), &instance.sop_class_uid, instance.sop_instance_uid.expose()];
            uids.map(|uid| ("an image", uid))
        }));
    for (what, uid) in uids {
        if !is_uid(uid) {
            return Err(SrError::Uid(what));
        }
    }
    let evidence: std::collections::HashSet<&str> =
        context.evidence.iter().map(|instance| instance.sop_instance_uid.expose().as_str()).collect();
    let known = |uid: &String| evidence.contains(uid.as_str());
    if !result.visible().all(|finding| known(finding.source.instance.sop_instance_uid.expose())) {
        return Err(SrError::NotInEvidence);
    }
    Ok(())
}

/// PS3.5 §9.1: at most 64 characters, components of digits. A leading zero in a component is let
/// pass: images that carry such UIDs exist, and a reference must repeat them.
fn is_uid(uid: &str) -> bool {
    uid.len() <= 64
        && uid.split('.').all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests;
