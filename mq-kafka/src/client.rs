//! librdkafka's clients: their settings, their log lines and errors.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mq_core::error::{Error, ErrorKind, Result};
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode as Code;

use crate::config::{Config, Mechanism};

/// Bytes a derived topic takes more than its source, for control headers and the failure record.
pub(crate) const CONTROL_ROOM: u32 = 128 * 1024;
/// What the client lets through; smaller limits are ours and the broker's to enforce.
const CLIENT_MAX_BYTES: u32 = 100_000_000;

/// How often a client that lives long tells its figures: in milliseconds.
const FIGURES: &str = "2000";
/// A client that wants a broker tries one at least every second.
const LEFT_ALONE: Duration = Duration::from_secs(3);

/// Settings all clients share.
fn common(config: &Config) -> ClientConfig {
    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", config.brokers.join(","))
        .set("client.id", &config.client_id)
        .set("allow.auto.create.topics", "false")
        // librdkafka waits up to 10 s between attempts by default: recovery would take as long.
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "500")
        .set("socket.connection.setup.timeout.ms", "5000")
        // A connection whose other end is gone without a word is noticed only by a request that is not answered: after
        // 60 s by default. Shorter than this, and a slow line could not carry a large answer in time.
        .set("socket.timeout.ms", "30000")
        .set("socket.keepalive.enable", "true")
        .set("socket.nagle.disable", "true")
        .set("log.connection.close", "false")
        .set("message.max.bytes", CLIENT_MAX_BYTES.to_string())
        .set("receive.message.max.bytes", (CLIENT_MAX_BYTES + 1024 * 1024).to_string());
    let protocol = match (&config.sasl, config.tls.enabled) {
        (None, false) => "plaintext",
        (None, true) => "ssl",
        (Some(_), false) => "sasl_plaintext",
        (Some(_), true) => "sasl_ssl",
    };
    client.set("security.protocol", protocol);
    if let Some(sasl) = &config.sasl {
        let mechanism = match sasl.mechanism {
            Mechanism::Plain => "PLAIN",
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::ScramSha512 => "SCRAM-SHA-512",
        };
        client
            .set("sasl.mechanism", mechanism)
            .set("sasl.username", &sasl.username)
            .set("sasl.password", sasl.password.reveal());
    }
    let tls = &config.tls;
    if tls.enabled {
        let files = [
            ("ssl.ca.location", &tls.ca),
            ("ssl.certificate.location", &tls.certificate),
            ("ssl.key.location", &tls.key),
        ];
        for (name, path) in files {
            if let Some(path) = path {
                client.set(name, path.to_string_lossy());
            }
        }
    }
    client
}

fn with_native(mut client: ClientConfig, config: &Config) -> ClientConfig {
    for (name, value) in &config.native {
        client.set(name, value.reveal());
    }
    // Whoever asks the client for its own trace wants to see it.
    let traced = config.native.contains_key("debug");
    client.set_log_level(if traced { RDKafkaLogLevel::Debug } else { RDKafkaLogLevel::Info });
    client
}

/// Settings of a producer.
pub(crate) fn producer_config(config: &Config) -> ClientConfig {
    let mut client = common(config);
    let producer = &config.producer;
    client
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("max.in.flight.requests.per.connection", "5")
        .set("compression.type", &producer.compression)
        .set("batch.size", producer.batch_bytes.to_string())
        .set("queue.buffering.max.kbytes", (producer.buffer_bytes / 1024).to_string())
        .set("queue.buffering.max.messages", "100000")
        // A lone send goes at once; under load five requests in flight make the batches.
        .set("linger.ms", "0")
        .set("delivery.timeout.ms", config.send_timeout.as_millis().to_string())
        // A request that is not answered is made again while its messages still may be: when they expire one by one, those
        // behind them overtake. How long the broker may take, and how long the client waits for it.
        .set("request.timeout.ms", (config.send_timeout.as_millis() / 3).clamp(1, 10_000).to_string())
        .set("socket.timeout.ms", (config.send_timeout.as_millis() / 3).clamp(10, 10_000).to_string())
        .set("statistics.interval.ms", FIGURES)
        // How long a topic may be unknown (just created, say) before sends to it fail.
        .set("topic.metadata.propagation.max.ms", "3000")
        // Java's: keys go to the same partition whichever client writes them.
        .set("partitioner", "murmur2_random");
    with_native(client, config)
}

