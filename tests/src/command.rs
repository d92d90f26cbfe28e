//! The programs that the tests run: the binary under test, the peers, the judges.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// What to do where something is missing.
const REMEDY: &str = "run the tests by `./justw test`, which installs and builds what they need";

/// The checkout's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_owned()
}

/// A file or folder below `target/` that a verb puts there.
pub fn part(path: &str) -> PathBuf {
    let found = root().join("target").join(path);
    assert!(found.exists(), "{} is missing: {REMEDY}", found.display());
    found
}

/// The ONNX Runtime library.
pub fn onnxruntime() -> PathBuf {
    part("parts/onnxruntime/libonnxruntime.so")
}

/// The binary under test, which must not be older than the sources that it was made of.
pub fn lightbox() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let folder = test.parent().and_then(Path::parent).expect("tests lie in target/PROFILE/deps");
    let binary = folder.join("lightbox");
    let inputs = std::fs::read_to_string(folder.join("lightbox.d"))
        .unwrap_or_else(|error| panic!("{} is not built ({error}): {REMEDY}", binary.display()));
    let changed = |path: &Path| std::fs::metadata(path).and_then(|found| found.modified()).ok();
    let built = changed(&binary).unwrap_or_else(|| panic!("{} is not built: {REMEDY}", binary.display()));
    for input in inputs.split_once(": ").map_or("", |(_, inputs)| inputs).split_whitespace() {
        if changed(Path::new(input)).is_some_and(|changed| changed > built) {
            panic!("{} is older than {input}: {REMEDY}", binary.display());
        }
    }
    binary
}

/// A program of the machine's, found in PATH or where Debian puts services' programs.
pub fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("the program {name} is missing: {REMEDY}"))
}

/// What a finished program said.
#[derive(Debug)]
pub struct Said {
    /// Exit status; none after a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    /// Both outputs.
    pub fn all(&self) -> String {
        format!("{}{}", self.out, self.err)
    }

    /// Panics unless the program ended with status 0; yields itself.
    #[track_caller]
    pub fn ok(self, what: &str) -> Self {
        assert_eq!(self.code, Some(0), "{what} failed:\n{}", self.all());
        self
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Said {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs a command to its end, without standard input.
#[track_caller]
pub fn run(command: &mut Command) -> Said {
    let output = command.stdin(Stdio::null()).output();
    output.unwrap_or_else(|error| panic!("{command:?} could not be started: {error}")).into()
}

/// Runs the binary under test.
#[track_caller]
pub fn run_lightbox(arguments: &[&str]) -> Said {
    run(Command::new(lightbox()).args(arguments).env("LIGHTBOX_ONNXRUNTIME", onnxruntime()))
}

/// A Python peer or judge of `tests/peers/`, not yet started.
pub fn python(script: &str) -> Command {
    let mut command = Command::new(part("tools/venv/bin/python"));
    command.arg(root().join("tests/peers").join(script));
    command
}
