//! Checks of `[updates]` and of the models that come from the signed repository.

use super::SiteFile;
use super::check::Problems;

/// Judges the text.
pub(super) fn check(file: &SiteFile, problems: &mut Problems<'_>) {
    let updates = &file.updates;
    let mut managed = false;
    for (index, model) in file.model.iter().enumerate() {
        let at = |key: &str| format!("model[{index}].{key}");
        match (&model.bundle, &model.target, &model.plan) {
            (Some(_), None, None) => {}
            (None, Some(target), Some(plan)) => {
                managed = true;
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
                let same = |other: &str| target == other;
                if file.model[..index].iter().any(|other| other.target.as_deref().is_some_and(same)) {
                    problems.add(
                        at("target"),
                        format!("two models have the target \"{target}\""),
                        "give each signed model one [[model]]",
                    );
                }
            }
            (None, None, None) => problems.add(
                at("bundle"),
                format!("model \"{}\" says nothing of where it comes from", model.name),
                "give either bundle, or target and plan",
            ),
            (Some(_), _, _) => problems.add(
                at("bundle"),
                format!("model \"{}\" has both a folder and a place in the repository", model.name),
                "give either bundle, or target and plan",
            ),
            (None, Some(_), None) => problems.add(
                at("plan"),
                format!("model \"{}\" has a target without a plan", model.name),
                "name its change-control plan, e.g. plan = \"plans/detector.toml\": no signed model runs without one",
            ),
            (None, None, Some(_)) => problems.add(
                at("target"),
                format!("model \"{}\" has a plan without a target", model.name),
                "name where its bundles are, e.g. target = \"vendors/acme/detector\"",
            ),
        }
    }
    if managed {
        let missing = [
            ("updates.root", updates.root.is_none(), "name the root.json that was handed over with the box"),
            ("updates.repository", updates.repository.is_none(), "name the repository's folder"),
            (
                "appliance.udi_di",
                file.appliance.udi_di.is_none(),
                "write the UDI-DI from this device's label",
            ),
        ];
        for (key, _, remedy) in missing.into_iter().filter(|(_, missing, _)| *missing) {
            problems.add(key, "a model with `target` needs this key", remedy);
        }
    }
    if updates.root.is_some() != updates.repository.is_some() && !managed {
        problems.add("updates", "root and repository go together", "give both, or neither");
    }
    if updates.check_minutes > 60 * 24 * 31 {
        problems.add("updates.check_minutes", "longer than a month", "use 0 (by hand) to 44640");
    }
    if let Some(url) = updates.repository.as_ref().and_then(|path| path.to_str())
        && url.contains("://")
    {
        problems.add(
            "updates.repository",
            "an address, where this release reads folders only",
            "mirror the repository into a folder that the box can read, or mount the share, and name that",
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
