//! What a monitor's reading asks for.

use serde::Serialize;

use super::document::{Action, Monitor};

/// What a monitor's reading asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Alarm {
    /// Nothing.
    None,
    /// Telling people.
    Warn,
    /// The plan's action.
    Stop(Action),
}

/// Judges a reading. A reading that is not a number stops: a monitor that cannot see is no reason
/// to go on.
pub fn judge(monitor: &Monitor, reading: f64) -> Alarm {
    if reading.is_nan() || reading >= monitor.stop {
        Alarm::Stop(monitor.action)
    } else if reading >= monitor.warn {
        Alarm::Warn
    } else {
        Alarm::None
    }
}

#[cfg(test)]
mod tests {
    use super::super::document::Watched;
    use super::*;

    #[test]
    fn bounds_belong_to_the_alarm_and_a_blind_monitor_stops() {
        let monitor = Monitor {
            id: "drift".into(),
            metric: Watched::ScorePsi,
            window_studies: 100,
            warn: 0.1,
            stop: 0.25,
            action: Action::Revert,
        };
        assert_eq!(judge(&monitor, 0.09), Alarm::None);
        assert_eq!(judge(&monitor, 0.1), Alarm::Warn);
        assert_eq!(judge(&monitor, 0.25), Alarm::Stop(Action::Revert));
        assert_eq!(judge(&monitor, f64::NAN), Alarm::Stop(Action::Revert));
    }
}
