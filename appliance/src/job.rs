//! The states of a study, of a job (one model on one revision of a study) and of a delivery, and
//! which transitions are legal. Data, not code: `pipeline.rs` drives, the ledger enforces.

use std::fmt;

/// A state machine's states as the ledger stores them.
pub trait State: Copy + Eq + fmt::Debug + Sized + 'static {
    /// Every state.
    const ALL: &'static [Self];
    /// The legal transitions.
    const LEGAL: &'static [(Self, Self)];

    /// The state's name in the ledger and on the admin page.
    fn as_str(self) -> &'static str;

    /// The state of that name.
    fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|state| state.as_str() == name)
    }

    /// Whether the transition is legal.
    fn may_become(self, next: Self) -> bool {
        Self::LEGAL.contains(&(self, next))
    }

    /// Whether nothing follows this state.
    fn is_last(self) -> bool {
        Self::LEGAL.iter().all(|(from, _)| *from != self)
    }
}

macro_rules! states {
    ($(#[$doc:meta])* $name:ident { $($(#[$state_doc:meta])* $state:ident = $text:literal),+ $(,)? }
     legal { $($from:ident => $to:ident),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$state_doc])* $state),+ }

        impl State for $name {
            const ALL: &'static [Self] = &[$(Self::$state),+];
            const LEGAL: &'static [(Self, Self)] = &[$((Self::$from, Self::$to)),+];

            fn as_str(self) -> &'static str {
                match self { $(Self::$state => $text),+ }
            }
        }
    };
}

states! {
    /// Where a study is.
    StudyState {
        /// Instances are arriving; the quiet timer runs.
        Receiving = "receiving",
        /// A revision was closed and routed; its jobs run.
        Processing = "processing",
        /// All jobs of the last revision have ended, and results and forwards are queued or sent.
        Done = "done",
        /// No rule gave the last revision to a model or sends it on: kept and shown.
        Unrouted = "unrouted",
        /// Delivered and aged: its instances and results were removed. The ledger still tells of it.
        Purged = "purged",
        /// An earlier study that was fetched for another one: kept, and never closed or routed.
        Fetched = "fetched",
    }
    legal {
        Receiving => Processing,
        Receiving => Unrouted,
        // It is only sent on, or every series was given to its model before the study was complete, and all of
        // that has ended.
        Receiving => Done,
        // A late image opens the next revision.
        Processing => Receiving,
        Done => Receiving,
        Unrouted => Receiving,
        Processing => Done,
        // What had been fetched is sent to us.
        Fetched => Receiving,
        // An operator replays a failed job of the last revision: the study has work again.
        Done => Processing,
        Done => Purged,
        Unrouted => Purged,
        Fetched => Purged,
        Purged => Fetched,
        // It is sent again.
        Purged => Receiving,
    }
}

states! {
    /// Where a job is.
    JobState {
        /// Waits for its turn, or for the next try.
        Waiting = "waiting",
        /// A worker holds its lease.
        Running = "running",
        /// It has a result.
        Done = "done",
        /// It failed for good: kept, shown, can be replayed.
        Failed = "failed",
    }
    legal {
        Waiting => Running,
        // The lease ran out, the daemon was restarted, or the failure may pass.
        Running => Waiting,
        Running => Done,
        Running => Failed,
        // Replay by an operator.
        Failed => Waiting,
    }
}

states! {
    /// Where a delivery is.
    DeliveryState {
        /// Waits for its turn, or for the next try.
        Queued = "queued",
        /// Is being sent.
        Sending = "sending",
        /// The destination has acknowledged it.
        Delivered = "delivered",
        /// Given up: kept with the peer's reason, can be replayed.
        Dead = "dead",
        /// Kept and not sent: in shadow mode for good, where a rule says `hold` until it is released.
        Held = "held",
    }
    legal {
        Queued => Sending,
        Sending => Queued,
        Sending => Delivered,
        Sending => Dead,
        // Replay by an operator.
        Dead => Queued,
        // Release by an operator.
        Held => Queued,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names_are_unique_and_parse_back<S: State>() {
        for state in S::ALL {
            assert_eq!(S::parse(state.as_str()), Some(*state));
        }
        assert_eq!(S::parse("nonsense"), None);
    }

    #[test]
    fn every_state_has_a_name_of_its_own() {
        names_are_unique_and_parse_back::<StudyState>();
        names_are_unique_and_parse_back::<JobState>();
        names_are_unique_and_parse_back::<DeliveryState>();
    }

    #[test]
    fn nothing_leaves_delivered_and_nothing_skips_sending() {
        assert!(DeliveryState::Delivered.is_last());
        assert!(!DeliveryState::Queued.may_become(DeliveryState::Delivered));
        assert!(!JobState::Waiting.may_become(JobState::Done));
        assert!(JobState::Done.is_last());
    }
}
