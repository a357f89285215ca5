//! Tests which may be ignored, each listed openly with its reason; any other ignored test fails the run.

use std::path::Path;

use anyhow::{Context, Result};

pub(crate) const FILE: &str = ".ci/ignored-tests.txt";

#[derive(Debug, Default)]
pub(crate) struct Allowed(Vec<(String, String)>);

impl Allowed {
    /// Lines of `name of the test: reason`, comments after `#`. No file, nothing allowed.
    pub(crate) fn load(root: &Path) -> Result<Self> {
        match std::fs::read_to_string(root.join(FILE)) {
            Ok(text) => Self::parse(&text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).context(FILE),
        }
    }

    fn parse(text: &str) -> Result<Self> {
        let mut allowed = Vec::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (name, reason) =
                line.rsplit_once(": ").with_context(|| format!("{FILE}: `{line}` names no reason (`name: reason`)"))?;
            allowed.push((name.trim().to_owned(), reason.trim().to_owned()));
        }
        Ok(Self(allowed))
    }

    /// The reason, when the test may be ignored. The line number of a documentation test does not count.
    pub(crate) fn reason(&self, test: &str) -> Option<&str> {
        let name = test.split(" (line ").next().unwrap_or(test);
        self.0.iter().find(|(allowed, _)| allowed == name).map(|(_, reason)| reason.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_required() {
        let allowed = Allowed::parse("# why\n\nmq-core/src/lib.rs - a::B: shown only, needs a cluster\n").unwrap();
        assert_eq!(allowed.reason("mq-core/src/lib.rs - a::B (line 7)"), Some("shown only, needs a cluster"));
        assert_eq!(allowed.reason("other"), None);
        assert!(Allowed::parse("no_reason").is_err());
    }
}
