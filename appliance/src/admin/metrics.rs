//! The ledger's numbers as Prometheus text, put after what the daemon has counted itself.

use std::fmt::Write as _;

use crate::dicom::tls::live::Expiry;
use crate::store::queries::Counts;

/// Numbers that are not in the ledger.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// Now.
    pub now_ms: i64,
    /// When the daemon started.
    pub started_ms: i64,
    /// Free space, where it could be asked for.
    pub free_bytes: Option<u64>,
    /// Space that is kept free.
    pub reserve_bytes: u64,
    /// Whether the box can do its work.
    pub ready: bool,
    /// Tasks of the daemon that are alive.
    pub tasks: usize,
}

/// A label's value with the three characters escaped that the format names.
fn label(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

struct Text(String);

impl Text {
    fn family(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = (String, f64)>) {
        let out = &mut self.0;
        // Writing into a String cannot fail.
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (labels, value) in samples {
            let labels = if labels.is_empty() { labels } else { format!("{{{labels}}}") };
            let _ = writeln!(out, "{name}{labels} {value}");
        }
    }

    fn one(&mut self, name: &str, help: &str, value: f64) {
        self.family(name, help, [(String::new(), value)]);
    }
}

/// The gauges.
pub fn gauges(counts: &Counts, machine: &Machine, expiries: &[Expiry]) -> String {
    let mut text = Text(String::new());
    let states = |counts: &std::collections::BTreeMap<String, u32>| -> Vec<(String, f64)> {
        counts
            .iter()
            .map(|(state, count)| (format!("state=\"{}\"", label(state)), f64::from(*count)))
            .collect()
    };
    let seconds = |from_ms: i64| (machine.now_ms - from_ms).max(0) as f64 / 1000.0;
    text.family(
        "lightbox_build_info",
        "Version of the software.",
        [(format!("version=\"{}\"", env!("CARGO_PKG_VERSION")), 1.0)],
    );
    text.one("lightbox_ready", "1 if the box can do its work.", f64::from(u8::from(machine.ready)));
    text.one("lightbox_uptime_seconds", "Time since the daemon started.", seconds(machine.started_ms));
    if let Some(free) = machine.free_bytes {
        text.one("lightbox_disk_free_bytes", "Free space of the store.", free as f64);
    }
    text.one(
        "lightbox_disk_reserve_bytes",
        "Space below which nothing is received.",
        machine.reserve_bytes as f64,
    );
    text.one("lightbox_tasks_alive", "Tasks of the daemon, one or more a connection.", machine.tasks as f64);
    text.family(
        "lightbox_certificate_expiry_seconds",
        "Time until a certificate or a revocation list expires, below 0 once it has.",
        expiries.iter().map(|expiry| {
            let seconds = (expiry.not_after_ms - machine.now_ms).div_euclid(1000);
            (format!("who=\"{}\"", label(&expiry.who)), seconds as f64)
        }),
    );
    text.one("lightbox_audit_records", "Place of the audit log's last record.", counts.audit_head as f64);
    text.family("lightbox_studies", "Studies by state.", states(&counts.studies));
    text.one(
        "lightbox_studies_with_problem",
        "Studies that a person should look at.",
        f64::from(counts.problem_studies),
    );
    text.family("lightbox_jobs", "Jobs by state.", states(&counts.jobs));
    let by_destination = counts.destinations.iter().flat_map(|(destination, line)| {
        line.deliveries.iter().map(move |(state, count)| {
            let labels = format!("destination=\"{}\",state=\"{}\"", label(destination), label(state));
            (labels, f64::from(*count))
        })
    });
    text.family("lightbox_deliveries", "Deliveries by destination and state.", by_destination);
    let of = |destination: &str| format!("destination=\"{}\"", label(destination));
    text.family(
        "lightbox_queue_oldest_seconds",
        "Age of the oldest queued delivery, 0 for an empty queue.",
        counts.destinations.iter().map(|(name, line)| (of(name), line.oldest_queued_at.map_or(0.0, seconds))),
    );
    text.family(
        "lightbox_destination_up",
        "1 if the destination took the last delivery that was tried.",
        counts.destinations.iter().filter_map(|(name, line)| {
            line.last_attempt.map(|(_, taken)| (of(name), f64::from(u8::from(taken))))
        }),
    );
    text.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::queries::DestinationLine;

    #[test]
    fn gauges_are_prometheus_text_with_escaped_labels() {
        let line = DestinationLine {
            deliveries: [("queued".to_owned(), 2)].into(),
            oldest_queued_at: Some(1000),
            last_attempt: Some((1, false)),
        };
        let counts = Counts {
            studies: [("done".to_owned(), 3)].into(),
            jobs: Default::default(),
            destinations: [("a\"b".to_owned(), line)].into(),
            problem_studies: 1,
            audit_head: 7,
        };
        let machine = Machine {
            now_ms: 6500,
            started_ms: 0,
            free_bytes: Some(10),
            reserve_bytes: 5,
            ready: true,
            tasks: 9,
        };
        let expiries = [Expiry { who: "peer ct-1".into(), not_after_ms: 4000 }];
        let text = gauges(&counts, &machine, &expiries);
        for line in [
            "lightbox_studies{state=\"done\"} 3",
            "lightbox_deliveries{destination=\"a\\\"b\",state=\"queued\"} 2",
            "lightbox_queue_oldest_seconds{destination=\"a\\\"b\"} 5.5",
            "lightbox_destination_up{destination=\"a\\\"b\"} 0",
            "lightbox_uptime_seconds 6.5",
            "lightbox_ready 1",
            "lightbox_tasks_alive 9",
            "lightbox_certificate_expiry_seconds{who=\"peer ct-1\"} -3",
            "# TYPE lightbox_jobs gauge",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }
}