/// Settings of a consumer of `group`.
pub(crate) fn consumer_config(config: &Config, group: &str) -> ClientConfig {
    let mut client = common(config);
    let consumer = &config.consumer;
    client
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "earliest")
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("session.timeout.ms", consumer.session_timeout.as_millis().to_string())
        .set("heartbeat.interval.ms", consumer.heartbeat_interval.as_millis().to_string())
        .set("max.poll.interval.ms", (300_000.max(consumer.session_timeout.as_millis())).to_string())
        .set("queued.max.messages.kbytes", (consumer.fetch_ahead_bytes / 1024).to_string())
        // With the default of 1 s a full queue costs a second of silence.
        .set("fetch.queue.backoff.ms", "10")
        // Bounds how late a resumed or sought partition is heard of.
        .set("fetch.wait.max.ms", "100")
        .set("isolation.level", "read_committed")
        .set("statistics.interval.ms", FIGURES);
    if let Some(instance) = &consumer.instance_id {
        client.set("group.instance.id", instance);
    }
    with_native(client, config)
}

/// Notices that a client has lost every broker and looks for none any more: only another client helps
/// (docs/decisions/kafka-stranded.md).
#[derive(Debug, Default)]
pub(crate) struct Stranded(AtomicU32);

impl Stranded {
    /// For a moment between two sets of brokers a client may have none.
    const LOOKS: u32 = 2;

    /// Looks at what the client tells of itself.
    pub(crate) fn look(&self, figures: &[u8]) {
        if is_lost(&String::from_utf8_lossy(figures)) {
            self.0.fetch_add(1, Ordering::Relaxed);
        } else {
            self.0.store(0, Ordering::Relaxed);
        }
    }

    pub(crate) fn is_certain(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= Self::LOOKS
    }
}

/// What the client calls a transaction that wants something of a broker.
const STEPS: &[&str] =
    &["InTransaction\"", "BeginCommit\"", "CommittingTransaction\"", "BeginAbort\"", "AbortingTransaction\""];

