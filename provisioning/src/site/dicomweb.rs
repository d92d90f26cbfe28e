//! The checks of DICOMweb: our own port, and peers that are reached by it.

use super::check::{Problems, socket};
use super::raw::Names;
use super::{Capability, Peer, SiteFile};

/// A base URL of a DICOMweb service, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebUrl {
    /// By `https`.
    pub encrypted: bool,
    /// Host and port.
    pub authority: String,
    /// Path without a slash at its end, e.g. `/dicom-web`.
    pub path: String,
}

impl WebUrl {
    /// Reads e.g. `https://pacs.example.org:8042/dicom-web`. `None` where it is something else, or holds a
    /// user, a query or a fragment.
    pub fn parse(text: &str) -> Option<Self> {
        let (encrypted, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (None, rest) => (false, rest?),
        };
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let plain = |text: &str, more: &[u8]| {
            text.bytes().all(|byte| byte.is_ascii_alphanumeric() || more.contains(&byte))
        };
        if !plain(host, b"-._:[]") || !plain(path, b"-._~/%!$&'()*+,;=:") {
            return None;
        }
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !port.contains(']') => (name, port.parse::<u16>().ok()?),
            _ => (host, if encrypted { 443 } else { 80 }),
        };
        (!name.is_empty() && port > 0).then(|| WebUrl {
            encrypted,
            authority: format!("{name}:{port}"),
            path: path.trim_end_matches('/').to_owned(),
        })
    }
}

pub(super) fn check(file: &SiteFile, peers: &Names, problems: &mut Problems<'_>) {
    let web = &file.dicomweb;
    if let Some(listen) = &web.listen {
        socket("dicomweb.listen", listen, problems);
        let taken = [&file.dicom.listen, &file.admin.listen];
        if taken.contains(&listen) && !listen.ends_with(":0") {
            problems.add(
                "dicomweb.listen",
                "DICOMweb would share its port with DICOM or the administration page",
                "give DICOMweb its own port, e.g. 8042",
            );
        }
    }
    let segments = web.prefix.strip_prefix('/').map(|rest| rest.split('/'));
    let plain = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
    };
    if !web.prefix.is_empty() && !segments.is_some_and(|mut parts| parts.all(plain)) {
        problems.add(
            "dicomweb.prefix",
            format!("\"{}\" is not the start of a path", web.prefix),
            "write e.g. \"/dicom-web\": letters, digits and -._~, no slash at the end",
        );
    }
    for (index, peer) in file.peer.iter().enumerate() {
        check_peer(&format!("peer[{index}].dicomweb.url"), peer, problems);
    }
    for (index, destination) in file.destination.iter().enumerate() {
        let key = format!("destination[{index}].dicomweb.peer");
        let Some(web) = &destination.dicomweb else { continue };
        match peers.get(&web.peer).and_then(|found| file.peer.get(*found)) {
            None => problems.add(
                key,
                format!("there is no peer \"{}\"", web.peer),
                "name a [[peer]] of this file",
            ),
            Some(peer) if peer.dicomweb.is_none() || !peer.may.contains(&Capability::Receive) => problems
                .add(
                    key,
                    format!("the peer \"{}\" cannot be sent to by DICOMweb", web.peer),
                    "give it dicomweb = { url = \"https://…\" }, and \"receive\" in its `may`",
                ),
            Some(_) => {}
        }
    }
}

fn check_peer(key: &str, peer: &Peer, problems: &mut Problems<'_>) {
    let Some(web) = &peer.dicomweb else { return };
    match WebUrl::parse(&web.url) {
        None => problems.add(
            key,
            "it is not the URL of a DICOMweb service",
            "write e.g. \"https://pacs.example.org:8042/dicom-web\", without user, query and fragment",
        ),
        Some(url) if url.encrypted == peer.plaintext => problems.add(
            key,
            "the URL's scheme and the peer's `plaintext` do not agree",
            "write https:// and say how the peer's certificate is known, or http:// with plaintext = true",
        ),
        Some(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let url = |text| WebUrl::parse(text).map(|url| (url.encrypted, url.authority, url.path));
        let found = |encrypted, authority: &str, path: &str| Some((encrypted, authority.into(), path.into()));
        assert_eq!(url("https://pacs/dicom-web/"), found(true, "pacs:443", "/dicom-web"));
        assert_eq!(url("http://10.0.0.1:8042"), found(false, "10.0.0.1:8042", ""));
        assert_eq!(url("https://[::1]:8443/a"), found(true, "[::1]:8443", "/a"));
        assert_eq!(url("https://[::1]/a"), found(true, "[::1]:443", "/a"));
        for text in [
            "",
            "pacs",
            "ftp://pacs",
            "https://",
            "https://:80",
            "https://a:b@pacs",
            "https://pacs?x",
            "https://pacs:0/",
        ] {
            assert_eq!(url(text), None, "{text}");
        }
    }
}
