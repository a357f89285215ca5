//! Reads which Debian archive apt uses on this machine, in both formats of its source lists.

use std::fs;
use std::path::{Path, PathBuf};

/// The archives of a Debian release that apt is told about, best guess first.
pub(crate) fn archives(etc_apt: &Path, release: &str) -> Vec<String> {
    let mut files = vec![etc_apt.join("sources.list")];
    let mut more: Vec<PathBuf> = fs::read_dir(etc_apt.join("sources.list.d"))
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    more.sort();
    files.extend(more);
    let mut entries = Vec::new();
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => entries.extend(one_line(&text)),
            Some("sources") => entries.extend(deb822(&text)),
            _ => {}
        }
    }
    choose(&entries, release)
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    uri: String,
    suite: String,
    components: Vec<String>,
}

/// The exact release by its name before the moving names of releases; third parties use neither, or no `main`.
fn choose(entries: &[Entry], release: &str) -> Vec<String> {
    let mut chosen: Vec<String> = Vec::new();
    for suites in [&[release][..], &["stable", "oldstable", "testing", "unstable"]] {
        for entry in entries {
            let usable = entry.uri.starts_with("http") || entry.uri.starts_with("file:");
            let main = entry.components.iter().any(|component| component == "main");
            if usable && main && suites.contains(&entry.suite.as_str()) && !chosen.contains(&entry.uri) {
                chosen.push(entry.uri.clone());
            }
        }
    }
    chosen
}

/// `deb [options] uri suite component…`
fn one_line(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let Some(rest) = line.strip_prefix("deb").filter(|rest| rest.starts_with([' ', '\t'])) else { continue };
        let mut rest = rest.trim_start();
        if let Some(options) = rest.strip_prefix('[') {
            let Some((_, after)) = options.split_once(']') else { continue };
            rest = after;
        }
        let mut words = rest.split_ascii_whitespace().map(str::to_owned);
        if let (Some(uri), Some(suite)) = (words.next(), words.next()) {
            entries.push(Entry { uri, suite, components: words.collect() });
        }
    }
    entries
}

/// Stanzas of `Field: value`, continued on lines which begin with a space.
fn deb822(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    let text: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    for stanza in text.split(|line| line.trim().is_empty()) {
        let field = |name: &str| -> Vec<String> {
            let mut words = Vec::new();
            let mut inside = false;
            for line in stanza {
                let value = if line.starts_with([' ', '\t']) {
                    inside.then_some(*line)
                } else {
                    let split = line.split_once(':').filter(|(key, _)| key.eq_ignore_ascii_case(name));
                    inside = split.is_some();
                    split.map(|(_, value)| value)
                };
                words.extend(value.unwrap_or_default().split_ascii_whitespace().map(str::to_owned));
            }
            words
        };
        let enabled = !field("Enabled").iter().any(|value| value.eq_ignore_ascii_case("no"));
        if !enabled || !field("Types").iter().any(|kind| kind == "deb") {
            continue;
        }
        for uri in field("URIs") {
            for suite in field("Suites") {
                entries.push(Entry { uri: uri.clone(), suite, components: field("Components") });
            }
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "\
Types: deb deb-src
# a comment
URIs: http://archive.example/debian
Suites: bookworm
 bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/x.gpg

Types: deb
URIs: http://security.example/debian-security
Suites: bookworm-security
Components: main

Enabled: no
Types: deb
URIs: http://disabled.example/debian
Suites: bookworm
Components: main

Types: deb
URIs: https://node.example
Suites: nodistro
Components: main
";

    const ONE_LINE: &str = "\
# deb http://commented.example/debian bookworm main
deb-src http://source.example/debian bookworm main
deb [signed-by=/x.gpg arch=amd64] https://plain.example/debian bookworm main non-free # tail
deb cdrom:[Debian]/ bookworm main
deb https://docker.example/debian bookworm stable
deb http://moving.example/debian stable main
deb [broken http://broken.example bookworm main
";

    #[test]
    fn deb822_names_the_release_only() {
        assert_eq!(choose(&deb822(DEB822), "bookworm"), ["http://archive.example/debian"]);
    }

    #[test]
    fn one_line_prefers_the_release_over_moving_names() {
        let expected = ["https://plain.example/debian", "http://moving.example/debian"];
        assert_eq!(choose(&one_line(ONE_LINE), "bookworm"), expected);
    }

    #[test]
    fn nothing_to_find_is_empty() {
        assert!(choose(&deb822(""), "bookworm").is_empty());
        assert!(choose(&one_line(ONE_LINE), "trixie").iter().all(|uri| uri.contains("moving")));
        assert!(archives(Path::new("/nonexistent"), "bookworm").is_empty());
    }
}