/// True when there is no broker the client would connect to; or when it connects to none of them although it wants to.
/// Read as text: the client writes what others tell it into its figures without quoting it.
fn is_lost(figures: &str) -> bool {
    // What it connects to is configured or learned; the rest only stands for one of those.
    let connects = |broker: &&str| ["configured\"", "learned\""].iter().any(|source| broker.starts_with(source));
    let mut brokers = figures.split(r#""source":""#).skip(1).filter(connects).peekable();
    if brokers.peek().is_none() {
        return true;
    }
    // One that is being removed can stay for ever: nothing connects to it, and nobody else has its place.
    let left_alone = |broker: &str| {
        let age =
            behind(broker, r#""stateage":"#).and_then(|age| age.split_once(',')).and_then(|(age, _)| age.parse().ok());
        behind(broker, r#""state":""#).is_some_and(|state| state.starts_with("INIT\""))
            && age.is_some_and(|age: u64| Duration::from_micros(age) >= LEFT_ALONE)
    };
    let sends = behind(figures, r#""msg_cnt":"#).is_some_and(|count| !count.starts_with("0,"));
    let seeks = behind(figures, r#""cgrp": { "state": ""#).is_some_and(|state| !state.starts_with("up\""));
    // Between two steps no transaction is under way.
    let steps =
        behind(figures, r#""txn_state": ""#).is_some_and(|state| STEPS.iter().any(|step| state.starts_with(step)));
    (sends || seeks || steps) && brokers.all(left_alone)
}

fn behind<'a>(text: &'a str, mark: &str) -> Option<&'a str> {
    text.split_once(mark).map(|(_, rest)| rest)
}

/// What is known of a client's connection: librdkafka retries for ever and only tells by callback.
#[derive(Clone)]
pub(crate) struct Watch(Arc<Seen>);

struct Seen {
    last: Mutex<Option<(Code, String)>>,
    secrets: Vec<String>,
}

impl Watch {
    pub(crate) fn new(config: &Config) -> Self {
        let password = config.sasl.as_ref().map(|sasl| &sasl.password);
        let native = config.native.iter().filter(|(name, _)| is_secret(name)).map(|(_, value)| value);
        let secrets = password.into_iter().chain(native).map(|secret| secret.reveal().to_owned());
        let secrets = secrets.filter(|secret| !secret.is_empty()).collect();
        Self(Arc::new(Seen { last: Mutex::new(None), secrets }))
    }

    /// What a broker or the network said last, as an error of the contract.
    pub(crate) fn seen(&self) -> Option<Error> {
        let last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (code, reason) = last.as_ref()?;
        Some(crate::refusal::explain(*code, reason))
    }

    /// Refused credentials: waiting does not help.
    pub(crate) fn refused(&self) -> Option<Error> {
        self.seen().filter(|error| error.kind() == ErrorKind::Auth)
    }

    /// The client has stopped for good, and why.
    pub(crate) fn ended(&self) -> Option<Error> {
        let last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref()
            .filter(|(code, _)| *code == Code::Fatal)
            .map(|(code, reason)| crate::refusal::explain(*code, reason))
    }

    fn saw(&self, error: &KafkaError, reason: &str) {
        let Some(code) = error.rdkafka_error_code() else { return };
        let mut last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        // "All brokers down" follows the reason why: keep the reason. Nothing follows the end of the client.
        let ended = last.as_ref().is_some_and(|(code, _)| *code == Code::Fatal);
        if ended || code == Code::AllBrokersDown && last.is_some() {
            return;
        }
        *last = Some((code, self.redact(reason)));
    }

    pub(crate) fn redact(&self, text: &str) -> String {
        self.0.secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "[redacted]"))
    }
}

/// Which of the client's own settings hold what must not be printed.
fn is_secret(name: &str) -> bool {
    ["password", "secret", "pem", "sasl.oauthbearer", "jaas"].iter().any(|word| name.contains(word))
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch")
    }
}

/// The client's log lines and errors go to `tracing`, without secrets.
impl ClientContext for Watch {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        let text = self.redact(text);
        // The line comes from the thread that stops the client; the event comes later than what it throws away.
        if facility == "FATAL" {
            let mut last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
            if last.as_ref().is_none_or(|(code, _)| *code != Code::Fatal) {
                *last = Some((Code::Fatal, text.clone()));
            }
        }
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::error!(target: "mq_kafka::client", facility, "{text}");
            }
            // Every failed attempt to connect is an error to librdkafka; it tries again by itself.
            RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => {
                tracing::warn!(target: "mq_kafka::client", facility, "{text}");
            }
            _ => tracing::debug!(target: "mq_kafka::client", facility, "{text}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "mq_kafka::client", code = ?error.rdkafka_error_code(), "{}", self.redact(reason));
        self.saw(&error, reason);
    }

    fn stats_raw(&self, _: &[u8]) {}
}

impl rdkafka::consumer::ConsumerContext for Watch {}

