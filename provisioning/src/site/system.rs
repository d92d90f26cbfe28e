//! Checks of `[system]`: updates of the firmware image.

use super::check::{Problems, certificate};
use super::{Install, SiteFile, WebUrl, parse_time_of_day};

/// Judges the text.
pub(super) fn check(file: &SiteFile, problems: &mut Problems<'_>) {
    let system = &file.system;
    if system.repository.is_some() && system.mirror.is_some() {
        problems.add("system.mirror", "there is a repository already", "give repository or mirror, not both");
    }
    if let Some(url) = system.repository.as_ref().and_then(|path| path.to_str())
        && url.contains("://")
    {
        problems.add(
            "system.repository",
            "an address instead of a folder",
            "write system.mirror = { url = \"https://…\", certificate = { name = \"…\" } }",
        );
    }
    if let Some(mirror) = &system.mirror {
        if !WebUrl::parse(&mirror.url).is_some_and(|url| url.encrypted) {
            problems.add(
                "system.mirror.url",
                format!("\"{}\" is no address of an HTTPS server", mirror.url),
                "write e.g. \"https://mirror.example.org/images\", without user, query and fragment",
            );
        }
        certificate("system.mirror.certificate", &mirror.certificate, file, problems);
    }
    if system.check_minutes > 60 * 24 * 31 {
        problems.add("system.check_minutes", "longer than a month", "use 0 (by hand) to 44640");
    }
    if system.drain_minutes > 60 * 24 {
        problems.add("system.drain_minutes", "longer than a day", "use 0 to 1440");
    }
    if system.install == Install::Window && system.check_minutes == 0 {
        problems.add(
            "system.install",
            "the box never looks by itself, so it would never install",
            "give system.check_minutes, e.g. 60, or leave install out",
        );
    }
    if let Some(window) = &system.window {
        for (name, text) in [("from", &window.from), ("to", &window.to)] {
            if parse_time_of_day(text).is_none() {
                problems.add(
                    format!("system.window.{name}"),
                    format!("\"{text}\" is no time of day"),
                    "write hours and minutes, e.g. \"02:00\"",
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::site::Site;

    const SITE: &str = include_str!("../../examples/site.toml");

    #[test]
    fn updates_of_the_image_are_checked_and_off_unless_asked_for() {
        let parse = |more: &str| Site::parse(std::path::Path::new("site.toml"), &format!("{SITE}\n{more}"));
        let site = parse("").expect("the example");
        assert_eq!((site.file.system.check_minutes, &site.file.system.repository), (0, &None));
        for (more, key) in [
            ("[system]\ninstall = \"window\"", "system.install"),
            ("[system]\nrepository = \"https://a\"", "system.repository"),
            ("[system]\nwindow = { from = \"2\", to = \"04:00\" }", "system.window.from"),
            ("[system]\ncheck_minutes = 99999", "system.check_minutes"),
            ("[system]\ndrain_minutes = 99999", "system.drain_minutes"),
        ] {
            let found = parse(more).expect_err(more);
            assert!(found.problems.iter().any(|problem| problem.key == key), "{more}: {:?}", found.problems);
        }
    }
}
