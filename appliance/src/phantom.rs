//! Phantom studies: DICOM images of bright disks made from a seed, with the exact truth beside
//! them. The demo, the self-test and the tests send them through the box and compare.
//!
//! A CT phantom holds balls cut by slices, a projection holds disks. All are inside a grey ellipse
//! with noise that never reaches the phantom detector's threshold.

pub mod truth;

use dicom_core::value::DataSetSequence;
use dicom_core::{DataElement, PrimitiveValue, Tag, VR, dicom_value};
use dicom_dictionary_std::{tags, uids};
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};
use sha2::{Digest, Sha256};

use crate::finding::{InstanceRef, Tier};
use crate::phi::Phi;

/// Which kind of study.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One axial series.
    Ct {
        /// Number of slices, from 1.
        slices: u32,
    },
    /// One digital X-ray image (DX Image Storage - For Presentation), calibrated by a fiducial.
    Dx,
    /// One computed radiography image, calibrated by a fiducial.
    Cr,
}

/// What to make.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spec {
    /// Which kind of study.
    pub kind: Kind,
    /// Everything that is drawn by chance comes from it, UIDs included: the same specification
    /// makes the same study, byte for byte.
    pub seed: u64,
    /// Rows of an image, 64 to 4096.
    pub rows: u32,
    /// Columns of an image, 64 to 4096.
    pub columns: u32,
    /// How many disks, at most 32; three or more hold each tier at least once.
    pub disks: usize,
    /// Largest deviation of the background, 0 to 150 units.
    pub noise: u16,
    /// Distance between rows, mm.
    pub row_mm: f64,
    /// Distance between columns, mm.
    pub column_mm: f64,
    /// Distance between slices and thickness of a slice, mm.
    pub slice_mm: f64,
    /// Projections only: small values are bright (MONOCHROME1).
    pub monochrome1: bool,
}

impl Spec {
    /// A study of 512 x 512 pixels with five disks.
    pub fn new(kind: Kind, seed: u64) -> Spec {
        Spec {
            kind,
            seed,
            rows: 512,
            columns: 512,
            disks: 5,
            noise: 80,
            row_mm: 0.7,
            column_mm: 0.7,
            slice_mm: 2.0,
            monochrome1: false,
        }
    }
}

/// A specification that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PhantomError {
    /// A number is out of its range.
    #[error("{0} is out of range; remedy: see the documentation of phantom::Spec")]
    Spec(&'static str),
    /// The disks find no room side by side.
    #[error("{0} disks do not fit side by side; remedy: ask for fewer, or for a larger image")]
    NoRoom(usize),
    /// The file could not be encoded.
    #[error("the phantom cannot be encoded: {0}")]
    Encode(String),
}

/// One Part 10 file.
#[derive(Clone, Debug)]
pub struct PhantomFile {
    /// Its identifiers.
    pub instance: InstanceRef,
    /// Its bytes, Explicit VR Little Endian.
    pub bytes: Vec<u8>,
}

/// What is really there.
#[derive(Clone, Debug, PartialEq)]
pub struct TruthDisk {
    /// Index in [`Phantom::files`] of the slice through the centre.
    pub file: usize,
    /// Centre, column and row, in the coordinates of [`crate::finding::Region`].
    pub centre: (f64, f64),
    /// Diameter in the patient, mm, before it is drawn in whole pixels.
    pub diameter_mm: f64,
    /// The score that the phantom detector gives, exactly.
    pub score: f64,
    /// The tier by the phantom detector's thresholds.
    pub tier: Tier,
}

/// A phantom study and its truth.
#[derive(Clone, Debug)]
pub struct Phantom {
    /// Study Instance UID.
    pub study_uid: Phi<String>,
    /// Accession Number.
    pub accession: Phi<String>,
    /// The files, in the order of the slices.
    pub files: Vec<PhantomFile>,
    /// The disks, in no order that means anything.
    pub truth: Vec<TruthDisk>,
}

/// Intensities that disks have, in units; a thousandth is the score. One of each tier first.
const INTENSITIES: [i32; 8] = [900, 550, 350, 750, 450, 980, 650, 850];
/// Soft tissue, units.
const TISSUE: i32 = 40;
/// Air, units.
const AIR: i32 = -900;

