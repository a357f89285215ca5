//! Durations as people write them: `500ms`, `5s`, `1m 30s`. For fields of serde:
//! `#[serde(with = "mq_core::config::duration")]`.

use std::fmt;
use std::time::Duration;

use serde::de::Visitor;
use serde::{Deserializer, Serializer};

/// The longest text read.
const LONGEST: usize = 64;
/// The most digits in a row. As many years, as often as the longest text has room for, are less than the seconds a
/// [`Duration`] can hold: humantime 2.4 panics on sums that miss its end by less than a second.
const DIGITS: usize = 11;

/// Reads a duration.
///
/// # Errors
/// Says what is wrong and what a duration looks like.
pub fn parse(text: &str) -> Result<Duration, String> {
    let hint = |error: &dyn fmt::Display| format!("{error}; write a duration such as 500ms, 5s or 2m");
    let text = text.trim();
    if text.len() > LONGEST {
        return Err(hint(&format_args!("longer than {LONGEST} characters")));
    }
    // Blanks part no digits: `1 000s` is a thousand seconds.
    let mut digits = 0;
    for letter in text.chars().filter(|letter| !letter.is_whitespace()) {
        digits = if letter.is_ascii_digit() { digits + 1 } else { 0 };
        if digits > DIGITS {
            return Err(hint(&format_args!("a number of more than {DIGITS} digits")));
        }
    }
    humantime::parse_duration(text).map_err(|error| hint(&error))
}

/// Writes a duration as it is read.
pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_duration(*duration))
}

/// Reads a duration.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    deserializer.deserialize_str(Text)
}

struct Text;

impl Visitor<'_> for Text {
    type Value = Duration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration such as 500ms, 5s or 2m")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Duration, E> {
        parse(text).map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, millis) in
            [("500ms", 500), (" 5s ", 5_000), ("1m 30s", 90_000), ("1.5s", 1_500), ("1 000s", 1_000_000)]
        {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn refuses_the_rest_and_says_how() {
        let end = "18446744073709551615s 1000000000ns";
        let sum = "99999999999y ".repeat(6);
        for text in ["", "5", "s", "5 parsecs", "-1s", end, "184467440737095516 15s 1000000000ns", &sum] {
            let error = parse(text).unwrap_err();
            assert!(error.contains("500ms"), "{text}: {error}");
        }
    }

    /// The longest text there can be stays below the end of what a duration holds.
    #[test]
    fn no_sum_comes_near_the_end() {
        let sum = "99999999999y".repeat(LONGEST / 12);
        assert!(parse(&sum).unwrap().as_secs() < u64::MAX - u64::from(u32::MAX));
    }
}
