//! The vendor's side: from a network to a bundle, and from a bundle to what a box would say of it.
//! Nothing here is run by the daemon.

pub mod case_set;
pub mod check;
pub mod decided;
pub mod golden;
pub mod inspect;
pub mod keys;
pub mod plan;
pub mod refresh;
pub mod scaffold;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use lightbox_models::manifest::MANIFEST_NAME;
use lightbox_models::pack::{self, Packed, Progress};
use lightbox_models::{Bundle, Manifest, plain};

use crate::infer::onnx::{self, OnnxEngine};

/// The reference engine: of the library that is named, or else that is found.
pub fn engine(library: Option<PathBuf>) -> anyhow::Result<OnnxEngine> {
    let library = match library {
        Some(path) => path,
        None => crate::demo::onnxruntime()?,
    };
    Ok(OnnxEngine::new(&onnx::Config { library: Some(library), ..onnx::Config::default() })?)
}

/// Checks a bundle, packed or in a folder.
pub fn open(path: &Path, progress: &mut dyn FnMut(Progress)) -> anyhow::Result<Packed> {
    if path.is_dir() {
        let bundle = Bundle::open(path)?;
        return Ok(Packed { manifest: bundle.manifest().clone(), digest: bundle.digest().to_owned() });
    }
    pack::check(path, progress).with_context(|| format!("{}", path.display()))
}

/// A folder's manifest by its types alone, so that it can be worked on before it is good.
pub(crate) fn rough(folder: &Path) -> anyhow::Result<(String, Manifest)> {
    let path = folder.join(MANIFEST_NAME);
    let text = read_text(&path)?;
    let manifest = toml::from_str(&text).map_err(|_| {
        let problems = Manifest::problems(&path, &text);
        let first = problems.first().map(ToString::to_string).unwrap_or_default();
        anyhow::anyhow!("{first} (`lightbox bundle check {}` lists all)", folder.display())
    })?;
    Ok((text, manifest))
}

/// Longest text that is written by hand, or read by one: a manifest, a card, an SBOM.
const TEXT_BYTES_MAX: u64 = 8 << 20;

/// Where a path of a manifest leads, if that is below the folder. What leads out is never read or written.
pub(crate) fn below(folder: &Path, path: &str) -> anyhow::Result<PathBuf> {
    plain::below(folder, path).with_context(|| {
        format!("{path:?} of {}: cannot be used; remedy: put the file itself into the folder and name it by its path there", folder.display())
    })
}

fn unread(path: &Path) -> impl Fn() -> String {
    move || {
        format!(
            "{}: cannot be read; remedy: check that it is there, a plain file, and that this user may read it",
            path.display()
        )
    }
}

/// A short text of a plain file.
pub(crate) fn read_text(path: &Path) -> anyhow::Result<String> {
    plain::read_text(path, TEXT_BYTES_MAX).with_context(unread(path))
}

/// All bytes of a plain file: a network, which is loaded whole in any case.
pub(crate) fn read_whole(path: &Path) -> anyhow::Result<Vec<u8>> {
    plain::read(path, u64::MAX - 1).with_context(unread(path))
}

/// SHA-256 and size of a plain file, streamed.
pub(crate) fn hash(path: &Path) -> anyhow::Result<(u64, String)> {
    use sha2::{Digest as _, Sha256};
    let failed = unread(path);
    let mut file = plain::open(path).with_context(&failed)?;
    let mut hasher = Sha256::new();
    let size = std::io::copy(&mut file, &mut HashWriter(&mut hasher)).with_context(&failed)?;
    Ok((size, hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()))
}

struct HashWriter<'a>(&'a mut sha2::Sha256);

impl std::io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        sha2::Digest::update(self.0, bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
