//! The capability matrix: what each adapter declares, and what a run saw of it.

use std::fmt::Write as _;

use mq_core::capability::{Feature, Level, Limits};

use crate::result::{CapabilityResult, Observed, Outcome, ProfileResult};

/// Renders `docs/matrix.md` from the results of a run of each profile. The same results give the same text.
pub fn render(profiles: &[ProfileResult]) -> String {
    let mut text = String::from(
        "# Capability matrix\n\n\
         Generated from a run of the conformance suite on real brokers; `cargo xtask matrix` writes it. \
         Each cell says what the adapter declares, and what the run saw.\n\n\
         **native**: the broker itself · **emulated**: the adapter, on top of the broker · **no**: asking for it \
         answers the typed error `Unsupported` · ✓ seen to work · ⊘ seen to be refused as declared · ✗ seen to fail · \
         – nothing there to break · \
         ? no scenario observes it yet\n\n",
    );
    let columns: Vec<String> = profiles.iter().map(|profile| profile.profile.clone()).collect();
    table(&mut text, "feature", &columns, &rows_of_features(profiles));
    text.push_str("\n## Bounds and notes\n");
    for profile in profiles {
        let _ = write!(text, "\n### {} ({} {})\n\n", profile.profile, profile.broker, profile.version);
        for row in &profile.capabilities {
            let bounds = bounds(&row.limits);
            if row.note.is_empty() && bounds.is_empty() {
                continue;
            }
            let gap = if row.note.is_empty() || bounds.is_empty() { "" } else { " · " };
            let _ = writeln!(text, "- **{}**: {}{gap}{bounds}", row.feature, row.note);
        }
    }
    text.push_str("\n## Scenarios\n\n");
    table(&mut text, "scenario", &columns, &rows_of_scenarios(profiles));
    let measured = rows_of_measurements(profiles);
    if !measured.is_empty() {
        text.push_str(MEASURED);
        table(&mut text, "scenario", &columns, &measured);
    }
    text
}

/// What differs from run to run: duplicates seen of those allowed, and how long the next message took. Whoever compares
/// two matrices leaves out the numbers from here on.
pub const MEASURED: &str = "\n## Under faults, as measured in the last run\n\n\
     Messages handled more than once of the most that the faults of the scenario may cause (a send repeated by its \
     sender does not count), and the longest time from the end of a fault to the end of the next handler. The \
     connections of these scenarios have short sessions: 3 s on Kafka, heartbeats of 2 s on RabbitMQ.\n\n";

