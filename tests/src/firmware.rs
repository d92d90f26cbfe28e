//! A machine with a firmware image, without the machine: a disk and an EFI system partition as files, a publisher of images,
//! and the image's units, which are run by hand.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest as _, Sha256};

use crate::command::{Said, lightbox, run, run_lightbox};
use crate::hospital::Hospital;
use crate::site::Site;

const MIB: usize = 1 << 20;
/// Of a root and its hash tree.
const BLOCK: usize = 4096;
/// The root hash of the running system.
const RUNNING: &str = "11111111222233334444555555555555aaaaaaaabbbbccccddddeeeeeeeeeeee";

/// What is particular of an image; all else fits the box.
#[derive(Clone, Debug)]
pub struct Image {
    /// Its version.
    pub version: &'static str,
    /// Its flavour.
    pub flavour: &'static str,
    /// What it does to the ledger; none: what this release does.
    pub ledger: Option<String>,
}

impl Image {
    /// One that fits.
    pub fn new(version: &'static str) -> Self {
        Image { version, flavour: "test", ledger: None }
    }
}

/// The machine.
pub struct Firmware {
    folder: PathBuf,
}

fn guid(hex: &str) -> Vec<u8> {
    let hex: String = hex.chars().filter(|one| *one != '-').collect();
    let byte = |at: usize| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).expect("hex");
    [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15].map(byte).into()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// A PE file with the two sections that are read.
