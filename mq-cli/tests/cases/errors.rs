//! What goes wrong says what to do, within its deadline, without a secret.

use std::net::TcpListener;
use std::time::Duration;

use crate::common::{Broker, Done, Kind};

/// No failure takes longer to be told.
const DEADLINE: Duration = Duration::from_secs(35);
const PASSWORD: &str = "hunter2-is-a-secret";

#[track_caller]
pub(crate) fn told(done: &Done, code: i32, texts: &[&str]) {
    done.failed(code, texts);
    assert!(done.took < DEADLINE, "{:?}", done.took);
    assert!(!done.stderr.contains(PASSWORD) && !done.stdout.contains(PASSWORD), "{done:#?}");
}

fn scheme(kind: Kind) -> &'static str {
    match kind {
        Kind::Kafka => "kafka",
        Kind::Rabbit => "amqp",
        Kind::Redis => "redis",
        Kind::Rocket => "rocketmq",
    }
}

pub(crate) fn refused_connection(kind: Kind) {
    let broker = Broker::new(kind, "refused");
    // A port that nobody listens on: bound, then left.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("{}://user:{PASSWORD}@{address}", scheme(kind));
    for arguments in [&["send", "t", "x"][..], &["receive", "t", "--group", "g"], &["topic", "list"], &["doctor"]] {
        let done = broker.mq(&[&["--url", &url], arguments].concat());
        told(&done, 1, &["mq: ", "hint"]);
    }
}

pub(crate) fn unknown_topic(kind: Kind) {
    let broker = Broker::new(kind, "unknown");
    let topic = broker.topic.as_str();
    told(&broker.mq(&["send", topic, "x"]), 1, &[topic, "hint", "create"]);
    told(&broker.mq(&["receive", topic, "--group", "g", "--max", "1"]), 1, &[topic, "hint"]);
    told(&broker.mq(&["work", topic, "--group", "g", "--max", "1", "--", "true"]), 1, &[topic, "hint"]);
    told(&broker.mq(&["lag", topic, "--group", "g"]), 1, &[topic]);
    told(&broker.mq(&["dlq", "list", topic, "--group", "g"]), 1, &[topic]);
    told(&broker.mq_with(&["send", topic, "--lines"], b"1\n2\n"), 1, &["not sent"]);
}

pub(crate) fn too_large(kind: Kind) {
    let broker = Broker::with_group(kind, "large");
    let size = match kind {
        Kind::Kafka | Kind::Rocket => 8 << 20,
        Kind::Rabbit => 200 << 20,
        Kind::Redis => 17 << 20,
    };
    told(&broker.mq_with(&["send", &broker.topic, "--file", "-"], &vec![b'x'; size]), 1, &["send", "hint"]);
    assert_eq!(broker.mq(&["lag", &broker.topic, "--group", "g", "--json"]).ok().json()[0]["ready"], 0);
}

pub(crate) fn bad_url(kind: Kind) {
    let broker = Broker::new(kind, "badurl");
    let scheme = scheme(kind);
    let urls = [
        format!("{scheme}://user:{PASSWORD}@host:port"),
        format!("{scheme}://user:{PASSWORD}@host:1?no-such-setting=1"),
        format!("pigeon://user:{PASSWORD}@loft"),
        format!("user:{PASSWORD}@host"),
    ];
    for url in urls {
        told(&broker.mq(&["--url", &url, "topic", "list"]), 2, &["hint"]);
    }
    let mut none = broker.command(&["topic", "list"]);
    none.env_remove("MQ_URL");
    told(&crate::common::run(&mut none), 2, &["MQ_URL"]);
}

pub(crate) fn bad_topic_name(kind: Kind) {
    let broker = Broker::new(kind, "badtopic");
    told(&broker.mq(&["send", "a b", "x"]), 2, &["topic name", "a b"]);
    told(&broker.mq(&["topic", "create", "a--b"]), 2, &["a--b", "--"]);
    told(&broker.mq(&["topic", "create", "queue:x"]), 2, &["queue:x", "hint"]);
    told(&broker.mq(&["receive", "t", "--group", "g g"]), 2, &["group name"]);
}

pub(crate) fn bad_arguments(kind: Kind) {
    let broker = Broker::new(kind, "badargs");
    let topic = broker.topic.as_str();
    told(&broker.mq(&["seek", topic, "--group", "g", "--to", "yesterday"]), 2, &["earliest"]);
    told(&broker.mq(&["receive", topic, "--group", "g", "--idle", "5"]), 2, &["5s"]);
    told(&broker.mq(&["send", topic, "x", "--header", "novalue"]), 2, &["name=value"]);
    told(&broker.mq(&["send", topic, "x", "--lines"]), 2, &["cannot be used with"]);
    told(&broker.mq(&["work", topic, "--group", "g"]), 2, &["COMMAND"]);
}