fn rows_of_measurements(profiles: &[ProfileResult]) -> Vec<(String, Vec<String>)> {
    let scenarios = profiles.iter().flat_map(|profile| &profile.scenarios);
    let mut names: Vec<&str> = scenarios.filter(|s| s.measured.is_some()).map(|s| s.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let cell = |profile: &ProfileResult, name: &str| {
        let scenario = profile.scenarios.iter().find(|scenario| scenario.name == name);
        let Some(measured) = scenario.and_then(|scenario| scenario.measured) else { return "–".to_owned() };
        let counts = format!("{} of {}", measured.duplicates, measured.bound);
        match measured.recovery_millis {
            Some(millis) => format!("{counts}, {:.1} s", millis as f64 / 1000.0),
            None => counts,
        }
    };
    let row = |name: &str| (format!("`{name}`"), profiles.iter().map(|profile| cell(profile, name)).collect());
    names.into_iter().map(row).collect()
}

fn table(text: &mut String, first: &str, columns: &[String], rows: &[(String, Vec<String>)]) {
    let _ = writeln!(text, "| {first} | {} |", columns.join(" | "));
    let _ = writeln!(text, "|---|{}", "---|".repeat(columns.len()));
    for (name, cells) in rows {
        let _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
    }
}

fn rows_of_features(profiles: &[ProfileResult]) -> Vec<(String, Vec<String>)> {
    let cell = |profile: &ProfileResult, feature| {
        let row = profile.capabilities.iter().find(|row| row.feature == feature);
        row.map_or("?".to_owned(), declared_and_observed)
    };
    let row =
        |feature: &Feature| (format!("`{feature}`"), profiles.iter().map(|profile| cell(profile, *feature)).collect());
    Feature::ALL.iter().map(row).collect()
}

fn declared_and_observed(row: &CapabilityResult) -> String {
    let declared = match row.declared {
        Level::Native => "native",
        Level::Emulated => "emulated",
        Level::Unsupported => "no",
    };
    let observed = match row.observed {
        Observed::Works => "✓",
        Observed::Refused => "⊘",
        Observed::Fails => "✗",
        Observed::Unseen => "?",
    };
    format!("{declared} {observed}")
}

fn rows_of_scenarios(profiles: &[ProfileResult]) -> Vec<(String, Vec<String>)> {
    let mut names: Vec<(&str, String)> = profiles
        .iter()
        .flat_map(|profile| &profile.scenarios)
        .map(|scenario| (scenario.name.as_str(), scenario.guarantees.join(" ")))
        .collect();
    names.sort();
    names.dedup();
    let cell = |profile: &ProfileResult, name: &str| {
        let result = profile.scenarios.iter().find(|scenario| scenario.name == name);
        match result.map(|result| result.outcome) {
            Some(Outcome::Passed) => "✓",
            Some(Outcome::Refused) => "⊘",
            Some(Outcome::Absent) => "–",
            Some(Outcome::Failed) => "✗",
            None => "not run",
        }
        .to_owned()
    };
    let row = |(name, guarantees): (&str, String)| {
        (format!("`{name}` {guarantees}"), profiles.iter().map(|profile| cell(profile, name)).collect())
    };
    names.into_iter().map(row).collect()
}

fn bounds(limits: &Limits) -> String {
    let mut parts = Vec::new();
    let time = |duration| humantime::format_duration(duration).to_string();
    if let Some(lateness) = limits.lateness {
        parts.push(format!("late by at most {}", time(lateness)));
    }
    if let Some(granularity) = limits.granularity {
        parts.push(format!("rounded up to {}", time(granularity)));
    }
    if let Some(delay) = limits.max_delay {
        parts.push(format!("at most {}", time(delay)));
    }
    if let Some(bytes) = limits.max_bytes {
        parts.push(format!("at most {bytes} bytes"));
    }
    if let Some(window) = limits.duplicate_window {
        parts.push(format!("at most {window} duplicates a fault"));
    }
    if limits.needs_process {
        parts.push("needs a living process of the SDK".to_owned());
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::{Measured, ScenarioResult};

    #[test]
    fn shows_declared_and_observed() {
        let capability = |feature, declared, observed| CapabilityResult {
            feature,
            declared,
            limits: Limits::default(),
            note: "look here".into(),
            observed,
        };
        let profile = ProfileResult {
            profile: "memory".into(),
            broker: "memory".into(),
            version: "1".into(),
            capabilities: vec![
                capability(Feature::Lag, Level::Native, Observed::Works),
                capability(Feature::HalfMessage, Level::Unsupported, Observed::Refused),
            ],
            scenarios: vec![ScenarioResult {
                name: "a::b".into(),
                guarantees: vec!["G1".into()],
                outcome: Outcome::Passed,
                millis: 7,
                failure: None,
                measured: Some(Measured { recovery_millis: Some(1234), duplicates: 3, bound: 16 }),
            }],
        };
        let text = render(&[profile]);
        for line in [
            "| `lag` | native ✓ |",
            "| `half-message` | no ⊘ |",
            "| `a::b` G1 | ✓ |",
            "- **lag**: look here",
            "| `a::b` | 3 of 16, 1.2 s |",
        ] {
            assert!(text.contains(line), "{line} not in {text}");
        }
        assert!(!text.contains("millis"), "times would change the text from run to run");
    }
}
