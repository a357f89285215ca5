//! Positions as `mq receive` prints them: `partition:offset`.

use mq::Position;

/// A position, when the text has the form of one.
pub(crate) fn position(text: &str) -> Option<Position> {
    let (partition, place) = text.split_once(':')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(partition) || place.is_empty() {
        return None;
    }
    let partition = partition.parse().ok()?;
    if digits(place) {
        return Some(Position::Log { partition, offset: place.parse().ok()? });
    }
    // Entry ids of Redis streams: 1700000000000-0.
    let entry = place.split_once('-').is_some_and(|(time, number)| digits(time) && digits(number));
    entry.then(|| Position::Entry { partition, id: place.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_read() {
        for text in ["0:42", "7:1700000000000-3"] {
            assert_eq!(position(text).unwrap().to_string(), text);
        }
        for bad in ["", ":", "1:", ":1", "-1:4", "1:-4", "a:1", "1:99999999999999999999", "-"] {
            assert_eq!(position(bad), None, "{bad}");
        }
    }
}
