//! The checks of a site file: of its text, then of what it names on this machine.

use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};

use super::locate::{line_at, line_of};
use super::priors;
use super::raw::Names;
use super::routing;
use super::{Capability, Certificate, Problem, Site, SiteError, SiteFile};
use super::{completion, dicomweb, system, updates};

/// Collects problems while the checks go on, so that a site sees all of them at once.
pub(super) struct Problems<'a> {
    text: &'a str,
    found: Vec<Problem>,
}

impl Problems<'_> {
    pub(super) fn add(&mut self, key: impl Into<String>, what: impl Into<String>, remedy: impl Into<String>) {
        let key = key.into();
        self.found.push(Problem {
            line: line_of(self.text, &key),
            key,
            what: what.into(),
            remedy: remedy.into(),
        });
    }

    fn into_result(mut self, path: &Path) -> Result<(), SiteError> {
        if self.found.is_empty() {
            return Ok(());
        }
        self.found.sort_by_key(|problem| problem.line);
        Err(SiteError { path: path.to_owned(), problems: self.found })
    }
}

pub(super) fn parse(path: &Path, text: &str) -> Result<Site, SiteError> {
    let mut file: SiteFile = toml::from_str(text).map_err(|error| SiteError {
        path: path.to_owned(),
        problems: vec![Problem {
            line: error.span().map_or(1, |span| line_at(text, span.start)),
            key: key_in_message(error.message()),
            what: error.message().to_owned(),
            remedy: "see `lightbox site reference` for every key and its form".into(),
        }],
    })?;
    let mut problems = Problems { text, found: Vec::new() };
    appliance(&file, &mut problems);
    limits(&file, &mut problems);
    let peers = names("peer", file.peer.iter().map(|peer| peer.name.as_str()), &mut problems);
    let models = names("model", file.model.iter().map(|model| model.name.as_str()), &mut problems);
    let destinations = names("destination", file.destination.iter().map(|d| d.name.as_str()), &mut problems);
    names("operator", file.operator.iter().map(|operator| operator.name.as_str()), &mut problems);
    names("rule", file.rule.iter().map(|rule| rule.name.as_str()), &mut problems);
    check_peers(&file, &mut problems);
    check_destinations(&file, &peers, &mut problems);
    for (index, operator) in file.operator.iter().enumerate() {
        certificate(&format!("operator[{index}].certificate"), &operator.certificate, &file, &mut problems);
    }
    check_rules(&file, &models, &destinations, &mut problems);
    completion::check(&file, &peers, &mut problems);
    dicomweb::check(&file, &peers, &mut problems);
    priors::check(&file, &peers, &mut problems);
    routing::check(&file, &destinations, &mut problems);
    updates::check(&file, &mut problems);
    system::check(&file, &mut problems);
    problems.into_result(path)?;
    join_paths(&mut file, path.parent().unwrap_or(Path::new("")));
    let revision = Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Site { file, path: path.to_owned(), revision, text: text.to_owned() })
}

/// The key that a TOML error speaks of: "unknown field `x`, expected …" and its kin.
fn key_in_message(message: &str) -> String {
    message.split('`').nth(1).filter(|_| message.contains("field")).unwrap_or_default().to_owned()
}

fn appliance(file: &SiteFile, problems: &mut Problems<'_>) {
    ae_title("appliance.ae_title", &file.appliance.ae_title, problems);
    if file.appliance.name.trim().is_empty()
        || !file.appliance.name.is_ascii()
        || file.appliance.name.len() > 64
    {
        problems.add(
            "appliance.name",
            "the station name must be 1 to 64 ASCII characters",
            "results carry it next to names in any character set; choose e.g. \"RAD-AI-1\"",
        );
    }
    if !file.appliance.institution.is_ascii() || file.appliance.institution.len() > 64 {
        problems.add(
            "appliance.institution",
            "the institution must be at most 64 ASCII characters",
            "results carry it next to names in any character set; write it in ASCII or leave it out",
        );
    }
    if let Some(listen) = &file.dicom.plaintext_listen {
        if !file.dicom.allow_plaintext {
            problems.add(
                "dicom.plaintext_listen",
                "plaintext DICOM is asked for but not allowed",
                "set dicom.allow_plaintext = true if patient data may cross this network unencrypted, or take the key out",
            );
        }
        // Port 0 lets the system choose, and it never chooses one port twice.
        if *listen == file.dicom.listen && !listen.ends_with(":0") {
            problems.add(
                "dicom.plaintext_listen",
                "plaintext and TLS would share one port",
                "give plaintext its own port, e.g. 11112",
            );
        }
        socket("dicom.plaintext_listen", listen, problems);
    }
    if file.admin.listen == file.dicom.listen && !file.admin.listen.ends_with(":0") {
        problems.add(
            "admin.listen",
            "the administration page and DICOM would share one port",
            "give the administration page its own port, e.g. 8443",
        );
    }
    socket("dicom.listen", &file.dicom.listen, problems);
    socket("admin.listen", &file.admin.listen, problems);
}

