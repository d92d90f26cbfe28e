//! What stage 2 and 3 need of an image's header beside its pixels: the facts that an indication
//! asks for, and where the frame lies in the patient.

use dicom_core::Tag;
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;
use lightbox_models::manifest::{Excluded, Indication, Sex, Unstated};

use super::image::{holder, numbers, text};
use crate::dicom::age;
use crate::raw::{Geometry, Slice, Spacing};

/// Projections: their Pixel Spacing speaks of the patient only where it was calibrated.
const PROJECTIONS: [&str; 8] = ["CR", "DX", "MG", "RF", "XA", "PX", "IO", "RG"];

/// Reads a frame's geometry; `frame` counts from 1.
pub(super) fn geometry(object: &InMemDicomObject, frame: u32, columns: u32, rows: u32) -> Geometry {
    let values = |group: Tag, attribute: Tag| {
        holder(object, frame, group, attribute).map(|item| numbers(item, attribute)).unwrap_or_default()
    };
    let spacing = values(tags::PIXEL_MEASURES_SEQUENCE, tags::PIXEL_SPACING);
    let calibrated = !text(object, tags::PIXEL_SPACING_CALIBRATION_TYPE).is_empty();
    let projection = PROJECTIONS.contains(&text(object, tags::MODALITY).as_ref());
    let spacing = match spacing.as_slice() {
        [row_mm, column_mm] if *row_mm > 0.0 && *column_mm > 0.0 && (calibrated || !projection) => {
            Spacing::Patient { row_mm: *row_mm, column_mm: *column_mm }
        }
        _ => Spacing::Unknown,
    };
    let position = values(tags::PLANE_POSITION_SEQUENCE, tags::IMAGE_POSITION_PATIENT);
    let orientation = values(tags::PLANE_ORIENTATION_SEQUENCE, tags::IMAGE_ORIENTATION_PATIENT);
    let slice = match (<[f64; 3]>::try_from(position), <[f64; 6]>::try_from(orientation)) {
        (Ok(position), Ok(orientation)) => {
            let [ax, ay, az, bx, by, bz] = orientation;
            let normal = [ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx];
            let position_mm = position.iter().zip(normal).map(|(at, along)| at * along).sum();
            Some(Slice { orientation, position_mm })
        }
        _ => None,
    };
    Geometry { columns, rows, spacing, slice }
}

/// Whether an image is the kind that the model takes, before any condition on it.
pub(crate) fn selected(object: &InMemDicomObject, indication: &Indication) -> bool {
    let modality = text(object, tags::MODALITY);
    // A localizer is a planning view of the scanner, not an image to be read.
    let localizer = text(object, tags::IMAGE_TYPE).split('\\').nth(2) == Some("LOCALIZER");
    indication.modalities.iter().any(|listed| *listed == modality) && !localizer
}

/// Why an image is outside the indication; none where it is inside. The texts carry the manifest's
/// numbers, never the patient's.
pub(crate) fn outside(object: &InMemDicomObject, indication: &Indication) -> Option<String> {
    let refuse = indication.when_unstated == Unstated::Refuse;
    if !indication.body_parts.is_empty() {
        let stated = text(object, tags::BODY_PART_EXAMINED);
        let fits = indication.body_parts.iter().any(|listed| listed.eq_ignore_ascii_case(&stated));
        if stated.is_empty() && refuse {
            return Some(format!("the body part is not stated; the model is for {}", list(indication)));
        }
        if !stated.is_empty() && !fits {
            return Some(format!("the body part is not {}", list(indication)));
        }
    }
    if indication.age_min_years.is_some() || indication.age_max_years.is_some() {
        let (min, max) = (indication.age_min_years, indication.age_max_years);
        let range = match (min, max) {
            (Some(min), Some(max)) => format!("{min} to {max} years"),
            (Some(min), None) => format!("{min} years and above"),
            (_, max) => format!("up to {} years", max.unwrap_or_default()),
        };
        match age_years(object) {
            // A patient is 90 until the 91st birthday.
            Some(age) if min.is_some_and(|min| age < min) || max.is_some_and(|max| age >= max + 1.0) => {
                return Some(format!("the patient's age is outside {range}"));
            }
            None if refuse => return Some(format!("the age is not stated; the model is for {range}")),
            _ => {}
        }
    }
    if let Some(max) = indication.slice_thickness_max_mm {
        let held = holder(object, 1, tags::PIXEL_MEASURES_SEQUENCE, tags::SLICE_THICKNESS);
        let stated = held.and_then(|item| numbers(item, tags::SLICE_THICKNESS).first().copied());
        match stated {
            // Scanners write 3.0000001: a micrometre is no difference.
            Some(mm) if mm > max + 1e-3 => return Some(format!("the slices are thicker than {max} mm")),
            None if refuse => {
                return Some(format!("the slice thickness is not stated; the model is for up to {max} mm"));
            }
            _ => {}
        }
    }
    listed(object, indication).or_else(|| excluded(object, indication))
}

