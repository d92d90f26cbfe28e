//! The brain tumour classifier on a real MR slice, where its bundle was fetched.

mod common;

use std::path::Path;
use std::sync::Arc;

use lightbox::dicom::part_ten::Source;
use lightbox::finding::{Completeness, InstanceRef};
use lightbox::infer::image::Limits;
use lightbox::infer::{StoredImage, load, run};
use lightbox::raw::RawOutput;
use lightbox::structure::structure;
use lightbox_models::Bundle;

/// Needs the bundle with its 65 MB of weights, which `./justw parts` fetches.
#[tokio::test]
async fn a_real_slice_goes_all_the_way() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bundles/brain-tumour");
    let bundle = Arc::new(Bundle::open(&folder).unwrap());
    let engine = common::engine().await;
    load(&bundle, &engine).await.unwrap();
    let path = common::part("samples/pydicom/test_files/MR_small.dcm");
    // The sample does not state its body part: the indication must refuse it ...
    let instance = InstanceRef {
        series_uid: "1.2".into(),
        sop_class_uid: "1.2.840.10008.5.1.4.1.1.4".into(),
        sop_instance_uid: "1.2.3".into(),
        modality: "MR".into(),
        frames: 1,
    };
    let images = [StoredImage { instance: instance.clone(), source: Source::file(path.clone()) }];
    let refused = run(&bundle, &engine, &images, &Limits::default()).await.unwrap();
    assert!(matches!(refused.completeness, Completeness::NotRun(_)), "{:?}", refused.completeness);

    // ... and with it stated, the model runs.
    let mut object = dicom_object::open_file(&path).unwrap();
    object.put_str(dicom_dictionary_std::tags::BODY_PART_EXAMINED, dicom_core::VR::CS, "HEAD");
    let stated = tempfile::tempdir().unwrap();
    let path = stated.path().join("slice");
    object.write_to_file(&path).unwrap();
    let started = std::time::Instant::now();
    let raw =
        run(&bundle, &engine, &[StoredImage { instance, source: Source::file(path) }], &Limits::default())
            .await
            .unwrap();
    println!("{:?} in {:?}", raw.frames[0].output, started.elapsed());
    let RawOutput::Scores(scores) = &raw.frames[0].output else { panic!() };
    assert!((scores.iter().sum::<f64>() - 1.0).abs() < 1e-5);
    let result = structure(&bundle, &raw);
    assert_eq!(result.completeness, Completeness::Complete);
    // Three findings of one series, "no tumour" makes none.
    assert_eq!(result.findings.len(), 3);
    assert!(result.findings.iter().all(|finding| finding.label != "notumor"));
}