/// Makes a client, with an error that prints no setting's value.
pub(crate) fn checked<T>(made: rdkafka::error::KafkaResult<T>, operation: &'static str) -> Result<T> {
    made.map_err(|error| crate::error::from_client(&error, operation))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sasl;
    use mq_core::config::Secret;
    use rdkafka::consumer::Consumer as _;

    #[test]
    fn a_client_without_brokers_is_stranded() {
        let stranded = Stranded::default();
        let none = br#"{"name":"c","brokers":{"GroupCoordinator":{"name":"G","nodeid":-1,"source":"logical","state":"DOWN"}}}"#;
        let some = br#"{"name":"c","brokers":{"b:9092/1":{"name":"b:9092/1","nodeid":1,"source":"learned"}}}"#;
        stranded.look(none);
        assert!(!stranded.is_certain(), "it may be between two sets of brokers");
        stranded.look(none);
        assert!(stranded.is_certain());
        stranded.look(some);
        assert!(!stranded.is_certain());
    }

    /// As seen after the only broker was fenced for a moment, but for the figures nobody reads.
    #[test]
    fn a_broker_that_is_removed_for_ever_is_none() {
        let figures = |state: &str, age: u64, messages: u32, group: &str| {
            format!(
                r#"{{ "name": "c", "msg_cnt":{messages}, "brokers":{{ "b:9092/1": {{ "name":"b:9092/1", "nodeid":1, "#
            ) + &format!(r#""source":"learned", "state":"{state}", "stateage":{age}, "outbuf_cnt":0 }} , "#)
                + r#""GroupCoordinator": { "nodeid":-1, "source":"logical", "state":"TRY_CONNECT", "stateage":73332745, "#
                + &format!(
                    r#""outbuf_cnt":1 }} }}, "cgrp": {{ "state": "{group}", "stateage": 73143, "join_state": "init" }} }}"#
                )
        };
        assert!(is_lost(&figures("INIT", 73_000_000, 0, "query-coord")));
        assert!(is_lost(&figures("INIT", 73_000_000, 5, "up")), "a producer with messages");
        assert!(!is_lost(&figures("INIT", 73_000_000, 0, "up")), "nothing is wanted of a broker");
        assert!(!is_lost(&figures("INIT", 1_000_000, 0, "query-coord")), "about to be connected to");
        assert!(!is_lost(&figures("TRY_CONNECT", 73_000_000, 0, "query-coord")), "it may come back");
        assert!(!is_lost(&figures("UP", 73_000_000, 0, "query-coord")));
        let step = |state| figures("INIT", 73_000_000, 0, "up") + r#", "eos": { "txn_state": ""# + state + r#"", }"#;
        assert!(is_lost(&step("InTransaction")), "a step is under way");
        assert!(!is_lost(&step("Ready")), "between two steps");
    }

    /// The words looked for are the client's own.
    #[test]
    fn a_client_with_brokers_is_not_stranded() {
        struct Told(std::sync::Mutex<Vec<u8>>);
        impl ClientContext for Told {
            fn stats_raw(&self, figures: &[u8]) {
                figures.clone_into(&mut self.0.lock().unwrap());
            }
        }
        impl rdkafka::consumer::ConsumerContext for Told {}
        let mut config = consumer_config(&Config::default(), "g");
        config.set("statistics.interval.ms", "10");
        let client: rdkafka::consumer::BaseConsumer<Told> =
            config.create_with_context(Told(std::sync::Mutex::default())).unwrap();
        let figures = || client.context().0.lock().unwrap().clone();
        while figures().is_empty() {
            drop(client.poll(std::time::Duration::from_millis(10)));
        }
        let stranded = Stranded::default();
        (0..3).for_each(|_| stranded.look(&figures()));
        assert!(!stranded.is_certain(), "{}", figures().escape_ascii());
    }

    #[test]
    fn the_password_reaches_no_log_line() {
        let mut config = Config::default();
        let password = Secret::new("hunter2");
        config.sasl = Some(Sasl { mechanism: Mechanism::Plain, username: "u".into(), password });
        let watch = Watch::new(&config);
        watch.saw(&KafkaError::Global(Code::Authentication), "SASL failed for u with hunter2");
        let error = watch.refused().unwrap();
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}