pub(super) fn socket(key: &str, value: &str, problems: &mut Problems<'_>) {
    if value.parse::<std::net::SocketAddr>().is_err() {
        problems.add(
            key,
            format!("\"{value}\" is not an IP address with a port"),
            "write e.g. \"0.0.0.0:2762\" or \"[::]:2762\"",
        );
    }
}

fn limits(file: &SiteFile, problems: &mut Problems<'_>) {
    let ranges: &[(&str, u64, u64, u64)] = &[
        ("dicom.max_pdu_bytes", file.dicom.max_pdu_bytes.into(), 4096, 1_048_576),
        ("dicom.max_associations", file.dicom.max_associations.into(), 1, 1024),
        ("dicom.handshake_timeout_seconds", file.dicom.handshake_timeout_seconds, 1, 120),
        ("dicom.artim_seconds", file.dicom.artim_seconds, 1, 120),
        ("dicom.idle_timeout_seconds", file.dicom.idle_timeout_seconds, 1, 3600),
        ("dicom.operations_at_once", file.dicom.operations_at_once.into(), 1, 64),
        ("dicomweb.max_request_mib", file.dicomweb.max_request_mib, 1, 1_048_576),
        ("dicomweb.max_instance_mib", file.dicomweb.max_instance_mib, 1, 1_048_576),
        ("dicomweb.max_instances", file.dicomweb.max_instances.into(), 1, 100_000),
        ("store.reserve_mib", file.store.reserve_mib, 1, 1_048_576),
        ("store.segment_mib", file.store.segment_mib, 4, 1024),
        ("store.segments_mib", file.store.segments_mib, 8, 1_048_576),
        ("store.keep_days", file.store.keep_days, 1, 36_500),
        ("store.short_of_room_mib", file.store.short_of_room_mib, 0, 1_073_741_824),
        ("store.keep_at_least_hours", file.store.keep_at_least_hours, 1, 876_000),
        ("store.scrub_days", file.store.scrub_days, 1, 3650),
        ("store.congestion_mib", file.store.congestion_mib, 0, 1_073_741_824),
        ("timers.quiet_seconds", file.timers.quiet_seconds, 1, 86_400),
        ("timers.longest_seconds", file.timers.longest_seconds, 1, 86_400),
        ("timers.settle_seconds", file.timers.settle_seconds, 1, 600),
        ("orders.max_message_kib", file.orders.max_message_kib, 1, 65_536),
        ("orders.message_timeout_seconds", file.orders.message_timeout_seconds, 1, 600),
        ("orders.idle_timeout_seconds", file.orders.idle_timeout_seconds, 1, 86_400),
        ("orders.connections_per_source", file.orders.connections_per_source.into(), 1, 256),
        ("orders.keep_days", file.orders.keep_days, 1, 36_500),
        ("query.deadline_seconds", file.query.deadline_seconds, 1, 3600),
        ("query.retrieve_deadline_seconds", file.query.retrieve_deadline_seconds, 1, 86_400),
        ("query.max_matches", file.query.max_matches as u64, 1, 100_000),
        ("infer.threads", file.infer.threads as u64, 1, 256),
        ("updates.load_seconds", file.updates.load_seconds, 1, 3600),
        ("deliver.retry_first_seconds", file.deliver.retry_first_seconds, 1, 3600),
        ("deliver.retry_max_seconds", file.deliver.retry_max_seconds, 1, 86_400),
        ("deliver.give_up_hours", file.deliver.give_up_hours, 1, 8760),
        ("deliver.connect_timeout_seconds", file.deliver.connect_timeout_seconds, 1, 300),
        ("deliver.commit_report_minutes", file.deliver.commit_report_minutes, 1, 10_080),
        ("deliver.response_timeout_seconds", file.deliver.response_timeout_seconds, 1, 3600),
    ];
    for &(key, value, min, max) in ranges {
        if !(min..=max).contains(&value) {
            problems.add(
                key,
                format!("{value} is outside {min} to {max}"),
                format!("choose a value from {min} to {max}, or take the key out for the default"),
            );
        }
    }
}

