//! ONNX Runtime, loaded at run time from its shared library: the reference engine, on the CPU.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};

use lightbox_models::network;
use ort::environment::Environment;
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{RunOptions, Session};
use ort::value::{DynValue, Tensor as OrtTensor, TensorElementType, ValueType};
use serde::{Deserialize, Serialize};

use super::engine::{Engine, EngineError, LoadedModel, RunLimits, Tensor, TensorData};

/// Settings of the engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `libonnxruntime.so`; where unset, the environment's `LIGHTBOX_ONNXRUNTIME`, then
    /// `ORT_DYLIB_PATH`.
    pub library: Option<PathBuf>,
    /// Threads of one run, 1 to 256.
    pub threads: u16,
}

impl Default for Config {
    fn default() -> Self {
        Config { library: None, threads: 1 }
    }
}

/// ONNX Runtime on the CPU.
pub struct OnnxEngine {
    environment: Environment,
    threads: usize,
}

/// `ort` allows one environment at a time and makes it without a lock: two engines that start at
/// once share it through here.
static ENVIRONMENT: Mutex<Option<(PathBuf, Environment)>> = Mutex::new(None);

impl OnnxEngine {
    /// Loads the library.
    pub fn new(config: &Config) -> Result<OnnxEngine, EngineError> {
        if !(1..=256).contains(&config.threads) {
            return Err(EngineError::Runtime {
                problem: format!("infer.threads is {}", config.threads),
                remedy: "use 1 to 256".into(),
            });
        }
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let library = config
            .library
            .clone()
            .or_else(|| variable("LIGHTBOX_ONNXRUNTIME"))
            .or_else(|| variable("ORT_DYLIB_PATH"))
            .ok_or_else(|| EngineError::Runtime {
                problem: "no path to ONNX Runtime's library is given".into(),
                remedy:
                    "set infer.onnxruntime in the site file, or LIGHTBOX_ONNXRUNTIME, to libonnxruntime.so \
                         (in a checkout: run ./justw parts)"
                        .into(),
            })?;
        // A poisoned lock only means that another engine's start panicked; the value is whole.
        let mut shared = ENVIRONMENT.lock().unwrap_or_else(PoisonError::into_inner);
        let environment = match &*shared {
            Some((loaded, environment)) if *loaded == library => environment.clone(),
            Some((loaded, _)) => {
                return Err(EngineError::Runtime {
                    problem: format!("another ONNX Runtime is loaded already: {}", loaded.display()),
                    remedy: "give every engine of the process the same infer.onnxruntime".into(),
                });
            }
            None => {
                let environment = load(&library)?;
                *shared = Some((library, environment.clone()));
                environment
            }
        };
        Ok(OnnxEngine { environment, threads: usize::from(config.threads) })
    }
}

/// An input or an output as a network declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outlet {
    /// Its name.
    pub name: String,
    /// Whether its elements are 32-bit floats.
    pub is_f32: bool,
    /// Its axes, outermost first; -1: of any length.
    pub shape: Vec<i64>,
}

/// What a network declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outlets {
    /// Its inputs.
    pub inputs: Vec<Outlet>,
    /// Its outputs.
    pub outputs: Vec<Outlet>,
}

impl OnnxEngine {
    /// Loads a network and says what it declares.
    pub fn outlets(&self, network: &[u8]) -> Result<Outlets, EngineError> {
        let session = session(&self.environment, self.threads, network)?;
        let read = |outlet: &ort::value::Outlet| match outlet.dtype() {
            ValueType::Tensor { ty, shape, .. } => Outlet {
                name: outlet.name().to_owned(),
                is_f32: *ty == TensorElementType::Float32,
                shape: shape.iter().copied().collect(),
            },
            _ => Outlet { name: outlet.name().to_owned(), is_f32: false, shape: Vec::new() },
        };
        Ok(Outlets {
            inputs: session.inputs().iter().map(read).collect(),
            outputs: session.outputs().iter().map(read).collect(),
        })
    }
}

/// The commit that a library was built from, in its own words: the branch that they name is often `HEAD`.
fn commit(info: &str) -> &str {
    let rest = info.split_once("git-commit-id=").map_or("", |(_, rest)| rest);
    match rest.split([',', ' ']).next() {
        Some(commit) if !commit.is_empty() => commit,
        _ => "unknown",
    }
}

fn load(library: &Path) -> Result<Environment, EngineError> {
    let refused = |problem: String| EngineError::Runtime {
        problem: format!("ONNX Runtime's library cannot be loaded from {}: {problem}", library.display()),
        remedy: "set infer.onnxruntime (or LIGHTBOX_ONNXRUNTIME) to the libonnxruntime.so 1.24 or \
                 later for this machine (in a checkout: run ./justw parts)"
            .into(),
    };
    // Asked before the loader is: its message for a missing file names no remedy.
    if !library.is_file() {
        return Err(refused("there is no such file".into()));
    }
    ort::init_from(library)
        .map_err(|error| refused(error.to_string()))?
        .with_name("lightbox")
        .with_telemetry(false)
        .build()
        .map_err(|error| refused(error.to_string()))
}

impl Engine for OnnxEngine {
    fn describe(&self) -> String {
        format!("ONNX Runtime build {}, CPU, {} threads", commit(ort::info()), self.threads)
    }

    fn load(&mut self, network: &[u8], limits: RunLimits) -> Result<Box<dyn LoadedModel>, EngineError> {
        let session = session(&self.environment, self.threads, network)?;
        Ok(Box::new(OnnxModel { session, limits }))
    }
}

