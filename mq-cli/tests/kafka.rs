//! The command on a real broker: MQ_TEST_KAFKA names it, and without one these tests fail.

#![expect(clippy::unwrap_used, clippy::panic, reason = "these are tests, also where no function says so")]

mod cases;
mod common;

cases::all_on!(Kafka);

mod kafka_only {
    use std::process::Command;

    use crate::cases::errors::told;
    use crate::common::broker::required;
    use crate::common::process::run_with;
    use crate::common::{Broker, Kind, run};

    /// What stock tools write is read as it is.
    #[test]
    fn kcat_writes_we_read() {
        let broker = Broker::with_group(Kind::Kafka, "kcat-p");
        let mut kcat = Command::new("kcat");
        kcat.args(["-P", "-b", broker.address(), "-t", &broker.topic, "-k", "key", "-H", "a=1", "-H", "mq-attempt=9"]);
        run_with(&mut kcat, b"one\ntwo\n").ok();
        let received = broker.mq(&["receive", &broker.topic, "--group", "g", "--max", "2"]).ok().json();
        let bodies: Vec<_> = received.iter().map(|one| one["body"].as_str().unwrap()).collect();
        assert_eq!(bodies, ["one", "two"]);
        for one in &received {
            assert_eq!(one["key"], "key");
            assert_eq!(one["headers"]["a"], "1");
            assert!(one["id"].as_str().unwrap().contains(&broker.topic), "derived from the position: {one}");
        }
    }

    /// What we write is read by stock tools.
    #[test]
    fn we_write_kcat_reads() {
        let broker = Broker::with_group(Kind::Kafka, "kcat-c");
        broker.mq(&["send", &broker.topic, "body", "--key", "k", "--header", "a=1", "--id", "id-7"]).ok();
        let mut kcat = Command::new("kcat");
        kcat.args(["-C", "-b", broker.address(), "-t", &broker.topic, "-e", "-q", "-f", "%k|%s|%h\n"]);
        let read = run(&mut kcat).ok().stdout;
        let fields: Vec<&str> = read.trim_end().split('|').collect();
        assert_eq!(fields[..2], ["k", "body"], "{read}");
        assert!(fields[2].contains("a=1") && fields[2].contains("mq-id=id-7"), "{read}");
    }

    #[test]
    fn a_wrong_password_is_told_without_the_password() {
        let broker = Broker::new(Kind::Kafka, "password");
        let good = required("MQ_TEST_KAFKA_SASL");
        broker.mq(&["--url", &good, "topic", "list"]).ok();
        let address = good.rsplit('@').next().unwrap();
        let bad = format!("kafka://mq:hunter2-is-a-secret@{address}");
        for arguments in [&["topic", "list"][..], &["send", "t", "x"], &["receive", "t", "--group", "g"], &["doctor"]] {
            told(&broker.mq(&[&["--url", &bad], arguments].concat()), 1, &["mq: kafka", "hint"]);
        }
    }
}
