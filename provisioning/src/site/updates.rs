//! Checks of `[updates]` and of the models that come from the signed repository.

use super::check::{Problems, certificate};
use super::{SiteFile, WebUrl};

/// Judges the text.
pub(super) fn check(file: &SiteFile, problems: &mut Problems<'_>) {
    let updates = &file.updates;
    for (index, model) in file.model.iter().enumerate() {
        let at = |key: &str| format!("model[{index}].{key}");
        let (target, plan) = (&model.target, &model.plan);
        let vendor = target.strip_prefix("vendors/").and_then(|rest| rest.split_once('/'));
        if !is_name(target) || vendor.is_none() {
            problems.add(
                at("target"),
                format!("\"{target}\" is no place for a vendor's bundles"),
                "write vendors/NAME/MODEL, e.g. \"vendors/acme/detector\"",
            );
        }
        if !is_name(plan) || !plan.starts_with("plans/") {
            problems.add(
                at("plan"),
                format!("\"{plan}\" is no place for a plan"),
                "write plans/NAME, e.g. \"plans/detector.toml\"",
            );
        }
        if file.model[..index].iter().any(|other| other.target == *target) {
            problems.add(
                at("target"),
                format!("two models have the target \"{target}\""),
                "give each model one [[model]]",
            );
        }
    }
    let offered = updates.repository.is_some() || updates.mirror.is_some();
    if !file.model.is_empty() {
        let missing = [
            ("updates.root", updates.root.is_none(), "name the root.json that was handed over with the box"),
            ("updates.repository", !offered, "name the repository's folder, or give updates.mirror"),
            (
                "appliance.udi_di",
                file.appliance.udi_di.is_none(),
                "write the UDI-DI from this device's label",
            ),
        ];
        for (key, _, remedy) in missing.into_iter().filter(|(_, missing, _)| *missing) {
            problems.add(key, "a model needs this key", remedy);
        }
    }
    if updates.root.is_some() != offered && file.model.is_empty() {
        problems.add("updates", "root goes together with repository or mirror", "give both, or neither");
    }
    if updates.repository.is_some() && updates.mirror.is_some() {
        problems.add(
            "updates.mirror",
            "there is a repository already",
            "give repository or mirror, not both",
        );
    }
    if let Some(mirror) = &updates.mirror {
        if !WebUrl::parse(&mirror.url).is_some_and(|url| url.encrypted) {
            problems.add(
                "updates.mirror.url",
                format!("\"{}\" is no address of an HTTPS server", mirror.url),
                "write e.g. \"https://mirror.example.org/models\", without user, query and fragment",
            );
        }
        certificate("updates.mirror.certificate", &mirror.certificate, file, problems);
    }
    if updates.check_minutes > 60 * 24 * 31 {
        problems.add("updates.check_minutes", "longer than a month", "use 0 (by hand) to 44640");
    }
    if let Some(url) = updates.repository.as_ref().and_then(|path| path.to_str())
        && url.contains("://")
    {
        problems.add(
            "updates.repository",
            "an address instead of a folder",
            "write updates.mirror = { url = \"https://…\", certificate = { name = \"…\" } }",
        );
    }
    if let Some(udi) = &file.appliance.udi_di
        && (udi.is_empty() || udi.len() > 64 || !udi.bytes().all(|byte| byte.is_ascii_graphic()))
    {
        problems.add(
            "appliance.udi_di",
            "not a device identifier",
            "write the UDI-DI from this device's label, e.g. \"09521234543213\"",
        );
    }
}

/// Judges what the text names on this machine. The repository itself may be on a stick that is not there.
pub(super) fn files(file: &SiteFile, problems: &mut Problems<'_>) {
    if let Some(root) = &file.updates.root
        && !root.is_file()
    {
        problems.add(
            "updates.root",
            format!("{} is not a file", root.display()),
            "name the root.json that was handed over with the box",
        );
    }
}

fn is_name(name: &str) -> bool {
    name.len() <= 120
        && name.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte))
}
