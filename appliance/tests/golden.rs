//! The reference bundles' golden cases on this machine: the files' expected outputs come from another
//! preparation of the image than ours (`models/reference/golden.py`).
#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod common;

use std::path::Path;
use std::sync::Arc;

use lightbox::dicom::part_ten::Source;
use lightbox::finding::InstanceRef;
use lightbox::infer::image::Limits;
use lightbox::infer::{StoredImage, load, run};
use lightbox::raw::RawOutput;
use lightbox_models::Bundle;
use lightbox_models::golden::Tensor;

async fn golden(folder: &str, modality: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder);
    let bundle = Arc::new(Bundle::open(&folder).unwrap());
    let engine = common::engine().await;
    load(&bundle, &engine).await.unwrap();
    for case in &bundle.manifest().golden {
        let (_, expected) = bundle.read_golden(case).unwrap();
        let instance = InstanceRef {
            series_uid: "1.2".into(),
            sop_class_uid: String::new(),
            sop_instance_uid: "1.2.3".into(),
            modality: modality.into(),
            frames: 1,
        };
        let image = StoredImage { instance, source: Source::file(folder.join(&case.input)) };
        let raw = run(&bundle, &engine, &[image], &Limits::default()).await.unwrap();
        assert_eq!(raw.frames.len(), 1, "{:?}", raw.completeness);
        let tensor = |name: &str, shape: &[u64], values: Vec<f64>| Tensor {
            tensor: name.to_owned(),
            shape: shape.to_vec(),
            values,
        };
        let found = match &raw.frames[0].output {
            RawOutput::Scores(scores) => vec![tensor("dense_3", &[1, scores.len() as u64], scores.clone())],
            RawOutput::Detections(boxes) => {
                let count = boxes.len() as u64;
                let sides = |region: lightbox::finding::Region| {
                    [region.left, region.top, region.right, region.bottom]
                };
                vec![
                    tensor(
                        "boxes",
                        &[count, 4],
                        boxes.iter().flat_map(|found| sides(found.region)).collect(),
                    ),
                    tensor("scores", &[count], boxes.iter().map(|found| found.score).collect()),
                    tensor("labels", &[count], boxes.iter().map(|found| f64::from(found.label)).collect()),
                ]
            }
        };
        assert_eq!(expected.compare(case, &found), [], "{}", case.name);
    }
}

#[tokio::test]
async fn the_phantom_detectors_golden_case_passes() {
    golden("models/reference/phantom-detector/bundle", "CT").await;
}

/// Needs the bundle with its 65 MB of weights, which `./justw parts` fetches.
#[tokio::test]
async fn the_brain_tumour_classifiers_golden_case_passes() {
    golden("target/bundles/brain-tumour", "MR").await;
}
