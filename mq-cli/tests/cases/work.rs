//! `mq work`: a command for each message.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{Broker, Kind};

/// A folder that a handler writes to, and what it wrote.
#[derive(Debug)]
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// The lines of a file, none when it is not there.
    pub(crate) fn lines(&self, name: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.path().join(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

/// `mq work` on the group `g`, with a shell script that has the folder as `$1`.
pub(crate) fn work<'a>(broker: &'a Broker, flags: &[&'a str], script: &'a str, folder: &'a Folder) -> Vec<&'a str> {
    let folder = folder.path().to_str().unwrap();
    let command = ["--", "sh", "-c", script, "handler", folder];
    [&["work", &broker.topic, "--group", "g"], flags, &command].concat()
}

/// The dead letters of the group `g`.
pub(crate) fn dead(broker: &Broker) -> Vec<Value> {
    broker.mq(&["dlq", "list", &broker.topic, "--group", "g", "--json"]).ok().json()
}

fn by_id(values: Vec<Value>) -> BTreeMap<String, Value> {
    values.into_iter().map(|value| (value["id"].as_str().unwrap().to_owned(), value)).collect()
}

pub(crate) fn exit_codes(kind: Kind) {
    let broker = Broker::with_group(kind, "codes");
    let folder = Folder::new();
    let script = r#"
        echo "$MQ_ID $MQ_ATTEMPT $(cat)" >> "$1/runs"
        case $MQ_ID in
            ok) exit 0 ;;
            retry) [ "$MQ_ATTEMPT" = 2 ] || exit 75 ;;
            hopeless) exit 75 ;;
            dead) exit 65 ;;
            refused) exit 77 ;;
            killed) [ "$MQ_ATTEMPT" = 2 ] || kill -9 $$ ;;
            other) exit 3 ;;
        esac
    "#;
    let ids = ["ok", "retry", "hopeless", "dead", "refused", "killed", "other"];
    let input: String =
        ids.iter().map(|id| format!("{}\n", json!({"id": id, "body": format!("body of {id}")}))).collect();
    broker.mq_with(&["send", &broker.topic, "--ndjson"], input.as_bytes()).ok();
    broker.mq(&work(&broker, &["--retry", "500ms", "--idle", "8s"], script, &folder)).ok();
    let mut runs = folder.lines("runs");
    runs.sort();
    let expected = [
        "dead 1 body of dead",
        "hopeless 1 body of hopeless",
        "hopeless 2 body of hopeless",
        "killed 1 body of killed",
        "killed 2 body of killed",
        "ok 1 body of ok",
        "other 1 body of other",
        "refused 1 body of refused",
        "retry 1 body of retry",
        "retry 2 body of retry",
    ];
    assert_eq!(runs, expected);
    let dead = by_id(dead(&broker));
    assert_eq!(dead.keys().collect::<Vec<_>>(), ["dead", "hopeless", "other"]);
    let of = |id: &str| (dead[id]["reason"].as_str().unwrap(), dead[id]["attempts"].as_u64().unwrap());
    assert_eq!(of("dead"), ("rejected", 1));
    assert_eq!(of("hopeless"), ("max-attempts", 2));
    assert_eq!(of("other"), ("unknown-error", 1));
    assert!(dead["other"]["error"].as_str().unwrap().contains("exit code 3"), "{}", dead["other"]);
    assert_eq!(dead["dead"]["body"], "body of dead");
}

pub(crate) fn environment(kind: Kind) {
    let broker = Broker::with_group(kind, "env");
    let folder = Folder::new();
    let script = r#"
        printf '%s\n' "$MQ_ID" "$MQ_KEY" "$MQ_TOPIC" "$MQ_ATTEMPT" "$MQ_HEADER_CONTENT_TYPE" "$MQ_HEADER_B" "$MQ_BASE64" > "$1/env"
        printf '%s' "$MQ_HEADERS" > "$1/headers"
    "#;
    let headers = json!({"content-type": "text/plain", "b": {"base64": "/wA="}});
    let line = json!({"id": "7", "key": "k", "body": "", "headers": headers});
    broker.mq_with(&["send", &broker.topic, "--ndjson"], line.to_string().as_bytes()).ok();
    // A worker inside a worker: what it inherits is of another message.
    let mut command = broker.command(&work(&broker, &["--max", "1"], script, &folder));
    command.env("MQ_HEADER_B", "inherited").env("MQ_FILES", "inherited");
    crate::common::run(&mut command).ok();
    assert_eq!(folder.lines("env"), ["7", "k", &broker.topic, "1", "text/plain", "/wA=", "MQ_HEADER_B"]);
    let seen: Value = serde_json::from_str(&folder.lines("headers").join("\n")).unwrap();
    assert_eq!(seen, headers);
}