/// A ball (or disk), in pixels within the slice and mm across slices.
struct Ball {
    column: f64,
    row: f64,
    slice: u32,
    radius_mm: f64,
    intensity: i32,
}

/// Makes a study.
pub fn generate(spec: &Spec) -> Result<Phantom, PhantomError> {
    let within = |length: f64| (0.05..=20.0).contains(&length);
    let slices = match spec.kind {
        Kind::Ct { slices } => slices,
        Kind::Dx | Kind::Cr => 1,
    };
    for (holds, name) in [
        ((64..=4096).contains(&spec.rows), "rows"),
        ((64..=4096).contains(&spec.columns), "columns"),
        ((1..=2000).contains(&slices), "slices"),
        (spec.disks <= 32, "disks"),
        (spec.noise <= 150, "noise"),
        (within(spec.row_mm) && within(spec.column_mm) && within(spec.slice_mm), "a distance in mm"),
        (!(spec.monochrome1 && matches!(spec.kind, Kind::Ct { .. })), "monochrome1 (no CT has it)"),
    ] {
        if !holds {
            return Err(PhantomError::Spec(name));
        }
    }
    let mut chance = Chance(spec.seed);
    let balls = balls(spec, slices, &mut chance)?;
    let files = (0..slices).map(|slice| file(spec, slice, slices, &balls, &mut chance));
    let files = files.collect::<Result<Vec<_>, _>>()?;
    let tier = |intensity: i32| match intensity {
        700.. => Tier::Reported,
        400.. => Tier::Flagged,
        _ => Tier::Suppressed,
    };
    let truth = balls
        .iter()
        .map(|ball| TruthDisk {
            file: ball.slice as usize,
            centre: (ball.column, ball.row),
            diameter_mm: 2.0 * ball.radius_mm,
            score: f64::from(ball.intensity) / 1000.0,
            tier: tier(ball.intensity),
        })
        .collect();
    Ok(Phantom { study_uid: uid(spec, "study").into(), accession: accession(spec).into(), files, truth })
}

/// Balls side by side, seen along the slices' axis: none touches another in any slice.
fn balls(spec: &Spec, slices: u32, chance: &mut Chance) -> Result<Vec<Ball>, PhantomError> {
    let (columns, rows) = (f64::from(spec.columns), f64::from(spec.rows));
    // Five pixels across the shorter direction are the least that the detector's area limit takes.
    let least = 5.0 * spec.row_mm.max(spec.column_mm);
    let most = (columns * spec.column_mm).min(rows * spec.row_mm) / 20.0;
    let mut balls: Vec<Ball> = Vec::new();
    for index in 0..spec.disks {
        let placed = (0..2000).find_map(|_| {
            let ball = Ball {
                column: columns * chance.between(0.2, 0.8),
                row: rows * chance.between(0.2, 0.8),
                slice: (chance.between(0.0, f64::from(slices)) as u32).min(slices - 1),
                radius_mm: chance.between(least, most.max(least + 0.5)),
                intensity: INTENSITIES[index % INTENSITIES.len()],
            };
            let apart = balls.iter().all(|other| {
                let gap_mm = 4.0 * spec.row_mm.max(spec.column_mm);
                let across = (ball.column - other.column) * spec.column_mm;
                let down = (ball.row - other.row) * spec.row_mm;
                across.hypot(down) > ball.radius_mm + other.radius_mm + gap_mm
            });
            apart.then_some(ball)
        });
        balls.push(placed.ok_or(PhantomError::NoRoom(spec.disks))?);
    }
    Ok(balls)
}

