//! `mq topic`, `mq group`, `mq lag`, `mq seek`, `mq topology`, `mq doctor`.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::common::{Broker, Kind};

pub(crate) fn topics_and_groups_come_and_go(kind: Kind) {
    let broker = Broker::new(kind, "topics");
    let topic = broker.topic.as_str();
    broker.create(&["--group", "a", "--group", "b", "--json"]);
    // Again: it is there as asked.
    broker.create(&[]);
    broker.mq(&["group", "create", topic, "--group", "c", "--from", "latest"]).ok();
    let names = |arguments: &[&str], field: &str| -> Vec<String> {
        let done = broker.mq(arguments).ok();
        done.json().iter().map(|value| value[field].as_str().unwrap().to_owned()).collect()
    };
    assert!(names(&["topic", "list", "--json"], "topic").contains(&topic.to_owned()));
    let mut groups = names(&["group", "list", topic, "--json"], "group");
    groups.sort();
    assert_eq!(groups, ["a", "b", "c"]);
    let described = broker.mq(&["topic", "describe", topic, "--json"]).ok();
    assert_eq!(described.json()[0]["topic"], topic);
    if kind == Kind::Rabbit {
        broker.mq(&["topic", "create", topic, "--partitions", "2"]).failed(2, &["partitions", "hint"]);
    } else {
        assert_eq!(described.json()[0]["partitions"], 2);
    }
    broker.mq(&["group", "delete", topic, "--group", "a"]).ok();
    let mut groups = names(&["group", "list", topic, "--json"], "group");
    groups.sort();
    assert_eq!(groups, ["b", "c"]);
    broker.mq(&["topic", "delete", topic]).ok();
    assert!(!names(&["topic", "list", "--json"], "topic").contains(&topic.to_owned()));
    broker.mq(&["topic", "describe", topic]).failed(1, &[topic]);
}

pub(crate) fn seek_and_lag(kind: Kind) {
    let broker = Broker::with_group(kind, "seek");
    let topic = broker.topic.as_str();
    broker.mq_with(&["send", topic, "--lines"], b"1\n2\n3\n").ok();
    let lag = || broker.mq(&["lag", topic, "--group", "g", "--json"]).ok().json()[0]["ready"].clone();
    assert_eq!(lag(), 3);
    broker.mq(&["receive", topic, "--group", "g", "--max", "3"]).ok();
    assert_eq!(lag(), 0);
    if kind == Kind::Rabbit {
        broker.mq(&["seek", topic, "--group", "g", "--to", "earliest"]).failed(1, &["not supported"]);
        return;
    }
    broker.mq(&["seek", topic, "--group", "g", "--to", "earliest"]).ok();
    assert_eq!(lag(), 3);
    broker.mq(&["seek", topic, "--group", "g", "--to", "2999-01-01T00:00:00Z"]).ok();
    assert_eq!(lag(), 0);
    broker.mq(&["seek", topic, "--group", "g", "--to", "1000"]).ok();
    assert_eq!(lag(), 3);
    broker.mq(&["seek", topic, "--group", "g", "--to", "latest"]).ok();
    assert_eq!(lag(), 0);
    let position = if kind == Kind::Redis { "0:0-1" } else { "0:0" };
    broker.mq(&["seek", topic, "--group", "g", "--to", position]).ok();
    assert_ne!(lag(), 4);
}

pub(crate) fn lag_can_be_watched(kind: Kind) {
    let broker = Broker::with_group(kind, "watch");
    broker.mq(&["send", &broker.topic, "x"]).ok();
    let mut command = broker.command(&["lag", &broker.topic, "--group", "g", "--watch", "--json"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let seen: Vec<Value> = lines.take(2).map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
    assert!(seen.len() == 2 && seen.iter().all(|lag| lag["ready"] == 1), "{seen:?}");
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    // Asked to watch until stopped, and stopped; or it noticed that nobody reads any more.
    assert!(matches!(child.wait().unwrap().code(), Some(0 | 141)));
}

pub(crate) fn topology_names_what_must_exist(kind: Kind) {
    let broker = Broker::new(kind, "topology");
    let topic = broker.topic.as_str();
    let items = broker.mq(&["topology", topic, "--group", "g", "--json"]).ok().json();
    // RocketMQ has no dots in names.
    let name = if kind == Kind::Rocket { topic.replace('.', "|") } else { topic.to_owned() };
    let own: Vec<_> = items.iter().filter(|item| item["name"].as_str().unwrap().contains(&name)).collect();
    assert!(own.len() >= 2 && own.iter().all(|item| item["exists"] != true), "{items:#?}");
}

pub(crate) fn doctor_looks(kind: Kind) {
    let broker = Broker::new(kind, "doctor");
    let told = broker.mq(&["doctor", "--json"]).ok().json();
    assert_eq!(told[0]["ready"], true);
    assert!(told.iter().any(|line| line["capability"] == "confirmed-send" && line["level"] == "native"), "{told:#?}");
}

pub(crate) fn doctor_examines_a_group(kind: Kind) {
    let broker = Broker::with_group(kind, "patient");
    let topic = broker.topic.as_str();
    let examined = |more: &[&str]| {
        let arguments = [&["doctor", topic, "--group", "g", "--retry", "", "--json"], more].concat();
        broker.mq(&arguments).ok().json()
    };
    let risks = |told: &[serde_json::Value]| {
        told.iter().filter_map(|line| Some(line.get("check")?.as_str()?.to_owned())).collect::<Vec<_>>()
    };
    assert_eq!(risks(&examined(&[])), [""; 0]);
    let slow = examined(&["--timeout", "31m"]);
    if matches!(kind, Kind::Redis | Kind::Rocket) {
        // A session, or a lease, is renewed however long a handler runs.
        assert_eq!(risks(&slow), [""; 0]);
    } else {
        assert_eq!(risks(&slow), ["handler-timeout"]);
        let warned = slow.iter().find(|line| line.get("check").is_some()).unwrap();
        assert!(warned["warning"].is_string() && warned["hint"].is_string(), "{warned}");
    }
    // A group nobody declared, and nobody may.
    let join = if broker.url.contains('?') { '&' } else { '?' };
    let alone = format!("{}{join}topology=off", broker.url);
    let refused = broker.mq(&["--url", &alone, "doctor", topic, "--group", "nobody", "--json"]);
    refused.failed(1, &["would lose messages"]);
    assert!(refused.json().iter().any(|line| line["check"] == "dead-letter-place" && line["refusal"].is_string()));
    let text = broker.mq(&["--url", &alone, "doctor", topic, "--group", "nobody"]);
    assert!(text.stdout.contains("refusal: dead-letter-place: "), "{text:#?}");
    broker.mq(&["doctor", topic]).failed(2, &["--group"]);
}
