//! Stage 2, infer: pixels to a calibrated tensor, a run of the engine, raw outputs.
//!
//! [`run`] takes a bundle, an engine and a study's images, and yields what the network said of each
//! frame, in the frame's own pixel coordinates, with the place of the frame in the patient. An
//! image that cannot be examined costs itself, never the study: it is told with its reason, which
//! carries no patient data.

pub mod engine;
mod frame;
pub mod header;
pub mod image;
pub mod onnx;
mod part10;
pub mod postprocess;
pub mod preprocess;
mod resample;
pub mod trial;

use std::collections::BTreeMap;
use std::sync::Arc;

use lightbox_models::manifest::Precision;
use lightbox_models::{Bundle, BundleError};
use serde::{Deserialize, Serialize};

use crate::dicom::part_ten::Source;
use crate::finding::{Completeness, InstanceRef};
use crate::raw::{FrameOutput, RawOutput, RawResult};
use engine::{EngineError, EngineHandle, RunLimits, Tensor};
use image::{Image, ImageError, Limits};
use postprocess::OutputError;
use preprocess::Transform;

/// Settings of the stage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The engine.
    pub engine: onnx::Config,
    /// Bounds on one image.
    pub limits: Limits,
}

/// Why a model could not be run on a study at all. A retry may help; no image is at fault.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The engine refused or failed.
    #[error("the engine: {0}")]
    Engine(#[source] EngineError),
    /// The outputs are not what the manifest says.
    #[error("the model: {0}")]
    Output(#[source] OutputError),
    /// The bundle's network cannot be read.
    #[error("the bundle: {0}")]
    Bundle(#[source] BundleError),
    /// The process is shutting down.
    #[error("interrupted")]
    Interrupted,
}

/// One stored image of the study.
#[derive(Clone, Debug)]
pub struct StoredImage {
    /// Its identifiers.
    pub instance: InstanceRef,
    /// Its data set.
    pub source: Source,
}

/// Loads a bundle's network into an engine; does nothing where it is loaded.
pub async fn load(bundle: &Arc<Bundle>, engine: &EngineHandle) -> Result<(), Error> {
    load_precision(bundle, Precision::Fp32, engine).await
}

/// As [`load`], the network of that number format; the engine knows it by its [`key`].
pub async fn load_precision(
    bundle: &Arc<Bundle>,
    precision: Precision,
    engine: &EngineHandle,
) -> Result<(), Error> {
    let reader = Arc::clone(bundle);
    let network = tokio::task::spawn_blocking(move || reader.read_precision(precision));
    let network = network.await.map_err(|_| Error::Interrupted)?.map_err(Error::Bundle)?;
    let limits = RunLimits::of(&bundle.manifest().resources);
    engine.load(&key(bundle, precision), network, limits).await.map_err(Error::Engine)
}

/// The engine's name of a bundle's network.
pub fn key(bundle: &Bundle, precision: Precision) -> String {
    match precision {
        Precision::Fp32 => bundle.digest().to_owned(),
        Precision::Fp16 => format!("{}/fp16", bundle.digest()),
    }
}

/// Runs a loaded model on a study's images, frame by frame.
///
/// Images of other modalities, localizers and objects without pixels are passed over. Of the rest,
/// those outside the indication and those that do not decode make the result
/// [`Completeness::Partial`], or [`Completeness::NotRun`] where nothing is left.
pub async fn run(
    bundle: &Arc<Bundle>,
    engine: &EngineHandle,
    images: &[StoredImage],
    limits: &Limits,
) -> Result<RawResult, Error> {
    let mut frames = Vec::new();
    let mut examined = Vec::new();
    let mut missed: BTreeMap<String, usize> = BTreeMap::new();
    for stored in images {
        match examine(bundle, engine, stored, limits, &mut frames).await? {
            Outcome::Examined => examined.push(stored.instance.clone()),
            Outcome::PassedOver => {}
            Outcome::Missed(reason) => *missed.entry(reason).or_default() += 1,
        }
    }
    let reasons: Vec<String> = missed
        .iter()
        .map(|(reason, count)| format!("{count} image{}: {reason}", if *count == 1 { "" } else { "s" }))
        .collect();
    let reasons = reasons.join("; ");
    let completeness = if frames.is_empty() && reasons.is_empty() {
        let modalities = bundle.manifest().indication.modalities.join(" or ");
        Completeness::NotRun(format!("the study has no {modalities} image"))
    } else if frames.is_empty() {
        Completeness::NotRun(reasons)
    } else if reasons.is_empty() {
        Completeness::Complete
    } else {
        Completeness::Partial(reasons)
    };
    Ok(RawResult { completeness, frames, examined })
}

enum Outcome {
    Examined,
    PassedOver,
    Missed(String),
}

async fn examine(
    bundle: &Arc<Bundle>,
    engine: &EngineHandle,
    stored: &StoredImage,
    limits: &Limits,
    frames: &mut Vec<FrameOutput>,
) -> Result<Outcome, Error> {
    let (source, limits) = (stored.source.clone(), *limits);
    let opened = tokio::task::spawn_blocking(move || Image::read(&source, &limits));
    let image = match opened.await.map_err(|_| Error::Interrupted)? {
        Ok(image) => Arc::new(image),
        Err(ImageError::NotAnImage) => return Ok(Outcome::PassedOver),
        Err(error) if other_modality(bundle, &stored.instance) => {
            tracing::debug!(%error, "passed over an image of another modality");
            return Ok(Outcome::PassedOver);
        }
        Err(error) => return Ok(Outcome::Missed(error.to_string())),
    };
    let indication = &bundle.manifest().indication;
    if !header::selected(image.object(), indication) {
        return Ok(Outcome::PassedOver);
    }
    if let Some(reason) = header::outside(image.object(), indication) {
        return Ok(Outcome::Missed(format!("outside the indication: {reason}")));
    }
    for number in 1..=image.layout().frames {
        let (source, manifest) = (Arc::clone(&image), Arc::clone(bundle));
        let made = tokio::task::spawn_blocking(move || prepare(&source, number, &manifest));
        let (tensor, transform) = match made.await.map_err(|_| Error::Interrupted)? {
            Ok(prepared) => prepared,
            // What was found on the frames before stands; the image does not count as examined.
            Err(reason) => return Ok(Outcome::Missed(reason)),
        };
        let outputs = engine.run(bundle.digest(), vec![tensor]).await.map_err(Error::Engine)?;
        let (columns, rows) = (image.layout().columns, image.layout().rows);
        let output = read(bundle, &outputs, &transform, (columns, rows)).map_err(Error::Output)?;
        let geometry = header::geometry(image.object(), number, columns, rows);
        frames.push(FrameOutput { instance: stored.instance.clone(), frame: number, geometry, output });
    }
    Ok(Outcome::Examined)
}

fn other_modality(bundle: &Bundle, instance: &InstanceRef) -> bool {
    !bundle.manifest().indication.modalities.contains(&instance.modality)
}

/// Decodes a frame and makes its tensor; the error is a reason without patient data.
fn prepare(image: &Image, number: u32, bundle: &Bundle) -> Result<(Tensor, Transform), String> {
    let frame = image.frame(number).map_err(|error| error.to_string())?;
    preprocess::tensor(image, &frame, number, &bundle.manifest().input).map_err(|error| error.to_string())
}

fn read(
    bundle: &Bundle,
    outputs: &[Tensor],
    transform: &Transform,
    size: (u32, u32),
) -> Result<RawOutput, OutputError> {
    let output = &bundle.manifest().output;
    let labels = bundle.manifest().label.len();
    match (&output.detection, &output.classification) {
        (Some(detection), _) => {
            postprocess::detections(outputs, detection, labels, transform, size).map(RawOutput::Detections)
        }
        (None, Some(classification)) => {
            postprocess::scores(outputs, classification, labels).map(RawOutput::Scores)
        }
        // `Bundle::open` refuses such a manifest.
        (None, None) => Err(OutputError { tensor: String::new(), problem: "is not described" }),
    }
}
