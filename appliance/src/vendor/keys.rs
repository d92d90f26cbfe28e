//! Signing keys by their names: a PEM file, or a key in a token by its PKCS #11 URI (RFC 7512).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use lightbox_models::publish::token::{Module, TokenKey};
use lightbox_models::publish::{FileKey, PublicKey, Signer};

/// Keys that were opened. A token's module is loaded once, as the standard has it.
#[derive(Debug, Default)]
pub struct KeyRing {
    modules: BTreeMap<PathBuf, Module>,
    keys: Vec<Box<dyn Signer>>,
}

impl KeyRing {
    /// Opens all.
    pub fn open(names: &[String]) -> anyhow::Result<KeyRing> {
        let mut ring = KeyRing::default();
        for name in names {
            ring.add(name)?;
        }
        Ok(ring)
    }

    /// Opens a key; a folder stands for every `*.pem` in it.
    pub fn add(&mut self, name: &str) -> anyhow::Result<PublicKey> {
        let key: Box<dyn Signer> = match name.strip_prefix("pkcs11:") {
            Some(uri) => {
                Box::new(self.token(uri).with_context(|| format!("--key pkcs11:{}", without_pin(uri)))?)
            }
            None if Path::new(name).is_dir() => {
                let mut last = None;
                for path in pems(Path::new(name))? {
                    last = Some(self.add(&path.to_string_lossy())?);
                }
                return last.with_context(|| {
                    format!("{name}: no *.pem in this folder; remedy: `lightbox keys new`")
                });
            }
            None => Box::new(FileKey::load(Path::new(name))?),
        };
        let public = key.public();
        self.keys.push(key);
        Ok(public)
    }

    /// The keys.
    pub fn signers(&self) -> Vec<&dyn Signer> {
        self.keys.iter().map(AsRef::as_ref).collect()
    }

    fn token(&mut self, uri: &str) -> anyhow::Result<TokenKey> {
        let parts = Uri::parse(uri)?;
        let library = parts.module.or_else(|| std::env::var_os("LIGHTBOX_PKCS11_MODULE").map(PathBuf::from));
        let library = library.context(
            "no module; remedy: add ?module-path=/path/of/library.so, or set LIGHTBOX_PKCS11_MODULE",
        )?;
        let pin = match (parts.pin_file, parts.pin) {
            (Some(path), _) => std::fs::read_to_string(&path)
                .with_context(|| format!("pin-source: {}: cannot be read", path.display()))?
                .trim_end()
                .to_owned(),
            (None, Some(pin)) => pin,
            (None, None) => std::env::var("LIGHTBOX_PKCS11_PIN")
                .context("no PIN; remedy: add &pin-source=/path/of/file, or set LIGHTBOX_PKCS11_PIN")?,
        };
        if !self.modules.contains_key(&library) {
            self.modules.insert(library.clone(), Module::load(&library)?);
        }
        let Some(module) = self.modules.get(&library) else { bail!("the module is not loaded") };
        Ok(TokenKey::open(module, &parts.token, &pin, &parts.object)?)
    }
}

/// A key's public half: of 64 hex digits, or of a key that can be opened.
pub fn public(name: &str) -> anyhow::Result<PublicKey> {
    if let Ok(key) = PublicKey::from_hex(name) {
        return Ok(key);
    }
    KeyRing::default().add(name)
}

/// The PEM files of a folder, sorted.
fn pems(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("{}: cannot be read", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "pem") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Uri {
    token: String,
    object: String,
    module: Option<PathBuf>,
    pin: Option<String>,
    pin_file: Option<PathBuf>,
}

impl Uri {
    /// Reads what follows `pkcs11:`. What is not known is refused: it might narrow the choice of keys.
    fn parse(text: &str) -> anyhow::Result<Uri> {
        let (path, query) = text.split_once('?').unwrap_or((text, ""));
        let mut uri = Uri::default();
        let parts = path.split(';').chain(query.split('&')).filter(|part| !part.is_empty());
        for part in parts {
            let (name, value) = part.split_once('=').with_context(|| format!("{part:?} has no value"))?;
            let value = decode(value)?;
            match name {
                "token" => uri.token = value,
                "object" => uri.object = value,
                "module-path" => uri.module = Some(value.into()),
                "pin-value" => uri.pin = Some(value),
                "pin-source" => uri.pin_file = Some(value.strip_prefix("file:").unwrap_or(&value).into()),
                "type" if value == "private" => {}
                other => {
                    bail!("{other:?} is not known; remedy: give token and object, module-path and pin-source")
                }
            }
        }
        if uri.token.is_empty() || uri.object.is_empty() {
            bail!(
                "names no key; remedy: write pkcs11:token=LABEL;object=LABEL?module-path=/path/of/library.so&pin-source=/path/of/file"
            );
        }
        Ok(uri)
    }
}

fn decode(text: &str) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = after.get(..2).and_then(|digits| str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.context("a % without two hex digits")?);
        rest = &after[2..];
    }
    String::from_utf8(bytes).context("not UTF-8")
}

fn without_pin(uri: &str) -> &str {
    uri.split_once('?').map_or(uri, |(path, _)| path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_s_key_is_named_by_its_uri() {
        let uri = Uri::parse(
            "token=Release%20keys;object=acme;type=private?module-path=/lib/p11.so&pin-source=file:/run/pin",
        );
        let expected = Uri {
            token: "Release keys".into(),
            object: "acme".into(),
            module: Some("/lib/p11.so".into()),
            pin: None,
            pin_file: Some("/run/pin".into()),
        };
        assert_eq!(uri.unwrap(), expected);
        for (bad, said) in [
            ("token=a", "names no key"),
            ("token=a;object=b;serial=1", "serial"),
            ("token=%4", "%"),
            ("x", "no value"),
        ] {
            assert!(Uri::parse(bad).unwrap_err().to_string().contains(said), "{bad}");
        }
        let refused = KeyRing::default().add("pkcs11:token=a?pin-value=1234").unwrap_err();
        assert!(!format!("{refused:#}").contains("1234"), "a PIN is not told: {refused:#}");
    }
}
