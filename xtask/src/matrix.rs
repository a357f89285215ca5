//! `docs/matrix.md`: what every adapter declares and what a run has seen of it.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::{command, paths};

const PAGE: &str = "docs/matrix.md";

/// The heading behind which the page tells what was measured.
const MEASURED: &str = "\n## Under faults";

/// A matrix of fewer profiles would publish less than is claimed.
const PROFILES: [&str; 8] =
    ["memory", "kafka", "rabbit-3.10", "rabbit-4.0", "redis-7.0", "redis-8.0", "redis-cluster", "rocket-5.4"];

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Change nothing; fail when the page is not what the last run has shown
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let root = paths::root()?;
    if arguments.check {
        check(&root)?;
        eprintln!("{PAGE} is what the last run has shown");
    } else {
        let page = root.join(PAGE);
        fs::write(&page, render(&root)?).with_context(|| format!("{} cannot be written", page.display()))?;
        eprintln!("{PAGE} is written");
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn check(root: &Path) -> Result<()> {
    let fresh = render(root)?;
    let page = fs::read_to_string(root.join(PAGE)).with_context(|| format!("{PAGE} cannot be read"))?;
    match first_difference(&comparable(&page), &comparable(&fresh)) {
        None => Ok(()),
        Some(difference) => {
            bail!("{PAGE} is not what this run has shown; `cargo xtask matrix` writes it. {difference}")
        }
    }
}

fn render(root: &Path) -> Result<String> {
    let results = paths::results()?;
    for profile in PROFILES {
        let file = results.join(format!("{profile}.json"));
        ensure!(
            file.exists(),
            "no conformance result of {profile} in {}: `cargo xtask test` writes it",
            results.display()
        );
    }
    let text = results.join("matrix.partial");
    let mut cargo = Command::new("cargo");
    cargo.args(["run", "--quiet", "--package", "xtask", "--example", "render_matrix", "--"]).arg(&results);
    cargo.current_dir(root).stdin(Stdio::null()).stdout(File::create(&text)?);
    let status =
        command::wait(command::spawn(&mut cargo)?, "cargo run --example render_matrix", Duration::from_secs(1200))?;
    ensure!(status.success(), "the matrix cannot be rendered ({status})");
    fs::read_to_string(&text).with_context(|| format!("{} cannot be read", text.display()))
}

/// Times and counts of faults differ from run to run: of that part only which cells have numbers is compared.
fn comparable(page: &str) -> String {
    let (stable, measured) = page.split_once(MEASURED).unwrap_or((page, ""));
    let mut text = format!("{stable}{MEASURED}");
    let mut numbers = false;
    for character in measured.chars() {
        let number = character.is_ascii_digit() || (numbers && character == '.');
        if number && !numbers {
            text.push('#');
        }
        numbers = number;
        if !number {
            text.push(character);
        }
    }
    text
}

fn first_difference(page: &str, fresh: &str) -> Option<String> {
    let (mut old, mut new) = (page.lines(), fresh.lines());
    for number in 1.. {
        match (old.next(), new.next()) {
            (None, None) => return None,
            (one, other) if one == other => {}
            (one, other) => {
                let show = |line: Option<&str>| line.unwrap_or("(nothing)").to_owned();
                return Some(format!("Line {number} is\n    {}\nand should be\n    {}", show(one), show(other)));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measured_numbers_do_not_count() {
        let page = |cell: &str| format!("a 1\n{MEASURED}, as measured\n| x | {cell} |\n");
        assert_eq!(comparable(&page("3 of 16, 1.2 s")), comparable(&page("12 of 160, 0.4 s")));
        assert_ne!(comparable(&page("3 of 16, 1.2 s")), comparable(&page("–")));
        assert_ne!(comparable("a 1"), comparable("a 2"));
    }

    #[test]
    fn the_first_difference_is_shown() {
        assert_eq!(first_difference("a\nb\n", "a\nb\n"), None);
        let difference = first_difference("a\nb\n", "a\nc\n").unwrap();
        assert!(difference.contains("Line 2") && difference.contains("    c"), "{difference}");
        assert!(first_difference("a\n", "a\nb\n").unwrap().contains("(nothing)"));
        assert!(first_difference("", "a\n").is_some());
    }
}