/// Units of every pixel of a slice, row by row.
fn draw(spec: &Spec, slice: u32, balls: &[Ball], chance: &mut Chance) -> Vec<i32> {
    let (columns, rows) = (f64::from(spec.columns), f64::from(spec.rows));
    let mut units = Vec::with_capacity((spec.columns * spec.rows) as usize);
    // What of each ball this slice cuts. Caps narrower than half the ball are left out, so that
    // boxes on adjacent slices overlap enough to be known as one lesion.
    let cuts: Vec<(&Ball, f64)> = balls
        .iter()
        .filter_map(|ball| {
            let off_mm = (f64::from(ball.slice) - f64::from(slice)) * spec.slice_mm;
            let radius_mm = (ball.radius_mm.powi(2) - off_mm.powi(2)).max(0.0).sqrt();
            (radius_mm >= ball.radius_mm / 2.0).then_some((ball, radius_mm))
        })
        .collect();
    for row in 0..spec.rows {
        for column in 0..spec.columns {
            let (x, y) = (f64::from(column) + 0.5, f64::from(row) + 0.5);
            let disk = cuts.iter().find(|(ball, radius_mm)| {
                ((x - ball.column) * spec.column_mm).hypot((y - ball.row) * spec.row_mm) <= *radius_mm
            });
            let noise = chance.between(-f64::from(spec.noise), f64::from(spec.noise)) as i32;
            let inside = ((x / columns - 0.5) / 0.46).hypot((y / rows - 0.5) / 0.46) <= 1.0;
            units.push(match disk {
                // A little less off the centre, so that the slice through it is the best one.
                Some((ball, _)) => {
                    ball.intensity - i32::try_from(2 * ball.slice.abs_diff(slice)).unwrap_or(40).min(40)
                }
                None if inside => TISSUE + noise,
                None => AIR + noise,
            });
        }
    }
    units
}

