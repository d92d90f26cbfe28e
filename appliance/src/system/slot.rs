//! The other side of an update: checks the staged image again and writes it into the slot that does not run. As root, in
//! a unit of the image.
//!
//! It believes nothing that the daemon says: the root of trust is the image's own, the record of versions seen its own,
//! and each file is compared with its signed digest while it is written, and again after it was read back.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use lightbox_bootstrap::boot_entry::{EntryName, TRIES};
use lightbox_bootstrap::slot::disk::FileDisk;
use lightbox_bootstrap::slot::{Digested, Image, esp, write};
use lightbox_models::trust::{self, Folder, Known, Target};
use time::OffsetDateTime;

use super::manifest::{Here, Version};
use super::orders::{Orders, Progress, Standing, WriteOrder};
use super::stage;

/// The box that is written to.
#[derive(Clone, Debug)]
pub struct Place {
    /// The disk.
    pub disk: PathBuf,
    /// Where the EFI system partition is mounted.
    pub esp: PathBuf,
    /// The running system's root hash.
    pub running: String,
    /// The running system's boot entry.
    pub entry: EntryName,
    /// The root of trust.
    pub root: PathBuf,
    /// What an image must fit.
    pub here: Here,
}

impl Place {
    /// Carries out the order that waits; says how far it is, and how it ended. Yields the new boot entry.
    pub async fn carry_out(&self, orders: &Orders, now: OffsetDateTime) -> anyhow::Result<String> {
        let order = orders.waiting_write().context("the order to write an image cannot be read");
        let order = match order {
            Ok(order) => order,
            Err(error) => {
                // Else the unit that watches for it would start us for ever.
                if orders.write_waits() {
                    orders.take_write().context("the order to write an image cannot be removed")?;
                }
                return Err(error);
            }
        };
        let version = order.version;
        let say = |state, done, all, said: String| {
            let progress = Progress { version, boot: super::boot_id(), state, done, all, said };
            orders.answer(&progress).context("the progress cannot be written down")
        };
        // In this order: an old answer is never taken for one to this order.
        say(Standing::Writing, 0, 0, String::new())?;
        orders.take_write().context("the order to write an image cannot be removed")?;
        if let Err(error) = self.is_blessed() {
            say(Standing::Later, 0, 0, format!("{error:#}"))?;
            return Err(error);
        }
        let mut tenths = 0;
        let mut progress = |done: u64, all: u64| {
            let now = done * 50 / all.max(1);
            if now > tenths {
                tenths = now;
                // What cannot be told is not worth stopping for: the end is told, or fails.
                let _ = say(Standing::Writing, done, all, String::new());
            }
        };
        match self.write(orders, &order, now, &mut progress).await {
            Ok(entry) => {
                say(Standing::Written, 1, 1, entry.clone())?;
                Ok(entry)
            }
            Err(error) => {
                say(Standing::Refused, 0, 0, format!("{error:#}"))?;
                Err(error)
            }
        }
    }

    async fn write(
        &self,
        orders: &Orders,
        order: &WriteOrder,
        now: OffsetDateTime,
        progress: &mut dyn FnMut(u64, u64),
    ) -> anyhow::Result<String> {
        let root = std::fs::read(&self.root).with_context(|| self.root.display().to_string())?;
        let seen = orders.seen().context("the slot writer's record of what it saw cannot be read")?;
        let known = Known::read(seen.as_deref(), false)?;
        let staged = orders.stage();
        let source = Arc::new(Folder::new(&staged));
        let verified = trust::verify(source, &root, &known, now, order.exception().as_ref()).await?;
        // The daemon says who let them pass, and root cannot know: so it stands in root's own journal too.
        if let Some(used) = verified.overridden() {
            println!(
                "metadata past their date are taken, because {:?} said so: {:?}",
                used.by.who, used.by.why
            );
        }
        orders.keep_seen(&verified.seen().to_json()).context("the slot writer's record cannot be kept")?;
        let found = stage::find(&verified, &self.here.channel(), order.version).await?;
        let offered = &found.offered;
        found.manifest.judge(&self.here, offered.root.length, offered.verity.length)?;
        let image = image(order.version, &found.manifest.root_hash, &staged, offered);
        let mut disk = FileDisk::open(&self.disk).with_context(|| self.disk.display().to_string())?;
        Ok(write(&mut disk, &self.esp, &self.running, &self.entry.stem, &image, progress)?)
    }

    /// Only a system that passed its health gate may give up the other slot: it is what the box comes back to.
    fn is_blessed(&self) -> anyhow::Result<()> {
        let running = &self.entry.stem;
        let found = esp::entries(&self.esp)?;
        let entry = found.iter().find(|(name, _)| name.stem.eq_ignore_ascii_case(running));
        match entry {
            Some((name, _)) if name.left == Some(TRIES) => Ok(()),
            Some(_) => bail!("{running} has not passed its health gate yet; remedy: wait until it has"),
            None => bail!("{running} is not on the EFI system partition; remedy: install the box anew"),
        }
    }
}

fn image(version: Version, root_hash: &str, stage: &Path, offered: &super::manifest::Offered) -> Image {
    let file = |target: &Target| Digested {
        path: stage.join(target.path()),
        bytes: target.length,
        sha256: target.sha256.clone(),
    };
    Image {
        version: version.to_string(),
        root_hash: root_hash.to_owned(),
        root: file(&offered.root),
        verity: file(&offered.verity),
        uki: file(&offered.uki),
    }
}
