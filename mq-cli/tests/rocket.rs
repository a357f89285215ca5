//! The command on a real broker: MQ_TEST_ROCKET names it, and without one these tests fail.

#![expect(clippy::unwrap_used, clippy::panic, reason = "these are tests, also where no function says so")]

mod cases;
mod common;

cases::all_on!(Rocket);

mod rocket_only {
    use std::collections::BTreeSet;
    use std::path::Path;
    use std::process::Command;

    use crate::cases::errors::told;
    use crate::common::broker::required;
    use crate::common::{Broker, Done, Kind, run};

    /// The Java client of the RocketMQ project, a program of its own.
    #[track_caller]
    fn java(broker: &Broker, verb: &str, more: &[&str]) -> Done {
        let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let mut command = Command::new("java");
        command
            .arg(format!("-Duser.home={}", env!("CARGO_TARGET_TMPDIR")))
            .args(["-Dfile.encoding=UTF-8", "-Dstdout.encoding=UTF-8", "-Xmx256m", "-cp"])
            .arg(format!("{}/*", required("MQ_TEST_ROCKET_JARS")))
            .arg(crates.join("mq-rocket/tests/java/Stock.java"))
            // The broker's own name of the topic.
            .args([verb, broker.address(), &broker.topic.replace('.', "|")])
            .args(more);
        run(&mut command).ok()
    }

    /// What the stock client writes is read as it is.
    #[test]
    fn java_writes_we_read() {
        let broker = Broker::with_group(Kind::Rocket, "java-p");
        java(&broker, "plain", &[]);
        let received = broker.mq(&["receive", &broker.topic, "--group", "g", "--max", "1"]).ok().json();
        assert_eq!(received[0]["body"], "plain");
        assert_eq!(received[0]["key"], "k");
        assert_eq!(received[0]["headers"]["shop"], "Zürich");
        assert_eq!(received[0]["headers"]["TAGS"], "TagA");
    }

    /// What we write is read by the stock client.
    #[test]
    fn we_write_java_reads() {
        let broker = Broker::new(Kind::Rocket, "java-c");
        // A group of RocketMQ's reads the same topics with all its members.
        let group = format!("java-{}", std::process::id());
        broker.create(&["--group", &group]);
        let tagged = ["--key", "k", "--header", "TAGS=TagA", "--header", "shop=Zürich"];
        broker.mq(&[&["send", &broker.topic, "body"], &tagged[..]].concat()).ok();
        broker.mq(&[&["send", &broker.topic, "later", "--delay", "2s"], &tagged[..]].concat()).ok();
        let printed = java(&broker, "receive", &[&group, "2"]).stdout;
        let mut read: Vec<&str> = printed.lines().filter_map(|line| line.strip_prefix("message\t")).collect();
        read.sort_by_key(|line| line.rsplit('\t').next().unwrap());
        let parts: Vec<Vec<&str>> = read.iter().map(|line| line.split('\t').skip(1).collect()).collect();
        assert_eq!(parts, [["k", "TagA", "Zürich", "body"], ["k", "TagA", "Zürich", "later"]]);
    }

    /// A worker handles what the stock client committed, in the order of its keys, and never what it rolled back.
    #[test]
    fn java_writes_we_work() {
        let broker = Broker::new(Kind::Rocket, "java-w");
        broker.create(&[]);
        broker.mq(&["group", "create", &broker.topic, "--group", "g", "--mode", "ordered"]).ok();
        java(&broker, "ordered", &["30"]);
        let work = ["work", &broker.topic, "--group", "g", "--by-key", "--max", "30", "--", "cat"];
        let done = broker.mq(&work).ok();
        let mut numbers: Vec<(String, u32)> = Vec::new();
        for word in done.stdout.split('k').filter(|word| !word.trim().is_empty()) {
            let (key, number) = word.trim().split_once(' ').unwrap();
            numbers.push((key.to_owned(), number.parse().unwrap()));
        }
        assert_eq!(numbers.len(), 30, "{}", done.stdout);
        for key in ["0", "1", "2"] {
            let of_key: Vec<u32> = numbers.iter().filter(|(one, _)| one == key).map(|(_, number)| *number).collect();
            assert!(of_key.len() == 10 && of_key.is_sorted(), "{key}: {of_key:?}");
        }
        java(&broker, "half", &[]);
        let rest = broker.mq(&["receive", &broker.topic, "--group", "g", "--idle", "5s"]).ok().json();
        // A broker may ask the Java client twice, and then makes a second message of its second answer, under one id.
        let ids: BTreeSet<(&str, &str)> =
            rest.iter().map(|one| (one["body"].as_str().unwrap(), one["id"].as_str().unwrap())).collect();
        let bodies: Vec<&str> = ids.iter().map(|(body, _)| *body).collect();
        assert_eq!(bodies, ["at once", "later"]);
    }

    #[test]
    fn a_wrong_secret_is_told_without_the_secret() {
        let broker = Broker::new(Kind::Rocket, "password");
        let good = required("MQ_TEST_ROCKET_GUARDED");
        broker.mq(&["--url", &good, "topic", "list"]).ok();
        let address = good.rsplit('@').next().unwrap();
        let bad = format!("rocketmqs://mq:hunter2-is-a-secret@{address}");
        for arguments in [&["topic", "list"][..], &["send", "t", "x"], &["receive", "t", "--group", "g"], &["doctor"]] {
            told(&broker.mq(&[&["--url", &bad], arguments].concat()), 1, &["mq: rocket", "hint"]);
        }
    }
}
