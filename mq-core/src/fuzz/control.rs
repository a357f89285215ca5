//! Control headers, positions and the record of a dead letter.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use mq_conformance::hostile::cases;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use crate::dead_letter::{DeadLetterReason, DeadLetterRecord, MAX_ERROR, cut};
use crate::message::control::{self, Control};
use crate::message::{Headers, Message, Position};
use crate::name::{Group, Topic};

const NAMES: &[&str] = &[
    control::ID,
    control::KEY,
    control::ATTEMPT,
    control::DUE,
    control::FIRST_SENT,
    control::GROUP,
    control::ORIGIN,
    control::REDRIVES,
    control::TOMBSTONE,
    control::DLQ_REASON,
    control::DLQ_ERROR,
    control::DLQ_ATTEMPTS,
    control::DLQ_FIRST_FAILED,
    control::DLQ_FAILED,
    control::DLQ_TOPIC,
    control::DLQ_GROUP,
    control::DLQ_POSITION,
    "mq-",
    "other",
    "",
];
const VALUES: &[&str] = &[
    "",
    "0",
    "1",
    "4294967295",
    "4294967296",
    "18446744073709551615",
    "18446744073709551616",
    "-1",
    " 7 ",
    "+7",
    "1e3",
    "rejected",
    "max-attempts",
    "broker",
    "order.events",
    "queue:x",
    "billing",
    "0:42",
    "3:1-0",
    ":",
    "4294967296:1",
    "1:-9223372036854775809",
    "é",
    "253402300800000",
    "9223372036854775807",
];

pub(super) fn bytes() -> impl Strategy<Value = Bytes> {
    let known = select(VALUES).prop_map(|text| Bytes::from_static(text.as_bytes()));
    prop_oneof![known, vec(any::<u8>(), 0..40).prop_map(Bytes::from), "\\PC{0,30}".prop_map(Bytes::from)]
}

fn headers() -> impl Strategy<Value = Headers> {
    let name = prop_oneof![4 => select(NAMES).prop_map(str::to_owned), 1 => any::<String>()];
    vec((name, bytes()), 0..20).prop_map(|pairs| pairs.into_iter().collect())
}

fn time() -> impl Strategy<Value = SystemTime> {
    // Milliseconds: what the headers keep.
    (0..4_102_444_800_000_u64).prop_map(|millis| SystemTime::UNIX_EPOCH + Duration::from_millis(millis))
}

fn position() -> impl Strategy<Value = Position> {
    let entry = (any::<u32>(), 0..u64::MAX, any::<u32>())
        .prop_map(|(partition, time, number)| Position::Entry { partition, id: format!("{time}-{number}").into() });
    let log = (any::<u32>(), any::<i64>()).prop_map(|(partition, offset)| Position::Log { partition, offset });
    prop_oneof![Just(Position::None), log, entry]
}

fn record() -> impl Strategy<Value = DeadLetterRecord> {
    use DeadLetterReason::{Broker, CrashLimit, Decode, MaxAttempts, Rejected, Unknown};
    let reason = select(&[MaxAttempts, Rejected, CrashLimit, Decode, Unknown, Broker][..]);
    let names = ("[a-zA-Z0-9._]{1,60}", "[a-zA-Z0-9._]{1,60}");
    let numbers = (any::<u32>(), any::<u32>());
    (reason, "\\PC{0,1500}", numbers, option::of(time()), time(), names, position()).prop_map(
        |(reason, error, (attempts, redrives), first_failed, failed, (topic, group), position)| DeadLetterRecord {
            reason,
            error,
            attempts,
            first_failed,
            failed,
            topic: Topic::parse(topic).unwrap_or_else(|_| Topic::unnamed()),
            group: Group::parse(group).unwrap_or_else(|_| Group::parse("g").unwrap()),
            position,
            redrives,
        },
    )
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn forged_headers(mut headers in headers()) {
        let control = Control::read(&headers);
        prop_assert!(control.attempt >= 1);
        for name in NAMES {
            let _ = (control::number(&headers, name), control::text(&headers, name), control::millis(&headers, name));
        }
        let _ = format!("{headers:?} {control:?}");
        if let Some(id) = control::take_id(&mut headers) {
            prop_assert!((1..=256).contains(&id.as_str().len()));
        }
        control::strip(&mut headers);
        prop_assert!(headers.iter().all(|(name, _)| !control::is_reserved(name)));
    }

    #[test]
    fn forged_records(headers in headers()) {
        if let Some(record) = DeadLetterRecord::from_headers(&headers) {
            let message = Message::to(record.topic.clone());
            let again = DeadLetterRecord::from_headers(&record.to_headers(&message, usize::MAX)).unwrap();
            prop_assert_eq!(again.group, record.group);
        }
    }

    #[test]
    fn times(at in any::<(u64, u32)>()) {
        let at = SystemTime::UNIX_EPOCH.checked_add(Duration::new(at.0 >> 12, at.1 % 1_000_000_000));
        let Some(at) = at else { return Ok(()) };
        let headers: Headers = [(control::DUE, control::from_time(at))].into_iter().collect();
        if let Some(read) = control::millis(&headers, control::DUE) {
            prop_assert!(read >= at && read < at + Duration::from_millis(1));
        }
    }

    #[test]
    fn records_come_back(record in record(), room in 0..4000_usize) {
        let message = Message::to(record.topic.clone());
        let headers = record.to_headers(&message, room);
        let read = DeadLetterRecord::from_headers(&headers).unwrap();
        prop_assert!(read.error.len() <= MAX_ERROR && record.error.starts_with(&read.error));
        prop_assert!(read.error.is_empty() || headers.size() <= room);
        prop_assert_eq!(DeadLetterRecord { error: record.error.clone(), ..read }, record);
    }

    #[test]
    fn texts_are_cut_between_characters(text in any::<String>(), max in 0..64_usize) {
        let short = cut(&text, max);
        prop_assert!(short.len() <= max && text.starts_with(short) && (short == text || short.len() + 4 > max));
    }
}