fn uki(names: &str, line: &str) -> Vec<u8> {
    let mut bytes = vec![0; 0x400];
    bytes[0x3c] = 0x80;
    bytes[0x80..0x84].copy_from_slice(b"PE\0\0");
    bytes[0x86] = 2;
    for (index, (name, text)) in [(".osrel", names), (".cmdline", line)].into_iter().enumerate() {
        let at = 0x80 + 24 + 40 * index;
        bytes[at..at + name.len()].copy_from_slice(name.as_bytes());
        let (size, place) = (text.len() as u32, bytes.len() as u32);
        for (offset, number) in [(8, size), (16, size.next_multiple_of(512)), (20, place)] {
            bytes[at + offset..at + offset + 4].copy_from_slice(&number.to_le_bytes());
        }
        bytes.extend(text.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes
}

/// The hash tree over a root of up to 16384 blocks, and the root hash (dm-verity, format 1).
fn hash_tree(root: &[u8]) -> (Vec<u8>, String) {
    let mut tree = vec![0; BLOCK];
    tree[..8].copy_from_slice(b"verity\0\0");
    for (at, value) in
        [(8, 1), (12, 1), (64, BLOCK as u32), (68, BLOCK as u32), (72, (root.len() / BLOCK) as u32)]
    {
        tree[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    tree[32..38].copy_from_slice(b"sha256");
    let above = |below: &[u8]| {
        let mut level: Vec<u8> = below.chunks(BLOCK).flat_map(Sha256::digest).collect();
        level.resize(level.len().next_multiple_of(BLOCK), 0);
        level
    };
    let lower = above(root);
    let upper = if lower.len() > BLOCK { above(&lower) } else { Vec::new() };
    let top = if upper.is_empty() { &lower } else { &upper };
    let hash = Sha256::digest(top).iter().map(|byte| format!("{byte:02x}")).collect();
    tree.extend(upper.iter().chain(&lower));
    (tree, hash)
}

impl Firmware {
    /// A machine that runs image 1.0.0, and an empty signed repository of images.
    #[track_caller]
    pub fn new(hospital: &Hospital) -> Self {
        let folder = hospital.sub_folder("firmware");
        let machine = Firmware { folder };
        for name in ["state", "orders", "esp/EFI/Linux"] {
            fs::create_dir_all(machine.at(name)).expect("made");
        }
        fs::write(machine.at("boot-id"), "1").expect("written");
        machine.runs("1.0.0");
        machine.passes_its_gate("1.0.0");
        fs::write(
            machine.at("esp/EFI/Linux/lightbox_1.0.0+3.efi"),
            uki("IMAGE_VERSION=1.0.0\n", &format!("roothash={RUNNING}")),
        )
        .expect("written");
        machine.partition();
        let (repository, keys) = (machine.repository(), machine.at("keys"));
        let vendor = [
            "repository",
            "new",
            text(&repository),
            "--vendor",
            "lightbox-system",
            "--make-keys",
            text(&keys),
        ];
        run_lightbox(&vendor).ok("repository new");
        machine
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The signed repository.
    pub fn repository(&self) -> PathBuf {
        self.at("repository")
    }

    /// Where an image lies until it is written.
    pub fn stage(&self) -> PathBuf {
        self.at("orders/stage")
    }

    /// Says which image runs.
    pub fn runs(&self, version: &str) {
        let names = format!(
            "IMAGE_ID=lightbox\nIMAGE_VERSION={version}\nVARIANT_ID=test\nPRETTY_NAME=\"Lightbox {version} (test)\"\n"
        );
        fs::write(self.at("os-release"), names).expect("written");
    }

    /// What the image's own unit does after a good start.
    pub fn passes_its_gate(&self, version: &str) {
        self.starts(version, serde_json::json!([]));
    }

    /// The same, with what stands on the EFI system partition beside it.
    pub fn starts(&self, version: &str, others: serde_json::Value) {
        let boot = fs::read_to_string(self.at("boot-id")).expect("read");
        let start = serde_json::json!({
            "boot": boot, "entry": format!("lightbox_{version}"), "failed": 0, "others": others,
        });
        fs::write(self.at("state/start"), start.to_string()).expect("written");
    }

    /// A disk with two slots.
    fn partition(&self) {
        let mut bytes = vec![0; 12 * MIB];
        let (root, tree) = ("4f68bce3-e8cd-4db1-96e7-fbcaf984b709", "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5");
        let rows = [
            (root, "11111111-2222-3333-4444-555555555555", 1, 2),
            (tree, "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee", 3, 1),
            (root, "00000000-0000-0000-0000-000000000004", 4, 2),
            (tree, "00000000-0000-0000-0000-000000000005", 6, 1),
        ];
        for (index, (kind, uuid, start, size)) in rows.into_iter().enumerate() {
            let at = 1024 + 128 * index;
            bytes[at..at + 16].copy_from_slice(&guid(kind));
            bytes[at + 16..at + 32].copy_from_slice(&guid(uuid));
            let first = (start * MIB / 512) as u64;
            bytes[at + 32..at + 40].copy_from_slice(&first.to_le_bytes());
            bytes[at + 40..at + 48].copy_from_slice(&(first + (size * MIB / 512) as u64 - 1).to_le_bytes());
        }
        bytes[512..524].copy_from_slice(b"EFI PART\0\0\x01\0");
        for (at, number) in [(12, 92_u32), (24, 1), (72, 2), (80, 128), (84, 128)] {
            bytes[512 + at..516 + at].copy_from_slice(&number.to_le_bytes());
        }
        let entries = crc32fast::hash(&bytes[1024..1024 + 128 * 128]);
        bytes[600..604].copy_from_slice(&entries.to_le_bytes());
        let header = crc32fast::hash(&bytes[512..604]);
        bytes[528..532].copy_from_slice(&header.to_le_bytes());
        fs::write(self.at("disk"), bytes).expect("written");
    }

    /// Publishes an image.
    #[track_caller]
    pub fn publish(&self, image: &Image) {
        self.publish_with(image, |_| {}).ok("system publish");
    }

    /// Publishes an image whose hash tree `damage` has been at.
    #[track_caller]
    pub fn publish_with(&self, image: &Image, damage: impl FnOnce(&mut Vec<u8>)) -> Said {
        let schema = run_lightbox(&["system", "ledger-schema"]).ok("system ledger-schema").out;
        let ledger = image.ledger.clone().unwrap_or_else(|| schema.trim().to_owned());
        let contents = image.version.repeat(200_000).into_bytes();
        let contents = contents[..contents.len() / BLOCK * BLOCK].to_vec();
        let (mut hashes, hash) = hash_tree(&contents);
        damage(&mut hashes);
        let names = format!(
            "IMAGE_ID=lightbox\nIMAGE_VERSION={}\nVARIANT_ID={}\nLIGHTBOX_ROLLBACK=1\nLIGHTBOX_LEDGER={ledger}\nLIGHTBOX_MACHINE={}\n",
            image.version,
            image.flavour,
            std::env::consts::ARCH,
        );
        let (root, tree, entry) = (self.at("new-root"), self.at("new-tree"), self.at("new-uki"));
        fs::write(&root, contents).expect("written");
        fs::write(&tree, hashes).expect("written");
        fs::write(&entry, uki(&names, &format!("quiet roothash={hash}"))).expect("written");
        let keys: Vec<PathBuf> = ["vendor-lightbox-system", "snapshot", "timestamp"]
            .map(|role| self.at("keys").join(format!("{role}.pem")))
            .into();
        let repository = self.repository();
        let mut arguments = vec!["system", "publish", "--root-fs", text(&root), "--hash-tree", text(&tree)];
        arguments.extend(["--uki", text(&entry), "--repository", text(&repository)]);
        keys.iter().for_each(|key| arguments.extend(["--key", text(key)]));
        run_lightbox(&arguments)
    }

    /// The site file's `[system]`, and the daemon's environment.
    #[must_use]
    pub fn site(&self, mut site: Site, more: &str) -> Site {
        site.environment = vec![
            ("LIGHTBOX_OS_RELEASE".into(), self.at("os-release")),
            ("LIGHTBOX_SYSTEM_STATE".into(), self.at("state")),
            ("LIGHTBOX_BOOT_ID".into(), self.at("boot-id")),
        ];
        site.text(&format!(
            "[system]\nroot = {:?}\nrepository = {:?}\nfolder = {:?}\n{more}",
            self.repository().join("metadata/1.root.json"),
            self.repository(),
            self.at("orders"),
        ))
    }

    /// Runs `lightbox system …` beside the daemon.
    #[track_caller]
    pub fn system(&self, site: &Site, arguments: &[&str]) -> Said {
        let mut command = Command::new(lightbox());
        command.arg("system").args(arguments).arg("--site").arg(&site.path);
        run(command.envs(site.environment.iter().cloned()))
    }

    /// What the image's unit does once there is an order: writes the slot.
    #[track_caller]
    pub fn write_slot(&self) -> Said {
        let mut command = Command::new(lightbox());
        command.args(["system", "write-slot", "--entry", "lightbox_1.0.0", "--running", RUNNING]);
        let root = self.repository().join("metadata/1.root.json");
        for (name, path) in [
            ("--folder", self.at("orders")),
            ("--state", self.at("state")),
            ("--root", root),
            ("--esp", self.at("esp")),
            ("--disk", self.at("disk")),
        ] {
            command.arg(name).arg(path);
        }
        command.env("LIGHTBOX_OS_RELEASE", self.at("os-release"));
        run(command.env("LIGHTBOX_BOOT_ID", self.at("boot-id")))
    }

    /// A slot writer that took the order and was stopped when a third was written.
    #[track_caller]
    pub fn is_interrupted_at_a_third(&self, version: &str) {
        let boot = fs::read_to_string(self.at("boot-id")).expect("read");
        let progress = serde_json::json!({
            "version": version, "boot": boot, "state": "writing", "done": 100, "all": 300, "said": "",
        });
        fs::write(self.at("state/slot-write"), progress.to_string()).expect("written");
        fs::remove_file(self.at("orders/write")).expect("an order to write");
    }

    /// Another counter for a boot entry.
    #[track_caller]
    pub fn rename_entry(&self, from: &str, to: &str) {
        let folder = self.at("esp/EFI/Linux");
        fs::rename(folder.join(from), folder.join(to)).expect("renamed");
    }

    /// Whether an order waits: `write` or `restart`.
    pub fn is_ordered(&self, name: &str) -> bool {
        self.at("orders").join(name).exists()
    }

    /// Takes the order to restart, as the image's unit does just before, and is another start of the machine.
    #[track_caller]
    pub fn restarts(&self) {
        self.loses_its_order();
        self.is_started_anew();
    }

    /// Another start of the machine.
    #[track_caller]
    pub fn is_started_anew(&self) {
        let boot = self.at("boot-id");
        let before = fs::read_to_string(&boot).expect("read");
        fs::write(boot, format!("{before}+")).expect("written");
    }

    /// The order to restart is gone, and the machine still runs.
    #[track_caller]
    pub fn loses_its_order(&self) {
        fs::remove_file(self.at("orders/restart")).expect("an order to restart");
    }

    /// The boot entries.
    pub fn entries(&self) -> Vec<String> {
        let files = fs::read_dir(self.at("esp/EFI/Linux")).expect("there");
        let mut names: Vec<_> =
            files.map(|file| file.expect("read").file_name().into_string().expect("a name")).collect();
        names.sort();
        names
    }

    /// What lies in the slot that does not run.
    pub fn other_slot(&self, count: usize) -> Vec<u8> {
        fs::read(self.at("disk")).expect("read")[4 * MIB..4 * MIB + count].to_vec()
    }
}
