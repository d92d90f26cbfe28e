//! What the site file lets each peer do: certificate ↔ calling AE ↔ network ↔ called AE ↔ user
//! identity ↔ SOP classes, and with which limits. Pure: asked with what a request says.

use std::net::IpAddr;

use lightbox_provisioning::site::{
    Network, Peer, Problem, SELF_TEST_PEER, Site, UserIdentity, parse_fingerprint, sop_class_fits,
};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::dicom::association::{Judgement, Proposal, Rejection, Roles, ShownIdentity};
use crate::dicom::services::{self, Permissions};

/// What one peer may do.
#[derive(Clone, Debug)]
pub struct PeerPolicy {
    /// Name in the site file.
    pub name: String,
    /// Most associations at once, where it has a limit of its own.
    pub max_associations: Option<u32>,
    /// Bytes a second that are read from it, where they are limited.
    pub throttle: Option<u64>,
    /// Longest PDU, where it has a limit of its own.
    pub max_pdu: Option<u32>,
    ae_titles: Vec<String>,
    permissions: Permissions,
    plaintext: bool,
    networks: Vec<Network>,
    network_texts: Vec<String>,
    sop_classes: Vec<String>,
    transfer_syntaxes: Vec<String>,
    identity: Option<WantedIdentity>,
}

/// The user identity that a peer must show.
#[derive(Clone, Debug)]
struct WantedIdentity {
    username: String,
    /// SHA-256 of the passcode; `None` where the username is enough.
    passcode: Option<[u8; 32]>,
}

/// Why a request was not granted, in words and in the numbers of PS3.8 §9.3.4.
#[derive(Debug)]
pub struct Denied {
    /// The A-ASSOCIATE-RJ.
    pub rejection: Rejection,
    /// Why, for people.
    pub reason: String,
    /// What to do.
    pub remedy: String,
}

/// The part of a request that decides who is calling.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// Calling AE title, without padding.
    pub calling_ae: &'a str,
    /// Called AE title, without padding.
    pub called_ae: &'a str,
    /// Where it comes from.
    pub address: IpAddr,
    /// The peers that the certificate belongs to; `None` without TLS.
    pub owners: Option<&'a [String]>,
    /// The user identity that the request carries.
    pub identity: Option<&'a ShownIdentity>,
}

/// The policies of all peers.
#[derive(Debug)]
pub struct Policy {
    peers: Vec<PeerPolicy>,
    ae_title: String,
}

impl Policy {
    /// Reads the policies out of the site file, and the passcode files that it names.
    pub fn new(site: &Site) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut peers = Vec::new();
        for (index, peer) in site.file.peer.iter().enumerate() {
            match PeerPolicy::new(site, peer) {
                Ok(policy) => peers.push(policy),
                Err(what) => problems.push(site.problem(
                    &format!("peer[{index}].user_identity.passcode_file"),
                    what,
                    "a file with the passcode in its first line that the daemon's user can read",
                )),
            }
        }
        if problems.is_empty() {
            Ok(Policy { peers, ae_title: site.file.appliance.ae_title.clone() })
        } else {
            Err(problems)
        }
    }

    /// All of them, in the order of the site file.
    pub fn peers(&self) -> &[PeerPolicy] {
        &self.peers
    }

    /// The peer that is calling, or why it may not.
    pub fn decide(&self, caller: &Caller<'_>) -> Result<&PeerPolicy, Denied> {
        let shown = printable(caller.calling_ae);
        let known: Vec<&PeerPolicy> = self
            .peers
            .iter()
            .filter(|peer| match caller.owners {
                Some(owners) => owners.contains(&peer.name),
                None => peer.plaintext,
            })
            .collect();
        let called: Vec<&PeerPolicy> =
            known.iter().copied().filter(|peer| peer.is_called(caller.calling_ae)).collect();
        let Some(first) = called.first() else { return Err(wrong_calling_ae(&shown, &known, caller.owners)) };
        let Some(peer) = called.iter().find(|peer| peer.is_from(caller.address)) else {
            return Err(Denied {
                rejection: Rejection::CALLING_AE,
                reason: format!(
                    "peer \"{}\" may not call from {}, only from {}",
                    first.name,
                    caller.address.to_canonical(),
                    first.network_texts.join(", ")
                ),
                remedy: format!(
                    "if the peer has this address now, add it to `networks` of [[peer]] \"{}\"",
                    first.name
                ),
            });
        };
        if !peer.permissions.any() {
            return Err(Denied {
                rejection: Rejection::CALLING_AE,
                reason: format!("peer \"{}\" may not send", peer.name),
                remedy: format!("add \"send\" to `may` of [[peer]] \"{}\"", peer.name),
            });
        }
        if caller.called_ae != self.ae_title {
            return Err(Denied {
                rejection: Rejection::CALLED_AE,
                reason: format!("called AE \"{}\" is not ours", printable(caller.called_ae)),
                remedy: format!("set the called AE title on the peer to \"{}\" (case counts)", self.ae_title),
            });
        }
        peer.check_identity(caller.identity)?;
        Ok(peer)
    }
}