pub(crate) fn hostile_headers(kind: Kind) {
    let broker = Broker::with_group(kind, "hostile");
    let folder = Folder::new();
    let trap = folder.path().join("trap.sh");
    std::fs::write(&trap, format!("touch {}/sprung\n", folder.path().display())).unwrap();
    let trap = trap.to_str().unwrap();
    let headers: Vec<String> = ["LD_PRELOAD", "BASH_ENV", "ENV", "PATH", "MQ_URL", "HEADERS", "IFS"]
        .iter()
        .flat_map(|name| ["--header".to_owned(), format!("{name}={trap}")])
        .collect();
    let mut send = vec!["send", broker.topic.as_str(), "x"];
    send.extend(headers.iter().map(String::as_str));
    broker.mq(&send).ok();
    let script = r#"env > "$1/env"; bash -c 'true'; sh -c 'true'"#;
    let done = broker.mq(&work(&broker, &["--max", "1"], script, &folder)).ok();
    assert!(!done.stderr.contains("LD_PRELOAD"), "the loader complained: {}", done.stderr);
    assert!(folder.lines("sprung").is_empty() && !folder.path().join("sprung").exists());
    let environment = folder.lines("env");
    assert!(environment.contains(&format!("MQ_HEADER_LD_PRELOAD={trap}")));
    assert!(environment.contains(&format!("MQ_URL={}", broker.url)));
    assert!(!environment.iter().any(|line| line.starts_with("LD_PRELOAD=") || line.starts_with("BASH_ENV=")));
}

pub(crate) fn long_headers(kind: Kind) {
    let broker = Broker::with_group(kind, "long");
    let folder = Folder::new();
    let long = "x".repeat(70_000);
    let line = json!({"id": "7", "headers": {"long": long}, "body": "b"});
    let sent = broker.mq_with(&["send", &broker.topic, "--ndjson"], line.to_string().as_bytes());
    if kind == Kind::Rocket {
        // All its properties together are shorter than what no environment can hold.
        sent.failed(1, &["larger than RocketMQ's properties", "hint"]);
        return;
    }
    sent.ok();
    let script =
        r#"echo "$MQ_FILES" > "$1/files"; cat "$MQ_HEADER_LONG" > "$1/long"; echo "$MQ_HEADER_LONG" > "$1/path""#;
    broker.mq(&work(&broker, &["--max", "1"], script, &folder)).ok();
    assert_eq!(folder.lines("files"), ["MQ_HEADERS MQ_HEADER_LONG"]);
    assert_eq!(folder.lines("long"), [long]);
    assert!(!Path::new(&folder.lines("path")[0]).exists(), "the file is gone with the message");
}

pub(crate) fn cannot_be_started(kind: Kind) {
    let broker = Broker::with_group(kind, "nostart");
    broker.mq_with(&["send", &broker.topic, "--lines"], b"1\n2\n").ok();
    broker.mq(&["work", &broker.topic, "--group", "g", "--max", "2", "--", "/no/such/command"]).ok();
    let dead = dead(&broker);
    assert_eq!(dead.len(), 2);
    assert!(dead.iter().all(|one| one["error"].as_str().unwrap().contains("/no/such/command")), "{dead:#?}");
}

pub(crate) fn unknown_can_be_retried(kind: Kind) {
    let broker = Broker::with_group(kind, "unknown");
    let folder = Folder::new();
    broker.mq(&["send", &broker.topic, "x"]).ok();
    let script = r#"echo "$MQ_ATTEMPT" >> "$1/runs"; [ "$MQ_ATTEMPT" = 2 ]"#;
    let flags = ["--retry", "300ms", "--on-unknown", "retry", "--max", "2", "--idle", "20s"];
    broker.mq(&work(&broker, &flags, script, &folder)).ok();
    assert_eq!(folder.lines("runs"), ["1", "2"]);
    assert!(dead(&broker).is_empty());
}

pub(crate) fn by_key(kind: Kind) {
    let broker = Broker::new(kind, "bykey");
    broker.create(&[]);
    broker.mq(&["group", "create", &broker.topic, "--group", "g", "--mode", "ordered"]).ok();
    let folder = Folder::new();
    let input: String = (0..30)
        .map(|number| format!("{}\n", json!({"key": format!("k{}", number % 3), "body": number.to_string()})))
        .collect();
    broker.mq_with(&["send", &broker.topic, "--ndjson"], input.as_bytes()).ok();
    let script = r#"sleep 0.0$((RANDOM % 5)) 2>/dev/null; cat >> "$1/$MQ_KEY"; echo >> "$1/$MQ_KEY""#;
    let flags = ["--by-key", "--concurrency", "3", "--max", "30"];
    broker.mq(&work(&broker, &flags, script, &folder)).ok();
    for key in 0..3 {
        let expected: Vec<String> =
            (0..30).filter(|number| number % 3 == key).map(|number| number.to_string()).collect();
        assert_eq!(folder.lines(&format!("k{key}")), expected);
    }
}

pub(crate) fn idempotency(kind: Kind) {
    let broker = Broker::with_group(kind, "guard");
    let folder = Folder::new();
    let input: String = ["a", "a", "b"].iter().map(|id| format!("{}\n", json!({"id": id, "body": "x"}))).collect();
    broker.mq_with(&["send", &broker.topic, "--ndjson"], input.as_bytes()).ok();
    let script = r#"echo "$MQ_ID" >> "$1/runs""#;
    broker.mq(&work(&broker, &["--idempotency", "memory:", "--max", "3"], script, &folder)).ok();
    let mut runs = folder.lines("runs");
    runs.sort();
    assert_eq!(runs, ["a", "b"]);
    let refused = broker.mq(&work(&broker, &["--idempotency", "redis://u:hunter2@h", "--max", "1"], script, &folder));
    refused.failed(1, &["redis", "memory:"]);
    assert!(!refused.stderr.contains("hunter2"));
}
