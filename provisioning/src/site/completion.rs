//! The checks of what says when a study is complete: timers, rules' timers, orders.

use std::net::IpAddr;

use super::check::{Problems, certificate, names, socket};
use super::raw::{Names, Start};
use super::{Capability, SiteFile};

pub(super) fn check(file: &SiteFile, peers: &Names, problems: &mut Problems<'_>) {
    timers(file, peers, problems);
    rules(file, problems);
    orders(file, problems);
}

fn timers(file: &SiteFile, peers: &Names, problems: &mut Problems<'_>) {
    let timers = &file.timers;
    if timers.longest_seconds < timers.quiet_seconds {
        problems.add(
            "timers.longest_seconds",
            format!("{} is less than timers.quiet_seconds, {}", timers.longest_seconds, timers.quiet_seconds),
            "raise it: it is the longest wait for what evidence says is missing",
        );
    }
    if let Some(name) = &timers.count_at {
        let remedy = "name a [[peer]] of this file that has an address and \"query\" in its `may`";
        match peers.get(name).and_then(|found| file.peer.get(*found)) {
            None => problems.add("timers.count_at", format!("there is no peer \"{name}\""), remedy),
            Some(peer)
                if (peer.address.is_none() && peer.dicomweb.is_none())
                    || !peer.may.contains(&Capability::Query) =>
            {
                problems.add(
                    "timers.count_at",
                    format!("the peer \"{name}\" cannot be asked: it has no address or may not be queried"),
                    remedy,
                );
            }
            Some(_) => {}
        }
    }
}

fn rules(file: &SiteFile, problems: &mut Problems<'_>) {
    for (index, rule) in file.rule.iter().enumerate() {
        if let Some(quiet) = rule.quiet_seconds
            && !(1..=86_400).contains(&quiet)
        {
            problems.add(
                format!("rule[{index}].quiet_seconds"),
                format!("{quiet} is outside 1 to 86400"),
                "choose a value from 1 to 86400, or take the key out",
            );
        }
        // Before the study is complete nobody knows its number of series: the rule would decide one way
        // at the start of the series and another at the end of the study.
        let asks_for_study = rule.when.as_deref().is_some_and(|when| {
            when.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|word| word == "study")
        });
        if rule.start == Start::Series && asks_for_study {
            problems.add(
                format!("rule[{index}].when"),
                "a rule that starts with the series cannot ask for the study, which is not complete then",
                "ask for the series only, or take `start = \"series\"` out",
            );
        }
    }
}

fn orders(file: &SiteFile, problems: &mut Problems<'_>) {
    let orders = &file.orders;
    names("orders.source", orders.source.iter().map(|source| source.name.as_str()), problems);
    for (key, listen) in
        [("orders.listen", &orders.listen), ("orders.plaintext_listen", &orders.plaintext_listen)]
    {
        let Some(listen) = listen else { continue };
        socket(key, listen, problems);
        let taken =
            [Some(&file.dicom.listen), file.dicom.plaintext_listen.as_ref(), Some(&file.admin.listen)];
        let by_tls = orders.listen.as_ref().filter(|_| key != "orders.listen");
        if !listen.ends_with(":0")
            && taken.iter().flatten().copied().chain(by_tls).any(|other| other == listen)
        {
            problems.add(key, "another listener has this port", "give each its own port, e.g. 2575");
        }
    }
    if orders.plaintext_listen.is_some() && !orders.allow_plaintext {
        problems.add(
            "orders.plaintext_listen",
            "plaintext HL7 is asked for but not allowed",
            "set orders.allow_plaintext = true if patient data may cross this network unencrypted, or take the key out",
        );
    }
    if (orders.listen.is_some() || orders.plaintext_listen.is_some()) && orders.source.is_empty() {
        problems.add(
            "orders.listen",
            "nobody may send orders",
            "add an [[orders.source]] with a name and the certificate of the RIS",
        );
    }
    for (index, source) in orders.source.iter().enumerate() {
        let key = format!("orders.source[{index}]");
        match (&source.certificate, &source.address) {
            (Some(known), None) => certificate(&format!("{key}.certificate"), known, file, problems),
            (None, Some(address)) => {
                if address.parse::<IpAddr>().is_err() {
                    problems.add(
                        format!("{key}.address"),
                        format!("\"{address}\" is not an IP address"),
                        "write e.g. \"10.1.2.3\"",
                    );
                }
                if !orders.allow_plaintext {
                    problems.add(
                        format!("{key}.address"),
                        "plaintext HL7 is not allowed",
                        "give its certificate, or set orders.allow_plaintext = true",
                    );
                }
            }
            _ => problems.add(
                &key,
                "it is not said how this source is known",
                "give either certificate = { sha256 = \"…\" } or, without TLS, address = \"10.1.2.3\"",
            ),
        }
    }
    for (key, field) in [
        ("orders.expected_series_field", &orders.expected_series_field),
        ("orders.expected_instances_field", &orders.expected_instances_field),
    ] {
        if let Some(text) = field
            && field_name(text).is_none()
        {
            problems.add(
                key,
                format!("\"{text}\" is not a segment and a field"),
                "write e.g. \"ZDS-5\" or \"OBR-13.2\"",
            );
        }
    }
}

/// Segment, field and component of `ZDS-5` or `OBR-13.2`; the component is 1 where none is given.
pub fn field_name(text: &str) -> Option<(&str, usize, usize)> {
    let (segment, place) = text.split_once('-')?;
    let (field, component) = place.split_once('.').unwrap_or((place, "1"));
    let named = segment.len() == 3
        && segment.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
        && segment != "MSH";
    let number = |text: &str| text.parse::<usize>().ok().filter(|number| (1..=200).contains(number));
    named.then_some(())?;
    Some((segment, number(field)?, number(component)?))
}
