//! One input by itself, for golden cases and acceptance sets: the raw outputs as they leave the network, and
//! what they mean. The way is the one of clinical images: the same decoding, preparation and engine.

use std::io::Cursor;
use std::sync::Arc;

use lightbox_models::Bundle;
use lightbox_models::golden::Tensor as Found;
use lightbox_models::manifest::Precision;

use super::engine::{EngineError, EngineHandle, Tensor, TensorData};
use super::image::{Image, Limits};
use super::preprocess::Transform;
use super::{header, key, prepare, read};
use crate::dicom::part_ten::{DataSet, Head, Source};
use crate::raw::RawOutput;

/// An input.
#[derive(Clone, Debug)]
pub enum Input {
    /// A DICOM file and the frame to run, from 1.
    Dicom(Vec<u8>, u32),
    /// The network's own input, 32-bit little-endian floats.
    Tensor(Vec<u8>, Vec<u64>),
}

/// What came out.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// All outputs of the network.
    pub tensors: Vec<Found>,
    /// What the manifest makes of them, in the frame's coordinates.
    pub output: RawOutput,
    /// Tensor columns for each of the frame's columns, rows for each row.
    pub scale: (f64, f64),
}

/// Why a model did not run on an input, without patient data.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRun {
    /// The engine refused or failed.
    #[error("{0}")]
    Engine(EngineError),
    /// The input is not one of this model, or the output is not what its manifest says.
    #[error("{0}")]
    Other(String),
}

impl From<String> for NotRun {
    fn from(why: String) -> Self {
        NotRun::Other(why)
    }
}

/// Runs a loaded model on one input.
pub async fn run(bundle: &Arc<Bundle>, engine: &EngineHandle, input: Input) -> Result<Outcome, NotRun> {
    run_precision(bundle, Precision::Fp32, engine, input).await
}

/// As [`run`], by the loaded network of that number format.
pub async fn run_precision(
    bundle: &Arc<Bundle>,
    precision: Precision,
    engine: &EngineHandle,
    input: Input,
) -> Result<Outcome, NotRun> {
    let for_thread = Arc::clone(bundle);
    let made = tokio::task::spawn_blocking(move || tensor(&for_thread, input));
    let (tensor, transform, size) = made.await.map_err(|_| "interrupted".to_owned())??;
    let outputs = engine.run(&key(bundle, precision), vec![tensor]).await.map_err(NotRun::Engine)?;
    let output = read(bundle, &outputs, &transform, size).map_err(|error| error.to_string())?;
    Ok(Outcome { tensors: outputs.iter().map(found).collect(), output, scale: transform.scale })
}

type Made = (Tensor, Transform, (u32, u32));

fn tensor(bundle: &Bundle, input: Input) -> Result<Made, String> {
    match input {
        Input::Dicom(bytes, frame) => {
            let image = Image::read(&source(bytes), &Limits::default()).map_err(|error| error.to_string())?;
            let indication = &bundle.manifest().indication;
            if !header::selected(image.object(), indication) {
                return Err("the image is not of the indication's modality".into());
            }
            if let Some(reason) = header::outside(image.object(), indication) {
                return Err(format!("outside the indication: {reason}"));
            }
            let (tensor, transform) = prepare(&image, frame, bundle)?;
            Ok((tensor, transform, (image.layout().columns, image.layout().rows)))
        }
        Input::Tensor(bytes, shape) => {
            let values =
                bytes.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]));
            let shape: Vec<usize> =
                shape.iter().map(|axis| usize::try_from(*axis).unwrap_or(usize::MAX)).collect();
            let input = &bundle.manifest().input;
            // [1, channels, height, width] or [1, height, width, channels].
            let axis = |at: usize| shape.get(at).and_then(|axis| u32::try_from(*axis).ok()).unwrap_or(0);
            let size = match input.layout {
                lightbox_models::manifest::Layout::Nchw => (axis(3), axis(2)),
                lightbox_models::manifest::Layout::Nhwc => (axis(2), axis(1)),
            };
            let tensor = Tensor::new(&input.tensor, shape, TensorData::F32(values.collect()))
                .map_err(|error| error.to_string())?;
            Ok((tensor, Transform { scale: (1.0, 1.0), offset: (0.0, 0.0) }, size))
        }
    }
}

/// The data set of a Part 10 file in memory.
fn source(bytes: Vec<u8>) -> Source {
    let bytes: Arc<[u8]> = bytes.into();
    Source::new(move || {
        let mut head = Head::default();
        let (named, at) = head.push(&bytes)?.ok_or_else(short)?;
        let data_set = bytes.get(at..).unwrap_or_default().to_vec();
        Ok(DataSet {
            transfer_syntax: named.transfer_syntax,
            length: data_set.len() as u64,
            bytes: Box::new(Cursor::new(data_set)),
        })
    })
}

fn short() -> crate::dicom::part_ten::PartTenError {
    std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()
}

fn found(tensor: &Tensor) -> Found {
    let values = match &tensor.data {
        TensorData::F32(values) => values.iter().map(|value| f64::from(*value)).collect(),
        TensorData::I64(values) => values.iter().map(|value| *value as f64).collect(),
        TensorData::I32(values) => values.iter().map(|value| f64::from(*value)).collect(),
        TensorData::U8(values) => values.iter().map(|value| f64::from(*value)).collect(),
    };
    Found {
        tensor: tensor.name.clone(),
        shape: tensor.shape.iter().map(|axis| *axis as u64).collect(),
        values,
    }
}
