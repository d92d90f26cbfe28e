//! The inference runtime as the rest of the box sees it: a model goes in once, tensors go in and
//! out. Tensors are owned and serialisable, so that the boundary can become a process boundary.
//!
//! An engine lives on a thread of its own: runs are long and blocking, and one accelerator does one
//! thing at a time. [`EngineHandle`] is the way to it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lightbox_models::manifest::Resources;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

/// Requests that wait for the engine before a caller waits for its place in the queue.
const QUEUE: usize = 4;

/// Why a model was not loaded or run. The texts go to logs and to the admin page.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The runtime's library is missing or does not fit.
    #[error("{problem}; remedy: {remedy}")]
    Runtime {
        /// What is wrong.
        problem: String,
        /// What to do about it.
        remedy: String,
    },
    /// The network cannot be loaded.
    #[error("the network cannot be loaded: {0}; remedy: check the bundle with the runtime's version")]
    Load(String),
    /// A run was asked of a model that is not loaded.
    #[error("the model is not loaded")]
    NotLoaded,
    /// A run took longer than the model may take.
    #[error("the run took longer than the {} s that its manifest allows (resources.runtime_seconds)", .0.as_secs_f64())]
    TooLong(Duration),
    /// The network refused its input, or failed.
    #[error("the run failed: {0}")]
    Run(String),
    /// A tensor's data and shape disagree, or its type is not supported.
    #[error("the tensor \"{name}\" {problem}")]
    Tensor {
        /// Its name.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The engine's thread is gone.
    #[error("the engine has stopped")]
    Stopped,
}

/// A tensor's values, row-major.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", content = "values", rename_all = "snake_case")]
pub enum TensorData {
    /// 32-bit floats.
    F32(Vec<f32>),
    /// 64-bit integers.
    I64(Vec<i64>),
    /// 32-bit integers.
    I32(Vec<i32>),
    /// Bytes.
    U8(Vec<u8>),
}

impl TensorData {
    fn len(&self) -> usize {
        match self {
            TensorData::F32(values) => values.len(),
            TensorData::I64(values) => values.len(),
            TensorData::I32(values) => values.len(),
            TensorData::U8(values) => values.len(),
        }
    }
}

/// A named tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tensor {
    /// The network's name for it.
    pub name: String,
    /// Its axes, outermost first.
    pub shape: Vec<usize>,
    /// Its values: as many as the product of the axes.
    pub data: TensorData,
}

impl Tensor {
    /// A tensor whose shape and data agree.
    pub fn new(name: &str, shape: Vec<usize>, data: TensorData) -> Result<Tensor, EngineError> {
        let count = shape.iter().try_fold(1_usize, |count, axis| count.checked_mul(*axis));
        if count != Some(data.len()) {
            let problem = "has not as many values as its shape says";
            return Err(EngineError::Tensor { name: name.to_owned(), problem });
        }
        Ok(Tensor { name: name.to_owned(), shape, data })
    }
}

/// Bounds on each run of a model, from its manifest: what goes beyond them has failed, and others are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunLimits {
    /// Longest time.
    pub time: Duration,
    /// Greatest length of all outputs together, in bytes.
    pub output_bytes: u64,
}

impl RunLimits {
    /// Those that a manifest declares.
    pub fn of(resources: &Resources) -> Self {
        RunLimits {
            time: Duration::try_from_secs_f64(resources.runtime_seconds).unwrap_or(Duration::ZERO),
            output_bytes: resources.memory_mib.saturating_mul(1 << 20),
        }
    }
}

/// A runtime: ONNX Runtime, or the fake one of tests.
pub trait Engine {
    /// What it runs on, for the records: `ONNX Runtime 1.31.1, CPU`.
    fn describe(&self) -> String;

    /// Loads an ONNX network from its bytes; each run of it stays within the limits.
    fn load(&mut self, network: &[u8], limits: RunLimits) -> Result<Box<dyn LoadedModel>, EngineError>;
}