/// Why a DICOMweb request was not granted, in words.
#[derive(Debug, PartialEq, Eq)]
pub struct WebDenied {
    /// The peer, where it is known.
    pub peer: Option<String>,
    /// Why, for people.
    pub reason: String,
    /// What to do.
    pub remedy: String,
}

impl Policy {
    /// The peer that sends by DICOMweb, or why it may not: the certificate says who it is, for there is
    /// no AE title and no user identity in such a request.
    pub fn decide_web(&self, owners: &[String], address: IpAddr) -> Result<&PeerPolicy, WebDenied> {
        let known: Vec<&PeerPolicy> = self.peers.iter().filter(|peer| owners.contains(&peer.name)).collect();
        let Some(first) = known.first() else {
            return Err(WebDenied {
                peer: None,
                reason: "the certificate belongs to no peer of the site file any more".into(),
                remedy: "name it in the site file, or give the peer its new certificate".into(),
            });
        };
        let denied = |reason: String, remedy: String| {
            Err(WebDenied { peer: Some(first.name.clone()), reason, remedy })
        };
        let Some(peer) = known.iter().find(|peer| peer.is_from(address)) else {
            return denied(
                format!(
                    "peer \"{}\" may not call from {}, only from {}",
                    first.name,
                    address.to_canonical(),
                    first.network_texts.join(", ")
                ),
                format!(
                    "if the peer has this address now, add it to `networks` of [[peer]] \"{}\"",
                    first.name
                ),
            );
        };
        if !peer.permissions.store {
            return denied(
                format!("peer \"{}\" may not send", peer.name),
                format!("add \"send\" to `may` of [[peer]] \"{}\"", peer.name),
            );
        }
        if peer.wants_identity() {
            return denied(
                format!("peer \"{}\" must show a user identity, which DICOMweb does not carry", peer.name),
                format!(
                    "let the peer send by C-STORE, or take user_identity out of [[peer]] \"{}\" if its certificate is enough",
                    peer.name
                ),
            );
        }
        Ok(peer)
    }
}

fn wrong_calling_ae(shown: &str, known: &[&PeerPolicy], owners: Option<&[String]>) -> Denied {
    let expected: Vec<&str> =
        known.iter().flat_map(|peer| peer.ae_titles.iter().map(String::as_str)).collect();
    let (reason, remedy) = match owners {
        Some(_) => (
            format!(
                "calling AE \"{shown}\" does not go with this certificate, which belongs to AE {}",
                expected.join(", ")
            ),
            format!(
                "set the peer's AE title to one of these, or add \"{shown}\" to `more_ae_titles` of its [[peer]]"
            ),
        ),
        None => (
            format!("calling AE \"{shown}\" is not a plaintext peer of the site file"),
            format!("send by TLS, or add a [[peer]] with ae_title = \"{shown}\" and plaintext = true"),
        ),
    };
    Denied { rejection: Rejection::CALLING_AE, reason, remedy }
}

