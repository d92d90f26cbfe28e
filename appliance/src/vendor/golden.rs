//! Running the network on a golden case's input, the way that a clinical image goes.

use std::path::Path;

use anyhow::{Context as _, bail};
use lightbox_models::Manifest;
use lightbox_models::golden::{Expected, Tensor as Values};
use lightbox_models::plain;

use crate::infer::engine::{LoadedModel, Tensor, TensorData};
use crate::infer::image::{Image, Limits};
use crate::infer::{header, preprocess};

/// The raw outputs that a network has on a DICOM file's frame.
pub fn run(
    model: &mut dyn LoadedModel,
    manifest: &Manifest,
    input: &Path,
    frame: u32,
) -> anyhow::Result<Expected> {
    let named = || format!("{}", input.display());
    // A pipe or a device would be waited for.
    drop(plain::open(input).with_context(super::unread(input))?);
    let image = Image::open(input, &Limits::default()).with_context(named)?;
    if !header::selected(image.object(), &manifest.indication) {
        bail!(
            "{}: its modality is none of indication.modalities; remedy: give an image inside the indication",
            input.display()
        );
    }
    if let Some(reason) = header::outside(image.object(), &manifest.indication) {
        bail!(
            "{}: outside the indication: {reason}; remedy: give an image inside the indication",
            input.display()
        );
    }
    if !(1..=image.layout().frames).contains(&frame) {
        bail!(
            "{}: has {} frames, frame {frame} is asked for; remedy: mend golden.frame",
            input.display(),
            image.layout().frames
        );
    }
    let decoded = image.frame(frame).with_context(named)?;
    let (tensor, _) = preprocess::tensor(&image, &decoded, frame, &manifest.input).with_context(named)?;
    let outputs = model.run(vec![tensor]).with_context(named)?;
    let mut found = Vec::new();
    for name in manifest.output_tensors() {
        let Some(output) = outputs.iter().find(|output| output.name == name) else {
            bail!(
                "the network has no output {name:?}; remedy: name one of {:?} in [output]",
                outputs.iter().map(|output| &output.name).collect::<Vec<_>>()
            );
        };
        found.push(values(output)?);
    }
    Ok(Expected { schema: 1, outputs: found })
}

fn values(output: &Tensor) -> anyhow::Result<Values> {
    let values: Vec<f64> = match &output.data {
        TensorData::F32(values) => values.iter().map(|value| f64::from(*value)).map(rounded).collect(),
        TensorData::I64(values) => values.iter().map(|value| *value as f64).collect(),
        TensorData::I32(values) => values.iter().map(|value| f64::from(*value)).collect(),
        TensorData::U8(values) => values.iter().map(|value| f64::from(*value)).collect(),
    };
    if values.iter().any(|value| !value.is_finite()) {
        bail!(
            "the output {:?} has values that are not finite; remedy: give an image that the network can take",
            output.name
        );
    }
    let shape = output.shape.iter().map(|axis| *axis as u64).collect();
    Ok(Values { tensor: output.name.clone(), shape, values })
}

/// Seven digits: what a 32-bit float holds.
fn rounded(value: f64) -> f64 {
    format!("{value:.6e}").parse().unwrap_or(value)
}

/// The file's text.
pub fn text(expected: &Expected) -> anyhow::Result<String> {
    let outputs: Result<Vec<String>, _> = expected.outputs.iter().map(serde_json::to_string).collect();
    Ok(format!("{{\n  \"schema\": 1,\n  \"outputs\": [\n    {}\n  ]\n}}\n", outputs?.join(",\n    ")))
}