/// AE titles: 1 to 16 characters of the default repertoire, no backslash, no control characters,
/// and no leading or trailing space (it would be lost on the wire, PS3.5 §6.2).
pub(super) fn ae_title(key: &str, value: &str, problems: &mut Problems<'_>) {
    let valid = (1..=16).contains(&value.len())
        && value.bytes().all(|byte| (0x20..0x7f).contains(&byte) && byte != b'\\')
        && value.trim() == value;
    if !valid {
        problems.add(
            key,
            format!("\"{value}\" is not an AE title"),
            "1 to 16 ASCII characters, no backslash, no space at either end",
        );
    }
}

/// Checks that names are not empty and not given twice; yields their index.
pub(super) fn names<'a>(
    table: &str,
    all: impl Iterator<Item = &'a str>,
    problems: &mut Problems<'_>,
) -> Names {
    let mut seen = Names::new();
    for (index, name) in all.enumerate() {
        let key = format!("{table}[{index}].name");
        if name.trim().is_empty() {
            problems.add(&key, "the name is empty", "give every table a name of its own");
        } else if let Some(first) = seen.insert(name.to_owned(), index) {
            problems.add(
                &key,
                format!("the name \"{name}\" is already taken by {table}[{first}]"),
                "give every table a name of its own",
            );
        }
    }
    seen
}

fn check_peers(file: &SiteFile, problems: &mut Problems<'_>) {
    for (index, peer) in file.peer.iter().enumerate() {
        let key = format!("peer[{index}]");
        ae_title(&format!("{key}.ae_title"), &peer.ae_title, problems);
        let called = [Capability::Receive, Capability::Query, Capability::Retrieve];
        if called.iter().any(|capability| peer.may.contains(capability))
            && peer.address.is_none()
            && peer.dicomweb.is_none()
        {
            problems.add(
                format!("{key}.address"),
                "a peer that may receive, or be queried or retrieved from, needs an address",
                "add e.g. address = \"pacs.example.org:2762\", or dicomweb = { url = \"https://…\" }",
            );
        }
        if let Some(address) = &peer.address {
            host_and_port(&format!("{key}.address"), address, problems);
        }
        super::peers::policy(&key, peer, problems);
        match (&peer.certificate, peer.plaintext) {
            (None, false) => problems.add(
                format!("{key}.certificate"),
                "it is not said how this peer's certificate is known",
                "add certificate = { sha256 = \"…\" } with what `openssl x509 -noout -fingerprint -sha256 -in peer.crt` prints",
            ),
            (Some(_), true) => problems.add(
                format!("{key}.plaintext"),
                "a peer without TLS has no certificate",
                "take out either plaintext or certificate",
            ),
            (Some(known), false) => certificate(&format!("{key}.certificate"), known, file, problems),
            (None, true) if !file.dicom.allow_plaintext => problems.add(
                format!("{key}.plaintext"),
                "plaintext DICOM is not allowed",
                "set dicom.allow_plaintext = true if patient data may cross this network unencrypted",
            ),
            (None, true) => {}
        }
    }
}

fn host_and_port(key: &str, value: &str, problems: &mut Problems<'_>) {
    let valid = value
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0));
    if !valid {
        problems.add(
            key,
            format!("\"{value}\" is not a host with a port"),
            "write e.g. \"pacs.example.org:2762\"",
        );
    }
}

