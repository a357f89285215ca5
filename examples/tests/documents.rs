//! Documents that fail when they lie: every link leads somewhere, every setting is known, every command exists.
//! (The Rust blocks are doctests of this crate.)

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on says where")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// Every Markdown file of the repository's root and of `docs/`.
fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.extend(fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path()));
    found.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    assert!(found.len() > 10, "documents are missing: {found:?}");
    found
}

/// The code blocks of a language, with the line they start at.
fn blocks(text: &str, language: &str) -> Vec<(usize, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, bool, String)> = None;
    for (number, line) in text.lines().enumerate() {
        match (line.trim().strip_prefix("```"), open.as_mut()) {
            (Some(info), None) => open = Some((number + 1, info == language, String::new())),
            (Some(_), Some(_)) => {
                let (start, wanted, block) = open.take().unwrap();
                if wanted {
                    blocks.push((start, block));
                }
            }
            (None, Some((_, _, block))) => {
                block.push_str(line);
                block.push('\n');
            }
            (None, None) => {}
        }
    }
    blocks
}

#[test]
fn every_link_leads_somewhere() {
    let mut broken = Vec::new();
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = target.split('#').next().unwrap();
            if path.is_empty() || path.contains("://") || path.contains(char::is_whitespace) {
                continue;
            }
            if !document.parent().unwrap().join(path).exists() {
                broken.push(format!("{}: {target}", document.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

/// With the features `kafka` and `rabbit` the settings are those adapters' own; without, only their form is checked.
#[test]
fn every_setting_is_known() {
    let mut checked = 0;
    for document in documents() {
        for (line, block) in blocks(&fs::read_to_string(&document).unwrap(), "toml") {
            if block.contains("[broker") || block.contains("broker =") {
                let read = mq::Config::from_toml(&block);
                assert!(read.is_ok(), "{}:{line}: {}", document.display(), read.unwrap_err());
                checked += 1;
            }
        }
    }
    assert!(checked >= 3, "only {checked} blocks with settings were found");
}

/// The variants of an enum as words of the command line, read from its source.
fn words_of(source: &str, name: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(root().join(source)).unwrap();
    let body = text.split(&format!("enum {name} {{")).nth(1).unwrap_or_else(|| panic!("no {name} in {source}"));
    let body = body.split("\n}").next().unwrap();
    let variants = body.lines().filter(|line| line.starts_with("    ") && line.as_bytes()[4].is_ascii_uppercase());
    let words = variants.map(|line| line.trim().split(|c: char| !c.is_alphanumeric()).next().unwrap().to_lowercase());
    words.collect()
}

#[test]
fn every_command_exists() {
    let manifest = fs::read_to_string(root().join("examples/Cargo.toml")).unwrap();
    let examples: BTreeSet<String> = manifest
        .lines()
        .filter_map(|line| Some(line.strip_prefix("name = \"")?.strip_suffix('"')?.to_owned()))
        .collect();
    let tasks = words_of("xtask/src/main.rs", "Task");
    let commands = words_of("mq-cli/src/args.rs", "Command");
    let (mut unknown, mut checked) = (Vec::new(), 0);
    for document in documents() {
        for (start, block) in blocks(&fs::read_to_string(&document).unwrap(), "sh") {
            for line in block.lines() {
                let words: Vec<&str> = line.split('#').next().unwrap().split_whitespace().collect();
                let after = |word: &str| words.iter().position(|one| *one == word).and_then(|at| words.get(at + 1));
                let command = words.first().filter(|word| **word == "mq").and(words.get(1));
                for (word, known) in [(after("--example"), &examples), (after("xtask"), &tasks), (command, &commands)] {
                    let Some(word) = word else { continue };
                    checked += 1;
                    if !word.starts_with('-') && !known.contains(*word) {
                        unknown.push(format!("{}:{start}: {line}", document.display()));
                    }
                }
            }
        }
    }
    assert!(unknown.is_empty(), "{unknown:#?}");
    assert!(checked > 20, "only {checked} commands were found");
}

/// The README's table of guarantees names themes of the suite: each must have a scenario for that guarantee.
#[test]
fn every_guarantee_is_tested_where_the_readme_says() {
    let mut tested = BTreeSet::new();
    let files = |folder: &Path| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let scenarios = root().join("mq-conformance/src/scenarios");
    // A theme is a file, or a folder of some.
    let themes = files(&scenarios).flat_map(|path| if path.is_dir() { files(&path).collect() } else { vec![path] });
    for path in themes {
        let text = fs::read_to_string(path).unwrap();
        let Some((theme, list)) = text.split_once("scenarios!(\"").and_then(|(_, rest)| rest.split_once("\":")) else {
            continue;
        };
        for line in list.split(");").next().unwrap().lines() {
            let Some(numbers) = line.split_once('[').and_then(|(_, rest)| rest.split_once(']')) else { continue };
            let numbers = numbers.0.split(',').filter_map(|number| number.trim().parse::<u8>().ok());
            tested.extend(numbers.map(|number| (number, theme.to_owned())));
        }
    }
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let mut rows = 0;
    for row in readme.lines().filter(|line| line.starts_with("| G")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let number: u8 = cells[1][1..].parse().unwrap();
        let themes: Vec<&str> = cells[cells.len() - 2].split('`').skip(1).step_by(2).collect();
        assert!(!themes.is_empty(), "{row}");
        for theme in themes {
            assert!(tested.contains(&(number, theme.to_owned())), "no scenario of `{theme}` observes G{number}");
        }
        rows += 1;
    }
    assert_eq!(rows, 18, "the README lists every guarantee");
}
