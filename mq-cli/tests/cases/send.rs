//! `mq send`, read back by `mq receive`.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::common::{Broker, Kind};

fn receive(broker: &Broker, count: usize) -> Vec<Value> {
    let count = count.to_string();
    broker.mq(&["receive", &broker.topic, "--group", "g", "--max", &count]).ok().json()
}

pub(crate) fn body_key_headers_and_id(kind: Kind) {
    let broker = Broker::with_group(kind, "body");
    let topic = broker.topic.as_str();
    let sent =
        ["send", topic, "a body", "--key", "k", "--header", "a=1", "--header", "b=x=y", "--id", "id-7", "--json"];
    let receipts = broker.mq(&sent).ok().json();
    assert_eq!(receipts.len(), 1);
    assert_eq!(receipts[0]["id"], "id-7");
    let received = receive(&broker, 1);
    let one = &received[0];
    assert_eq!(one["id"], "id-7");
    assert_eq!(one["key"], "k");
    assert_eq!(one["body"], "a body");
    assert_eq!(one["headers"], json!({"a": "1", "b": "x=y"}));
    assert_eq!(one["attempt"], 1);
    assert_eq!(one["topic"], topic);
    if kind != Kind::Rabbit {
        assert_eq!(one["position"], receipts[0]["position"]);
    }
}

pub(crate) fn file_of_any_bytes(kind: Kind) {
    let broker = Broker::with_group(kind, "file");
    let body: Vec<u8> = (0..=255).collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &body).unwrap();
    broker.mq(&["send", &broker.topic, "--file", file.path().to_str().unwrap()]).ok();
    broker.mq_with(&["send", &broker.topic, "--file", "-"], &body).ok();
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(&body);
    for one in receive(&broker, 2) {
        assert_eq!(one["body_base64"], encoded);
        assert!(one.get("body").is_none());
    }
    broker.mq(&["send", &broker.topic, "--file", "/no/such/file"]).failed(2, &["/no/such/file"]);
}

pub(crate) fn standard_input(kind: Kind) {
    let broker = Broker::with_group(kind, "stdin");
    broker.mq_with(&["send", &broker.topic], b"two\nlines\n").ok();
    assert_eq!(receive(&broker, 1)[0]["body"], "two\nlines\n");
}

pub(crate) fn lines(kind: Kind) {
    let broker = Broker::with_group(kind, "lines");
    let count = 3000;
    let input: String = (0..count).map(|number| format!("line {number}\n")).collect();
    let done = broker.mq_with(&["send", &broker.topic, "--lines", "--key", "k", "--json"], input.as_bytes()).ok();
    assert!(done.stderr.contains("sent 3000 messages"), "{}", done.stderr);
    let receipts = done.json();
    let numbers: Vec<u64> = receipts.iter().map(|receipt| receipt["line"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=count).collect::<Vec<u64>>());
    let bodies: Vec<String> =
        receive(&broker, 3000).iter().map(|one| one["body"].as_str().unwrap().to_owned()).collect();
    let expected: Vec<String> = (0..count).map(|number| format!("line {number}")).collect();
    assert_eq!(bodies, expected, "one key, one order");
}

pub(crate) fn ndjson(kind: Kind) {
    let broker = Broker::with_group(kind, "ndjson");
    let input = [
        json!({"key": "k", "headers": {"a": ["1", "2"], "b": {"base64": "/w=="}}, "id": "1", "body": "text"}),
        json!({"key_base64": "/w==", "body_base64": "/wE=", "id": "2"}),
        json!({"key": "k", "body": null, "id": "3"}),
        json!({"body": "", "id": "4"}),
    ];
    let text: String = input.iter().map(|line| format!("{line}\n")).collect();
    broker.mq_with(&["send", &broker.topic, "--ndjson"], text.as_bytes()).ok();
    let mut received = receive(&broker, 4);
    received.sort_by_key(|one| one["id"].as_str().unwrap().to_owned());
    assert_eq!(received[0]["headers"], input[0]["headers"]);
    assert_eq!(received[0]["body"], "text");
    assert_eq!(received[1]["key_base64"], "/w==");
    assert_eq!(received[1]["body_base64"], "/wE=");
    assert!(received[2].get("body").is_some_and(Value::is_null), "{}", received[2]);
    assert_eq!(received[3]["body"], "");
    // What was received can be sent again as it was printed.
    let again: String = received.iter().map(|line| format!("{line}\n")).collect();
    broker.mq_with(&["send", &broker.topic, "--ndjson"], again.as_bytes()).ok();
    let mut twice = receive(&broker, 4);
    twice.sort_by_key(|one| one["id"].as_str().unwrap().to_owned());
    for (one, two) in received.iter().zip(&twice) {
        for field in ["id", "key", "key_base64", "headers", "body", "body_base64"] {
            assert_eq!(one.get(field), two.get(field), "{field}");
        }
    }
}

pub(crate) fn a_bad_line(kind: Kind) {
    let broker = Broker::with_group(kind, "badline");
    let input =
        b"{\"body\":\"1\"}\n{\"bod\":\"2\"}\n{\"body\":\"3\",\"headers\":{\"mq-id\":\"x\"}}\n{\"body\":\"4\"}\n";
    let done = broker.mq_with(&["send", &broker.topic, "--ndjson", "--json"], input);
    done.failed(1, &["2 messages were not sent"]);
    let failed: Vec<u64> =
        done.json().iter().filter(|line| !line["error"].is_null()).map(|line| line["line"].as_u64().unwrap()).collect();
    assert_eq!(failed, [2, 3]);
    let mut bodies: Vec<String> =
        receive(&broker, 2).iter().map(|one| one["body"].as_str().unwrap().to_owned()).collect();
    bodies.sort();
    assert_eq!(bodies, ["1", "4"]);
}

pub(crate) fn delay(kind: Kind) {
    let broker = Broker::with_group(kind, "delay");
    let _scheduler = (kind == Kind::Kafka).then(|| {
        let mut scheduler = broker.start(&["scheduler"]);
        scheduler.until("ready");
        scheduler
    });
    let before = now_ms();
    let receipt = broker.mq(&["send", &broker.topic, "later", "--delay", "2s", "--json"]).ok().json();
    assert!(receipt[0]["due_ms"].as_u64().unwrap() >= before + 2000, "{receipt:?}");
    assert_eq!(receive(&broker, 1)[0]["body"], "later");
    assert!(now_ms() >= before + 2000, "it came too early");
}

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}
