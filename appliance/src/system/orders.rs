//! What the daemon and the image's units say to each other, as files.
//!
//! The daemon leaves orders in a folder of its own (`system.folder`), which units of the image watch: `write`, with what
//! is to be written; `restart`, empty. The units answer below a folder that only root writes: [`Progress`].

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use lightbox_models::plain;
use lightbox_models::trust::Override;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::manifest::Version;
use crate::store::folder;

/// Longest file that either side reads of the other.
const BYTES_MAX: u64 = 64 << 10;

/// Where the image's units answer.
pub const STATE: &str = "/var/lib/lightbox-system";

/// The order to write the staged image into the other slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WriteOrder {
    /// The image's version.
    pub version: Version,
    /// Who lets metadata past their date pass, and why; none: nobody.
    pub dates: Option<(String, String)>,
}

impl WriteOrder {
    /// The person's decision, as the check takes it.
    pub fn exception(&self) -> Option<Override> {
        self.dates.clone().map(|(who, why)| Override { who, why })
    }
}

/// How far the slot writer is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// The image's version.
    pub version: Version,
    /// The kernel's `boot_id`: who was at work before the machine was restarted is not at work any more.
    #[serde(default)]
    pub boot: String,
    /// How it stands.
    pub state: Standing,
    /// Bytes written and read back, of `all`.
    pub done: u64,
    /// Bytes to write and to read back.
    pub all: u64,
    /// Why it was refused; else the boot entry.
    pub said: String,
}

/// How an order stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// At work.
    Writing,
    /// Not now, for a reason that passes; the order is given again later.
    Later,
    /// It is in its slot.
    Written,
    /// It was refused, or failed; the other slot may be half-written and has no boot entry.
    Refused,
}

/// A start that passed its health gate, as the image's unit saw it when it called it good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// The kernel's `boot_id`: a later start is another one.
    pub boot: String,
    /// The entry that was started, without its counter: `lightbox_1.2.0`.
    pub entry: String,
    /// Starts of it just before this one that nobody has called good.
    pub failed: u32,
    /// The other entries.
    pub others: Vec<Entry>,
}

/// Another boot entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its name without the counter.
    pub name: String,
    /// Tries left; `None` without a counter.
    pub left: Option<u32>,
    /// Starts that nobody has called good.
    pub failed: u32,
}

impl Start {
    /// What went wrong before this start; `None` where nothing did.
    pub fn trouble(&self) -> Option<String> {
        let given_up = self.others.iter().filter(|one| one.left == Some(0)).map(|one| {
            format!(
                "{} was started {} times without passing its health gate, so {} runs: its slot is damaged, or it is not well here",
                one.name, one.failed, self.entry
            )
        });
        let before = (self.failed > 0)
            .then(|| format!("{} was started {} times before without passing it", self.entry, self.failed));
        let all: Vec<String> = given_up.chain(before).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }
}

/// The files of both sides.
#[derive(Clone, Debug)]
pub struct Orders {
    folder: PathBuf,
    state: PathBuf,
}

impl Orders {
    /// Below the daemon's folder, and the units' one.
    pub fn new(folder: &Path, state: &Path) -> Self {
        Orders { folder: folder.to_owned(), state: state.to_owned() }
    }

    /// Where an image is staged: a repository with this one image.
    pub fn stage(&self) -> PathBuf {
        self.folder.join("stage")
    }

    /// Has the staged image written.
    pub fn write(&self, order: &WriteOrder) -> io::Result<()> {
        put(&self.folder, "write", order)
    }

    /// The order to write that waits.
    pub fn waiting_write(&self) -> io::Result<WriteOrder> {
        get(&self.folder.join("write"))
    }

    /// Takes the order to write off the folder, so that it is carried out once.
    pub fn take_write(&self) -> io::Result<()> {
        fs::remove_file(self.folder.join("write"))
    }

