//! The software bill of materials: CycloneDX JSON that names the model itself (an ML-BOM).
//!
//! What the box asks of it is what makes it one of *this* bundle: known format, every component
//! with name and version, and the model as a component whose SHA-256 is the network's. Whether it
//! lists everything, no machine can see.

use serde::Deserialize;

/// Most components.
const COMPONENTS_MAX: usize = 20_000;

const REMEDY: &str = "give a CycloneDX 1.5 or later JSON; its component of type \"machine-learning-model\" has \
                      the networks' SHA-256 among its hashes";

#[derive(Deserialize)]
struct Bom {
    #[serde(rename = "bomFormat")]
    format: String,
    #[serde(rename = "specVersion")]
    version: String,
    #[serde(default)]
    metadata: Option<Metadata>,
    #[serde(default)]
    components: Vec<Component>,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    component: Option<Component>,
}

#[derive(Deserialize)]
struct Component {
    #[serde(rename = "type")]
    kind: String,
    name: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    hashes: Vec<Hash>,
}

#[derive(Deserialize)]
struct Hash {
    alg: String,
    content: String,
}

/// Checks an SBOM's bytes; every one of `networks`, as SHA-256 in hex, must be in it.
pub(crate) fn check<'a>(
    bytes: &[u8],
    networks: impl Iterator<Item = &'a str>,
) -> Result<(), (String, &'static str)> {
    let refuse = |problem: &str| Err((format!("the SBOM {problem}"), REMEDY));
    let bom: Bom = match serde_json::from_slice(bytes) {
        Ok(bom) => bom,
        Err(error) => return refuse(&format!("is not one: {error}")),
    };
    if bom.format != "CycloneDX" {
        return refuse("is not CycloneDX");
    }
    let known = bom.version.split_once('.').and_then(|(major, minor)| {
        Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?)).filter(|(major, _)| *major == 1)
    });
    // Models came into the format with 1.5.
    if known.is_none_or(|version| version < (1, 5)) {
        return refuse("is of a version that knows no models");
    }
    if bom.components.is_empty() {
        return refuse("has no components");
    }
    if bom.components.len() > COMPONENTS_MAX {
        return refuse("has more than 20,000 components");
    }
    let subject = bom.metadata.and_then(|metadata| metadata.component);
    let all = || bom.components.iter().chain(subject.iter());
    if all().any(|component| component.name.trim().is_empty() || component.version.trim().is_empty()) {
        return refuse("has a component without name or version");
    }
    for network in networks {
        let named = all().filter(|component| component.kind == "machine-learning-model").any(|component| {
            component
                .hashes
                .iter()
                .any(|hash| hash.alg == "SHA-256" && hash.content.eq_ignore_ascii_case(network))
        });
        if !named {
            return refuse(&format!("has no machine-learning-model component with the SHA-256 {network}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check;

    const HASH: &str = "4635067969fa2a67ae3d4c5bc3a00f32aeeb5e435aa6b846bbf9bd09ea1e7ee5";

    fn bom() -> String {
        format!(
            r#"{{"bomFormat":"CycloneDX","specVersion":"1.6","version":1,"components":[
            {{"type":"machine-learning-model","name":"m","version":"1",
              "hashes":[{{"alg":"SHA-256","content":"{HASH}"}}]}},
            {{"type":"library","name":"onnx","version":"1.19"}}]}}"#
        )
    }

    #[test]
    fn an_sbom_of_this_model_passes_and_each_flaw_is_named() {
        let check = |text: &str| check(text.as_bytes(), std::iter::once(HASH)).map_err(|(what, _)| what);
        assert_eq!(check(&bom()), Ok(()));
        let in_metadata = format!(
            r#"{{"bomFormat":"CycloneDX","specVersion":"1.5","metadata":{{"component":
            {{"type":"machine-learning-model","name":"m","version":"1",
              "hashes":[{{"alg":"SHA-256","content":"{HASH}"}}]}}}},
            "components":[{{"type":"library","name":"onnx","version":"1"}}]}}"#
        );
        assert_eq!(check(&in_metadata), Ok(()));
        for (from, to, expected) in [
            ("CycloneDX", "SPDX", "not CycloneDX"),
            ("\"1.6\"", "\"1.4\"", "knows no models"),
            ("\"1.6\"", "\"2.0\"", "knows no models"),
            ("machine-learning-model", "library", "no machine-learning-model component"),
            ("SHA-256", "SHA-1", "no machine-learning-model component"),
            ("4635", "4636", "no machine-learning-model component"),
            ("\"1.19\"", "\"\"", "without name or version"),
            ("[", "{", "is not one"),
        ] {
            let refusal = check(&bom().replacen(from, to, 1)).unwrap_err();
            assert!(refusal.contains(expected), "{from} -> {to}: {refusal}");
        }
        let none = r#"{"bomFormat":"CycloneDX","specVersion":"1.6","components":[]}"#;
        assert!(check(none).unwrap_err().contains("no components"));
    }
}
