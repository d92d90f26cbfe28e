//! What listens (proc_net(5)).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Machine, Unseen};
use crate::inspect::facts::Listener;

/// States in which a socket hears from anybody: TCP's LISTEN, UDP's unconnected one.
const STATES: [(&str, &str); 2] = [("tcp", "0A"), ("udp", "07")];

/// `owners`: the unit of each socket's inode.
pub(super) fn collect(
    machine: &Machine,
    owners: &BTreeMap<u64, String>,
    unseen: &mut Unseen,
) -> Vec<Listener> {
    let mut found = Vec::new();
    for (protocol, state) in STATES {
        for family in ["", "6"] {
            let path = machine.proc.join("self/net").join(format!("{protocol}{family}"));
            // A kernel without IPv6 has no such file.
            let Some(text) = (if family.is_empty() || path.exists() { unseen.text(&path) } else { None })
            else {
                continue;
            };
            for (address, port, inode) in text.lines().skip(1).filter_map(|line| socket(line, state)) {
                let unit = owners.get(&inode).cloned();
                found.push(Listener { protocol: protocol.to_owned(), address, port, unit });
            }
        }
    }
    found.sort();
    found.dedup();
    found
}

/// `0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 1000 0 12345 1 ...`
fn socket(line: &str, state: &str) -> Option<(IpAddr, u16, u64)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    if *fields.get(3)? != state {
        return None;
    }
    let (address, port) = fields[1].split_once(':')?;
    Some((ip(address)?, u16::from_str_radix(port, 16).ok()?, fields.get(9)?.parse().ok()?))
}

/// Words of four bytes, each written as a number of this machine's byte order.
fn ip(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(hex.get(at * 8..at * 8 + 8)?, 16).ok()?.to_ne_bytes());
    match hex.len() {
        8 => Some(IpAddr::V4(Ipv4Addr::from(word(0)?))),
        32 => {
            let mut bytes = [0; 16];
            for (at, four) in bytes.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                *four = word(at)?;
            }
            Some(IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn a_line_is_taken_apart() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 12345 1 0 100 0 0 10 0";
        assert_eq!(socket(line, "0A"), Some((IpAddr::V4(Ipv4Addr::LOCALHOST), 8080, 12345)));
        assert_eq!(socket(line, "07"), None);
        assert_eq!(ip("00000000000000000000000001000000"), Some(IpAddr::V6(Ipv6Addr::LOCALHOST)));
        for broken in ["", "0: 0100007F 0 0A", "0: X:Y 0 0A 0 0 0 0 0 1", "0: é:1 0 0A 0 0 0 0 0 1"] {
            assert_eq!(socket(broken, "0A"), None, "{broken:?}");
        }
    }
}
