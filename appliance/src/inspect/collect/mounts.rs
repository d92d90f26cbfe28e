//! What is mounted (proc_pid_mountinfo(5)).

use std::path::Path;

use super::{Machine, Unseen, text};
use crate::inspect::facts::Mount;

/// The first process's mounts; this process's own where that may not be seen.
pub(super) fn collect(machine: &Machine, unseen: &mut Unseen) -> Vec<Mount> {
    let first = machine.proc.join("1/mountinfo");
    let lines = match text(&first) {
        Ok(lines) => lines,
        Err(error) => {
            unseen.add(&first, &format!("{}; the mounts are this process's own", error.kind()));
            unseen.text(&machine.proc.join("self/mountinfo")).unwrap_or_default()
        }
    };
    lines.lines().filter_map(|line| mount(line, &machine.sys)).collect()
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
fn mount(line: &str, sys: &Path) -> Option<Mount> {
    let (place, system) = line.split_once(" - ")?;
    let place: Vec<&str> = place.split(' ').collect();
    let [_, _, device, _, at, options, ..] = place[..] else { return None };
    let mut system = system.split(' ');
    let (kind, source, more) = (system.next()?, system.next()?, system.next().unwrap_or_default());
    let mut options: Vec<String> = options.split(',').map(str::to_owned).collect();
    for one in more.split(',').filter(|one| !one.is_empty()) {
        // Read-only is said of the place or of the whole file system; `rw` of the other means nothing then.
        if one != "rw" && !options.iter().any(|known| known == one) {
            options.push(one.to_owned());
        }
    }
    if options.iter().any(|one| one == "ro") {
        options.retain(|one| one != "rw");
    }
    let mapped = text(&sys.join("dev/block").join(device).join("dm/uuid")).ok();
    Some(Mount {
        at: unescape(at),
        source: unescape(source),
        kind: kind.to_owned(),
        options,
        mapped: mapped.map(|uuid| uuid.split('-').take(2).collect::<Vec<_>>().join("-")),
    })
}

/// Spaces, tabs, line ends and backslashes are written as `\040` and so on.
fn unescape(text: &str) -> String {
    let (mut out, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, tail @ ..] = rest {
        let octal = tail.first_chunk::<3>().filter(|_| *first == b'\\');
        let code = octal.and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => (out.push(byte), rest = &tail[3..]),
            None => (out.push(*first), rest = tail),
        };
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_taken_apart() {
        let sys = tempfile::tempdir().expect("temp dir");
        let device = sys.path().join("dev/block/254:0/dm");
        std::fs::create_dir_all(&device).expect("made");
        std::fs::write(device.join("uuid"), "CRYPT-VERITY-0123-root\n").expect("written");
        let line = "22 1 254:0 / / rw,nodev shared:1 - erofs /dev/mapper/root ro,user_xattr";
        let root = mount(line, sys.path()).expect("a mount");
        assert_eq!((root.at.as_str(), root.kind.as_str()), ("/", "erofs"));
        assert!(root.has("ro") && !root.has("rw") && root.has("nodev"), "{root:?}");
        assert_eq!(root.mapped.as_deref(), Some("CRYPT-VERITY"));
        let odd = mount(r"1 1 8:1 / /a\040b\134c rw - ext4 /dev/sda1 rw", sys.path()).expect("a mount");
        assert!(odd.has("rw"));
        assert_eq!((odd.at.as_str(), odd.mapped), (r"/a b\c", None));
        for broken in ["", "1 2 3", "1 1 8:1 / /a rw - ext4", " - "] {
            assert_eq!(mount(broken, sys.path()), None, "{broken:?}");
        }
    }
}
