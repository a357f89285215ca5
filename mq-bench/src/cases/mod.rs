//! The cases, each the work of one budget.

mod consume;
mod lanes;
mod lone;
mod ours;
mod place;
mod send;

#[cfg(feature = "rabbit")]
pub(crate) use ours::PREFETCH;
pub(crate) use place::Place;

use mq::Result;

use crate::cli::{Case, Extent};
use crate::pair::Outcome;

/// Measures one case at the broker of `url`.
pub(crate) async fn measure(case: Case, url: &str, extent: Extent) -> Result<Outcome> {
    match case {
        Case::Send => send::measure(url, extent).await,
        Case::Consume => consume::measure(url, extent, consume::Way::Consumer).await,
        Case::Worker => consume::measure(url, extent, consume::Way::Worker).await,
        Case::Lone => lone::measure(url, extent).await,
        Case::Lanes => lanes::measure(url, extent).await,
    }
}
