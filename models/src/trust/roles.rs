//! Who may vouch for what: the one place that ties role names to the paths of targets.
//!
//! The top-level targets role lists no target. It hands each path to a role of its own:
//!
//! | path | role |
//! |---|---|
//! | `vendors/NAME/…` | `vendor-NAME` |
//! | `plans/…` | `regulatory` |
//! | `recalls/NAME/…` | `vendor-NAME`, `safety` |
//! | `recalls/…` | `safety` |

use std::fmt;
use std::str::FromStr;

/// The role that signs plans.
const REGULATORY: &str = "regulatory";
/// The role that signs recalls of anybody's models.
const SAFETY: &str = "safety";
/// What the role of a vendor begins with.
const VENDOR: &str = "vendor-";
/// Longest name of a target.
const TARGET_LENGTH_MAX: usize = 200;

/// A role to which targets are delegated.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Delegate {
    /// Signs plans, with keys that sign nothing else.
    Regulatory,
    /// Signs recalls of anybody's models.
    Safety,
    /// Signs a vendor's bundles, and recalls of them.
    Vendor(String),
}

impl Delegate {
    /// The patterns of the targets that the role may vouch for.
    pub fn paths(&self) -> Vec<String> {
        match self {
            Delegate::Regulatory => vec!["plans/*".to_owned()],
            Delegate::Safety => vec!["recalls/*".to_owned()],
            Delegate::Vendor(name) => vec![format!("vendors/{name}/*"), format!("recalls/{name}/*")],
        }
    }

    /// Whether the role may vouch for a target.
    pub fn may(&self, target: &str) -> bool {
        is_target_name(target)
            && self.paths().iter().any(|path| target.starts_with(path.trim_end_matches('*')))
    }
}

impl fmt::Display for Delegate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Delegate::Regulatory => f.write_str(REGULATORY),
            Delegate::Safety => f.write_str(SAFETY),
            Delegate::Vendor(name) => write!(f, "{VENDOR}{name}"),
        }
    }
}

impl FromStr for Delegate {
    type Err = ();

    fn from_str(text: &str) -> Result<Delegate, ()> {
        match text {
            REGULATORY => Ok(Delegate::Regulatory),
            SAFETY => Ok(Delegate::Safety),
            _ => {
                let name = text.strip_prefix(VENDOR).ok_or(())?;
                let plain = (1..=48).contains(&name.len())
                    && name
                        .bytes()
                        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
                if plain { Ok(Delegate::Vendor(name.to_owned())) } else { Err(()) }
            }
        }
    }
}

/// Whether a name is one that a target may have: plain parts below a folder, so that it is the same
/// name on every file system and in every address.
pub fn is_target_name(name: &str) -> bool {
    name.len() <= TARGET_LENGTH_MAX
        && name.contains('/')
        && name.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte))
}

/// Where a target's bytes lie in the repository: TUF 6.2 puts the digest before the last part.
pub(crate) fn target_path(name: &str, sha256: &str) -> String {
    match name.rsplit_once('/') {
        Some((folder, file)) => format!("targets/{folder}/{sha256}.{file}"),
        None => format!("targets/{sha256}.{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_vouch_for_their_own_paths_only() {
        let acme = Delegate::Vendor("acme".into());
        assert_eq!("vendor-acme".parse(), Ok(acme.clone()));
        assert!(acme.may("vendors/acme/detector-2.lightbox"));
        assert!(acme.may("recalls/acme/2026-01.toml"));
        for other in ["vendors/acme2/x", "vendors/acme", "plans/x", "recalls/other/x", "recalls/x", "x"] {
            assert!(!acme.may(other), "{other}");
        }
        assert!(!acme.may("vendors/acme/../other/x"));
        assert!(!acme.may("vendors/acme//x"));
        assert!(Delegate::Regulatory.may("plans/p1.toml"));
        assert!(!Delegate::Regulatory.may("vendors/acme/x"));
        assert!(Delegate::Safety.may("recalls/acme/x"));
        for bad in ["vendor-", "vendor-A", "vendor-a/b", "targets", "other", ""] {
            assert_eq!(bad.parse::<Delegate>(), Err(()), "{bad}");
        }
        assert_eq!(target_path("vendors/acme/x.lightbox", "ab"), "targets/vendors/acme/ab.x.lightbox");
    }
}
