use std::collections::BTreeMap;
use std::sync::Arc;

use lightbox_models::acceptance::SetReader;
use lightbox_models::pack::Packed;
use lightbox_models::plan::{ClauseName, Scope};
use lightbox_models::trust::{Folder, Known, verify};

use super::*;
use crate::vendor::plan::{Question, ask, before_any_run};

fn detector() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/reference/phantom-detector/bundle")
}

fn now() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(1_795_305_600).unwrap()
}

fn library() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/parts/onnxruntime/libonnxruntime.so")
}

fn packed(bundle: &Bundle) -> Packed {
    Packed { manifest: bundle.manifest().clone(), digest: bundle.digest().to_owned() }
}

#[tokio::test]
async fn what_it_publishes_is_trusted_and_the_plan_admits_its_baseline() {
    let folder = tempfile::tempdir().unwrap();
    let vendor = DemoVendor::make(folder.path(), now()).unwrap();
    let bundle = vendor.publish_bundle(&detector(), now()).unwrap();
    let device = Recipient::of(&[7; 32]).unwrap();
    let planned = vendor.publish_plan(&detector(), &Duties::default(), Some(&device), now()).unwrap();

    let source = Arc::new(Folder::new(vendor.repository()));
    let root = vendor.root().unwrap();
    let verified = verify(source, &root, &Known::FirstUse, now(), None).await.unwrap();
    let names: Vec<&str> = verified.targets().map(|target| target.name.as_str()).collect();
    assert_eq!(
        names,
        [planned.plan.as_str(), bundle.bundle.as_str(), planned.sealed_set.as_deref().unwrap()]
    );

    let text = String::from_utf8(verified.read_target(&planned.plan, 1 << 20).await.unwrap()).unwrap();
    let plan = Plan::read(Path::new("plan.toml"), &text).unwrap();
    let file = folder.path().join("fetched");
    verified.save_target(&bundle.bundle, 1 << 30, &file, &mut |_, _| {}).await.unwrap();
    let candidate = pack::check(&file, &mut |_| {}).unwrap();
    let evidence = before_any_run("09521234543213", now().unix_timestamp());
    let updates = BTreeMap::new();
    let question = Question {
        plan: &plan,
        candidate: &candidate,
        installed: None,
        updates: &updates,
        scope: Scope::Global,
        evidence: &evidence,
    };
    let verdict = ask(&question);
    assert!(verdict.allows(), "{verdict:?}");

    // The set is the one that the plan names, and is opened by the device alone.
    let sealed = verified.read_target(planned.sealed_set.as_deref().unwrap(), 1 << 30).await.unwrap();
    let mut opened = Vec::new();
    lightbox_models::acceptance::seal::open(sealed.as_slice(), &mut opened, &[7; 32]).unwrap();
    assert_eq!(opened, planned.set.bytes);
    let mut reader = SetReader::new(opened.as_slice(), &plan.criterion[0].set_sha256).unwrap();
    let mut cases = 0;
    while reader.next_case().unwrap().is_some() {
        cases += 1;
    }
    assert_eq!((cases, planned.set.positive, planned.set.negative), (60, 30, 30));
    assert_eq!(set(&Bundle::open(&detector()).unwrap()).unwrap(), planned.set);
}

#[test]
fn what_is_published_stays_and_an_interrupted_vendor_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("keys")).unwrap();
    fs::write(folder.path().join("keys/root.pem"), "half").unwrap();
    let device = Recipient::of(&[7; 32]).unwrap();
    let timestamp = folder.path().join("repository/metadata/timestamp.json");
    let mut seen = Vec::new();
    for _ in 0..2 {
        let vendor = DemoVendor::open_or_make(folder.path(), now()).unwrap();
        let added = vendor.add(&detector(), &Duties::default(), &device, now()).unwrap();
        assert_eq!(added.bundle, "vendors/lightbox-demo/lightbox-phantom-detector-1.lightbox");
        seen.push(fs::read(&timestamp).unwrap());
    }
    assert_eq!(seen[0], seen[1], "nothing new, and yet signed anew");
}

#[test]
fn it_signs_nothing_that_claims_to_be_for_clinical_use() {
    let folder = tempfile::tempdir().unwrap();
    let vendor = DemoVendor::make(folder.path(), now()).unwrap();
    let clinical = folder.path().join("clinical");
    fs::create_dir(&clinical).unwrap();
    for entry in fs::read_dir(detector()).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, clinical.join(path.file_name().unwrap())).unwrap();
    }
    let manifest = clinical.join("manifest.toml");
    let text = fs::read_to_string(&manifest).unwrap();
    let text = text.replace("not_for_clinical_use = true", "not_for_clinical_use = false");
    let text = text.replace("claim =", "submission = \"K1\"\nregulation = \"21 CFR 892.2080\"\nclaim =");
    fs::write(&manifest, text).unwrap();
    let refused = vendor.publish_bundle(&clinical, now()).unwrap_err().to_string();
    assert!(refused.contains("not_for_clinical_use is false"), "{refused}");
}

#[test]
fn version_2_is_inside_the_plan_and_version_3_outside() {
    let folder = tempfile::tempdir().unwrap();
    let mut engine = crate::vendor::engine(Some(library())).unwrap();
    let v1 = Bundle::open(&detector()).unwrap();
    let v2 = retrained(&detector(), &folder.path().join("v2"), &mut engine).unwrap();
    let v3 = label_added(&detector(), &folder.path().join("v3"), &mut engine).unwrap();
    // The golden outputs are the changed network's own.
    let (_, expected) = v2.read_golden(&v2.manifest().golden[0]).unwrap();
    let scores = &expected.outputs.iter().find(|output| output.tensor == "scores").unwrap().values;
    let near = |found: &f64, wanted: f64| (found - wanted).abs() < 1e-6;
    assert!(
        scores.len() == 2 && near(&scores[0], 850.0 / 990.0) && near(&scores[1], 500.0 / 990.0),
        "{scores:?}"
    );
    assert_eq!(
        crate::vendor::check::folder(v2.folder(), Some(&mut engine), &mut |_| {}),
        Vec::<String>::new()
    );

    let plan = plan(&v1, &set(&v1).unwrap(), &Duties::default(), now()).unwrap();
    let evidence = before_any_run("09521234543213", now().unix_timestamp());
    let (installed, updates) = (packed(&v1), BTreeMap::new());
    let verdict = |candidate: &Bundle| {
        let candidate = packed(candidate);
        ask(&Question {
            plan: &plan,
            candidate: &candidate,
            installed: Some(&installed),
            updates: &updates,
            scope: Scope::Global,
            evidence: &evidence,
        })
    };
    let inside = verdict(&v2);
    assert!(inside.allows(), "{inside:?}");
    assert_eq!((inside.modifications, inside.approvals), (vec!["M1".to_owned(), "M2".to_owned()], 1));
    let outside = verdict(&v3);
    assert!(outside.broken().any(|clause| clause.name == ClauseName::Labels), "{outside:?}");
}
