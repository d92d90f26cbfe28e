//! From a phantom's files to findings, through ONNX Runtime, against the exact truth.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod common;

use std::path::Path;
use std::sync::Arc;

use lightbox::dicom::part_ten::Source;
use lightbox::finding::{Completeness, ModelResult};
use lightbox::infer::engine::EngineHandle;
use lightbox::infer::image::Limits;
use lightbox::infer::{StoredImage, load, run};
use lightbox::phantom::truth::Truth;
use lightbox::phantom::{Kind, Phantom, Spec, generate};
use lightbox::structure::structure;
use lightbox_models::Bundle;

fn bundle() -> Arc<Bundle> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/reference/phantom-detector/bundle");
    Arc::new(Bundle::open(&folder).unwrap())
}

fn store(phantom: &Phantom, folder: &Path) -> Vec<StoredImage> {
    let write = |(index, file): (usize, &lightbox::phantom::PhantomFile)| {
        let path = folder.join(index.to_string());
        std::fs::write(&path, &file.bytes).unwrap();
        StoredImage { instance: file.instance.clone(), source: Source::file(path) }
    };
    phantom.files.iter().enumerate().map(write).collect()
}

async fn examine(bundle: &Arc<Bundle>, engine: &EngineHandle, phantom: &Phantom) -> ModelResult {
    let folder = tempfile::tempdir().unwrap();
    let images = store(phantom, folder.path());
    load(bundle, engine).await.unwrap();
    structure(bundle, &run(bundle, engine, &images, &Limits::default()).await.unwrap())
}

/// Every disk is found where it is, as large as it is, with its score and tier; nothing else is.
fn compare(spec: &Spec, phantom: &Phantom, result: &ModelResult) {
    assert_eq!(result.completeness, Completeness::Complete, "{spec:?}");
    assert_eq!(result.findings.len(), phantom.truth.len(), "{spec:?}: {:#?}", result.findings);
    for disk in &phantom.truth {
        let near = result.findings.iter().find(|finding| {
            let (column, row) = finding.source.region.unwrap().centre();
            (column - disk.centre.0).abs() <= 1.0 && (row - disk.centre.1).abs() <= 1.0
        });
        let finding = near.unwrap_or_else(|| panic!("{spec:?}: nothing at {disk:?}"));
        assert_eq!(finding.tier, disk.tier, "{spec:?}");
        assert!((finding.score - disk.score).abs() < 1e-6, "{spec:?}: {} {disk:?}", finding.score);
        assert_eq!(finding.source.instance, phantom.files[disk.file].instance, "{spec:?}: {disk:?}");
        let pixel = spec.row_mm.max(spec.column_mm);
        for measurement in &finding.measurements {
            assert_eq!(measurement.unit.value, "mm");
            let off = (measurement.value - disk.diameter_mm).abs();
            assert!(off <= pixel, "{spec:?}: {} is off by {off} mm of {disk:?}", measurement.name.meaning);
        }
    }
}

#[tokio::test]
async fn every_disk_is_found_exactly_and_nothing_is_invented() {
    let (bundle, engine) = (bundle(), common::engine().await);
    for seed in 0..6 {
        let ct = Spec { rows: 256, columns: 320, ..Spec::new(Kind::Ct { slices: 9 }, seed) };
        let dx = Spec { rows: 900, columns: 700, disks: 9, ..Spec::new(Kind::Dx, seed) };
        let stretched = Spec { row_mm: 0.5, column_mm: 1.1, disks: 3, ..ct };
        let cr = Spec { kind: Kind::Cr, monochrome1: true, ..dx };
        for spec in [ct, dx, stretched, cr, Spec { disks: 0, ..ct }, Spec { noise: 0, disks: 1, ..dx }] {
            let phantom = generate(&spec).unwrap();
            compare(&spec, &phantom, &examine(&bundle, &engine, &phantom).await);
        }
    }
}

#[tokio::test]
async fn a_full_size_study_is_exact_and_fast_enough() {
    let (bundle, engine) = (bundle(), common::engine().await);
    let spec = Spec::new(Kind::Ct { slices: 12 }, 42);
    let phantom = generate(&spec).unwrap();
    let started = std::time::Instant::now();
    let result = examine(&bundle, &engine, &phantom).await;
    let each = started.elapsed() / 12;
    println!("{} ms for each 512 x 512 slice, loading included", each.as_millis());
    compare(&spec, &phantom, &result);
    assert!(each.as_millis() < 1500, "{each:?} for each slice");
}

