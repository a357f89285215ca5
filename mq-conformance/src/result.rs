//! What a run found, as it is written to disk and read by the matrix.

use std::path::{Path, PathBuf};

use mq_core::capability::{Capabilities, Feature, Level, Limits};
use serde::{Deserialize, Serialize};

use crate::scenario::Scenario;
use crate::scenarios::MISSING;

/// How a scenario ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It holds.
    Passed,
    /// A feature it needs is declared as unsupported, and asking for it answered so, typed, with a way out.
    Refused,
    /// What it breaks does not exist there: a broker in memory has no wire.
    Absent,
    /// It does not hold.
    Failed,
}

/// What a scenario with faults has measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// From the end of the fault to the end of the next handler; the slowest of the scenario.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_millis: Option<u64>,
    /// Handlers that ran without a reason of their own.
    pub duplicates: usize,
    /// How many of those its faults may cause.
    pub bound: usize,
}

/// One scenario's result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScenarioResult {
    /// `theme::what_holds`.
    pub name: String,
    /// The guarantees it observes, as `G7`.
    pub guarantees: Vec<String>,
    /// How it ended.
    pub outcome: Outcome,
    /// How long it took.
    pub millis: u64,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// What was measured, under faults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<Measured>,
}

/// What was seen of a feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Observed {
    /// Every scenario that needs it passed.
    Works,
    /// Asking for it answered the typed refusal.
    Refused,
    /// A scenario that needs it failed.
    Fails,
    /// No scenario ran that needs it.
    Unseen,
}

/// One feature of one profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapabilityResult {
    /// The feature.
    pub feature: Feature,
    /// What the adapter declares.
    pub declared: Level,
    /// Within which bounds.
    pub limits: Limits,
    /// What a user must know, or the way out.
    pub note: String,
    /// What the run saw.
    pub observed: Observed,
}

/// A run on one profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileResult {
    /// `memory`, `kafka`, `rabbit-4.0` …
    pub profile: String,
    /// The adapter's name.
    pub broker: String,
    /// The broker's version, as it answered.
    pub version: String,
    /// Every feature, in the order of the matrix.
    pub capabilities: Vec<CapabilityResult>,
    /// Every scenario that ran, by name.
    pub scenarios: Vec<ScenarioResult>,
}

impl ProfileResult {
    pub(crate) fn new(
        profile: String,
        version: String,
        capabilities: &Capabilities,
        scenarios: &[Scenario],
        mut results: Vec<ScenarioResult>,
    ) -> Self {
        results.sort_by(|left, right| left.name.cmp(&right.name));
        let rows = Feature::ALL.iter().map(|feature| {
            let declared = capabilities.get(*feature);
            CapabilityResult {
                feature: *feature,
                declared: capabilities.level(*feature),
                limits: declared.map(|capability| capability.limits.clone()).unwrap_or_default(),
                note: declared.map(|capability| capability.note.clone()).unwrap_or_default(),
                observed: observe(*feature, capabilities, scenarios, &results),
            }
        });
        Self {
            profile,
            broker: capabilities.backend().to_owned(),
            version,
            capabilities: rows.collect(),
            scenarios: results,
        }
    }

    /// True when no scenario failed.
    pub fn passed(&self) -> bool {
        self.scenarios.iter().all(|scenario| scenario.outcome != Outcome::Failed)
    }

    /// Writes `<dir>/<profile>.json`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, dir: &Path) -> std::io::Result<PathBuf> {
        std::fs::create_dir_all(dir)?;
        let path = dir.join(format!("{}.json", self.profile));
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        std::fs::write(&path, text)?;
        Ok(path)
    }

    /// Reads what [`ProfileResult::write`] wrote.
    ///
    /// # Errors
    /// When the file cannot be read or is not such a result.
    pub fn read(path: &Path) -> std::io::Result<Self> {
        Ok(serde_json::from_slice(&std::fs::read(path)?)?)
    }
}

fn observe(
    feature: Feature,
    capabilities: &Capabilities,
    scenarios: &[Scenario],
    results: &[ScenarioResult],
) -> Observed {
    let mut seen = Observed::Unseen;
    for scenario in scenarios.iter().filter(|scenario| scenario.features.contains(&feature)) {
        let Some(result) = results.iter().find(|result| result.name == scenario.name) else { continue };
        // A scenario refused for the sake of another feature says nothing of this one.
        let first_missing = scenario.features.iter().find(|feature| !capabilities.supports(**feature));
        seen = match result.outcome {
            Outcome::Failed => return Observed::Fails,
            Outcome::Passed => Observed::Works,
            Outcome::Refused if first_missing == Some(&feature) => Observed::Refused,
            Outcome::Refused | Outcome::Absent => seen,
        };
    }
    // One scenario asks for everything that is declared as missing.
    let asked = results.iter().any(|result| result.name == MISSING && result.outcome == Outcome::Passed);
    if seen == Observed::Unseen && asked && !capabilities.supports(feature) { Observed::Refused } else { seen }
}
