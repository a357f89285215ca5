//! Durations: `500ms`, `5s`, `1m 30s`.

use std::time::Duration;

/// A duration with its unit.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    mq::config::duration::parse(text)
}

/// Durations parted by commas, for one argument.
pub(crate) fn delays(text: &str) -> Result<Delays, String> {
    if text.trim().is_empty() {
        return Ok(Delays(Vec::new()));
    }
    text.split(',').map(duration).collect::<Result<_, _>>().map(Delays)
}

/// The delays of retries, in order. An empty list retries nothing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Delays(pub(crate) Vec<Duration>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_delays() {
        assert_eq!(delays("1s,500ms").unwrap().0, [Duration::from_secs(1), Duration::from_millis(500)]);
        assert!(delays("").unwrap().0.is_empty());
        for bad in ["1", "1s,", "soon", "-1s", "99999999999999999999y"] {
            assert!(delays(bad).is_err(), "{bad}");
        }
    }
}
