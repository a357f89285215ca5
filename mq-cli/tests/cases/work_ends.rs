//! `mq work`: how it stops.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use super::work::{Folder, dead, work};
use crate::common::{Broker, Kind, Running};

/// Waits until the handler has written a file.
fn until_written(folder: &Folder, name: &str) -> String {
    let deadline = Instant::now() + Duration::from_secs(40);
    loop {
        if let Some(line) = folder.lines(name).into_iter().next() {
            return line;
        }
        assert!(Instant::now() < deadline, "{name} was never written");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until a process is gone.
fn until_gone(pid: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    let alive = || std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    while alive() {
        assert!(Instant::now() < deadline, "process {pid} lives on");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn max_and_idle(kind: Kind) {
    let broker = Broker::with_group(kind, "max");
    let folder = Folder::new();
    broker.mq_with(&["send", &broker.topic, "--lines"], b"1\n2\n3\n").ok();
    let script = r#"cat >> "$1/runs"; echo >> "$1/runs""#;
    let done = broker.mq(&work(&broker, &["--max", "2"], script, &folder)).ok();
    assert!(done.stderr.lines().any(|line| line == "ready"), "{}", done.stderr);
    assert_eq!(folder.lines("runs").len(), 2);
    assert_eq!(broker.waiting(1), 1);
    let done = broker.mq(&work(&broker, &["--max", "5", "--idle", "2s", "--json"], script, &folder)).ok();
    assert!(done.stderr.contains("1 of 5"), "{}", done.stderr);
    assert_eq!(done.json()[0]["handled"], 1);
    assert_eq!(folder.lines("runs").len(), 3);
    assert_eq!(broker.waiting(0), 0);
}

pub(crate) fn drains_at_sigterm(kind: Kind) {
    let broker = Broker::with_group(kind, "drain");
    let folder = Folder::new();
    broker.mq_with(&["send", &broker.topic, "--lines"], b"1\n2\n3\n4\n5\n").ok();
    let script = r#"echo $$ >> "$1/began"; sleep 2; echo $$ >> "$1/ended""#;
    let mut running = broker.start(&work(&broker, &[], script, &folder));
    running.until("ready");
    until_written(&folder, "began");
    running.signal("TERM");
    let done = running.wait(Duration::from_secs(40));
    assert_eq!(done.code, Some(0), "{done:#?}");
    assert_eq!(folder.lines("began"), folder.lines("ended"), "what was begun was finished, nothing more was begun");
    let handled = u64::try_from(folder.lines("ended").len()).unwrap();
    assert!(handled < 5);
    assert_eq!(broker.waiting(5 - handled), 5 - handled, "the rest was given back");
}

pub(crate) fn interrupt_spares_the_command(kind: Kind) {
    let broker = Broker::with_group(kind, "ctrlc");
    let folder = Folder::new();
    broker.mq(&["send", &broker.topic, "1"]).ok();
    let script = r#"echo $$ > "$1/began"; sleep 2; echo done > "$1/ended""#;
    let mut command = broker.command(&work(&broker, &[], script, &folder));
    // As a shell does it: the worker leads a group, and Ctrl-C goes to the whole of it.
    command.process_group(0);
    let mut running = Running::start(&mut command);
    running.until("ready");
    until_written(&folder, "began");
    let status = Command::new("kill").args(["-INT", "--", &format!("-{}", running.id())]).status().unwrap();
    assert!(status.success());
    let done = running.wait(Duration::from_secs(40));
    assert_eq!(done.code, Some(0), "{done:#?}");
    assert_eq!(folder.lines("ended"), ["done"]);
    assert_eq!(broker.waiting(0), 0);
    assert!(dead(&broker).is_empty());
}

pub(crate) fn timeout_kills_the_whole_group(kind: Kind) {
    let broker = Broker::with_group(kind, "timeout");
    let folder = Folder::new();
    broker.mq(&["send", &broker.topic, "1"]).ok();
    let script = r#"sleep 600 & echo $! > "$1/grandchild"; wait"#;
    let flags = ["--timeout", "1s", "--retry", "", "--max", "1"];
    broker.mq(&work(&broker, &flags, script, &folder)).ok();
    until_gone(&until_written(&folder, "grandchild"));
    let dead = dead(&broker);
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0]["reason"], "max-attempts", "a timeout is a retry, and there was none left");
}

pub(crate) fn second_signal_aborts(kind: Kind) {
    let broker = Broker::with_group(kind, "abort");
    let folder = Folder::new();
    broker.mq(&["send", &broker.topic, "1"]).ok();
    let script = r#"echo $$ > "$1/began"; sleep 600"#;
    let mut running = broker.start(&work(&broker, &["--drain", "10m"], script, &folder));
    running.until("ready");
    let pid = until_written(&folder, "began");
    running.signal("TERM");
    running.until("again");
    running.signal("TERM");
    let done = running.wait(Duration::from_secs(20));
    assert_eq!(done.code, Some(143), "{done:#?}");
    until_gone(&pid);
}
