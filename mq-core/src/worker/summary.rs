//! What a worker has done.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why a worker stopped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ended {
    /// It has not.
    #[default]
    Running,
    /// The shutdown future completed.
    Shutdown,
    /// It has taken the most messages it was to take.
    Max,
    /// No message came for the idle time.
    Idle,
}

macro_rules! counts {
    ($($(#[$doc:meta])+ $name:ident,)+) => {
        /// What a worker has done since it started.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Summary {
            $($(#[$doc])+ pub $name: u64,)+
            /// Why it stopped.
            pub ended: Ended,
        }

        #[derive(Debug, Default)]
        pub(crate) struct Counts { $(pub(crate) $name: Count,)+ }

        impl Counts {
            pub(crate) fn summary(&self, ended: Ended) -> Summary {
                Summary { $($name: self.$name.get(),)+ ended }
            }
        }
    };
}

counts! {
    /// Messages received.
    received,
    /// Messages handled.
    handled,
    /// Messages the business refused: acknowledged.
    discarded,
    /// Messages known to be handled already: acknowledged without running.
    duplicates,
    /// Failures that will be tried again.
    retried,
    /// Messages deferred because their claim is in progress elsewhere.
    deferred,
    /// Messages set aside, confirmed.
    dead_lettered,
    /// With automatic acknowledgement: messages whose handler failed; they are gone.
    failed,
    /// Messages given back unhandled, without blame.
    released,
    /// Handlers stopped because their lease was lost or the drain deadline passed.
    cancelled,
    /// Settlements that came too late.
    stale,
}

#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, n: usize) {
        self.0.fetch_add(n as u64, Ordering::Relaxed);
    }

    pub(crate) fn one(&self) {
        self.add(1);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
