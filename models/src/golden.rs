//! The raw outputs of a golden case, and how a run of it compares.
//!
//! A golden case's input is a DICOM file, so that a run proves decoding and preparation of the
//! image too; its outputs are compared as they leave the network:
//!
//! ```json
//! {
//!   "schema": 1,
//!   "outputs": [
//!     { "tensor": "boxes", "shape": [1, 4], "values": [10, 12, 30, 32] },
//!     { "tensor": "scores", "shape": [1], "values": [0.8] }
//!   ]
//! }
//! ```

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::manifest::Golden;

/// The one schema of expected outputs.
const SCHEMA: u32 = 1;
/// Most axes of a tensor.
const AXES_MAX: usize = 8;

/// The raw outputs that a golden case must have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// Version of this format: 1.
    pub schema: u32,
    /// Each output tensor of the manifest, once.
    pub outputs: Vec<Tensor>,
}

/// An output tensor's values, whatever number format it had.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tensor {
    /// The network's name of it.
    pub tensor: String,
    /// Length of each axis.
    pub shape: Vec<u64>,
    /// Row-major.
    pub values: Vec<f64>,
}

/// A value that is further off than the tolerance, or a tensor of another shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Deviation {
    /// Which tensor.
    pub tensor: String,
    /// What about it.
    pub kind: DeviationKind,
}

/// What about a tensor deviates.
#[derive(Clone, Debug, PartialEq)]
pub enum DeviationKind {
    /// The run gave no such tensor, or the case has no tolerance for it.
    Missing,
    /// The run gave another shape.
    Shape {
        /// What the case says.
        expected: Vec<u64>,
        /// What the run gave.
        found: Vec<u64>,
    },
    /// Values are too far off; the one that is furthest beyond its tolerance stands for all.
    Values {
        /// How many.
        count: usize,
        /// Which one, row-major.
        at: usize,
        /// What the case says.
        expected: f64,
        /// What the run gave.
        found: f64,
    },
}

impl fmt::Display for Deviation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.tensor;
        match &self.kind {
            DeviationKind::Missing => write!(f, "{name}: not among the outputs"),
            DeviationKind::Shape { expected, found } => {
                write!(f, "{name}: shape {found:?}, expected {expected:?}")
            }
            DeviationKind::Values { count, at, expected, found } => {
                write!(f, "{name}: {count} values off, e.g. [{at}] is {found}, expected {expected}")
            }
        }
    }
}

impl Expected {
    /// Reads the JSON; the caller bounds its length. The text says what is wrong.
    pub fn read(bytes: &[u8]) -> Result<Expected, String> {
        let expected: Expected =
            serde_json::from_slice(bytes).map_err(|error| format!("not expected outputs: {error}"))?;
        if expected.schema != SCHEMA {
            return Err(format!("expected outputs of schema {}, known is {SCHEMA}", expected.schema));
        }
        for output in &expected.outputs {
            let count = output.shape.iter().try_fold(1_u64, |product, axis| product.checked_mul(*axis));
            if output.shape.len() > AXES_MAX || count != Some(output.values.len() as u64) {
                return Err(format!(
                    "{}: shape {:?} does not go with {} values",
                    output.tensor,
                    output.shape,
                    output.values.len()
                ));
            }
        }
        Ok(expected)
    }

    /// Whether these are the outputs of a manifest's output tensors, each once.
    pub fn fits(&self, tensors: &[&str]) -> Result<(), String> {
        let wanted: BTreeSet<&str> = tensors.iter().copied().collect();
        let given: BTreeSet<&str> = self.outputs.iter().map(|output| output.tensor.as_str()).collect();
        if given != wanted || given.len() != self.outputs.len() {
            return Err(format!("has outputs {given:?}, the manifest names {wanted:?}, each once"));
        }
        Ok(())
    }

    /// Compares a run's outputs, in any order, under the case's tolerances; none deviates where the
    /// run passes. Outputs that the case does not name are not looked at.
    pub fn compare(&self, case: &Golden, run: &[Tensor]) -> Vec<Deviation> {
        self.outputs.iter().filter_map(|expected| deviation(expected, case, run)).collect()
    }
}