    /// Whether an order to write waits.
    pub fn write_waits(&self) -> bool {
        self.folder.join("write").exists()
    }

    /// Has the machine restarted.
    pub fn restart(&self) -> io::Result<()> {
        put(&self.folder, "restart", &())
    }

    /// Whether the order to restart waits: the image's unit takes it off just before.
    pub fn restart_waits(&self) -> bool {
        self.folder.join("restart").exists()
    }

    /// Takes the order to restart off.
    pub fn take_restart(&self) -> io::Result<()> {
        fs::remove_file(self.folder.join("restart"))?;
        folder::sync(&self.folder)
    }

    /// Says how far the writing is.
    pub fn answer(&self, progress: &Progress) -> io::Result<()> {
        put(&self.state, "slot-write", progress)
    }

    /// What was said last; none before the first order, or where it cannot be read.
    pub fn progress(&self) -> Option<Progress> {
        get(&self.state.join("slot-write")).ok()
    }

    /// Says that this start was good.
    pub fn started(&self, start: &Start) -> io::Result<()> {
        put(&self.state, "start", start)
    }

    /// The last good start; none where nothing was said yet.
    pub fn last_start(&self) -> Option<Start> {
        get(&self.state.join("start")).ok()
    }

    /// The slot writer's own record of what it saw of the repository.
    pub fn seen(&self) -> io::Result<Option<String>> {
        match fs::read_to_string(self.state.join("images-seen")) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Keeps it.
    pub fn keep_seen(&self, text: &str) -> io::Result<()> {
        put_bytes(&self.state, "images-seen", text.as_bytes())
    }
}

fn put<T: Serialize>(folder: &Path, name: &str, value: &T) -> io::Result<()> {
    put_bytes(folder, name, &serde_json::to_vec(value).map_err(io::Error::other)?)
}

/// Writes a file whole or not at all.
fn put_bytes(at: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let part = at.join(format!(".{name}.part"));
    let mut file = File::create(&part)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&part, at.join(name))?;
    folder::sync(at)
}

fn get<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    // No link that the other side has made is followed, and nothing that could be read for ever.
    serde_json::from_slice(&plain::read(path, BYTES_MAX)?).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_carried_out_once_and_links_are_not_followed() {
        let folder = tempfile::tempdir().expect("temp dir");
        let orders = Orders::new(folder.path(), folder.path());
        let order = WriteOrder { version: Version(1, 2, 3), dates: Some(("A".into(), "why".into())) };
        orders.write(&order).expect("left");
        assert!(orders.write_waits());
        assert_eq!(orders.waiting_write().expect("read"), order);
        orders.take_write().expect("taken");
        assert!(!orders.write_waits() && orders.waiting_write().is_err());
        orders.restart().expect("left");
        orders.take_restart().expect("taken");
        assert!(!orders.restart_waits());
        std::fs::write(folder.path().join("elsewhere"), serde_json::to_vec(&order).expect("text"))
            .expect("written");
        std::os::unix::fs::symlink(folder.path().join("elsewhere"), folder.path().join("write"))
            .expect("linked");
        assert!(orders.waiting_write().is_err());
        assert_eq!((orders.progress(), orders.seen().expect("none")), (None, None));
        let other = Entry { name: "lightbox_1.2.0".into(), left: Some(0), failed: 3 };
        let mut start =
            Start { boot: "b".into(), entry: "lightbox_1.1.0".into(), failed: 0, others: vec![other] };
        orders.started(&start).expect("said");
        assert_eq!(orders.last_start().as_ref(), Some(&start));
        let trouble = start.trouble().expect("trouble");
        assert!(trouble.starts_with("lightbox_1.2.0 was started 3 times"), "{trouble}");
        start.others[0].left = Some(3);
        assert_eq!(start.trouble(), None);
        orders.keep_seen("x").expect("kept");
        assert_eq!(orders.seen().expect("kept").as_deref(), Some("x"));
    }
}
