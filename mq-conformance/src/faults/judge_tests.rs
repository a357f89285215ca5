//! Each check finds what it is for, and nothing else.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::*;

fn line(millis: u64, id: &str, what: What) -> Entry {
    Entry { at: Duration::from_millis(millis), id: Arc::from(id), group: Arc::from("g"), what }
}

fn sent(millis: u64, id: &str) -> Entry {
    line(millis, id, What::Sent { key: Some(Bytes::from_static(b"k")), due: None })
}

/// A message that was sent, confirmed and handled.
fn whole(millis: u64, id: &str) -> Vec<Entry> {
    let mut entries = vec![sent(millis, id), line(millis + 1, id, What::Confirmed)];
    entries.extend(handled(millis + 2, id, 1, Action::Ack));
    entries
}

fn handled(millis: u64, id: &str, attempt: u32, action: Action) -> Vec<Entry> {
    let due = (action == Action::Retry).then(|| Duration::from_millis(millis + 100));
    vec![
        line(millis, id, What::Delivered { attempt }),
        line(millis, id, What::Started),
        line(millis + 1, id, What::Finished),
        line(millis + 1, id, What::Settled { action, due }),
    ]
}

fn wrongs(entries: &[Entry], bound: usize) -> Vec<Wrong> {
    let terms = Terms { bound, blind: Vec::new() };
    judge(entries, "g", &terms).1.into_iter().map(|finding| finding.wrong).collect()
}

#[test]
fn a_clean_run_is_clean() {
    let mut entries = whole(0, "a");
    entries.extend(whole(10, "b"));
    entries.extend([sent(20, "c"), line(21, "c", What::Confirmed)]);
    entries.extend(handled(30, "c", 1, Action::Retry));
    entries.extend(handled(140, "c", 2, Action::DeadLetter));
    entries.push(line(200, "c", What::Dead));
    assert_eq!(wrongs(&entries, 0), []);
}

#[test]
fn loss_is_found_in_each_form() {
    let confirmed = [sent(0, "a"), line(1, "a", What::Confirmed)];
    assert_eq!(wrongs(&confirmed, 9), [Wrong::Lost]);
    for (action, wrong) in [(Action::Retry, Wrong::Lost), (Action::DeadLetter, Wrong::Lost)] {
        let mut entries = confirmed.to_vec();
        entries.extend(handled(2, "a", 1, action));
        assert_eq!(wrongs(&entries, 9), [wrong]);
    }
    let mut stopped = confirmed.to_vec();
    stopped.extend(handled(2, "a", 1, Action::Ack).into_iter().take(3));
    assert_eq!(wrongs(&stopped, 9), [Wrong::Unfinished]);
}

#[test]
fn duplicates_count_against_the_bound_and_resends_do_not() {
    let mut entries = whole(0, "a");
    entries.extend(handled(20, "a", 1, Action::Ack));
    assert_eq!(wrongs(&entries, 0), [Wrong::Duplicated]);
    assert_eq!(wrongs(&entries, 1), []);
    let refused = What::Refused { ambiguous: true, error: "timed out".into() };
    let mut resent = vec![sent(0, "a"), line(1, "a", refused)];
    resent.extend(whole(2, "a"));
    resent.extend(handled(20, "a", 1, Action::Ack));
    assert_eq!(wrongs(&resent, 0), []);
    let refused = What::Refused { ambiguous: false, error: "full".into() };
    let mut resent = vec![sent(0, "a"), line(1, "a", refused)];
    resent.extend(whole(2, "a"));
    resent.extend(handled(20, "a", 1, Action::Ack));
    assert_eq!(wrongs(&resent, 0), [Wrong::Duplicated]);
}

#[test]
fn order_is_that_of_first_handling() {
    let mut entries = vec![sent(0, "a"), line(1, "a", What::Confirmed)];
    entries.extend(whole(2, "b"));
    entries.extend(handled(20, "a", 1, Action::Ack));
    assert_eq!(wrongs(&entries, 0), [Wrong::Disordered]);
    // A repetition does not count.
    let mut entries = whole(0, "a");
    entries.extend(whole(10, "b"));
    entries.extend(handled(30, "a", 1, Action::Ack));
    assert_eq!(wrongs(&entries, 1), []);
}

#[test]
fn a_send_refused_for_good_is_overtaken_rightly() {
    for (ambiguous, found) in [(false, vec![]), (true, vec![Wrong::Disordered])] {
        let refused = What::Refused { ambiguous, error: "cut".into() };
        let mut entries = vec![sent(0, "a")];
        entries.extend(whole(2, "b"));
        entries.push(line(9, "a", refused));
        entries.extend(whole(10, "a"));
        assert_eq!(wrongs(&entries, 0), found);
    }
}

#[test]
fn attempts_come_from_failures_only() {
    let mut entries = vec![sent(0, "a"), line(1, "a", What::Confirmed)];
    entries.extend(handled(10, "a", 2, Action::Ack));
    assert_eq!(wrongs(&entries, 5), [Wrong::Miscounted]);
}

#[test]
fn early_is_before_any_failure_allows_it() {
    let mut entries = vec![sent(0, "a"), line(1, "a", What::Confirmed)];
    entries.extend(handled(10, "a", 1, Action::Retry));
    // The retry was not stored: the same attempt again, which may come at any time.
    entries.extend(handled(20, "a", 1, Action::Retry));
    let mut early = entries.clone();
    early.extend(handled(105, "a", 2, Action::Ack));
    assert_eq!(wrongs(&early, 5), [Wrong::Early]);
    entries.extend(handled(115, "a", 2, Action::Ack));
    assert_eq!(wrongs(&entries, 5), []);
}

#[test]
fn an_interrupted_retry_leaves_two_that_may_run_at_once() {
    let mut entries = vec![sent(0, "a"), line(1, "a", What::Confirmed)];
    entries.extend(handled(5, "a", 1, Action::Retry));
    for attempt in [1, 2] {
        entries.push(line(110, "a", What::Delivered { attempt }));
        entries.push(line(110, "a", What::Started));
    }
    for _ in 0..2 {
        entries.push(line(120, "a", What::Finished));
        entries.push(line(120, "a", What::Settled { action: Action::Ack, due: None }));
    }
    assert_eq!(wrongs(&entries, 2), []);
    // The same without the first of them again: the second attempt twice at once is no such thing.
    entries
        .retain(|entry| entry.at < Duration::from_millis(110) || !matches!(entry.what, What::Delivered { attempt: 1 }));
    assert_eq!(wrongs(&entries, 2), [Wrong::Overlapping]);
}

#[test]
fn two_at_once_only_where_a_session_ended_blindly() {
    let mut entries = vec![sent(0, "a"), line(1, "a", What::Confirmed)];
    for _ in 0..2 {
        entries.push(line(10, "a", What::Delivered { attempt: 1 }));
        entries.push(line(10, "a", What::Started));
    }
    for _ in 0..2 {
        entries.push(line(20, "a", What::Finished));
        entries.push(line(20, "a", What::Settled { action: Action::Ack, due: None }));
    }
    assert_eq!(wrongs(&entries, 1), [Wrong::Overlapping]);
    let terms = Terms { bound: 1, blind: vec![(Duration::from_millis(5), Duration::from_millis(15))] };
    assert_eq!(judge(&entries, "g", &terms).1, []);
}