/// The conditions that are lists of a header's values.
fn listed(object: &InMemDicomObject, indication: &Indication) -> Option<String> {
    let sexes: Vec<String> = indication.sex.iter().map(|sex| sex.code().to_owned()).collect();
    for (what, tag, listed) in [
        ("sex", tags::PATIENT_SEX, &sexes),
        ("view", tags::VIEW_POSITION, &indication.views),
        ("manufacturer", tags::MANUFACTURER, &indication.manufacturers),
    ] {
        if listed.is_empty() {
            continue;
        }
        let stated = text(object, tag);
        let names = listed.join(" or ");
        if stated.is_empty() && indication.when_unstated == Unstated::Refuse {
            return Some(format!("the {what} is not stated; the model is for {names}"));
        }
        if !stated.is_empty() && !listed.iter().any(|listed| listed.eq_ignore_ascii_case(&stated)) {
            return Some(format!("the {what} is not {names}"));
        }
    }
    None
}

/// An exclusion holds where every key that it gives does. What the header does not say may be what
/// it excludes: that counts as the manifest's `when_unstated` says.
fn excluded(object: &InMemDicomObject, indication: &Indication) -> Option<String> {
    let refuse = indication.when_unstated == Unstated::Refuse;
    indication.excluded.iter().find_map(|entry| {
        let keys = exclusion(entry);
        let holds = keys.iter().all(|(_, tag, value)| {
            let stated = text(object, *tag);
            if stated.is_empty() { refuse } else { stated.eq_ignore_ascii_case(value) }
        });
        let names: Vec<String> = keys.iter().map(|(what, _, value)| format!("{what} {value}")).collect();
        holds.then(|| format!("the model excludes {}", names.join(" with ")))
    })
}

/// The keys of an exclusion with the elements that they speak of.
fn exclusion(entry: &Excluded) -> Vec<(&'static str, Tag, &str)> {
    [
        ("modality", tags::MODALITY, entry.modality.as_deref()),
        ("body part", tags::BODY_PART_EXAMINED, entry.body_part.as_deref()),
        ("sex", tags::PATIENT_SEX, entry.sex.map(Sex::code)),
        ("view", tags::VIEW_POSITION, entry.view.as_deref()),
        ("manufacturer", tags::MANUFACTURER, entry.manufacturer.as_deref()),
        ("scanner model", tags::MANUFACTURER_MODEL_NAME, entry.manufacturer_model.as_deref()),
    ]
    .into_iter()
    .filter_map(|(what, tag, value)| value.map(|value| (what, tag, value)))
    .collect()
}

fn list(indication: &Indication) -> String {
    indication.body_parts.join(" or ")
}

/// Patient's Age, else from the birth date to the study's date.
fn age_years(object: &InMemDicomObject) -> Option<f64> {
    let [age, born, studied] =
        [tags::PATIENT_AGE, tags::PATIENT_BIRTH_DATE, tags::STUDY_DATE].map(|tag| text(object, tag));
    age::in_years(Some(&age), Some(&born), Some(&studied))
}

#[cfg(test)]
mod tests {
    use dicom_core::{DataElement, PrimitiveValue, VR};

    use super::*;

    fn object(elements: &[(Tag, VR, &str)]) -> InMemDicomObject {
        InMemDicomObject::from_element_iter(elements.iter().map(|(tag, vr, value)| {
            let values = value.split('\\').map(str::to_owned).collect();
            DataElement::new(*tag, *vr, PrimitiveValue::Strs(values))
        }))
    }

    fn indication() -> Indication {
        Indication {
            modalities: vec!["CT".into()],
            body_parts: vec!["CHEST".into()],
            age_min_years: Some(18.0),
            age_max_years: Some(90.0),
            slice_thickness_max_mm: Some(3.0),
            ..Indication::default()
        }
    }

