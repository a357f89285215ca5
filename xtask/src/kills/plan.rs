//! When what dies: from a seed, by progress instead of by time, so that a run can be repeated.

use std::fmt;
use std::time::Duration;

/// What is done to the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blow {
    /// SIGKILL, and started again after this long. Of a cluster one node, which this number chooses.
    Broker { down: Duration, node: u64 },
    /// SIGKILL, and another one at once.
    Worker,
}

/// Blows in order, each with how many messages must have been handled before.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) blows: Vec<(u64, Blow)>,
}

impl Plan {
    /// Two deaths of the broker and one of the worker, in an order that the seed decides.
    pub(crate) fn new(seed: u64, messages: u64) -> Self {
        let mut random = Random(seed);
        let worker = random.below(3);
        let blows = (0..3).map(|index| {
            // Each in its own third, away from the borders: one is over before the next comes.
            let place = messages * index / 3 + messages / 12 + random.below((messages / 6).max(1));
            let (down, node) = (Duration::from_millis(random.below(3000)), random.below(1000));
            (place, if index == worker { Blow::Worker } else { Blow::Broker { down, node } })
        });
        Self { seed, blows: blows.collect() }
    }

    /// Just these blows, in their order.
    pub(crate) fn of(mut blows: Vec<(u64, Blow)>) -> Self {
        blows.sort_by_key(|(place, _)| *place);
        Self { seed: 0, blows }
    }
}

/// `broker@2000:1500`, down for 1,500 ms once 2,000 are handled, or `worker@4000`.
pub(crate) fn blow(text: &str) -> Result<(u64, Blow), String> {
    let usage = || format!("`{text}` is neither `broker@PLACE:MILLISECONDS` nor `worker@PLACE`");
    let (victim, place) = text.split_once('@').ok_or_else(usage)?;
    let (place, down) = place.split_once(':').map_or((place, None), |(place, down)| (place, Some(down)));
    let place = place.parse().map_err(|_| usage())?;
    match (victim, down) {
        ("broker", Some(down)) => {
            let down = Duration::from_millis(down.parse().map_err(|_| usage())?);
            Ok((place, Blow::Broker { down, node: 0 }))
        }
        ("worker", None) => Ok((place, Blow::Worker)),
        _ => Err(usage()),
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}:", self.seed)?;
        for (place, blow) in &self.blows {
            match blow {
                Blow::Broker { down, .. } => write!(f, " broker at {place} for {} ms;", down.as_millis())?,
                Blow::Worker => write!(f, " worker at {place};")?,
            }
        }
        Ok(())
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): a seed gives the same plan on every machine and for ever.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blows_can_be_named() {
        assert_eq!(blow("worker@4000"), Ok((4000, Blow::Worker)));
        let down = Duration::from_millis(1500);
        assert_eq!(blow("broker@2000:1500"), Ok((2000, Blow::Broker { down, node: 0 })));
        for wrong in ["", "broker", "broker@2000", "worker@1:2", "disk@3", "broker@x:1", "broker@1:x", "@:"] {
            assert!(blow(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_seed_is_a_plan() {
        assert_eq!(Plan::new(7, 1000).blows, Plan::new(7, 1000).blows);
        for seed in 0..200 {
            let plan = Plan::new(seed, 600);
            let places: Vec<u64> = plan.blows.iter().map(|(place, _)| *place).collect();
            assert!(places.is_sorted() && places.iter().all(|place| (50..550).contains(place)), "{plan}");
            assert_eq!(plan.blows.iter().filter(|(_, blow)| *blow == Blow::Worker).count(), 1, "{plan}");
        }
    }
}