fn session(environment: &Environment, threads: usize, network: &[u8]) -> Result<Session, EngineError> {
    // A bundle was walked when it was opened; here, whatever else leads to the runtime is.
    network::check(network).map_err(|error| EngineError::Load(error.to_string()))?;
    let build = || {
        Session::builder(environment)?
            .with_optimization_level(GraphOptimizationLevel::Level3)?
            .with_intra_threads(threads)?
            // Spinning pools burn a core while the box waits for its next study.
            .with_intra_op_spinning(false)?
            .commit_from_memory(network)
    };
    build().map_err(|error: ort::Error| EngineError::Load(error.to_string()))
}

struct OnnxModel {
    session: Session,
    limits: RunLimits,
}

impl LoadedModel for OnnxModel {
    fn run(&mut self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, EngineError> {
        let failed = |error: ort::Error| EngineError::Run(error.to_string());
        let mut values = Vec::with_capacity(inputs.len());
        for input in inputs {
            let Tensor { name, shape, data } = input;
            if !self.session.inputs().iter().any(|outlet| outlet.name() == name) {
                return Err(EngineError::Tensor { name, problem: "is not an input of the network" });
            }
            let value: DynValue = match data {
                TensorData::F32(data) => OrtTensor::from_array((shape, data)).map_err(failed)?.into_dyn(),
                TensorData::I64(data) => OrtTensor::from_array((shape, data)).map_err(failed)?.into_dyn(),
                TensorData::I32(data) => OrtTensor::from_array((shape, data)).map_err(failed)?.into_dyn(),
                TensorData::U8(data) => OrtTensor::from_array((shape, data)).map_err(failed)?.into_dyn(),
            };
            values.push((name, value));
        }
        let options = RunOptions::new().map_err(failed)?;
        let late = AtomicBool::new(false);
        let time = self.limits.time;
        let session = &mut self.session;
        let outputs = std::thread::scope(|scope| {
            // Dropped when the run ends, which ends the watch.
            let (_running, ended) = mpsc::channel::<()>();
            let (options, late) = (&options, &late);
            let watch = move || {
                if ended.recv_timeout(time) == Err(RecvTimeoutError::Timeout) {
                    late.store(true, Ordering::Relaxed);
                    // The runtime looks between two operators and between two turns of a loop.
                    if let Err(error) = options.terminate() {
                        let reason = error.to_string();
                        tracing::error!(reason, "a run that takes too long cannot be ended");
                    }
                }
            };
            std::thread::Builder::new().name("engine-watch".into()).spawn_scoped(scope, watch).map_err(
                |error| EngineError::Run(format!("the watch over it does not start ({})", error.kind())),
            )?;
            session.run_with_options(values, options).map_err(|error| match late.load(Ordering::Relaxed) {
                true => EngineError::TooLong(time),
                false => failed(error),
            })
        })?;
        let mut left = self.limits.output_bytes;
        outputs.iter().map(|(name, value)| read(name, &value, &mut left)).collect()
    }
}

/// Copies an output, if it is not longer than what is `left` of what the model may say, in bytes.
fn read(name: &str, value: &ort::value::ValueRef<'_>, left: &mut u64) -> Result<Tensor, EngineError> {
    let failed = |error: ort::Error| EngineError::Run(error.to_string());
    let unsupported = |problem| EngineError::Tensor { name: name.to_owned(), problem };
    let ValueType::Tensor { ty, shape, .. } = value.dtype() else {
        return Err(unsupported("is not a tensor"));
    };
    let elements = shape.iter().try_fold(1_usize, |all, axis| all.checked_mul(usize::try_from(*axis).ok()?));
    let bytes = elements.and_then(|elements| ty.byte_size(elements));
    *left = bytes.and_then(|bytes| left.checked_sub(bytes as u64)).ok_or_else(|| {
        unsupported("is longer than the memory that its manifest allows (resources.memory_mib)")
    })?;
    let (shape, data) = match ty {
        TensorElementType::Float32 => {
            let (shape, data) = value.try_extract_tensor::<f32>().map_err(failed)?;
            (shape, TensorData::F32(data.to_vec()))
        }
        TensorElementType::Int64 => {
            let (shape, data) = value.try_extract_tensor::<i64>().map_err(failed)?;
            (shape, TensorData::I64(data.to_vec()))
        }
        TensorElementType::Int32 => {
            let (shape, data) = value.try_extract_tensor::<i32>().map_err(failed)?;
            (shape, TensorData::I32(data.to_vec()))
        }
        TensorElementType::Uint8 => {
            let (shape, data) = value.try_extract_tensor::<u8>().map_err(failed)?;
            (shape, TensorData::U8(data.to_vec()))
        }
        _ => return Err(unsupported("has elements of a type that is not read")),
    };
    let axes = shape.iter().map(|axis| usize::try_from(*axis));
    let axes: Result<Vec<usize>, _> = axes.collect();
    Tensor::new(name, axes.map_err(|_| unsupported("has an axis below 0"))?, data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_is_known_by_its_commit() {
        let info = "ORT Build Info: git-branch=HEAD, git-commit-id=6af1a93, build type=Release";
        assert_eq!((commit(info), commit(""), commit("git-commit-id=,")), ("6af1a93", "unknown", "unknown"));
    }

    #[test]
    fn a_missing_library_names_the_setting_and_the_remedy() {
        let config = Config { library: Some("/nowhere/libonnxruntime.so".into()), ..Config::default() };
        let refusal = OnnxEngine::new(&config).err().unwrap().to_string();
        assert!(refusal.contains("/nowhere/libonnxruntime.so"), "{refusal}");
        assert!(refusal.contains("remedy: set infer.onnxruntime"), "{refusal}");
        let config = Config { threads: 0, ..Config::default() };
        assert!(OnnxEngine::new(&config).err().unwrap().to_string().contains("infer.threads"));
    }
}
