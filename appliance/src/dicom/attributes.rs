//! What rules look at: the attributes of an instance, a series and a study, and nothing else.

use dicom_dictionary_std::tags;
use serde::{Deserialize, Serialize};

use crate::dicom::age;
use crate::dicom::header::Header;
use crate::phi::Phi;

/// The routing attributes of one instance; those of a series are its first instance's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attributes {
    /// Modality (0008,0060), as sent.
    pub modality: Option<String>,
    /// Body Part Examined (0018,0015).
    pub body_part: Option<String>,
    /// Study Description (0008,1030), decoded.
    pub study_description: Option<String>,
    /// Series Description (0008,103E), decoded.
    pub series_description: Option<String>,
    /// Protocol Name (0018,1030), decoded.
    pub protocol: Option<String>,
    /// Station Name (0008,1010).
    pub station: Option<String>,
    /// Manufacturer (0008,0070).
    pub manufacturer: Option<String>,
    /// Patient's Sex (0010,0040).
    pub sex: Option<String>,
    /// View Position (0018,5101).
    pub view: Option<String>,
    /// Age in years: Patient's Age, or from birth date and study date.
    pub age_years: Option<f64>,
    /// Slice Thickness (0018,0050), mm.
    pub slice_thickness_mm: Option<f64>,
    /// Instance Number (0020,0013).
    pub instance_number: Option<i64>,
    /// Accession Number (0008,0050): what an order is matched by; rules cannot ask for it.
    pub accession: Option<Phi<String>>,
    /// Patient ID (0010,0020), as `accession`.
    pub patient_id: Option<Phi<String>>,
    /// Issuer of Patient ID (0010,0021), as `accession`.
    pub patient_issuer: Option<Phi<String>>,
    /// Study Date (0008,0020), as `accession`: earlier studies are found by it.
    pub study_date: Option<Phi<String>>,
    /// Study Time (0008,0030), as `accession`.
    pub study_time: Option<String>,
}

impl Attributes {
    /// Reads them from a header.
    pub fn of(header: &Header) -> Self {
        Attributes {
            modality: header.ascii(tags::MODALITY),
            body_part: header.ascii(tags::BODY_PART_EXAMINED),
            study_description: header.text(tags::STUDY_DESCRIPTION),
            series_description: header.text(tags::SERIES_DESCRIPTION),
            protocol: header.text(tags::PROTOCOL_NAME),
            station: header.text(tags::STATION_NAME),
            manufacturer: header.text(tags::MANUFACTURER),
            sex: header.ascii(tags::PATIENT_SEX),
            view: header.ascii(tags::VIEW_POSITION),
            age_years: age::in_years(
                header.ascii(tags::PATIENT_AGE).as_deref(),
                header.ascii(tags::PATIENT_BIRTH_DATE).as_deref(),
                header.ascii(tags::STUDY_DATE).as_deref(),
            ),
            slice_thickness_mm: header
                .ascii(tags::SLICE_THICKNESS)
                .and_then(|text| text.split('\\').next().and_then(|first| first.trim().parse().ok()))
                .filter(|mm: &f64| mm.is_finite()),
            instance_number: header.ascii(tags::INSTANCE_NUMBER).and_then(|text| text.parse().ok()),
            accession: header.text(tags::ACCESSION_NUMBER).map(Phi::new),
            patient_id: header.text(tags::PATIENT_ID).map(Phi::new),
            patient_issuer: header.text(tags::ISSUER_OF_PATIENT_ID).map(Phi::new),
            study_date: header.ascii(tags::STUDY_DATE).map(Phi::new),
            study_time: header.ascii(tags::STUDY_TIME),
        }
    }
}