#[tokio::test]
async fn the_tensor_of_a_file_larger_than_the_limit_leads_back_to_its_own_pixels() {
    let (bundle, engine) = (bundle(), common::engine().await);
    let spec = Spec { rows: 1500, columns: 2000, ..Spec::new(Kind::Dx, 5) };
    let phantom = generate(&spec).unwrap();
    let result = examine(&bundle, &engine, &phantom).await;
    assert_eq!(result.findings.len(), phantom.truth.len());
    for disk in &phantom.truth {
        // Shrunk by 1.95: two pixels of the source are one of the tensor.
        let near = result.findings.iter().any(|finding| {
            let (column, row) = finding.source.region.unwrap().centre();
            (column - disk.centre.0).abs() <= 2.0 && (row - disk.centre.1).abs() <= 2.0
        });
        assert!(near, "nothing at {disk:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_examined_is_told_and_costs_only_itself() {
    let (bundle, engine) = (bundle(), common::engine().await);
    load(&bundle, &engine).await.unwrap();
    let phantom =
        generate(&Spec { rows: 64, columns: 64, disks: 1, ..Spec::new(Kind::Ct { slices: 4 }, 3) }).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let images = store(&phantom, folder.path());
    std::fs::write(folder.path().join("0"), b"no DICOM").unwrap();
    let bytes = &phantom.files[1].bytes;
    std::fs::write(folder.path().join("1"), &bytes[..bytes.len() - 1000]).unwrap();
    let result = run(&bundle, &engine, &images, &Limits::default()).await.unwrap();
    assert_eq!(result.examined.len(), 2);
    let Completeness::Partial(reason) = &result.completeness else { panic!("{:?}", result.completeness) };
    assert!(reason.contains("1 image: the stored file is not a DICOM Part 10 file"), "{reason}");
    assert!(!reason.contains("2.25."), "a UID in {reason}");

    let result = run(&bundle, &engine, &images[..1], &Limits::default()).await.unwrap();
    assert!(matches!(result.completeness, Completeness::NotRun(_)));
    let small = Limits { frame_samples_max: 1000, ..Limits::default() };
    let result = run(&bundle, &engine, &images[2..], &small).await.unwrap();
    let Completeness::NotRun(reason) = &result.completeness else { panic!("{:?}", result.completeness) };
    assert_eq!(reason, "2 images: the image is too large: one frame has more pixels than the limit");
    let result = run(&bundle, &engine, &[], &Limits::default()).await.unwrap();
    let none = Completeness::NotRun("the study has no CT or DX or CR image".into());
    assert_eq!(result.completeness, none);
}

/// Real images are not phantoms, but the detector must survive them: thousands of bright regions,
/// at most 64 detections, all inside the image.
#[tokio::test]
async fn real_images_are_survived() {
    let engine = common::engine().await;
    let folder = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/reference/phantom-detector/bundle");
    for entry in std::fs::read_dir(&source).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    // The same network, for any body part, CT, CR or MR.
    let manifest = folder.path().join("manifest.toml");
    let text = std::fs::read_to_string(&manifest).unwrap();
    let text = text.replace("body_parts = [\"PHANTOM\"]", "").replace("\"CR\"]", "\"CR\", \"MR\"]");
    std::fs::write(&manifest, text).unwrap();
    let bundle = Arc::new(Bundle::open(folder.path()).unwrap());
    load(&bundle, &engine).await.unwrap();
    for name in [
        "pydicom/test_files/CT_small.dcm",
        "pydicom/test_files/693_J2KI.dcm",
        "pydicom-data/693_UNCI.dcm",
        "pydicom-data/RG1_UNCI.dcm",
        "pydicom-data/RG1_J2KR.dcm",
        "pydicom-data/RG3_UNCI.dcm",
        "pydicom-data/emri_small.dcm",
        "pydicom-data/eCT_Supplemental.dcm",
    ] {
        let path = common::part("samples").join(name);
        let instance = lightbox::finding::InstanceRef {
            series_uid: "1.2".into(),
            sop_class_uid: String::new(),
            sop_instance_uid: "1.2.3".into(),
            modality: "CT".into(),
            frames: 1,
        };
        let started = std::time::Instant::now();
        let raw = run(
            &bundle,
            &engine,
            &[StoredImage { instance, source: Source::file(path) }],
            &Limits::default(),
        )
        .await
        .unwrap();
        assert_eq!(raw.completeness, Completeness::Complete, "{name}");
        let found = structure(&bundle, &raw).findings;
        println!("{name}: {} frames, {} findings, {:?}", raw.frames.len(), found.len(), started.elapsed());
        assert!(found.len() <= 64 * raw.frames.len(), "{name}");
        for finding in &found {
            let region = finding.source.region.unwrap();
            let geometry = &raw.frames[0].geometry;
            assert!(region.left >= 0.0 && region.right <= f64::from(geometry.columns), "{name}");
            assert!(region.top >= 0.0 && region.bottom <= f64::from(geometry.rows), "{name}");
        }
    }
}

#[tokio::test]
async fn the_health_gate_s_phantom_is_answered_exactly_whatever_its_seed() {
    let (bundle, engine) = (bundle(), common::engine().await);
    let mut wrong = Vec::new();
    for seed in 0..60 {
        // The gate draws any of 2^64.
        let seed = 0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(seed + 1);
        let spec = Spec { rows: 128, columns: 128, disks: 3, ..Spec::new(Kind::Ct { slices: 4 }, seed) };
        let phantom = generate(&spec).unwrap();
        let result = examine(&bundle, &engine, &phantom).await;
        if let Err(why) = Truth::new(phantom, &spec).check(&result.findings) {
            wrong.push(format!("seed {seed:#x}: {why}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