pub(super) fn certificate(key: &str, known: &Certificate, file: &SiteFile, problems: &mut Problems<'_>) {
    let given = [&known.sha256, &known.spki_sha256, &known.name].iter().filter(|way| way.is_some()).count();
    if given != 1 {
        problems.add(
            key,
            format!("{given} of sha256, spki_sha256 and name are given"),
            "give exactly one of the three",
        );
    }
    for (way, value) in [("sha256", &known.sha256), ("spki_sha256", &known.spki_sha256)] {
        if let Some(value) = value
            && parse_fingerprint(value).is_none()
        {
            problems.add(
                format!("{key}.{way}"),
                "not a SHA-256 fingerprint",
                "64 hexadecimal digits, colons allowed, as `openssl x509 -noout -fingerprint -sha256` prints them",
            );
        }
    }
    if known.name.is_some() && file.appliance.tls.authorities.is_empty() {
        problems.add(
            format!("{key}.name"),
            "a certificate known by name needs an authority to vouch for it",
            "add the issuing authority to appliance.tls.authorities, or pin the certificate with sha256",
        );
    }
}

/// A SHA-256 fingerprint as `openssl` prints it: hex digits, with or without colons, in any case.
pub fn parse_fingerprint(text: &str) -> Option<[u8; 32]> {
    let text = text.trim();
    let text = text.strip_prefix("sha256:").unwrap_or(text);
    let digits: Vec<u8> = text
        .bytes()
        .filter(|byte| *byte != b':' && *byte != b' ')
        .map(|byte| char::from(byte).to_digit(16).map(|digit| digit as u8))
        .collect::<Option<_>>()?;
    let mut out = [0; 32];
    if digits.len() != 64 {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = pair[0] << 4 | pair[1];
    }
    Some(out)
}

fn check_destinations(file: &SiteFile, peers: &Names, problems: &mut Problems<'_>) {
    for (index, destination) in file.destination.iter().enumerate() {
        let key = format!("destination[{index}]");
        let kinds = [destination.dicom.is_some(), destination.dicomweb.is_some(), destination.hl7.is_some()];
        if kinds.iter().filter(|given| **given).count() != 1 {
            problems.add(
                &key,
                "a destination is DICOM, DICOMweb or HL7",
                "give exactly one of dicom = { … }, dicomweb = { … } and hl7 = { … }",
            );
        }
        if let Some(dicom) = &destination.dicom {
            match peers.get(&dicom.peer).and_then(|found| file.peer.get(*found)) {
                None => problems.add(
                    format!("{key}.dicom.peer"),
                    format!("there is no peer \"{}\"", dicom.peer),
                    "name a [[peer]] of this file",
                ),
                Some(peer) if !peer.may.contains(&Capability::Receive) => problems.add(
                    format!("{key}.dicom.peer"),
                    format!("the peer \"{}\" may not receive", dicom.peer),
                    "add \"receive\" to its `may`",
                ),
                Some(peer) if peer.address.is_none() => problems.add(
                    format!("{key}.dicom.peer"),
                    format!("the peer \"{}\" has no address", dicom.peer),
                    "add `address` to it, or send by dicomweb = { peer = \"…\" }",
                ),
                Some(_) => {}
            }
        }
        if let Some(hl7) = &destination.hl7 {
            host_and_port(&format!("{key}.hl7.address"), &hl7.address, problems);
            match (&hl7.certificate, hl7.tls) {
                (None, true) => problems.add(
                    format!("{key}.hl7.certificate"),
                    "it is not said how the receiver's certificate is known",
                    "add certificate = { sha256 = \"…\" }",
                ),
                (Some(_), false) => problems.add(
                    format!("{key}.hl7.tls"),
                    "a certificate is given, but TLS is off",
                    "set tls = true, or take the certificate out",
                ),
                (Some(known), true) => certificate(&format!("{key}.hl7.certificate"), known, file, problems),
                (None, false) => {}
            }
        }
    }
}

