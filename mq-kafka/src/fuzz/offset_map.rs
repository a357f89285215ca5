//! What a commit remembers: anybody who may commit for the group can write it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use mq_conformance::hostile::{cases, texts};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::offset_map::{MAX_TEXT, OffsetMap};
use crate::tracker::Tracker;

const TEXTS: &[&str] =
    &["mq1:rAICAAADAQQC1wE", "mq1:", "mq1:____________________", "mq1:gICAgICAgICAgAE", "mq2:AA", ""];

/// Numbers as they are written, so that the text is one of ours more often than by chance.
fn leb(numbers: &[u64]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in numbers {
        let mut number = *number;
        while number > 0x7f {
            bytes.push((number & 0x7f) as u8 | 0x80);
            number >>= 7;
        }
        bytes.push(number as u8);
    }
    bytes
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0..50_u64, 2 => 0..20_000_u64, 1 => any::<u64>(), 1 => Just(u64::MAX), 1 => Just(u64::from(u32::MAX))]
}

fn map() -> impl Strategy<Value = OffsetMap> {
    let ranges = vec((1..5_000_u64, 1..5_000_u64), 0..80).prop_map(|steps| {
        let mut end = 0;
        let mut ranges = Vec::new();
        for (gap, length) in steps {
            ranges.push((end + gap, end + gap + length));
            end += gap + length;
        }
        ranges
    });
    let numbers = || vec((0..100_000_u64, any::<u32>()), 0..40);
    (any::<u64>(), any::<u32>(), ranges, numbers(), numbers()).prop_map(
        |(handed, sessions, settled, attempts, requeues)| OffsetMap { handed, sessions, settled, attempts, requeues },
    )
}

/// Goes on with what was read, as a consumer would.
fn go_on(map: &OffsetMap, start: i64, steps: &[(u8, i64)]) {
    let mut tracker = Tracker::new(start, map);
    for (what, distance) in steps {
        let offset = start.saturating_add(*distance);
        match what % 5 {
            _ if offset < 0 || offset == i64::MAX => {}
            0 if !tracker.skips(offset) => tracker.hand(offset),
            1 => drop(tracker.settle(offset)),
            2 => tracker.count_requeue(offset),
            3 => tracker.set_attempt(offset, tracker.attempt(offset).saturating_add(1)),
            _ => {
                let (mark, remembered) = tracker.commit(what % 2 == 0);
                let (text, _) = remembered.encode();
                assert!(text.len() <= MAX_TEXT && mark >= 0);
                assert!(text.is_empty() || OffsetMap::decode(&text).is_some());
            }
        }
        let _ = (tracker.redeliveries(offset), tracker.is_out(offset), tracker.has_out(), tracker.end());
    }
}

fn steps() -> impl Strategy<Value = Vec<(u8, i64)>> {
    vec((any::<u8>(), 0..10_000_i64), 0..30)
}

fn place() -> impl Strategy<Value = i64> {
    prop_oneof![3 => 0..1_000_000_i64, 1 => (i64::MAX - 100)..i64::MAX]
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn any_text(text in texts(TEXTS), start in place(), steps in steps()) {
        go_on(&OffsetMap::decode(&text).unwrap_or_default(), start, &steps);
    }

    #[test]
    fn bytes(bytes in vec(any::<u8>(), 0..100), start in place(), steps in steps()) {
        let text = format!("mq1:{}", BASE64.encode(bytes));
        go_on(&OffsetMap::decode(&text).unwrap_or_default(), start, &steps);
    }

    #[test]
    fn numbers(numbers in vec(number(), 4..40), start in place(), steps in steps()) {
        let text = format!("mq1:{}", BASE64.encode(leb(&numbers)));
        go_on(&OffsetMap::decode(&text).unwrap_or_default(), start, &steps);
    }

    #[test]
    fn maps_come_back(map in map()) {
        let (text, complete) = map.encode();
        prop_assert!(text.len() <= MAX_TEXT);
        let read = if text.is_empty() { OffsetMap::default() } else { OffsetMap::decode(&text).unwrap() };
        if complete {
            prop_assert_eq!(read, map);
        } else {
            prop_assert!(map.settled.starts_with(&read.settled) && map.attempts.starts_with(&read.attempts));
        }
    }
}
