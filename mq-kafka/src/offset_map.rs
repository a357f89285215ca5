//! What a group remembers of a partition beside its offset: in the metadata of the commit.
//!
//! A commit names one offset, the lowest message not settled. What was settled above it, which attempts failed, and how
//! far messages were handed out would be forgotten by a crash; Kafka keeps up to 4,096 bytes of text beside each offset.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;

/// Kafka's limit (`offset.metadata.max.bytes`); a longer text fails the commit.
pub(crate) const MAX_TEXT: usize = 4096;
const PREFIX: &str = "mq1:";
/// Bytes before base64 makes them longer.
const MAX_BYTES: usize = (MAX_TEXT - PREFIX.len()) / 4 * 3;

/// What is remembered, relative to the committed offset.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct OffsetMap {
    /// Offsets below this were handed out.
    pub(crate) handed: u64,
    /// In how many sessions the messages below `handed` were handed out without being settled.
    pub(crate) sessions: u32,
    /// Settled ranges, `(from, to)` without `to`, in order, apart.
    pub(crate) settled: Vec<(u64, u64)>,
    /// Attempts recorded for messages held for a retry.
    pub(crate) attempts: Vec<(u64, u32)>,
    /// How often messages were given back after they were begun.
    pub(crate) requeues: Vec<(u64, u32)>,
}

impl OffsetMap {
    /// The text to commit, and whether all of it fitted. What is left out is settled ranges: repeated after a crash,
    /// not lost.
    pub(crate) fn encode(&self) -> (String, bool) {
        if *self == Self::default() {
            return (String::new(), true);
        }
        let mut bytes = Vec::with_capacity(64);
        put(&mut bytes, self.handed);
        put(&mut bytes, self.sessions.into());
        let mut complete = true;
        // Numbers first: forgetting one would give a message more tries than it has; a range is merely repeated.
        complete &= put_numbers(&mut bytes, &self.attempts);
        complete &= put_numbers(&mut bytes, &self.requeues);
        let mut end = 0;
        for (from, to) in &self.settled {
            let before = bytes.len();
            put(&mut bytes, from - end);
            put(&mut bytes, to - from);
            if bytes.len() > MAX_BYTES {
                bytes.truncate(before);
                complete = false;
                break;
            }
            end = *to;
        }
        (format!("{PREFIX}{}", BASE64.encode(bytes)), complete)
    }

    /// Reads the text of a commit; `None` when it is not one of ours, whatever it is.
    pub(crate) fn decode(text: &str) -> Option<Self> {
        let bytes = BASE64.decode(text.strip_prefix(PREFIX)?).ok()?;
        let mut bytes = bytes.as_slice();
        let handed = take(&mut bytes)?;
        let sessions = u32::try_from(take(&mut bytes)?).ok()?;
        let attempts = take_numbers(&mut bytes)?;
        let requeues = take_numbers(&mut bytes)?;
        let mut settled = Vec::new();
        let mut end = 0_u64;
        while !bytes.is_empty() {
            let from = end.checked_add(take(&mut bytes)?)?;
            end = from.checked_add(take(&mut bytes)?)?;
            settled.push((from, end));
        }
        Some(Self { handed, sessions, settled, attempts, requeues })
    }
}

/// Entries of one list of numbers at most.
const MAX_NUMBERS: usize = 100;

/// False when the list was cut.
fn put_numbers(bytes: &mut Vec<u8>, numbers: &[(u64, u32)]) -> bool {
    let count = numbers.len().min(MAX_NUMBERS);
    put(bytes, count as u64);
    for (offset, number) in numbers.iter().take(count) {
        put(bytes, *offset);
        put(bytes, (*number).into());
    }
    count == numbers.len()
}

fn take_numbers(bytes: &mut &[u8]) -> Option<Vec<(u64, u32)>> {
    let count = take(bytes)?.min(MAX_NUMBERS as u64);
    (0..count).map(|_| Some((take(bytes)?, u32::try_from(take(bytes)?).ok()?))).collect()
}

/// LEB128: seven bits a byte, the lowest first.
fn put(bytes: &mut Vec<u8>, mut value: u64) {
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return;
        }
        bytes.push(low | 0x80);
    }
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_as_it_was() {
        let map = OffsetMap {
            handed: 300,
            sessions: 2,
            settled: vec![(1, 5), (7, 300), (100_000, 100_001)],
            attempts: vec![(0, 3), (6, 2)],
            requeues: vec![(5, 1)],
        };
        let (text, complete) = map.encode();
        assert!(complete && text.len() < 64);
        assert_eq!(OffsetMap::decode(&text), Some(map));
        assert_eq!(OffsetMap::default().encode().0, "");
    }

    #[test]
    fn never_longer_than_the_broker_takes() {
        let settled = (0..5000).map(|n| (n * 1000 + 1, n * 1000 + 500)).collect();
        let attempts = (0..5000).map(|n| (n * 1000, 2)).collect();
        let (text, complete) =
            OffsetMap { handed: 5_000_000, sessions: 1, settled, attempts, requeues: Vec::new() }.encode();
        assert!(!complete && text.len() <= MAX_TEXT, "{}", text.len());
        assert!(OffsetMap::decode(&text).unwrap().settled.len() > 500);
    }

    #[test]
    fn foreign_text_is_not_ours() {
        for text in ["", "mq1:", "mq1:####", "mq1:_____________w", "hello", "mq1:gICAgICAgICAgICAgICA"] {
            let _ = OffsetMap::decode(text);
        }
        assert_eq!(OffsetMap::decode("hello"), None);
    }
}
