//! The inspection page: what the box says of itself, and what of it is not as it should be.

use maud::{Markup, html};

use super::{Page, bytes};
use crate::inspect::Report;
use crate::inspect::judge::{Check, Verdict};

/// The inspection page.
pub fn inspection(page: &Page<'_>, report: &Report, checks: &[Check]) -> Markup {
    let facts = &report.facts;
    let content = html! {
        h1 { "Inspection" }
        section.card {
            p { a href="/system/report" { "Signed report" } " for " code { "lightbox inspect verify" }
                ", and the " a href="/system/device.pub" { "device's public key" } " to keep away from the box: device " code { (report.device.fingerprint) } ", collected " (facts.collected_at) "." }
            p { a href="/system/audit.jsonl" { "Audit log" } " for " code { "lightbox audit verify-file" } ": study keys, no patient data." }
            div.scroll { table {
                tr { th { "Checked" } th {} th { "Seen" } }
                @for check in checks { tr {
                    td { (check.name) }
                    td { span class=(class(check.verdict)) { (word(check.verdict)) } }
                    td.words { (check.note) }
                } }
            } }
        }
        section.card {
            h2 { "Listening" }
            div.scroll { table {
                tr { th { "Protocol" } th { "Address" } th { "Unit" } }
                @for one in &facts.listeners { tr {
                    td { (one.protocol) }
                    td { (one.address) " port " (one.port) }
                    td { (one.unit.as_deref().unwrap_or("not seen")) }
                } }
            } }
        }
        section.card {
            h2 { "Units that run" }
            div.scroll { table {
                tr { th { "Unit" } th { "Processes" } th { "Users" } th { "No new privileges" } th { "Calls filtered" } th { "Capabilities" } th { "Own namespaces" } }
                @for (name, unit) in &facts.units { tr {
                    td { (name) }
                    td { (unit.processes) }
                    td { (unit.users.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")) }
                    td { (yes(unit.no_new_privileges)) }
                    td { (yes(unit.seccomp)) }
                    td { code { (unit.capabilities.trim_start_matches('0')) } }
                    td { (unit.own_namespaces.as_ref().map_or("not seen".to_owned(), |own| own.join(", "))) }
                } }
            } }
        }
        section.card {
            h2 { "Partitions and mounts" }
            div.scroll { table {
                tr { th { "Partition" } th { "Name" } th { "Size" } }
                @for one in &facts.partitions { tr { td { (one.device) } td { (one.label) } td { (bytes(one.bytes)) } } }
            } }
            div.scroll { table {
                tr { th { "Mounted at" } th { "Kind" } th { "Options" } th { "Mapped" } }
                @for one in &facts.mounts { tr {
                    td { (one.at) } td { (one.kind) } td.words { (one.options.join(", ")) }
                    td { (one.mapped.as_deref().unwrap_or("")) }
                } }
            } }
        }
        section.card {
            h2 { "Measured by the TPM" }
            @if facts.registers.is_empty() { p { "No TPM." } }
            dl.facts { @for (number, value) in &facts.registers {
                dt { "Register " (number) } dd { code { (value) } }
            } }
            h2 { "Kernel" }
            p { (facts.system.kernel) ": " code { (facts.system.command_line) } }
            @if !facts.unseen.is_empty() {
                h2 { "Not seen" }
                ul { @for one in &facts.unseen { li { (one) } } }
            }
        }
    };
    page.frame("Inspection", "/system", None, &content)
}

fn class(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Good => "tag good",
        Verdict::Bad => "tag bad",
        Verdict::Unknown => "tag warn",
    }
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Good => "good",
        Verdict::Bad => "not good",
        Verdict::Unknown => "not seen",
    }
}

fn yes(flag: bool) -> &'static str {
    if flag { "yes" } else { "no" }
}