/// A network that is ready to run.
pub trait LoadedModel {
    /// Runs it once: all inputs by name, all outputs by name.
    fn run(&mut self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, EngineError>;
}

enum Request {
    Load { key: String, network: Vec<u8>, limits: RunLimits, reply: oneshot::Sender<Result<(), EngineError>> },
    Unload { key: String },
    Run { key: String, inputs: Vec<Tensor>, reply: oneshot::Sender<Result<Vec<Tensor>, EngineError>> },
}

/// The way to an engine's thread. Clones share the engine; it ends when the last one is dropped.
#[derive(Clone, Debug)]
pub struct EngineHandle {
    requests: mpsc::Sender<Request>,
    description: Arc<str>,
    /// Of whoever gives way.
    gives_way: Option<GivesWay>,
}

#[derive(Clone, Debug)]
struct GivesWay {
    /// True while others need the engine.
    busy: watch::Receiver<bool>,
    /// How long was waited so far, in µs.
    waited_us: Arc<AtomicU64>,
}

impl EngineHandle {
    /// Starts an engine's thread. `make` runs on it, so that an engine need not be [`Send`]; waits
    /// until the engine is made.
    pub async fn start<E: Engine + 'static>(
        make: impl FnOnce() -> Result<E, EngineError> + Send + 'static,
    ) -> Result<EngineHandle, EngineError> {
        let (requests, queue) = mpsc::channel(QUEUE);
        let (made, ready) = oneshot::channel();
        std::thread::Builder::new()
            .name("engine".into())
            .spawn(move || match make() {
                Ok(engine) => {
                    // Nobody waits for an engine whose starter gave up: the queue is closed then.
                    let _ = made.send(Ok(engine.describe()));
                    serve(engine, queue);
                }
                Err(error) => {
                    let _ = made.send(Err(error));
                }
            })
            .map_err(|error| EngineError::Runtime {
                problem: format!("the engine's thread does not start ({})", error.kind()),
                remedy: "raise the unit's TasksMax".into(),
            })?;
        let description = ready.await.map_err(|_| EngineError::Stopped)??;
        Ok(EngineHandle { requests, description: description.into(), gives_way: None })
    }

    /// The same engine for work that gives way: each request waits until `busy` is false. So what has begun is held
    /// up between two frames, and others wait for one frame at most.
    #[must_use]
    pub fn behind(&self, busy: watch::Receiver<bool>) -> EngineHandle {
        EngineHandle { gives_way: Some(GivesWay { busy, waited_us: Arc::default() }), ..self.clone() }
    }

    /// Waits until it may be this handle's turn.
    pub async fn turn(&self) -> Result<(), EngineError> {
        if let Some(GivesWay { busy, waited_us }) = &self.gives_way {
            let started = Instant::now();
            busy.clone().wait_for(|busy| !*busy).await.map_err(|_| EngineError::Stopped)?;
            let waited = started.elapsed().as_micros().try_into().unwrap_or(u64::MAX);
            waited_us.fetch_add(waited, Ordering::Relaxed);
        }
        Ok(())
    }

    /// How long this handle has given way so far.
    pub fn waited(&self) -> Duration {
        let of = |way: &GivesWay| Duration::from_micros(way.waited_us.load(Ordering::Relaxed));
        self.gives_way.as_ref().map(of).unwrap_or_default()
    }

    /// What the engine runs on, for the records.
    pub fn describe(&self) -> &str {
        &self.description
    }

    /// Whether the engine's thread is gone: nothing can be run any more.
    pub fn is_stopped(&self) -> bool {
        self.requests.is_closed()
    }

    /// Loads a network under a key, the bundle's digest; does nothing where the key is loaded.
    pub async fn load(&self, key: &str, network: Vec<u8>, limits: RunLimits) -> Result<(), EngineError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Load { key: key.to_owned(), network, limits, reply }).await?;
        answer.await.map_err(|_| EngineError::Stopped)?
    }

    /// Forgets a network.
    pub async fn unload(&self, key: &str) -> Result<(), EngineError> {
        self.ask(Request::Unload { key: key.to_owned() }).await
    }

    /// Runs a loaded network once. Dropping the future before the engine takes the request drops
    /// the request; a run that has begun is finished and its outputs thrown away.
    pub async fn run(&self, key: &str, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, EngineError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Run { key: key.to_owned(), inputs, reply }).await?;
        answer.await.map_err(|_| EngineError::Stopped)?
    }

    async fn ask(&self, request: Request) -> Result<(), EngineError> {
        self.turn().await?;
        self.requests.send(request).await.map_err(|_| EngineError::Stopped)
    }
}

fn serve(mut engine: impl Engine, mut queue: mpsc::Receiver<Request>) {
    let mut models: HashMap<String, Box<dyn LoadedModel>> = HashMap::new();
    while let Some(request) = queue.blocking_recv() {
        match request {
            Request::Load { key, network, limits, reply } => {
                let loaded = match models.entry(key) {
                    Entry::Occupied(_) => Ok(()),
                    Entry::Vacant(place) => guarded(|| engine.load(&network, limits)).map(|model| {
                        place.insert(model);
                    }),
                };
                let _ = reply.send(loaded);
            }
            Request::Unload { key } => {
                models.remove(&key);
            }
            Request::Run { reply, .. } if reply.is_closed() => {}
            Request::Run { key, inputs, reply } => {
                let outputs = match models.get_mut(&key) {
                    Some(model) => guarded(|| model.run(inputs)),
                    None => Err(EngineError::NotLoaded),
                };
                let _ = reply.send(outputs);
            }
        }
    }
}