impl PeerPolicy {
    fn new(site: &Site, peer: &Peer) -> Result<Self, String> {
        let mut ae_titles = vec![peer.ae_title.clone()];
        ae_titles.extend(peer.more_ae_titles.iter().cloned());
        Ok(PeerPolicy {
            name: peer.name.clone(),
            max_associations: peer.max_associations,
            throttle: peer.throttle_mib_per_second.map(|mib| u64::from(mib) << 20),
            max_pdu: peer.max_pdu_bytes,
            ae_titles,
            permissions: Permissions::of(site, peer),
            plaintext: peer.plaintext,
            networks: peer.networks.iter().filter_map(|text| Network::parse(text)).collect(),
            network_texts: peer.networks.clone(),
            sop_classes: peer.sop_classes.clone(),
            transfer_syntaxes: peer.transfer_syntaxes.clone(),
            identity: peer.user_identity.as_ref().map(WantedIdentity::new).transpose()?,
        })
    }

    /// Its AE title: what rules see of a peer that has shown none.
    pub fn ae_title(&self) -> &str {
        self.ae_titles.first().map_or("", String::as_str)
    }

    fn is_called(&self, calling_ae: &str) -> bool {
        self.ae_titles.iter().any(|title| title == calling_ae)
    }

    /// Whether this is the box's own question whether it works, asked from this machine.
    pub fn is_self_test(&self, address: IpAddr) -> bool {
        self.name == SELF_TEST_PEER && address.to_canonical().is_loopback()
    }

    fn is_from(&self, address: IpAddr) -> bool {
        self.networks.is_empty() || self.networks.iter().any(|network| network.contains(address))
    }

    fn check_identity(&self, shown: Option<&ShownIdentity>) -> Result<(), Denied> {
        let Some(wanted) = &self.identity else { return Ok(()) };
        // The reason tells the site what to mend; the peer hears only "no reason given".
        let (reason, remedy) = match shown {
            None => ("sent no user identity", "set username and passcode for this destination on the peer"),
            Some(ShownIdentity::Other) => (
                "sent a user identity of a type that is not supported",
                "set the peer to username and passcode (types 1 and 2 of PS3.7 D.3.3.7)",
            ),
            Some(ShownIdentity::User { username, passcode }) => {
                if wanted.fits(username, passcode.as_deref()) {
                    return Ok(());
                }
                (
                    "sent a user identity with another username or passcode than the site file names",
                    "set the same on the peer and in `user_identity` of its [[peer]]",
                )
            }
        };
        Err(Denied {
            rejection: Rejection::NO_REASON,
            reason: format!("peer \"{}\" {reason}", self.name),
            remedy: remedy.into(),
        })
    }

    /// Whether the site wants a user identity of it.
    pub fn wants_identity(&self) -> bool {
        self.identity.is_some()
    }

    /// Judges a proposed presentation context: `sop_classes` holds for storage, `transfer_syntaxes`
    /// says which of those proposed we would rather take.
    pub fn judge(&self, abstract_syntax: &str, transfer_syntaxes: &[String]) -> Judgement {
        if !self.allows(abstract_syntax) {
            return Err(services::not_supported());
        }
        let mut ordered = transfer_syntaxes.to_vec();
        ordered.sort_by_key(|uid| {
            let uid = uid.trim_end_matches(['\0', ' ']);
            let wish = self.transfer_syntaxes.iter().position(|wished| wished == uid);
            wish.unwrap_or(usize::MAX)
        });
        self.permissions.judge(abstract_syntax, &ordered)
    }

    /// What it may do in an association.
    pub fn permissions(&self) -> Permissions {
        self.permissions
    }

    /// Which of the proposed roles the peer gets ([`Permissions::judge_roles`]).
    pub fn judge_roles(&self, abstract_syntax: &str, proposed: Roles) -> Option<Roles> {
        self.permissions.judge_roles(abstract_syntax, proposed)
    }

    fn allows(&self, abstract_syntax: &str) -> bool {
        self.sop_classes.is_empty()
            || !services::is_storage(abstract_syntax)
            || self.sop_classes.iter().any(|entry| sop_class_fits(entry, abstract_syntax))
    }

