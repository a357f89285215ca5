//! The scenarios, a file for each theme.

mod admin;
mod atomic;
mod capability;
mod dead_letters;
mod delay;
mod doubles;
mod drain;
mod failures;
mod faults;
mod follow_ups;
mod foreign;
mod groups;
mod guard;
mod half;
mod hand_off;
mod keys;
mod names;
mod order;
mod poison;
mod publish;
mod receive;
mod redrive;
mod refusals;
mod replay;
mod retry;
mod routing;
mod send;
mod settle;
mod steer;
mod work;

pub(crate) use refusals::refusal;

use crate::scenario::Scenario;

/// The scenario that asks for every feature declared as unsupported.
pub(crate) const MISSING: &str = "capability::what_is_missing_is_refused";

/// Every scenario, in the order of the themes.
pub(crate) fn all() -> Vec<Scenario> {
    [
        publish::ALL,
        send::ALL,
        atomic::ALL,
        hand_off::ALL,
        settle::ALL,
        receive::ALL,
        groups::ALL,
        routing::ALL,
        order::ALL,
        retry::ALL,
        delay::ALL,
        dead_letters::ALL,
        redrive::ALL,
        replay::ALL,
        work::ALL,
        follow_ups::ALL,
        failures::ALL,
        poison::ALL,
        keys::ALL,
        guard::ALL,
        drain::ALL,
        steer::ALL,
        admin::ALL,
        names::ALL,
        capability::ALL,
        foreign::ALL,
        // Last: those among them that break the broker wait for all others.
        half::ALL,
        faults::ways::ALL,
        faults::members::ALL,
        faults::crashes::ALL,
        faults::random::ALL,
        faults::brokers::ALL,
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use mq_core::capability::Feature;

    use super::all;

    #[test]
    fn names_are_unique() {
        let mut seen = HashSet::new();
        for scenario in all() {
            assert!(seen.insert(scenario.name), "{} twice", scenario.name);
        }
        assert!(seen.len() >= 150, "{} scenarios", seen.len());
    }

    #[test]
    fn the_scenario_of_refusals_has_its_name() {
        assert!(all().iter().any(|scenario| scenario.name == super::MISSING));
    }

    #[test]
    fn every_guarantee_is_observed() {
        for number in 1..=18 {
            let observed = all().iter().filter(|scenario| scenario.guarantees.contains(&number)).count();
            assert!(observed > 0, "no scenario observes G{number}");
        }
    }

    #[test]
    fn every_feature_is_observed() {
        // Only a cluster shows it.
        let unseen = [Feature::NoLossOnFailover];
        for feature in Feature::ALL.iter().filter(|feature| !unseen.contains(feature)) {
            assert!(all().iter().any(|scenario| scenario.features.contains(feature)), "no scenario observes {feature}");
        }
    }
}