/// A panic inside a runtime costs this request; the thread and the other models live on.
fn guarded<T>(work: impl FnOnce() -> Result<T, EngineError>) -> Result<T, EngineError> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(EngineError::Run("the runtime panicked".into())))
}

/// An engine for tests: every network is the given function.
pub struct FakeEngine<F>(Arc<F>);

impl<F> FakeEngine<F>
where
    F: Fn(&[Tensor]) -> Result<Vec<Tensor>, EngineError>,
{
    /// An engine whose every network is `function`.
    pub fn new(function: F) -> Self {
        FakeEngine(Arc::new(function))
    }
}

impl<F> Engine for FakeEngine<F>
where
    F: Fn(&[Tensor]) -> Result<Vec<Tensor>, EngineError> + 'static,
{
    fn describe(&self) -> String {
        "fake engine".into()
    }

    fn load(&mut self, _network: &[u8], _limits: RunLimits) -> Result<Box<dyn LoadedModel>, EngineError> {
        Ok(Box::new(FakeEngine(Arc::clone(&self.0))))
    }
}

impl<F> LoadedModel for FakeEngine<F>
where
    F: Fn(&[Tensor]) -> Result<Vec<Tensor>, EngineError>,
{
    fn run(&mut self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, EngineError> {
        (self.0)(&inputs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> RunLimits {
        RunLimits { time: Duration::from_secs(60), output_bytes: 1 << 20 }
    }

    #[tokio::test]
    async fn a_run_answers_and_a_panic_costs_one_request() {
        let engine = EngineHandle::start(|| {
            Ok(FakeEngine::new(|inputs: &[Tensor]| {
                assert_ne!(inputs.len(), 2, "two inputs are one too many");
                Ok(inputs.to_vec())
            }))
        })
        .await
        .unwrap();
        let tensor = Tensor::new("x", vec![1, 2], TensorData::F32(vec![1.0, 2.0])).unwrap();
        assert_eq!(engine.run("m", vec![tensor.clone()]).await, Err(EngineError::NotLoaded));
        engine.load("m", Vec::new(), limits()).await.unwrap();
        assert_eq!(engine.run("m", vec![tensor.clone()]).await.unwrap(), std::slice::from_ref(&tensor));
        let two = engine.run("m", vec![tensor.clone(), tensor.clone()]).await;
        assert_eq!(two, Err(EngineError::Run("the runtime panicked".into())));
        assert_eq!(engine.run("m", vec![tensor.clone()]).await.unwrap(), [tensor]);
        engine.unload("m").await.unwrap();
        assert_eq!(engine.run("m", Vec::new()).await, Err(EngineError::NotLoaded));
    }

    #[tokio::test]
    async fn who_gives_way_waits_until_nobody_else_needs_the_engine() {
        let engine = EngineHandle::start(|| Ok(FakeEngine::new(|inputs: &[Tensor]| Ok(inputs.to_vec()))))
            .await
            .unwrap();
        engine.load("m", Vec::new(), limits()).await.unwrap();
        let (busy, seen) = watch::channel(true);
        let behind = engine.behind(seen);
        let tensor = Tensor::new("x", vec![1], TensorData::F32(vec![1.0])).unwrap();
        let mut waits = Box::pin(behind.run("m", vec![tensor.clone()]));
        let early = tokio::time::timeout(Duration::from_millis(50), &mut waits).await;
        assert!(early.is_err(), "it did not wait");
        assert_eq!(engine.run("m", vec![tensor.clone()]).await.unwrap(), std::slice::from_ref(&tensor));
        busy.send_replace(false);
        assert_eq!(waits.await.unwrap(), [tensor]);
        assert!(behind.waited() >= Duration::from_millis(50) && engine.waited() == Duration::ZERO);
        drop(busy);
        assert_eq!(behind.turn().await, Ok(()), "idle to the last");
    }

    #[test]
    fn shapes_and_values_agree() {
        assert!(Tensor::new("x", vec![2, 2], TensorData::U8(vec![0; 3])).is_err());
        assert!(Tensor::new("x", vec![usize::MAX, 2], TensorData::U8(vec![0; 3])).is_err());
        let tensor = Tensor::new("x", vec![0, 4], TensorData::F32(Vec::new())).unwrap();
        let text = serde_json::to_string(&tensor).unwrap();
        assert_eq!(serde_json::from_str::<Tensor>(&text).unwrap(), tensor);
    }
}
