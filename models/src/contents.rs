//! What a file must be for its role, beyond its digest.

use crate::golden::Expected;
use crate::manifest::{File, Manifest, Precision, Role};
use crate::sbom;

pub(crate) const EXPECTED_REMEDY: &str =
    "write the outputs as models/README.md shows, for each output tensor of the manifest";

/// Whether files of a role are parsed, and so read whole; each is bounded by the manifest's check.
pub(crate) fn is_parsed(role: Role) -> bool {
    matches!(role, Role::Sbom | Role::GoldenExpected)
}

/// Whether a parsed file is what its role asks; else what is wrong and what to do.
pub(crate) fn check(manifest: &Manifest, file: &File, bytes: &[u8]) -> Result<(), (String, &'static str)> {
    match file.role {
        Role::Sbom => {
            let networks = [Precision::Fp32, Precision::Fp16]
                .into_iter()
                .filter_map(|precision| manifest.network(precision))
                .map(|network| network.sha256.as_str());
            sbom::check(bytes, networks)
        }
        Role::GoldenExpected => {
            let expected = Expected::read(bytes).map_err(|problem| (problem, EXPECTED_REMEDY))?;
            expected.fits(&manifest.output_tensors()).map_err(|problem| (problem, EXPECTED_REMEDY))
        }
        _ => Ok(()),
    }
}
