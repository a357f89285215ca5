use super::*;

/// Builds a history by hand: one line every 10 ms.
struct Tale(Vec<Entry>);

impl Tale {
    fn new() -> Self {
        Self(Vec::new())
    }

    fn line(mut self, id: &str, what: What) -> Self {
        let at = Duration::from_millis(10 * self.0.len() as u64);
        let group = if matches!(what, What::Sent { .. } | What::Confirmed | What::Refused { .. }) { "" } else { "g" };
        self.0.push(Entry { at, id: id.into(), group: group.into(), what });
        self
    }

    fn sent(self, id: &str, key: &'static str) -> Self {
        self.line(id, What::Sent { key: Some(Bytes::from_static(key.as_bytes())), due: None }).line(id, What::Confirmed)
    }

    fn delivered(self, id: &str, attempt: u32) -> Self {
        self.line(id, What::Delivered { attempt })
    }

    fn settled(self, id: &str, action: Action) -> Self {
        self.line(id, What::Settled { action, due: None })
    }

    fn wrong(&self, checker: &Checker) -> Vec<Wrong> {
        checker.findings(&self.0).iter().map(|finding| finding.wrong).collect()
    }
}

fn strict() -> Checker {
    Checker::new("g").strictly_ordered()
}

#[test]
fn a_clean_history_has_no_findings() {
    let tale = Tale::new()
        .sent("1", "k")
        .delivered("1", 1)
        .settled("1", Action::Retry)
        .delivered("1", 2)
        .settled("1", Action::Requeue)
        .delivered("1", 2)
        .settled("1", Action::DeadLetter)
        .line("1", What::Dead)
        .settled("1", Action::Redrive)
        .delivered("1", 1)
        .settled("1", Action::Ack)
        .sent("2", "k")
        .delivered("2", 1)
        .settled("2", Action::Ack);
    assert_eq!(tale.wrong(&strict()), []);
}

#[test]
fn losses_are_found() {
    assert_eq!(Tale::new().sent("1", "k").wrong(&strict()), [Wrong::Lost]);
    assert_eq!(Tale::new().sent("1", "k").wrong(&Checker::new("g").partial()), []);
    for action in [Action::Requeue, Action::Release, Action::Retry, Action::DeadLetter, Action::Redrive] {
        let tale = Tale::new().sent("1", "k").delivered("1", 1).settled("1", action);
        assert_eq!(tale.wrong(&strict()), [Wrong::Lost], "{action:?}");
    }
}

#[test]
fn duplicates_are_counted_against_the_bound() {
    let tale = Tale::new().sent("1", "k").delivered("1", 1).settled("1", Action::Ack).delivered("1", 1);
    assert_eq!(tale.wrong(&strict()), [Wrong::Duplicated, Wrong::Unfinished]);
    let tale = tale.settled("1", Action::Ack);
    assert_eq!(tale.wrong(&strict()), [Wrong::Duplicated]);
    assert_eq!(tale.wrong(&Checker::new("g").duplicates(1)), []);
}

#[test]
fn other_groups_do_not_count() {
    let tale = Tale::new().sent("1", "k").delivered("1", 1).settled("1", Action::Ack);
    assert_eq!(tale.wrong(&Checker::new("h")), [Wrong::Lost]);
}

#[test]
fn order_is_by_first_delivery_or_by_completion() {
    let tale = Tale::new()
        .sent("1", "k")
        .sent("2", "k")
        .delivered("1", 1)
        .settled("1", Action::Retry)
        .delivered("2", 1)
        .settled("2", Action::Ack)
        .delivered("1", 2)
        .settled("1", Action::Ack);
    assert_eq!(tale.wrong(&Checker::new("g").ordered()), []);
    assert_eq!(tale.wrong(&strict()), [Wrong::Disordered]);
    let swapped = Tale::new()
        .sent("1", "k")
        .sent("2", "k")
        .delivered("2", 1)
        .settled("2", Action::Ack)
        .delivered("1", 1)
        .settled("1", Action::Ack);
    assert_eq!(swapped.wrong(&Checker::new("g").ordered()), [Wrong::Disordered]);
}

#[test]
fn overlap_earliness_and_attempts_are_found() {
    let tale = Tale::new().sent("1", "k").delivered("1", 1).line("1", What::Started).line("1", What::Started);
    assert!(tale.settled("1", Action::Ack).wrong(&strict()).contains(&Wrong::Overlapping));

    let due = Some(Duration::from_secs(1));
    let tale = Tale::new().sent("1", "k").delivered("1", 1).line("1", What::Settled { action: Action::Retry, due });
    assert_eq!(tale.delivered("1", 2).settled("1", Action::Ack).wrong(&strict()), [Wrong::Early]);

    let tale = Tale::new().sent("1", "k").delivered("1", 1).settled("1", Action::Retry).delivered("1", 1);
    assert_eq!(tale.settled("1", Action::Ack).wrong(&strict()), [Wrong::Miscounted]);
}

#[test]
fn receipts_must_be_true() {
    let refused = |ambiguous| {
        let error = "full".to_owned();
        Tale::new()
            .line("1", What::Sent { key: None, due: None })
            .line("1", What::Refused { ambiguous, error })
            .delivered("1", 1)
            .settled("1", Action::Ack)
    };
    assert_eq!(refused(false).wrong(&strict()), [Wrong::Invented]);
    assert_eq!(refused(true).wrong(&strict()), []);
    assert_eq!(Tale::new().delivered("1", 1).settled("1", Action::Ack).wrong(&strict()), [Wrong::Invented]);
}

#[test]
fn the_shortest_story_of_the_gravest_is_told() {
    let history = History::default();
    history.note("9", "", What::Sent { key: None, due: None });
    history.note("9", "", What::Confirmed);
    history.note("7", "", What::Sent { key: None, due: None });
    history.note("7", "", What::Confirmed);
    for _ in 0..3 {
        history.note("7", "g", What::Delivered { attempt: 1 });
    }
    let text = Checker::new("g").judge(&history).unwrap_err().to_string();
    assert!(text.contains("1 lost; 2 duplicated;") && text.contains("the story of message 9"), "{text}");
}
