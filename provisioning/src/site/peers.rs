//! The checks of what a peer may do: networks, SOP classes, transfer syntaxes, limits, identity.

use super::check::{Problems, ae_title};
use super::raw::Peer;
use super::sop_classes::{is_sop_class_entry, is_uid, sop_class_words};
use super::{Network, parse_fingerprint};

/// Checks the policy of one peer; `key` is e.g. `peer[0]`.
pub(super) fn policy(key: &str, peer: &Peer, problems: &mut Problems<'_>) {
    for (index, title) in peer.more_ae_titles.iter().enumerate() {
        ae_title(&format!("{key}.more_ae_titles[{index}]"), title, problems);
    }
    for (index, network) in peer.networks.iter().enumerate() {
        if Network::parse(network).is_none() {
            problems.add(
                format!("{key}.networks[{index}]"),
                format!("\"{network}\" is not a network or an address"),
                "write e.g. \"10.1.0.0/16\", \"fd00::/8\" or \"10.1.2.3\"; the address must have no bits beyond its prefix",
            );
        }
    }
    for (index, entry) in peer.sop_classes.iter().enumerate() {
        if !is_sop_class_entry(entry) {
            problems.add(
                format!("{key}.sop_classes[{index}]"),
                format!("\"{entry}\" is neither a UID nor a group of SOP classes"),
                format!("write a SOP Class UID or one of {}", sop_class_words()),
            );
        }
    }
    for (index, uid) in peer.transfer_syntaxes.iter().enumerate() {
        if !is_uid(uid) {
            problems.add(
                format!("{key}.transfer_syntaxes[{index}]"),
                format!("\"{uid}\" is not a UID"),
                "write a Transfer Syntax UID of CONFORMANCE.md, e.g. \"1.2.840.10008.1.2.1\"",
            );
        }
    }
    let ranges = [
        ("max_associations", peer.max_associations, 1, 1024),
        ("throttle_mib_per_second", peer.throttle_mib_per_second, 1, 100_000),
        ("max_pdu_bytes", peer.max_pdu_bytes, 4096, 1_048_576),
    ];
    for (name, value, min, max) in ranges {
        if let Some(value) = value
            && !(min..=max).contains(&value)
        {
            problems.add(
                format!("{key}.{name}"),
                format!("{value} is outside {min} to {max}"),
                format!("choose a value from {min} to {max}, or take the key out for the default"),
            );
        }
    }
    let Some(identity) = &peer.user_identity else { return };
    let key = format!("{key}.user_identity");
    if peer.plaintext {
        problems.add(
            &key,
            "a user identity would cross the network unencrypted",
            "take user_identity out, or let the peer send by TLS with a certificate",
        );
    }
    if identity.username.is_empty() || identity.username.len() > 1024 {
        problems.add(
            format!("{key}.username"),
            "the username must have 1 to 1024 bytes",
            "write the name that the peer sends",
        );
    }
    if identity.passcode_sha256.is_some() && identity.passcode_file.is_some() {
        problems.add(
            format!("{key}.passcode_file"),
            "both passcode_sha256 and passcode_file are given",
            "give one of the two, or neither where the peer sends a username alone",
        );
    }
    if identity.passcode_sha256.as_deref().is_some_and(|hex| parse_fingerprint(hex).is_none()) {
        problems.add(
            format!("{key}.passcode_sha256"),
            "not a SHA-256 digest",
            "64 hexadecimal digits, as `printf %s PASSCODE | sha256sum` prints them",
        );
    }
}