fn file(
    spec: &Spec,
    slice: u32,
    slices: u32,
    balls: &[Ball],
    chance: &mut Chance,
) -> Result<PhantomFile, PhantomError> {
    // 12 bits, as scanners have: -1024 to 3071 for CT, else 0 to 4095, mirrored for MONOCHROME1.
    let offset = if matches!(spec.kind, Kind::Ct { .. }) { 1024 } else { 0 };
    let stored: Vec<u16> = draw(spec, slice, balls, chance)
        .into_iter()
        .map(|units| {
            let value = (units + offset).clamp(0, 4095);
            u16::try_from(if spec.monochrome1 { 4095 - value } else { value }).unwrap_or_default()
        })
        .collect();
    let (class, modality) = match spec.kind {
        Kind::Ct { .. } => (uids::CT_IMAGE_STORAGE, "CT"),
        Kind::Dx => (uids::DIGITAL_X_RAY_IMAGE_STORAGE_FOR_PRESENTATION, "DX"),
        Kind::Cr => (uids::COMPUTED_RADIOGRAPHY_IMAGE_STORAGE, "CR"),
    };
    let instance_uid = uid(spec, &format!("instance {slice}"));
    let series_uid = uid(spec, "series");
    let mut object = InMemDicomObject::new_empty();
    let mut put = |tag: Tag, vr: VR, value: &str| {
        object.put(DataElement::new(tag, vr, PrimitiveValue::from(value)));
    };
    put(tags::SPECIFIC_CHARACTER_SET, VR::CS, "ISO_IR 100");
    put(tags::SOP_CLASS_UID, VR::UI, class);
    put(tags::SOP_INSTANCE_UID, VR::UI, &instance_uid);
    put(tags::STUDY_DATE, VR::DA, "20260102");
    put(tags::CONTENT_DATE, VR::DA, "20260102");
    put(tags::STUDY_TIME, VR::TM, "030405");
    put(tags::CONTENT_TIME, VR::TM, "030405");
    put(tags::ACCESSION_NUMBER, VR::SH, &accession(spec));
    put(tags::MODALITY, VR::CS, modality);
    put(tags::MANUFACTURER, VR::LO, "Lightbox project");
    put(tags::REFERRING_PHYSICIAN_NAME, VR::PN, "");
    put(tags::STUDY_DESCRIPTION, VR::LO, "Lightbox phantom");
    put(tags::PATIENT_NAME, VR::PN, "PHANTOM^LIGHTBOX");
    put(tags::PATIENT_ID, VR::LO, &format!("PHANTOM-{}", spec.seed % 1_000_000));
    put(tags::PATIENT_BIRTH_DATE, VR::DA, "19700101");
    put(tags::PATIENT_SEX, VR::CS, "O");
    put(tags::PATIENT_AGE, VR::AS, "056Y");
    put(tags::BODY_PART_EXAMINED, VR::CS, "PHANTOM");
    put(tags::STUDY_INSTANCE_UID, VR::UI, &uid(spec, "study"));
    put(tags::SERIES_INSTANCE_UID, VR::UI, &series_uid);
    put(tags::STUDY_ID, VR::SH, "1");
    put(tags::SERIES_NUMBER, VR::IS, "1");
    put(tags::INSTANCE_NUMBER, VR::IS, &(slice + 1).to_string());
    put(tags::IMAGE_TYPE, VR::CS, "DERIVED\\PRIMARY");
    put(tags::PATIENT_ORIENTATION, VR::CS, "L\\F");
    // DX says it by Image Laterality instead.
    if spec.kind != Kind::Dx {
        put(tags::LATERALITY, VR::CS, "");
    }
    put(tags::RESCALE_INTERCEPT, VR::DS, &format!("-{offset}").replace("-0", "0"));
    put(tags::RESCALE_SLOPE, VR::DS, "1");
    put(tags::BURNED_IN_ANNOTATION, VR::CS, "NO");
    put(tags::PIXEL_SPACING, VR::DS, &format!("{}\\{}", spec.row_mm, spec.column_mm));
    let photometric = if spec.monochrome1 { "MONOCHROME1" } else { "MONOCHROME2" };
    put(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, photometric);
    if let Kind::Ct { .. } = spec.kind {
        let height = (f64::from(slice) - f64::from(slices - 1) / 2.0) * spec.slice_mm;
        put(tags::IMAGE_TYPE, VR::CS, "DERIVED\\PRIMARY\\AXIAL");
        put(tags::RESCALE_TYPE, VR::LO, "HU");
        put(tags::SLICE_THICKNESS, VR::DS, &spec.slice_mm.to_string());
        put(tags::FRAME_OF_REFERENCE_UID, VR::UI, &uid(spec, "frame of reference"));
        put(tags::POSITION_REFERENCE_INDICATOR, VR::LO, "");
        put(tags::IMAGE_ORIENTATION_PATIENT, VR::DS, "1\\0\\0\\0\\1\\0");
        put(tags::IMAGE_POSITION_PATIENT, VR::DS, &format!("-180\\-180\\{height}"));
        put(tags::PATIENT_POSITION, VR::CS, "HFS");
        put(tags::ACQUISITION_NUMBER, VR::IS, "1");
        put(tags::WINDOW_CENTER, VR::DS, "300");
        put(tags::WINDOW_WIDTH, VR::DS, "1600");
        put(tags::KVP, VR::DS, "120");
    } else {
        // The phantom's plane was measured: lengths in it are lengths in the patient.
        put(tags::PIXEL_SPACING_CALIBRATION_TYPE, VR::CS, "FIDUCIAL");
        put(tags::PIXEL_SPACING_CALIBRATION_DESCRIPTION, VR::LO, "made to this size");
        put(tags::RESCALE_TYPE, VR::LO, "US");
        put(tags::VIEW_POSITION, VR::CS, "AP");
        let shape = if spec.monochrome1 { "INVERSE" } else { "IDENTITY" };
        put(tags::PRESENTATION_LUT_SHAPE, VR::CS, shape);
    }
    if spec.kind == Kind::Dx {
        put(tags::PRESENTATION_INTENT_TYPE, VR::CS, "FOR PRESENTATION");
        put(tags::IMAGE_LATERALITY, VR::CS, "U");
        put(tags::PIXEL_INTENSITY_RELATIONSHIP, VR::CS, "LIN");
        put(tags::LOSSY_IMAGE_COMPRESSION, VR::CS, "00");
        put(tags::DETECTOR_TYPE, VR::CS, "");
        put(tags::POSITIONER_TYPE, VR::CS, "");
        put(tags::IMAGER_PIXEL_SPACING, VR::DS, &format!("{}\\{}", spec.row_mm, spec.column_mm));
        put(tags::WINDOW_CENTER, VR::DS, "500");
        put(tags::WINDOW_WIDTH, VR::DS, "1000");
        for tag in [tags::ANATOMIC_REGION_SEQUENCE, tags::ACQUISITION_CONTEXT_SEQUENCE] {
            object.put(DataElement::new(tag, VR::SQ, DataSetSequence::<InMemDicomObject>::empty()));
        }
        let sign = dicom_value!(I16, [if spec.monochrome1 { -1 } else { 1 }]);
        object.put(DataElement::new(tags::PIXEL_INTENSITY_RELATIONSHIP_SIGN, VR::SS, sign));
    }
    for (tag, value) in [
        (tags::SAMPLES_PER_PIXEL, 1),
        (tags::ROWS, u16::try_from(spec.rows).unwrap_or_default()),
        (tags::COLUMNS, u16::try_from(spec.columns).unwrap_or_default()),
        (tags::BITS_ALLOCATED, 16),
        (tags::BITS_STORED, 12),
        (tags::HIGH_BIT, 11),
        (tags::PIXEL_REPRESENTATION, 0),
    ] {
        object.put(DataElement::new(tag, VR::US, dicom_value!(U16, [value])));
    }
    object.put(DataElement::new(tags::PIXEL_DATA, VR::OW, PrimitiveValue::U16(stored.into())));

    let encode = |error: String| PhantomError::Encode(error);
    let meta = FileMetaTableBuilder::new().transfer_syntax(uids::EXPLICIT_VR_LITTLE_ENDIAN);
    let object = object.with_meta(meta).map_err(|error| encode(error.to_string()))?;
    let mut bytes = Vec::new();
    object.write_all(&mut bytes).map_err(|error| encode(error.to_string()))?;
    let instance = InstanceRef {
        series_uid: series_uid.into(),
        sop_class_uid: class.to_owned(),
        sop_instance_uid: instance_uid.into(),
        modality: modality.to_owned(),
        frames: 1,
    };
    Ok(PhantomFile { instance, bytes })
}

