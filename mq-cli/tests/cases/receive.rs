//! `mq receive`.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use crate::common::{Broker, Kind};

pub(crate) fn idle_before_max(kind: Kind) {
    let broker = Broker::with_group(kind, "idle");
    broker.mq(&["send", &broker.topic, "one"]).ok();
    let done = broker.mq(&["receive", &broker.topic, "--group", "g", "--max", "5", "--idle", "2s"]).ok();
    assert_eq!(done.json().len(), 1);
    assert!(done.stderr.contains("1 of 5"), "{}", done.stderr);
    assert!(done.took < Duration::from_secs(20), "{:?}", done.took);
}

pub(crate) fn what_was_acknowledged_does_not_come_again(kind: Kind) {
    let broker = Broker::with_group(kind, "acked");
    broker.mq_with(&["send", &broker.topic, "--lines"], b"1\n2\n3\n").ok();
    let receive = |max: &str| broker.mq(&["receive", &broker.topic, "--group", "g", "--max", max]).ok().json();
    let mut bodies: Vec<String> =
        [receive("1"), receive("2")].concat().iter().map(|one| one["body"].as_str().unwrap().to_owned()).collect();
    bodies.sort();
    assert_eq!(bodies, ["1", "2", "3"]);
    assert_eq!(broker.waiting(0), 0);
}

pub(crate) fn batched_and_auto(kind: Kind) {
    for ack in ["auto", "batched"] {
        let broker = Broker::with_group(kind, ack);
        let input: String = (0..250).map(|number| format!("{number}\n")).collect();
        broker.mq_with(&["send", &broker.topic, "--lines"], input.as_bytes()).ok();
        let done = broker.mq(&["receive", &broker.topic, "--group", "g", "--max", "240", "--ack", ack]).ok();
        assert_eq!(done.json().len(), 240);
        assert_eq!(broker.waiting(10), 10, "{ack}");
    }
}

pub(crate) fn stopped_by_a_signal(kind: Kind) {
    let broker = Broker::with_group(kind, "stopped");
    broker.mq(&["send", &broker.topic, "one"]).ok();
    for (signal, arguments, code) in [("TERM", &[][..], 0), ("INT", &["--max", "9"][..], 130)] {
        let all = [&["receive", &broker.topic, "--group", "g"][..], arguments].concat();
        let mut running = broker.start(&all);
        // It listens for signals before it connects; that it has begun shows in what it owns.
        running.until_listening();
        running.signal(signal);
        let done = running.wait(Duration::from_secs(30));
        assert_eq!(done.code, Some(code), "{done:#?}");
    }
}

pub(crate) fn a_reader_that_leaves(kind: Kind) {
    let broker = Broker::with_group(kind, "pipe");
    broker.mq_with(&["send", &broker.topic, "--lines", "--key", "k"], &b"x\n".repeat(500)).ok();
    let mut command = broker.command(&["receive", &broker.topic, "--group", "g", "--idle", "10s"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    drop(reader);
    assert_eq!(child.wait().unwrap().code(), Some(141), "as with a pipe that breaks under any other tool");
    assert!(broker.waiting(1) > 0, "what was not read by anybody is still there");
}
