//! Sealed files against another implementation of age (rage, through its Python binding): what either
//! seals, the other opens.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use lightbox_models::acceptance::seal::{Recipient, open, seal, seal_set};
use lightbox_models::metrics::SplitMix64;

const SECRET: [u8; 32] = *b"a secret of this test, 32 bytes.";

/// Runs one expression over `data`, with `recipient` and `identity` at hand; its bytes are printed.
fn rage(expression: &str, data: &[u8]) -> Vec<u8> {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/venv/bin/python");
    assert!(python.exists(), "{} is missing; remedy: run `./justw peers`", python.display());
    let identity =
        bech32::encode_upper::<bech32::Bech32>(bech32::Hrp::parse("age-secret-key-").unwrap(), &SECRET)
            .unwrap();
    let script = format!(
        "import sys, pyrage\n\
         identity = pyrage.x25519.Identity.from_str(sys.argv[1])\n\
         recipient = pyrage.x25519.Recipient.from_str(sys.argv[2])\n\
         assert str(identity.to_public()) == sys.argv[2]\n\
         data = sys.stdin.buffer.read()\n\
         sys.stdout.buffer.write({expression})"
    );
    let mut child = Command::new(python)
        .args(["-c", &script, &identity, &Recipient::of(&SECRET).unwrap().to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(data).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{expression}: {}", output.status);
    output.stdout
}

#[test]
fn what_either_seals_the_other_opens() {
    for length in [0, 11, 65536, 150_000] {
        let plain: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();

        let theirs = rage("pyrage.encrypt(data, [recipient])", &plain);
        let mut opened = Vec::new();
        open(theirs.as_slice(), &mut opened, &SECRET).unwrap();
        assert!(opened == plain, "{length} bytes sealed by rage");

        let mut random = SplitMix64::new(length);
        let mut ours = Vec::new();
        seal(plain.as_slice(), &mut ours, &[Recipient::of(&SECRET).unwrap()], |bytes| {
            bytes.fill_with(|| random.next_u64() as u8);
            Ok(())
        })
        .unwrap();
        assert!(rage("pyrage.decrypt(data, [identity])", &ours) == plain, "{length} bytes sealed here");

        // The stanza that names a set is passed over, as the format asks.
        let mut named = Vec::new();
        let digest = "ab".repeat(32);
        seal_set(&digest, plain.as_slice(), &mut named, &[Recipient::of(&SECRET).unwrap()], |bytes| {
            bytes.fill_with(|| random.next_u64() as u8);
            Ok(())
        })
        .unwrap();
        assert!(rage("pyrage.decrypt(data, [identity])", &named) == plain, "{length} bytes of a named set");
    }
}