    #[test]
    fn an_indication_refuses_what_is_outside_without_naming_the_patients_values() {
        let body = (tags::BODY_PART_EXAMINED, VR::CS, "CHEST");
        let thin = (tags::SLICE_THICKNESS, VR::DS, "3.0000001");
        let outside = |elements: &[_]| outside(&object(elements), &indication());
        assert_eq!(outside(&[body, (tags::PATIENT_AGE, VR::AS, "090Y"), thin]), None);
        let old = outside(&[body, (tags::PATIENT_AGE, VR::AS, "091Y"), thin]);
        assert_eq!(old.as_deref(), Some("the patient's age is outside 18 to 90 years"));
        let born = (tags::PATIENT_BIRTH_DATE, VR::DA, "20080315");
        let day_before = (tags::STUDY_DATE, VR::DA, "20260314");
        let birthday = (tags::STUDY_DATE, VR::DA, "20260315");
        assert!(outside(&[body, born, day_before, thin]).is_some());
        assert_eq!(outside(&[body, born, birthday, thin]), None);
        let age = (tags::PATIENT_AGE, VR::AS, "040Y");
        let thick = outside(&[body, age, (tags::SLICE_THICKNESS, VR::DS, "5")]);
        assert_eq!(thick.as_deref(), Some("the slices are thicker than 3 mm"));
        let knee = outside(&[(tags::BODY_PART_EXAMINED, VR::CS, "KNEE"), age, thin]);
        assert_eq!(knee.as_deref(), Some("the body part is not CHEST"));
        assert!(outside(&[body, age]).unwrap().contains("slice thickness is not stated"));
        assert!(outside(&[age, thin]).unwrap().contains("body part is not stated"));
        assert!(outside(&[body, thin]).unwrap().contains("age is not stated"));
    }

    #[test]
    fn sex_view_manufacturer_and_exclusions_are_conditions_too() {
        let indication = Indication {
            modalities: vec!["DX".into()],
            sex: vec![Sex::Female],
            views: vec!["PA".into(), "AP".into()],
            manufacturers: vec!["Acme Medical".into()],
            excluded: vec![Excluded {
                body_part: Some("KNEE".into()),
                manufacturer_model: Some("X1".into()),
                ..Excluded::default()
            }],
            ..Indication::default()
        };
        let sex = (tags::PATIENT_SEX, VR::CS, "F");
        let view = (tags::VIEW_POSITION, VR::CS, "PA");
        let made = (tags::MANUFACTURER, VR::LO, "ACME MEDICAL");
        let part = (tags::BODY_PART_EXAMINED, VR::CS, "KNEE");
        let model = (tags::MANUFACTURER_MODEL_NAME, VR::LO, "x1");
        let chest = (tags::BODY_PART_EXAMINED, VR::CS, "CHEST");
        let outside = |elements: &[_]| outside(&object(elements), &indication);
        assert_eq!(outside(&[sex, view, made, chest, model]), None);
        let refused = outside(&[sex, view, made, part, model]);
        assert_eq!(refused.as_deref(), Some("the model excludes body part KNEE with scanner model X1"));
        // Unsaid, it may be the excluded scanner.
        assert!(outside(&[sex, view, made, part]).unwrap().contains("excludes"));
        assert_eq!(
            outside(&[(tags::PATIENT_SEX, VR::CS, "M"), view, made, chest, model]).unwrap(),
            "the sex is not F"
        );
        assert!(outside(&[sex, made, chest, model]).unwrap().contains("view is not stated"));
        let other = (tags::MANUFACTURER, VR::LO, "Other");
        assert_eq!(
            outside(&[sex, view, other, chest, model]).unwrap(),
            "the manufacturer is not Acme Medical"
        );
    }

    #[test]
    fn a_projections_spacing_counts_only_when_calibrated() {
        let spacing = (tags::PIXEL_SPACING, VR::DS, "0.5\\0.25");
        let of = |elements: &[_]| geometry(&object(elements), 1, 4, 4).spacing;
        let known = Spacing::Patient { row_mm: 0.5, column_mm: 0.25 };
        assert_eq!(of(&[(tags::MODALITY, VR::CS, "CT"), spacing]), known);
        assert_eq!(of(&[(tags::MODALITY, VR::CS, "DX"), spacing]), Spacing::Unknown);
        let calibrated = (tags::PIXEL_SPACING_CALIBRATION_TYPE, VR::CS, "FIDUCIAL");
        assert_eq!(of(&[(tags::MODALITY, VR::CS, "DX"), spacing, calibrated]), known);
    }

    #[test]
    fn localizers_and_other_modalities_are_not_selected() {
        let ct = (tags::MODALITY, VR::CS, "CT");
        let localizer = (tags::IMAGE_TYPE, VR::CS, "ORIGINAL\\PRIMARY\\LOCALIZER");
        assert!(selected(&object(&[ct]), &indication()));
        assert!(!selected(&object(&[ct, localizer]), &indication()));
        assert!(!selected(&object(&[(tags::MODALITY, VR::CS, "PT")]), &indication()));
    }
}
