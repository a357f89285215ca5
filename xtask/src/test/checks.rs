//! Checks which are a command with an exit code.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::allowed::Allowed;
use super::features;
use super::outcome::{Ended, Outcome};
use super::step::Step;
use super::stream;
use super::tally::Tally;
use crate::command;

const PATIENCE: Duration = Duration::from_secs(40 * 60);

#[derive(Debug)]
pub(crate) struct Checks<'a> {
    pub(crate) root: &'a Path,
    pub(crate) logs: &'a Path,
    pub(crate) allowed: &'a Allowed,
}

impl Checks<'_> {
    pub(crate) fn fmt(&self) -> Outcome {
        self.cargo(Step::Fmt, &["fmt", "--all", "--check"])
    }

    pub(crate) fn clippy(&self) -> Outcome {
        self.cargo(Step::Clippy, &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])
    }

    pub(crate) fn doc(&self) -> Outcome {
        let begin = Instant::now();
        let mut command = self.command(&["doc", "--workspace", "--no-deps"]);
        let result = self.run(Step::Doc, command.env("RUSTDOCFLAGS", "-D warnings"));
        Outcome::of_check(&Step::Doc.name(), begin.elapsed(), result)
    }

    pub(crate) fn doctest(&self) -> Outcome {
        let begin = Instant::now();
        let name = Step::Doctest.name();
        let mut command = self.command(&["test", "--workspace", "--doc"]);
        let (tally, ended) = stream::run(&name, &mut command, &self.log(Step::Doctest), PATIENCE)
            .unwrap_or_else(|error| (Tally::default(), Ended::Badly(format!("{error:#}"))));
        Outcome::of_tests(&name, "documentation", begin.elapsed(), tally, ended, self.allowed)
    }

    /// Each feature alone, and none: one check each.
    pub(crate) fn features(&self) -> Outcome {
        self.each_feature(Step::Features, |package, feature| {
            let mut command = self.command(&["check", "-p", package, "--no-default-features"]);
            if package == "mq-examples" {
                command.arg("--examples");
            }
            self.run(Step::Features, command.args(["--features", feature.unwrap_or_default()]))
        })
    }

    pub(crate) fn purity(&self) -> Outcome {
        self.each_feature(Step::Purity, |package, feature| match feature {
            // Of a feature that chooses no broker there is nothing to say.
            Some(feature) if !features::with_clients().any(|known| known == feature) => Ok(()),
            _ => features::check_purity(self.root, package, feature),
        })
    }

    pub(crate) fn deny(&self) -> Outcome {
        if command::output(Command::new("cargo").args(["deny", "--version"])).is_none() {
            let notes = vec!["cargo-deny is not installed: licences and advisories are not checked here".to_owned()];
            return Outcome { step: Step::Deny.name(), notes, ..Outcome::default() };
        }
        self.cargo(Step::Deny, &["deny", "check"])
    }

    fn each_feature(&self, step: Step, check: impl Fn(&str, Option<&str>) -> Result<()>) -> Outcome {
        let begin = Instant::now();
        let mut whole = Outcome { step: step.name(), ..Outcome::default() };
        for package in features::PACKAGES {
            let mut results = vec![(format!("{package} without features"), check(package, None))];
            match features::of(self.root, package) {
                Ok(names) => results.extend(
                    names.into_iter().map(|name| (format!("{package} with {name}"), check(package, Some(&name)))),
                ),
                Err(error) => results.push((package.to_owned(), Err(error))),
            }
            for (what, result) in results {
                match result {
                    Ok(()) => whole.passed += 1,
                    Err(error) => {
                        whole.failed += 1;
                        whole.failures.push(format!("{what}: {error:#}"));
                    }
                }
            }
        }
        whole.took = begin.elapsed();
        whole
    }

    fn cargo(&self, step: Step, arguments: &[&str]) -> Outcome {
        let begin = Instant::now();
        let result = self.run(step, &mut self.command(arguments));
        Outcome::of_check(&step.name(), begin.elapsed(), result)
    }

    fn run(&self, step: Step, command: &mut Command) -> Result<()> {
        match stream::run(&step.name(), command, &self.log(step), PATIENCE)? {
            (_, Ended::Well) => Ok(()),
            (_, Ended::Badly(how)) => bail!("`{}`: {how}", command::describe(command)),
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("cargo");
        command.args(arguments).current_dir(self.root);
        command
    }

    fn log(&self, step: Step) -> std::path::PathBuf {
        self.logs.join(format!("{}.log", step.name()))
    }
}