fn deviation(expected: &Tensor, case: &Golden, run: &[Tensor]) -> Option<Deviation> {
    let deviation = |kind| Some(Deviation { tensor: expected.tensor.clone(), kind });
    let found = run.iter().find(|output| output.tensor == expected.tensor);
    let tolerance = case.tolerance.iter().find(|tolerance| tolerance.tensor == expected.tensor);
    let (Some(found), Some(tolerance)) = (found, tolerance) else {
        return deviation(DeviationKind::Missing);
    };
    if found.shape != expected.shape || found.values.len() != expected.values.len() {
        return deviation(DeviationKind::Shape {
            expected: expected.shape.clone(),
            found: found.shape.clone(),
        });
    }
    let beyond = |expected: f64, found: f64| {
        let over = (found - expected).abs() - tolerance.absolute - tolerance.relative * expected.abs();
        if over.is_nan() { f64::INFINITY } else { over }
    };
    let off = expected.values.iter().zip(&found.values).enumerate();
    let off = off.filter(|(_, (expected, found))| !tolerance.allows(**expected, **found));
    let count = off.clone().count();
    let worst = off.max_by(|(_, (e, f)), (_, (e2, f2))| beyond(**e, **f).total_cmp(&beyond(**e2, **f2)));
    let (at, (expected, found)) = worst?;
    deviation(DeviationKind::Values { count, at, expected: *expected, found: *found })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Tolerance;

    fn case() -> Golden {
        Golden {
            name: "case".into(),
            input: "case.dcm".into(),
            frame: 1,
            expected: "case.json".into(),
            tolerance: vec![Tolerance { tensor: "scores".into(), absolute: 0.1, relative: 0.0 }],
        }
    }

    fn tensor(values: &[f64]) -> Tensor {
        Tensor { tensor: "scores".into(), shape: vec![values.len() as u64], values: values.to_vec() }
    }

    #[test]
    fn outputs_are_read_strictly() {
        let good = br#"{"schema":1,"outputs":[{"tensor":"scores","shape":[1,2],"values":[1,0.5]}]}"#;
        let expected = Expected::read(good).unwrap();
        assert_eq!(expected.outputs[0].values, [1.0, 0.5]);
        assert_eq!(expected.fits(&["scores"]), Ok(()));
        assert!(expected.fits(&["scores", "boxes"]).is_err());
        assert!(expected.fits(&["boxes"]).is_err());
        for bad in [
            r#"{"schema":2,"outputs":[]}"#,
            r#"{"schema":1,"outputs":[],"more":1}"#,
            r#"{"schema":1,"outputs":[{"tensor":"s","shape":[3],"values":[1]}]}"#,
            r#"{"schema":1,"outputs":[{"tensor":"s","shape":[4294967296,4294967296],"values":[1]}]}"#,
            r#"{"schema":1,"outputs":[{"tensor":"s","shape":[-1],"values":[1]}]}"#,
            r#"{"schema":1,"outputs":[{"tensor":"s","shape":[1],"values":[null]}]}"#,
            "",
        ] {
            assert!(Expected::read(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn runs_are_compared_by_shape_and_value() {
        let expected = Expected { schema: 1, outputs: vec![tensor(&[0.5, 0.9])] };
        let compare = |run: &[Tensor]| expected.compare(&case(), run);
        assert_eq!(compare(&[tensor(&[0.55, 0.85])]), []);
        let off = compare(&[tensor(&[0.7, 0.1])]);
        let worst = DeviationKind::Values { count: 2, at: 1, expected: 0.9, found: 0.1 };
        assert_eq!(off, [Deviation { tensor: "scores".into(), kind: worst }]);
        assert!(matches!(compare(&[tensor(&[0.5])])[0].kind, DeviationKind::Shape { .. }));
        assert!(matches!(compare(&[])[0].kind, DeviationKind::Missing));
        let nan = compare(&[tensor(&[f64::NAN, 0.9])]);
        assert!(matches!(nan[0].kind, DeviationKind::Values { count: 1, at: 0, .. }));
    }
}
