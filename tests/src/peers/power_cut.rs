//! A disk whose power can go at any instant: `tests/peers/power_cut_fs.py`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::json;

use crate::command::{program, python, run};
use crate::wait;

/// A mounted disk; unmounted on drop.
pub struct PowerCutDisk {
    child: Child,
    root: PathBuf,
}

/// What a power cut leaves of what was not synced.
#[derive(Clone, Copy, Debug)]
pub enum Cut {
    /// Nothing.
    Drop,
    /// Some of it, by chance.
    Some {
        /// Of the chance.
        seed: u64,
    },
}

impl PowerCutDisk {
    /// Mounts one at `root`, which is made. Syncs of files whose path fits `ignored` do nothing.
    #[track_caller]
    pub fn mount(root: &Path, ignored: Option<&str>) -> Self {
        fs::create_dir_all(root).expect("a mount point");
        let mut command = python("power_cut_fs.py");
        command.arg(root);
        if let Some(pattern) = ignored {
            command.args(["--ignore-sync", pattern]);
        }
        let log = fs::File::create(root.with_extension("log")).expect("a log");
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let disk = PowerCutDisk { child, root: root.to_owned() };
        let control = root.join(".power");
        wait::until(
            "the disk to be mounted (it needs /dev/fuse and the right to mount)",
            20,
            || control.exists().then_some(()),
            || fs::read_to_string(root.with_extension("log")).unwrap_or_default(),
        );
        disk
    }

    /// Writes into `out` what the disk would hold if the power went now.
    #[track_caller]
    pub fn cut(&self, out: &Path, cut: Cut) {
        let (mode, seed) = match cut {
            Cut::Drop => ("drop", 0),
            Cut::Some { seed } => ("some", seed),
        };
        let wish = json!({ "out": out, "mode": mode, "seed": seed });
        fs::OpenOptions::new()
            .write(true)
            .open(self.root.join(".power"))
            .and_then(|mut control| std::io::Write::write_all(&mut control, wish.to_string().as_bytes()))
            .unwrap_or_else(|error| panic!("cutting the power: {error}"));
    }
}

impl Drop for PowerCutDisk {
    fn drop(&mut self) {
        let said = run(Command::new(program("fusermount3")).args(["-u", "-z"]).arg(&self.root));
        if said.code != Some(0) {
            eprintln!("{} stays mounted: {}", self.root.display(), said.all());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
