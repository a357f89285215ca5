//! Headers nested as deep as a frame allows, and frames of any bytes, cut anywhere.

use lapin::types::parsing::parse_field_table;
use mq_conformance::hostile::cases;
use proptest::collection::vec;
use proptest::prelude::*;

use super::tables::{table, written};
use crate::shallow::{MAX_DEPTH, Shallow};
use crate::value;

/// A list takes five bytes of a frame of 128 KiB.
const DEEPEST: usize = 128 * 1024 / 5 - 20;
/// Half of what a thread has.
const STACK: usize = 1024 * 1024;

/// A table with one list or table, which holds another, and so on.
fn nested(depth: usize, kind: u8) -> Vec<u8> {
    // From the inside out, backwards.
    let mut bytes = vec![b'V'];
    if kind == b'F' && depth > 0 {
        bytes.extend([b'a', 1]);
    }
    for level in 0..depth {
        let length = u32::try_from(bytes.len()).unwrap();
        bytes.extend(length.to_le_bytes());
        bytes.push(kind);
        if kind == b'F' && level + 1 < depth {
            bytes.extend([b'a', 1]);
        }
    }
    bytes.extend([b'a', 1]);
    let length = u32::try_from(bytes.len()).unwrap();
    bytes.extend(length.to_le_bytes());
    bytes.reverse();
    bytes
}

/// A content header frame with `table` as headers behind two short strings, and one frame behind it.
fn frames(table: &[u8]) -> Vec<u8> {
    let mut payload = vec![0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xe0, 0, 1, b'c', 0];
    payload.extend(table);
    let mut bytes = vec![2, 0, 1];
    bytes.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
    bytes.extend(payload);
    bytes.push(0xce);
    bytes.extend([8, 0, 0, 0, 0, 0, 0, 0xce]);
    bytes
}

/// Where the table begins in such frames.
const TABLE: usize = 7 + 17;

fn filtered(frames: &[u8], cuts: &[usize]) -> Vec<u8> {
    let mut bytes = frames.to_vec();
    let mut shallow = Shallow::new();
    let mut rest = bytes.as_mut_slice();
    for cut in cuts {
        let (now, later) = rest.split_at_mut((*cut).min(rest.len()));
        shallow.pass(now);
        rest = later;
    }
    shallow.pass(rest);
    bytes
}

#[test]
fn as_deep_as_a_frame_allows() {
    for (kind, depth) in [(b'A', DEEPEST), (b'F', DEEPEST * 5 / 7 - 10), (b'A', MAX_DEPTH), (b'F', MAX_DEPTH - 1)] {
        let sent = frames(&nested(depth, kind));
        let received = filtered(&sent, &[]);
        let changed = sent.iter().zip(&received).filter(|(one, other)| one != other).count();
        assert_eq!(changed, usize::from(depth > MAX_DEPTH - 1), "only one type changes, and only when it must");
        let read = std::thread::Builder::new().stack_size(STACK).spawn(move || {
            let (_, table) = parse_field_table(&received[TABLE..]).unwrap();
            table.into_iter().map(|(_, content)| value::to_bytes(content).len() + value::size(content)).sum::<usize>()
        });
        assert!(read.unwrap().join().unwrap() > 0);
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn any_bytes_cut_anywhere(bytes in vec(any::<u8>(), 0..200), cuts in vec(0..20_usize, 0..20)) {
        prop_assert_eq!(filtered(&bytes, &cuts), filtered(&bytes, &[]));
        let framed = frames(&bytes);
        prop_assert_eq!(filtered(&framed, &cuts), filtered(&framed, &[]));
    }

    #[test]
    fn what_is_not_deep_stays(table in table(), cuts in vec(0..20_usize, 0..20)) {
        let message = frames(&written(&table));
        prop_assert_eq!(filtered(&message, &cuts), message);
    }

    #[test]
    fn the_depth_is_bounded(depth in 0..200_usize, lists in any::<bool>(), cuts in vec(0..40_usize, 0..30)) {
        let kind = if lists { b'A' } else { b'F' };
        let received = filtered(&frames(&nested(depth, kind)), &cuts);
        let (_, read) = parse_field_table(&received[TABLE..]).unwrap();
        let (mut level, mut value) = (0, read.into_iter().next().map(|(_, value)| value.clone()));
        while let Some(lapin::types::AMQPValue::FieldArray(_) | lapin::types::AMQPValue::FieldTable(_)) = &value {
            level += 1;
            value = match value {
                Some(lapin::types::AMQPValue::FieldArray(items)) => items.as_slice().first().cloned(),
                Some(lapin::types::AMQPValue::FieldTable(table)) => table.into_iter().next().map(|(_, v)| v.clone()),
                _ => None,
            };
        }
        prop_assert!(level < MAX_DEPTH && (level == depth || depth >= MAX_DEPTH), "{} of {}", level, depth);
    }
}
