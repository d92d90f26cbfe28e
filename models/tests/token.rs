//! Signing with a key in a PKCS #11 token (SoftHSM): what the token signed, a box accepts.
#![cfg(feature = "pkcs11")]
#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use lightbox_models::publish::token::{Module, TokenKey};
use lightbox_models::publish::{Design, FileKey, Holders, Lifetimes, PublishError, Publisher, Signer};
use lightbox_models::trust::{Folder, Known, verify};
use time::OffsetDateTime;

const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
const CONFIGURATION: &str = "LIGHTBOX_TEST_SOFTHSM";

/// The token's configuration comes by the environment, which a test must not change for others: so
/// the test runs itself once more in a process of its own.
#[test]
fn a_token_signs_what_a_box_accepts() {
    assert!(Path::new(MODULE).exists(), "install Debian's softhsm2 (./justw packages)");
    if std::env::var_os(CONFIGURATION).is_some() {
        return sign_and_verify();
    }
    let folder = tempfile::tempdir().unwrap();
    let (configuration, tokens) = (folder.path().join("softhsm2.conf"), folder.path().join("tokens"));
    std::fs::create_dir(&tokens).unwrap();
    std::fs::write(&configuration, format!("directories.tokendir = {}\n", tokens.display())).unwrap();
    let key = folder.path().join("key.pem");
    FileKey::generate(&key).unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).env("SOFTHSM2_CONF", &configuration).output();
        let output = output.unwrap_or_else(|error| panic!("{program}: {error}; ./justw packages"));
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    };
    run(
        "softhsm2-util",
        &["--init-token", "--free", "--label", "vendor", "--pin", "1234", "--so-pin", "5678"],
    );
    let path = key.to_str().unwrap();
    run(
        "softhsm2-util",
        &["--import", path, "--token", "vendor", "--label", "acme", "--id", "01", "--pin", "1234"],
    );
    let test = std::env::current_exe().unwrap();
    let status = Command::new(test)
        .args(["--exact", "a_token_signs_what_a_box_accepts"])
        .env("SOFTHSM2_CONF", &configuration)
        .env(CONFIGURATION, folder.path())
        .status();
    assert!(status.unwrap().success());
}

fn sign_and_verify() {
    let folder = std::path::PathBuf::from(std::env::var_os(CONFIGURATION).unwrap());
    let module = Module::load(Path::new(MODULE)).unwrap();
    let wrong = TokenKey::open(&module, "vendor", "1234", "other").unwrap_err();
    assert!(matches!(&wrong, PublishError::Token(why) if why.contains("no Ed25519 key pair")), "{wrong}");
    let token = TokenKey::open(&module, "vendor", "1234", "acme").unwrap();
    let file = FileKey::load(&folder.join("key.pem")).unwrap();
    assert_eq!(token.public(), file.public());
    assert_eq!(token.sign(b"message").unwrap(), file.sign(b"message").unwrap());

    let holders = Holders { keys: vec![token.public()], threshold: 1 };
    let design = Design {
        root: holders.clone(),
        targets: holders.clone(),
        snapshot: holders.clone(),
        timestamp: holders.clone(),
        delegates: BTreeMap::from([("vendor-acme".parse().unwrap(), holders)]),
    };
    let repository = folder.join("repository");
    let now = OffsetDateTime::from_unix_timestamp(1_795_305_600).unwrap();
    let publisher = Publisher::create(&repository, &design, &Lifetimes::default(), now, &[&token]).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let source = Arc::new(Folder::new(&repository));
    runtime.block_on(verify(source, publisher.root(), &Known::FirstUse, now, None)).unwrap();
}
