//! `mq dlq`.

use serde_json::json;

use super::work::{Folder, dead, work};
use crate::common::{Broker, Kind};

/// Three dead letters, of which the first has a key and a header.
fn three_dead(kind: Kind, test: &str) -> Broker {
    let broker = Broker::with_group(kind, test);
    broker.mq(&["group", "create", &broker.topic, "--group", "other"]).ok();
    let line = |id: &str| json!({"id": id, "key": "k", "headers": {"a": "1"}, "body": format!("body {id}")});
    // The first apart: those set aside at the same time are there in any order.
    for (ids, count) in [(&["1"][..], "1"), (&["2", "3"], "2")] {
        let input: String = ids.iter().map(|id| format!("{}\n", line(id))).collect();
        broker.mq_with(&["send", &broker.topic, "--ndjson"], input.as_bytes()).ok();
        broker.mq(&work(&broker, &["--max", count], "exit 65", &Folder::new())).ok();
    }
    broker
}

pub(crate) fn list_show_redrive_purge(kind: Kind) {
    let broker = three_dead(kind, "dlq");
    let topic = broker.topic.as_str();
    broker.mq(&["receive", topic, "--group", "other", "--max", "3"]).ok();
    let letters = dead(&broker);
    let mut ids: Vec<&str> = letters.iter().map(|letter| letter["id"].as_str().unwrap()).collect();
    ids[1..].sort_unstable();
    assert_eq!(ids, ["1", "2", "3"], "oldest first");
    let first = &letters[0];
    assert_eq!((&first["key"], &first["body"]), (&json!("k"), &json!("body 1")));
    assert_eq!(first["headers"], json!({"a": "1"}));
    assert_eq!((&first["reason"], &first["attempts"]), (&json!("rejected"), &json!(1)));
    assert_eq!((&first["group"], &first["origin_topic"]), (&json!("g"), &json!(topic)));
    let page = broker.mq(&["dlq", "show", topic, "--group", "g", "--max", "1"]).ok().stdout;
    for text in ["id: 1", "reason: rejected", "key: k", "header: a=1", "body: body 1"] {
        assert!(page.contains(text), "{page}");
    }
    let done = broker.mq(&["dlq", "redrive", topic, "--group", "g", "--max", "2", "--rate", "50", "--json"]).ok();
    assert_eq!(done.json(), [json!({"redriven": 2})]);
    let left = dead(&broker);
    assert_eq!(left.len(), 1);
    let again = broker.mq(&["receive", topic, "--group", "g", "--max", "2"]).ok().json();
    let mut ids: Vec<&str> = again.iter().map(|one| one["id"].as_str().unwrap()).collect();
    // Which two: RabbitMQ may not yet have put back what was listed a moment ago.
    ids.push(left[0]["id"].as_str().unwrap());
    ids.sort_unstable();
    assert_eq!(ids, ["1", "2", "3"]);
    for one in &again {
        assert_eq!((&one["key"], &one["headers"], &one["attempt"]), (&json!("k"), &json!({"a": "1"}), &json!(1)));
    }
    let other = broker.mq(&["receive", topic, "--group", "other", "--max", "1", "--idle", "3s"]).ok();
    assert!(other.json().is_empty(), "redriven to the failing group only");
    assert_eq!(broker.mq(&["dlq", "purge", topic, "--group", "g", "--json"]).ok().json(), [json!({"purged": 1})]);
    assert!(dead(&broker).is_empty());
    assert_eq!(broker.mq(&["dlq", "redrive", topic, "--group", "g", "--json"]).ok().json(), [json!({"redriven": 0})]);
}

pub(crate) fn listing_consumes_nothing(kind: Kind) {
    let broker = three_dead(kind, "peek");
    for _ in 0..30 {
        assert_eq!(dead(&broker).len(), 3);
    }
    let done = broker.mq(&["dlq", "redrive", &broker.topic, "--group", "g", "--json"]).ok();
    assert_eq!(done.json(), [json!({"redriven": 3})]);
}