    /// Why the association is of no use to the peer although we accept it, if that is so: every
    /// context is refused, or every one by which it could send.
    pub fn nothing_usable(&self, proposals: &[Proposal]) -> Option<(String, String)> {
        let usable =
            |proposal: &&Proposal| self.judge(&proposal.abstract_syntax, &proposal.transfer_syntaxes).is_ok();
        let accepted: Vec<&Proposal> = proposals.iter().filter(usable).collect();
        let denied = proposals.iter().filter(|proposal| !self.allows(&proposal.abstract_syntax)).count();
        if proposals.is_empty() {
            let remedy = "set on the peer which SOP classes it sends here";
            return Some(("the request proposes no presentation context".into(), remedy.into()));
        }
        let of_use = accepted.iter().any(|proposal| proposal.abstract_syntax != services::VERIFICATION);
        if denied > 0 && !of_use {
            return Some((
                format!(
                    "{denied} proposed storage SOP classes are not among the `sop_classes` of this peer (context result 3, abstract syntax not supported)"
                ),
                format!(
                    "add the SOP classes to `sop_classes` of [[peer]] \"{}\", or take the key out",
                    self.name
                ),
            ));
        }
        accepted.is_empty().then(|| {
            (
                format!(
                    "none of the {} proposed presentation contexts is one that we support",
                    proposals.len()
                ),
                "propose a storage SOP class with a transfer syntax of CONFORMANCE.md".into(),
            )
        })
    }
}

impl WantedIdentity {
    fn new(identity: &UserIdentity) -> Result<Self, String> {
        let passcode = match (&identity.passcode_sha256, &identity.passcode_file) {
            (Some(hex), _) => parse_fingerprint(hex),
            (None, Some(path)) => {
                let bytes = std::fs::read(path)
                    .map_err(|error| format!("{} cannot be read: {}", path.display(), error.kind()))?;
                let bytes = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
                let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
                if bytes.is_empty() {
                    return Err(format!("{} is empty", path.display()));
                }
                Some(Sha256::digest(bytes).into())
            }
            (None, None) => None,
        };
        Ok(WantedIdentity { username: identity.username.clone(), passcode })
    }

    /// Compares digests, so that the time tells neither lengths nor common beginnings.
    fn fits(&self, username: &[u8], passcode: Option<&[u8]>) -> bool {
        let digest = |bytes: &[u8]| -> [u8; 32] { Sha256::digest(bytes).into() };
        let name = digest(self.username.as_bytes()).ct_eq(&digest(username));
        let code = match &self.passcode {
            None => 1.into(),
            Some(wanted) => wanted.ct_eq(&digest(passcode.unwrap_or_default())),
        };
        (name & code).into()
    }
}

