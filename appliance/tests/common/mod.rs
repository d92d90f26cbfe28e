//! Parts that `./justw parts` fetches into `target/parts`: a test that needs one fails without it.

use std::path::PathBuf;

use lightbox::infer::engine::EngineHandle;
use lightbox::infer::onnx::{Config, OnnxEngine};

/// A part's path; fails with the remedy where it is missing.
#[allow(dead_code, reason = "each test binary uses its own share of this module")]
pub fn part(path: &str) -> PathBuf {
    let part = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/parts").join(path);
    assert!(part.exists(), "{} is missing: run ./justw parts", part.display());
    part
}

/// ONNX Runtime on one thread: from `LIGHTBOX_ONNXRUNTIME`, else from the parts.
#[allow(dead_code, reason = "each test binary uses its own share of this module")]
pub async fn engine() -> EngineHandle {
    let set = std::env::var_os("LIGHTBOX_ONNXRUNTIME").map(PathBuf::from);
    let library = set.unwrap_or_else(|| part("onnxruntime/libonnxruntime.so"));
    let config = Config { library: Some(library), threads: 1 };
    EngineHandle::start(move || OnnxEngine::new(&config)).await.expect("ONNX Runtime: run ./justw parts")
}
