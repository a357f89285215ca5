//! The command on a real broker: MQ_TEST_REDIS names it, and without one these tests fail.

#![expect(clippy::unwrap_used, clippy::panic, reason = "these are tests, also where no function says so")]

mod cases;
mod common;

cases::all_on!(Redis);

mod redis_only {
    use std::process::Command;

    use serde_json::{Value, json};

    use crate::cases::errors::told;
    use crate::common::{Broker, Done, Kind, run};

    /// The stock client.
    #[track_caller]
    fn redis_cli(broker: &Broker, arguments: &[&str]) -> Done {
        let (host, port) = broker.address().rsplit_once(':').unwrap();
        run(Command::new("redis-cli").args(["-h", host, "-p", port, "-e"]).args(arguments)).ok()
    }

    /// A stream of another program, removed at the end.
    struct Foreign<'a>(&'a Broker, String);

    impl<'a> Foreign<'a> {
        #[track_caller]
        fn new(broker: &'a Broker) -> Self {
            Self(broker, format!("{} legacy", broker.topic))
        }

        #[track_caller]
        fn add(&self, fields: &[&str]) -> String {
            redis_cli(self.0, &[&["XADD", &self.1, "*"], fields].concat()).stdout.trim().to_owned()
        }

        fn topic(&self) -> String {
            format!("stream:{}", self.1)
        }
    }

    impl Drop for Foreign<'_> {
        fn drop(&mut self) {
            let (host, port) = self.0.address().rsplit_once(':').unwrap_or_default();
            let _ = Command::new("redis-cli").args(["-h", host, "-p", port, "DEL", &self.1]).output();
        }
    }

    /// What stock tools write to a stream of their own is read as it is.
    #[test]
    fn redis_cli_writes_we_read() {
        let broker = Broker::new(Kind::Redis, "xadd");
        let stream = Foreign::new(&broker);
        let id = stream.add(&["body", "one", "a", "1", "mq-attempt", "9", "mq-key", "k"]);
        // No field that could be the body: all of them, as JSON.
        stream.add(&["temperature", "21.5", "place", "roof"]);
        let received = broker.mq(&["receive", &stream.topic(), "--group", "g", "--max", "2"]).ok().json();
        assert_eq!(received[0]["body"], "one");
        assert_eq!(received[0]["headers"]["a"], "1");
        assert_eq!(received[0]["headers"]["mq-attempt"], "9", "forged control headers are plain data");
        assert_eq!(received[0]["attempt"], 1);
        assert_eq!(received[0]["position"], format!("0:{id}"));
        let body: Value = serde_json::from_str(received[1]["body"].as_str().unwrap()).unwrap();
        assert_eq!(body, json!({"temperature": "21.5", "place": "roof"}));
        // Acknowledged, in the group as any program sees it.
        assert_eq!(redis_cli(&broker, &["XPENDING", &stream.1, "g"]).stdout.lines().next(), Some("0"));
    }

    /// A topic of ours, written by its key.
    #[test]
    fn redis_cli_writes_to_a_topic() {
        let broker = Broker::with_group(Kind::Redis, "topic-xadd");
        let stream = format!("{{mq:{}:1}}:s", broker.topic);
        redis_cli(&broker, &["XADD", &stream, "*", "body", "by hand", "a", "1", "mq-id", "id-7", "mq-key", "k"]);
        let received = broker.mq(&["receive", &broker.topic, "--group", "g", "--max", "1"]).ok().json();
        assert_eq!((&received[0]["body"], &received[0]["id"]), (&json!("by hand"), &json!("id-7")));
        assert_eq!((&received[0]["key"], &received[0]["headers"]), (&json!("k"), &json!({"a": "1"})));
    }

    /// What we write is read by stock tools: in another program's stream, and in a topic of ours.
    #[test]
    fn we_write_redis_cli_reads() {
        let broker = Broker::new(Kind::Redis, "xrange");
        broker.mq(&["topic", "create", &broker.topic, "--partitions", "1"]).ok();
        let stream = Foreign::new(&broker);
        stream.add(&["body", "its own"]);
        for (topic, key) in
            [(stream.topic(), stream.1.clone()), (broker.topic.clone(), format!("{{mq:{}:0}}:s", broker.topic))]
        {
            let sent = ["send", &topic, "a body", "--key", "k", "--header", "a=1", "--id", "id-7", "--json"];
            let receipt = broker.mq(&sent).ok().json();
            let read = redis_cli(&broker, &["XREVRANGE", &key, "+", "-", "COUNT", "1"]).stdout;
            let lines: Vec<&str> = read.lines().collect();
            assert_eq!(receipt[0]["position"], format!("0:{}", lines[0]));
            let fields: Vec<(&str, &str)> = lines[1..].chunks(2).map(|pair| (pair[0], pair[1])).collect();
            for field in [("body", "a body"), ("mq-id", "id-7"), ("mq-key", "k"), ("a", "1")] {
                assert!(fields.contains(&field), "{field:?} is not in {fields:?}");
            }
        }
    }

    /// A group of another program and ours read the same stream, each all of it; theirs stays as it was.
    #[test]
    fn beside_the_group_of_another_program() {
        let broker = Broker::new(Kind::Redis, "beside");
        let stream = Foreign::new(&broker);
        stream.add(&["body", "one"]);
        redis_cli(&broker, &["XGROUP", "CREATE", &stream.1, "theirs", "0"]);
        redis_cli(&broker, &["XREADGROUP", "GROUP", "theirs", "worker-1", "COUNT", "1", "STREAMS", &stream.1, ">"]);
        let work = ["work", &stream.topic(), "--group", "g", "--retry", "", "--max", "1", "--", "false"];
        broker.mq(&work).ok();
        let dead = broker.mq(&["dlq", "list", &stream.topic(), "--group", "g", "--json"]).ok().json();
        assert_eq!((dead.len(), &dead[0]["body"]), (1, &json!("one")), "{dead:?}");
        assert_eq!(redis_cli(&broker, &["XLEN", &stream.1]).stdout.trim(), "1", "it belongs to another program");
        let pending = redis_cli(&broker, &["XPENDING", &stream.1, "theirs"]).stdout;
        assert_eq!(pending.lines().next(), Some("1"), "{pending}");
        assert!(pending.contains("worker-1"), "{pending}");
        let groups = redis_cli(&broker, &["XINFO", "GROUPS", &stream.1]).stdout;
        assert!(groups.contains("theirs"), "{groups}");
    }

    /// A key that is no stream, and one that is not there.
    #[test]
    fn what_is_no_stream_is_told() {
        let broker = Broker::new(Kind::Redis, "nostream");
        let absent = format!("stream:{}-absent", broker.topic);
        told(&broker.mq(&["receive", &absent, "--group", "g", "--max", "1"]), 1, &["absent", "hint", "XADD"]);
        told(&broker.mq(&["send", &absent, "x"]), 1, &["absent", "hint"]);
        let key = format!("{}-text", broker.topic);
        redis_cli(&broker, &["SET", &key, "x"]);
        let told_of = broker.mq(&["receive", &format!("stream:{key}"), "--group", "g", "--max", "1"]);
        redis_cli(&broker, &["DEL", &key]);
        told(&told_of, 1, &["no stream", "hint"]);
    }

    #[test]
    fn a_wrong_password_is_told_without_the_password() {
        let broker = Broker::new(Kind::Redis, "password");
        let bad = format!("redis://limited:hunter2-is-a-secret@{}", broker.address());
        for arguments in [&["topic", "list"][..], &["send", "t", "x"], &["receive", "t", "--group", "g"], &["doctor"]] {
            told(&broker.mq(&[&["--url", &bad], arguments].concat()), 1, &["mq: redis-stream", "hint"]);
        }
    }
}