/// An AE title for logs and pages: a stranger's bytes, so only what an AE title may hold.
pub(super) fn printable(ae_title: &str) -> String {
    ae_title.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).take(16).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const SITE: &str = r#"
        [appliance]
        name = "BOX"
        ae_title = "LIGHTBOX"
        data_dir = "data"
        tls = { certificate = "a", key = "b", authorities = ["c"] }
        [[peer]]
        name = "east"
        ae_title = "CT"
        certificate = { name = "ct" }
        networks = ["10.1.0.0/16"]
        sop_classes = ["ct"]
        [[peer]]
        name = "west"
        ae_title = "CT"
        certificate = { name = "ct" }
        networks = ["10.2.0.0/16"]
        transfer_syntaxes = ["1.2.840.10008.1.2.1"]
        [[peer]]
        name = "archive"
        ae_title = "ARCHIVE"
        address = "archive:104"
        certificate = { name = "archive" }
        may = ["receive"]
    "#;

    fn policy() -> Policy {
        let site = Site::parse(Path::new("site.toml"), SITE).expect("a good site file");
        Policy::new(&site).expect("policies")
    }

    #[test]
    fn by_web_the_certificate_and_the_network_say_who_sends() {
        let decide = |policy: &Policy, owners: &[&str], address: &str| {
            let owners: Vec<String> = owners.iter().map(|owner| (*owner).to_owned()).collect();
            let address = address.parse().expect("an address");
            policy.decide_web(&owners, address).map(|peer| peer.name.clone())
        };
        let policy = policy();
        assert_eq!(decide(&policy, &["east", "west"], "10.2.0.9"), Ok("west".into()));
        let denied = decide(&policy, &["east"], "10.2.0.9").expect_err("another network");
        assert!(denied.reason.contains("only from 10.1.0.0/16"), "{denied:?}");
        let denied = decide(&policy, &["archive"], "10.2.0.9").expect_err("may only receive");
        assert!(denied.remedy.contains("\"send\""), "{denied:?}");
        assert_eq!(decide(&policy, &[], "10.2.0.9").expect_err("nobody").peer, None);
        // HTTP carries no user identity: who must show one is not let in without.
        let site = SITE.replace("sop_classes = [\"ct\"]", "user_identity = { username = \"u\" }");
        let site = Site::parse(Path::new("site.toml"), &site).expect("a good site file");
        let strict = Policy::new(&site).expect("policies");
        let denied = decide(&strict, &["east"], "10.1.0.9").expect_err("no identity");
        assert!(denied.reason.contains("user identity"), "{denied:?}");
    }

    fn decide(calling_ae: &str, address: &str, owners: &[&str]) -> Result<String, Denied> {
        let owners: Vec<String> = owners.iter().map(|owner| (*owner).to_owned()).collect();
        let caller = Caller {
            calling_ae,
            called_ae: "LIGHTBOX",
            address: address.parse().expect("an address"),
            owners: Some(&owners),
            identity: None,
        };
        policy().decide(&caller).map(|peer| peer.name.clone())
    }

    #[test]
    fn of_peers_with_one_certificate_and_one_ae_title_the_network_decides() {
        let both = ["east", "west"];
        assert_eq!(decide("CT", "10.1.0.9", &both).expect("east"), "east");
        assert_eq!(decide("CT", "::ffff:10.2.0.9", &both).expect("west"), "west");
        let denied = decide("CT", "10.3.0.9", &both).expect_err("nowhere");
        assert_eq!(denied.rejection, Rejection::CALLING_AE);
        assert!(denied.reason.contains("10.3.0.9") && denied.remedy.contains("networks"));
        assert!(decide("CT", "10.1.0.9", &["archive"]).is_err(), "another peer's certificate");
        assert!(decide("ARCHIVE", "10.1.0.9", &["archive"]).is_err(), "it may only receive");
        let stranger = decide("C\u{1b}T", "10.1.0.9", &both).expect_err("a stranger");
        assert!(stranger.reason.contains("\"C?T\""), "{}", stranger.reason);
    }

    #[test]
    fn contexts_are_judged_by_sop_class_and_by_the_sites_order_of_transfer_syntaxes() {
        let policy = policy();
        let proposed = ["1.2.840.10008.1.2".to_owned(), "1.2.840.10008.1.2.1".to_owned()];
        let (ct, mr) = ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4");
        let [east, west, _] = policy.peers() else { panic!("three peers") };
        assert_eq!(east.judge(ct, &proposed), Ok(proposed[0].clone()));
        assert_eq!(east.judge(mr, &proposed), Err(services::not_supported()));
        assert!(east.judge(services::VERIFICATION, &proposed).is_ok());
        assert_eq!(west.judge(mr, &proposed), Ok(proposed[1].clone()));
        let only = |class: &str| {
            vec![Proposal { abstract_syntax: class.into(), transfer_syntaxes: proposed.to_vec() }]
        };
        assert_eq!(east.nothing_usable(&only(ct)), None);
        assert_eq!(east.nothing_usable(&only(services::VERIFICATION)), None);
        assert!(east.nothing_usable(&only(mr)).is_some_and(|(_, remedy)| remedy.contains("sop_classes")));
        assert!(west.nothing_usable(&[]).is_some());
    }
}
