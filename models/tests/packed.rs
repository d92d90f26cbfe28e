//! Packing and unpacking: the same bytes every time, in little memory whatever the size, and whole
//! or not at all whenever the power goes.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod forge;

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use lightbox_models::Bundle;
use lightbox_models::pack::{Progress, check, pack, remove_leftovers, unpack};
use sha2::{Digest, Sha256};

/// Tells a copy of this test, run as a process of its own, what to do.
const TASK: &str = "LIGHTBOX_TEST_PACK";

#[test]
fn packs_to_the_same_bytes_and_unpacks_to_the_same_bundle() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let mut steps = Vec::new();
    let packed = pack(&forge::reference(), &at("a.lightbox"), &mut |step| steps.push(step)).unwrap();
    let bundle = Bundle::open(&forge::reference()).unwrap();
    assert_eq!(packed.digest, bundle.digest());
    let total = bundle.manifest().bytes();
    assert_eq!(steps.last(), Some(&Progress { done: total, total }));
    // From a copy with other times: the same bytes.
    fs::create_dir(at("copy")).unwrap();
    forge::copy_folder(&forge::reference(), &at("copy"));
    pack(&at("copy"), &at("b.lightbox"), &mut |_| {}).unwrap();
    assert_eq!(fs::read(at("a.lightbox")).unwrap(), fs::read(at("b.lightbox")).unwrap());

    let unpacked = unpack(&at("a.lightbox"), &at("bundle"), &mut |_| {}).unwrap();
    assert_eq!(unpacked, packed);
    assert_eq!(Bundle::open(&at("bundle")).unwrap().digest(), packed.digest);
    let again = unpack(&at("a.lightbox"), &at("bundle"), &mut |_| {}).unwrap_err();
    assert_eq!(again.clause(), "bundle-exists");
    // Any tar program reads it.
    let listed = Command::new("tar").arg("-tf").arg(at("a.lightbox")).output().unwrap();
    assert!(listed.status.success());
    let names = String::from_utf8(listed.stdout).unwrap();
    assert!(names.starts_with("manifest.toml\nmodel.onnx\ncard.md\n"), "{names}");
}

/// A bundle with a network of zeros of this size; it takes no room on the disk.
fn bundle_of(size: u64, folder: &Path) {
    forge::copy_folder(&forge::reference(), folder);
    let network = folder.join("model.onnx");
    let mut bytes = fs::read(&network).unwrap();
    let (listed, length) = (forge::sha256_hex(&bytes), bytes.len());
    // ONNX still: the rest is the model's doc_string, field 6.
    let mut rest = size - length as u64 - 6;
    bytes.push(6 << 3 | 2);
    bytes.extend((0..5).map(|at| (rest >> (7 * at)) as u8 & 0x7f | if at < 4 { 0x80 } else { 0 }));
    fs::write(&network, &bytes).unwrap();
    File::options().write(true).open(&network).unwrap().set_len(size).unwrap();
    let mut hasher = Sha256::new();
    hasher.update(&bytes);
    let zeros = vec![0; 1 << 20];
    while rest > 0 {
        let now = rest.min(1 << 20);
        hasher.update(&zeros[..now as usize]);
        rest -= now;
    }
    let sha256: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let sbom = fs::read_to_string(folder.join("sbom.json")).unwrap();
    let sbom_listed = forge::sha256_hex(sbom.as_bytes());
    let sbom = sbom.replace(&listed, &sha256);
    fs::write(folder.join("sbom.json"), &sbom).unwrap();
    let manifest = fs::read_to_string(folder.join("manifest.toml")).unwrap();
    let manifest = manifest
        .replace(&listed, &sha256)
        .replace(&sbom_listed, &forge::sha256_hex(sbom.as_bytes()))
        .replacen(&format!("size = {length}"), &format!("size = {size}"), 1);
    fs::write(folder.join("manifest.toml"), manifest).unwrap();
}

/// The most memory that this process has had, in MiB.
fn peak_mib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().trim().parse::<u64>().unwrap() / 1024
}

fn this_test(name: &str, folder: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--include-ignored", "--nocapture"]).env(TASK, folder);
    command
}

/// Packs, checks and unpacks in a process of its own, so that its memory is the task's alone.
fn little_memory(name: &str, size: u64) {
    if let Some(folder) = std::env::var_os(TASK) {
        let folder = Path::new(&folder);
        let mut steps = 0;
        pack(&folder.join("bundle"), &folder.join("x.lightbox"), &mut |_| steps += 1).unwrap();
        check(&folder.join("x.lightbox"), &mut |_| steps += 1).unwrap();
        unpack(&folder.join("x.lightbox"), &folder.join("unpacked"), &mut |_| steps += 1).unwrap();
        Bundle::open(&folder.join("unpacked")).unwrap();
        let peak = peak_mib();
        println!("peak {peak} MiB for {} MiB, {steps} steps of progress", size >> 20);
        assert!(peak < 64, "{peak} MiB");
        assert!(steps as u64 > 3 * (size >> 20));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("bundle")).unwrap();
    bundle_of(size, &folder.path().join("bundle"));
    assert!(this_test(name, folder.path()).status().unwrap().success());
}

#[test]
fn little_memory_whatever_the_size() {
    little_memory("little_memory_whatever_the_size", 128 << 20);
}

#[test]
#[ignore = "writes 4 GB and takes a minute: run it after a change to packing"]
fn little_memory_for_2_gb() {
    little_memory("little_memory_for_2_gb", 2 << 30);
}

#[test]
fn killed_while_unpacking_leaves_a_whole_bundle_or_none() {
    if let Some(folder) = std::env::var_os(TASK) {
        let folder = Path::new(&folder);
        println!("begins");
        unpack(&folder.join("x.lightbox"), &folder.join("models/new"), &mut |_| {}).unwrap();
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("bundle")).unwrap();
    fs::create_dir(at("models")).unwrap();
    bundle_of(16 << 20, &at("bundle"));
    let digest = pack(&at("bundle"), &at("x.lightbox"), &mut |_| {}).unwrap().digest;
    let (mut whole, mut none) = (0, 0);
    for round in 0..12 {
        let mut child = this_test("killed_while_unpacking_leaves_a_whole_bundle_or_none", folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // At instants from before the first byte to after the last one, on any machine: by what is
        // there, not by the clock.
        let wanted = round * (18 << 20) / 11;
        while child.try_wait().unwrap().is_none() && under_way(&at("models")) < wanted {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        if at("models/new").exists() {
            assert_eq!(Bundle::open(&at("models/new")).unwrap().digest(), digest);
            fs::remove_dir_all(at("models/new")).unwrap();
            whole += 1;
        } else {
            none += 1;
        }
        assert!(remove_leftovers(&at("models")).unwrap() <= 1);
        assert_eq!(fs::read_dir(at("models")).unwrap().count(), 0);
    }
    assert!(whole > 0 && none > 0, "{whole} whole, {none} none");
}

/// Bytes that an unpacking has written so far.
fn under_way(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let metadata = fs::metadata(&path).ok()?;
            Some(if metadata.is_dir() { under_way(&path) } else { metadata.len() })
        })
        .sum()
}
