//! A scenario: its name, what it proves, what it needs.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use mq_core::capability::Feature;

use crate::failure::Verdict;
use crate::faults::Breakage;
use crate::lab::Lab;

/// What running a scenario gives.
pub(crate) type Run = for<'a> fn(&'a Lab) -> Pin<Box<dyn Future<Output = Verdict> + Send + 'a>>;

/// One scenario of the suite.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// `theme::what_holds`.
    pub name: &'static str,
    /// The numbers of the guarantees it observes: 7 is G7.
    pub guarantees: &'static [u8],
    /// What the broker must have for it; where one is missing, the refusal of the first missing one is tested instead.
    pub features: &'static [Feature],
    /// What it breaks. Where a broker has no such thing, there is nothing to prove.
    pub breaks: &'static [Breakage],
    pub(crate) run: Run,
}

impl Scenario {
    /// After this it has failed: nothing hangs.
    pub const DEADLINE: Duration = Duration::from_secs(60);

    /// After this one with faults has failed: a broker takes its time to start, and sessions to end.
    pub const DEADLINE_WITH_FAULTS: Duration = Duration::from_secs(180);

    /// When this one has failed.
    pub fn deadline(&self) -> Duration {
        if self.breaks.is_empty() { Self::DEADLINE } else { Self::DEADLINE_WITH_FAULTS }
    }

    /// True when nothing else may use the broker meanwhile.
    pub fn is_alone(&self) -> bool {
        self.breaks.contains(&Breakage::Broker) || self.breaks.contains(&Breakage::Blocked)
    }
}

impl fmt::Debug for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scenario")
            .field("name", &self.name)
            .field("guarantees", &self.guarantees)
            .field("features", &self.features)
            .field("breaks", &self.breaks)
            .finish_non_exhaustive()
    }
}

/// Lists the scenarios of a theme: `name [guarantees] [features];`, each an `async fn name(lab: &Lab) -> Verdict`. Those
/// with faults name behind it what they break: `breaks [Way]`.
macro_rules! scenarios {
    ($theme:literal: $($name:ident [$($guarantee:literal),*] [$($feature:ident),*] $(breaks [$($breakage:ident),+])?;)+) => {
        pub(in crate::scenarios) const ALL: &[$crate::scenario::Scenario] = &[$(
            $crate::scenario::Scenario {
                name: concat!($theme, "::", stringify!($name)),
                guarantees: &[$($guarantee),*],
                features: &[$(mq_core::capability::Feature::$feature),*],
                breaks: &[$($($crate::faults::Breakage::$breakage),+)?],
                run: |lab| Box::pin($name(lab)),
            },
        )+];
    };
}

pub(crate) use scenarios;
