//! The HTML of the administration page. Pure: what the ledger says in, markup out; maud escapes
//! every value. Texts of a study's header and a peer's own words are exposed here, to an
//! authenticated operator, and nowhere else.

mod health;
mod inspection;
mod models;
mod peers;
mod queue;
mod study;
mod system;

use lightbox_provisioning::site::{Role, Site};
use maud::{DOCTYPE, Markup, html};

pub use health::{Health, overview};
pub use inspection::inspection;
pub use models::{Models, Version, models, version};
pub use peers::{Heard, peers};
pub use queue::{Queue, queue};
pub use study::{studies, study};
pub use system::{SystemPage, system};

use super::{Listening, Operator};
use crate::clock::utc_text;
use crate::job::{DeliveryState, JobState, State, StudyState};

/// What every page needs.
pub struct Page<'a> {
    /// The site file.
    pub site: &'a Site,
    /// Where DICOM is listened for.
    pub listening: &'a Listening,
    /// Who looks.
    pub operator: &'a Operator,
    /// Token for the forms.
    pub token: String,
    /// Now.
    pub now_ms: i64,
    /// The name of a firmware image that is not the product.
    pub image_warning: Option<&'a str>,
}

impl Page<'_> {
    /// The frame around a page. `refresh` makes the browser load it again, in seconds.
    fn frame(&self, title: &str, current: &str, refresh: Option<u32>, content: &Markup) -> Markup {
        let role = if self.operator.role == Role::Operator { "operator" } else { "viewer" };
        html! {
            (head(title, &self.site.file.appliance.name, refresh))
            body {
                header {
                    strong { (self.site.file.appliance.name) }
                    nav {
                        @for (path, name) in [("/", "Health"), ("/studies", "Studies"), ("/queue", "Queue"), ("/models", "Models"), ("/peers", "Peers"), ("/system", "System")] {
                            a href=(path) aria-current=[(path == current).then_some("page")] { (name) }
                        }
                    }
                    span.who { (self.operator.name) " (" (role) ")" }
                }
                main {
                    @if let Some(name) = self.image_warning {
                        div.banner.bad { strong { "This is not the product: " } (name) }
                    }
                    (content)
                    p.soft { "Times are UTC. Made " (utc_text(self.now_ms)) "."
                        @if let Some(seconds) = refresh { " Reloads every " (seconds) " s." } }
                }
            }
        }
    }

    /// A button that acts, for those who may.
    fn action(&self, path: &str, name: &str, destination: Option<&str>) -> Markup {
        html! {
            @if self.operator.role == Role::Operator {
                form method="post" action=(path) {
                    input type="hidden" name="token" value=(self.token);
                    @if let Some(destination) = destination {
                        input type="hidden" name="destination" value=(destination);
                    }
                    button { (name) }
                }
            }
        }
    }

    /// A time, with its distance from now where it is near.
    fn time(&self, at: i64) -> Markup {
        html! { span title=(format!("{} ago", duration(self.now_ms - at))) { (utc_text(at)) } }
    }
}

fn head(title: &str, station: &str, refresh: Option<u32>) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en";
        head {
            meta charset="utf-8";
            meta name="viewport" content="width=device-width, initial-scale=1";
            @if let Some(seconds) = refresh { meta http-equiv="refresh" content=(seconds); }
            title { (title) " · " (station) }
            link rel="icon" href="data:,";
            link rel="stylesheet" href="/style.css";
        }
    }
}

/// The page that says why there is none.
pub fn failure(status: u16, what: &str) -> Markup {
    html! {
        (head(&status.to_string(), "Lightbox", None))
        body { main { h1 { (status) } p { (what) } p { a href="/" { "Back to the health page" } } } }
    }
}

/// A duration as people say it, to two units.
fn duration(ms: i64) -> String {
    let seconds = ms.max(0) / 1000;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// Bytes as people say them.
fn bytes(count: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match UNITS.iter().find(|(_, unit)| count >= *unit) {
        Some((name, unit)) => format!("{:.1} {name}", count as f64 / *unit as f64),
        None => format!("{count} bytes"),
    }
}

/// A number with its noun.
fn counted(count: u32, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// The first digits of a digest; the rest as a tooltip.
fn digest(hex: &str) -> Markup {
    html! { code title=(hex) { (hex.get(..12).unwrap_or(hex)) } }
}

/// A state, coloured by whether somebody has to do something.
fn state(name: &str) -> Markup {
    const GOOD: [&str; 2] = ["done", "delivered"];
    let bad = [JobState::Failed.as_str(), DeliveryState::Dead.as_str()];
    let class = match name {
        _ if bad.contains(&name) => "tag bad",
        _ if name == StudyState::Unrouted.as_str() => "tag warn",
        _ if GOOD.contains(&name) => "tag good",
        _ => "tag",
    };
    let shown = if name == DeliveryState::Dead.as_str() { "dead letter" } else { name };
    html! { span class=(class) { (shown) } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_are_said_as_people_say_them() {
        let said: Vec<_> = [0, 59_999, 61_000, 3_660_000, 90_000_000].map(duration).into();
        assert_eq!(said, ["0 s", "59 s", "1 min 1 s", "1 h 1 min", "1 d 1 h"]);
        assert_eq!([bytes(12), bytes(3 << 20)], ["12 bytes", "3.0 MiB"]);
    }
}