fn check_rules(file: &SiteFile, models: &Names, destinations: &Names, problems: &mut Problems<'_>) {
    for (index, rule) in file.rule.iter().enumerate() {
        for (position, model) in rule.models.iter().enumerate() {
            if !models.contains_key(model) {
                problems.add(
                    format!("rule[{index}].models[{position}]"),
                    format!("there is no model \"{model}\""),
                    "name a [[model]] of this file",
                );
            }
        }
        for (position, destination) in rule.deliver.iter().enumerate() {
            if !destinations.contains_key(destination) {
                problems.add(
                    format!("rule[{index}].deliver[{position}]"),
                    format!("there is no destination \"{destination}\""),
                    "name a [[destination]] of this file",
                );
            }
        }
        if !rule.deliver.is_empty() && rule.models.is_empty() {
            problems.add(
                format!("rule[{index}].deliver"),
                "results are to be delivered, but no model makes any",
                "name at least one model, or take `deliver` out",
            );
        }
        for (name, range) in [
            ("age_years", rule.matches.age_years),
            ("slice_thickness_mm", rule.matches.slice_thickness_mm),
            ("instances", rule.matches.instances),
        ] {
            if let Some(range) = range
                && let (Some(min), Some(max)) = (range.min, range.max)
                && min > max
            {
                problems.add(
                    format!("rule[{index}].match.{name}"),
                    format!("min {min} is above max {max}: nothing can match"),
                    "swap min and max",
                );
            }
        }
    }
}

/// Relative paths are taken from the site file's folder.
fn join_paths(file: &mut SiteFile, folder: &Path) {
    let join = |path: &mut PathBuf| *path = folder.join(&*path);
    join(&mut file.appliance.data_dir);
    join(&mut file.appliance.tls.certificate);
    join(&mut file.appliance.tls.key);
    file.appliance.tls.authorities.iter_mut().for_each(join);
    file.appliance.tls.crl.iter_mut().for_each(join);
    file.peer
        .iter_mut()
        .filter_map(|peer| peer.user_identity.as_mut()?.passcode_file.as_mut())
        .for_each(join);
    file.infer.onnxruntime.iter_mut().for_each(join);
    file.updates.root.iter_mut().for_each(join);
    file.updates.repository.iter_mut().for_each(join);
    join(&mut file.system.root);
    file.system.repository.iter_mut().for_each(join);
    join(&mut file.system.folder);
}

pub(super) fn files(site: &Site) -> Result<(), SiteError> {
    let mut problems = Problems { text: &site.text, found: Vec::new() };
    let tls = &site.file.appliance.tls;
    certificates("appliance.tls.certificate", &tls.certificate, &mut problems);
    if let Err(error) = PrivateKeyDer::from_pem_file(&tls.key) {
        problems.add(
            "appliance.tls.key",
            format!("{} holds no usable key: {error}", tls.key.display()),
            "a PEM file with one unencrypted private key that the daemon's user can read",
        );
    }
    for (index, authority) in tls.authorities.iter().enumerate() {
        certificates(&format!("appliance.tls.authorities[{index}]"), authority, &mut problems);
    }
    let data_dir = &site.file.appliance.data_dir;
    if let Some(existing) = data_dir.ancestors().find(|folder| folder.exists())
        && !existing.is_dir()
    {
        problems.add(
            "appliance.data_dir",
            format!("{} is not a folder", existing.display()),
            "name a folder, or one that can be made",
        );
    }
    if let Some(library) = &site.file.infer.onnxruntime
        && !library.is_file()
    {
        problems.add(
            "infer.onnxruntime",
            format!("{} is not a file", library.display()),
            "name libonnxruntime.so of ONNX Runtime 1.24 or newer",
        );
    }
    updates::files(&site.file, &mut problems);
    problems.into_result(&site.path)
}

fn certificates(key: &str, path: &Path, problems: &mut Problems<'_>) {
    let found: Result<Vec<CertificateDer<'_>>, _> =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    match found {
        Ok(found) if !found.is_empty() => {}
        Ok(_) => problems.add(
            key,
            format!("{} holds no certificate", path.display()),
            "name a PEM file with a certificate",
        ),
        Err(error) => problems.add(
            key,
            format!("{}: {error}", path.display()),
            "name a PEM file that the daemon's user can read",
        ),
    }
}
