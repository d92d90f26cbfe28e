//! Models and images of the firmware, and where new ones come from.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use super::Certificate;
use crate::site::routing::Schedule;

/// `[infer]`: how models are run.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Infer {
    /// The ONNX Runtime library (`libonnxruntime.so`). Without it the environment variable
    /// `LIGHTBOX_ONNXRUNTIME` is asked.
    pub onnxruntime: Option<PathBuf>,
    /// Threads for one run of a model.
    pub threads: usize,
}

impl Default for Infer {
    fn default() -> Self {
        Infer { onnxruntime: None, threads: 1 }
    }
}

/// `[updates]`: the signed repository of models (TUF). Nothing of it runs before it is authentic, newer,
/// meant for this device, inside its change-control plan, and was good enough on this very hardware.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Updates {
    /// The repository's root as it was handed over out of band: `root.json`. It is what all trust begins
    /// with; later roots must be signed by the one before.
    pub root: Option<PathBuf>,
    /// The repository: a folder that holds `metadata/` and `targets/`, such as a mounted stick or a share.
    pub repository: Option<PathBuf>,
    /// Instead of `repository`: a mirror of it inside the hospital.
    pub mirror: Option<Mirror>,
    /// Minutes between two looks at the repository. 0 looks only when `lightbox models check` asks for it.
    pub check_minutes: u64,
    /// Longest time that a new version's network may take to load, in seconds. It is loaded in a process of its own
    /// first, as a runtime cannot be stopped while it loads; one that takes longer is refused.
    pub load_seconds: u64,
}

impl Default for Updates {
    fn default() -> Self {
        Updates { root: None, repository: None, mirror: None, check_minutes: 0, load_seconds: 120 }
    }
}

/// `[updates.mirror]`: an HTTPS server that offers the repository's files as they are.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// Where `metadata/` and `targets/` are, e.g. `https://mirror.example.org/models`.
    pub url: String,
    /// How the server's certificate is known. Ours is shown if it asks for one.
    pub certificate: Certificate,
}

/// `[system]`: updates of the firmware image. Only a box that was started from its image can take one. A new image is
/// checked whole, then written into the slot that does not run; the box restarts into it at a time of the site's
/// choice, and goes back by itself if it is not well.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct System {
    /// The repository's root: what all trust in images begins with. It is part of the image.
    pub root: PathBuf,
    /// The signed repository of images: a folder that holds `metadata/` and `targets/`. A stick whose file system has
    /// the label LIGHTBOX is found at `/run/stick`.
    pub repository: Option<PathBuf>,
    /// Instead of `repository`: a mirror of it inside the hospital.
    pub mirror: Option<Mirror>,
    /// Minutes between two looks at the repository. 0 looks only when `lightbox system check` asks for it.
    pub check_minutes: u64,
    /// Who decides that a new image is installed: `asked` waits for `lightbox system install`, `window` installs what
    /// is newer by itself.
    pub install: Install,
    /// The hours in which the box may restart into a new image, in local time as `appliance.utc_offset` says. Left
    /// out: at any time.
    pub window: Option<Schedule>,
    /// Studies in flight finish first. After so many minutes within the window the box restarts all the same: what is
    /// under way then is on disk, and goes on after the restart.
    pub drain_minutes: u64,
    /// Where images are kept until they are written, and where the image's own units look for orders.
    pub folder: PathBuf,
}

impl Default for System {
    fn default() -> Self {
        System {
            root: "/usr/share/lightbox/system-root.json".into(),
            repository: None,
            mirror: None,
            check_minutes: 0,
            install: Install::Asked,
            window: None,
            drain_minutes: 30,
            folder: "/var/lib/lightbox/system".into(),
        }
    }
}

/// Who decides that a new image is installed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Install {
    /// A person.
    #[default]
    Asked,
    /// The box, in the window.
    Window,
}

/// `[[model]]`: a model that rules may name. It comes from the signed repository that `[updates]` names, and runs
/// only inside its change-control plan. To try a site: `lightbox repository demo`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Name that rules use.
    pub name: String,
    /// What the model's versions in the signed repository begin with, e.g. `vendors/acme/detector` for
    /// `vendors/acme/detector-2.lightbox`. Which version runs is said by the plan and by the people who
    /// approve: `lightbox models`. Until one is active, its jobs wait.
    pub target: String,
    /// Its change-control plan in the signed repository, e.g. `plans/detector.toml`.
    pub plan: String,
}