fn accession(spec: &Spec) -> String {
    format!("PH{}", spec.seed % 100_000_000)
}

/// A UID under 2.25 from the specification and a role.
fn uid(spec: &Spec, role: &str) -> String {
    let hash = Sha256::digest(format!("lightbox phantom\n{spec:?}\n{role}"));
    let number = hash.iter().take(16).fold(0_u128, |number, byte| number << 8 | u128::from(*byte));
    let number = number & !(0xf << 76) & !(0x3 << 62) | 0x8 << 76 | 0x2 << 62;
    format!("2.25.{number}")
}

/// SplitMix64: the phantom's own chance, so that a seed means the same in every version.
struct Chance(u64);

impl Chance {
    fn between(&mut self, low: f64, high: f64) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        low + (high - low) * (mixed >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_the_same_bytes_and_another_seed_others() {
        let spec = Spec { rows: 128, columns: 96, ..Spec::new(Kind::Ct { slices: 3 }, 7) };
        let (one, two) = (generate(&spec).unwrap(), generate(&spec).unwrap());
        assert_eq!(one.files.len(), 3);
        assert!(one.files.iter().zip(&two.files).all(|(a, b)| a.bytes == b.bytes));
        let other = generate(&Spec { seed: 8, ..spec }).unwrap();
        assert_ne!(one.study_uid, other.study_uid);
        assert_ne!(one.truth, other.truth);
        let tiers: Vec<Tier> = one.truth.iter().take(3).map(|disk| disk.tier).collect();
        assert_eq!(tiers, [Tier::Reported, Tier::Flagged, Tier::Suppressed]);
    }

    #[test]
    fn what_cannot_be_made_is_refused() {
        let spec = Spec::new(Kind::Dx, 1);
        let crowded = Spec { rows: 64, columns: 64, disks: 32, ..spec };
        assert!(matches!(generate(&crowded), Err(PhantomError::NoRoom(32))));
        assert!(matches!(generate(&Spec { rows: 5000, ..spec }), Err(PhantomError::Spec("rows"))));
        assert!(generate(&Spec { row_mm: f64::NAN, ..spec }).is_err());
    }
}
