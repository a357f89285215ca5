//! The brokers of these tests, and a topic for each test.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::process::{Done, Running, run, run_with};

/// Which broker it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Kafka,
    Rabbit,
    Redis,
    Rocket,
}

/// A broker and a topic of the test's own, removed at its end.
#[derive(Debug)]
pub(crate) struct Broker {
    pub(crate) kind: Kind,
    pub(crate) url: String,
    pub(crate) topic: String,
}

impl Broker {
    /// The broker that the environment names.
    #[track_caller]
    pub(crate) fn new(kind: Kind, test: &str) -> Self {
        let url = match kind {
            // One node cannot hold three replicas.
            Kind::Kafka => format!("{}?profile=development", required("MQ_TEST_KAFKA")),
            Kind::Rabbit => required("MQ_TEST_RABBIT"),
            Kind::Redis => required("MQ_TEST_REDIS"),
            Kind::Rocket => required("MQ_TEST_ROCKET"),
        };
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { kind, url, topic: format!("cli.{test}.{}.{number}", std::process::id()) }
    }

    /// The topic with the group `g` of it, both fresh.
    #[track_caller]
    pub(crate) fn with_group(kind: Kind, test: &str) -> Self {
        let broker = Self::new(kind, test);
        broker.create(&["--group", "g"]);
        broker
    }

    /// Creates the topic, with two partitions where the broker has any.
    #[track_caller]
    pub(crate) fn create(&self, more: &[&str]) {
        let partitions: &[&str] = if self.kind == Kind::Rabbit { &[] } else { &["--partitions", "2"] };
        self.mq(&[&["topic", "create", &self.topic], partitions, more].concat()).ok();
    }

    /// What waits for the group `g`, of which `wanted` are to be seen.
    #[track_caller]
    pub(crate) fn waiting(&self, wanted: u64) -> u64 {
        // RocketMQ counts what was given back when it has looked for it, seconds later.
        let deadline = Instant::now() + Duration::from_secs(if self.kind == Kind::Rocket { 20 } else { 0 });
        loop {
            let lag = self.mq(&["lag", &self.topic, "--group", "g", "--json"]).ok().json();
            let waiting = lag[0]["ready"].as_u64().unwrap() + lag[0]["unsettled"].as_u64().unwrap_or(0);
            if waiting == wanted || Instant::now() >= deadline {
                return waiting;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// `host:port`.
    pub(crate) fn address(&self) -> &str {
        let rest = self.url.split_once("://").map_or("", |(_, rest)| rest);
        let rest = rest.split(['/', '?']).next().unwrap_or_default();
        rest.rsplit('@').next().unwrap_or_default()
    }

    /// The command, ready to be started.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mq"));
        command.args(arguments).env("MQ_URL", &self.url).env_remove("MQ_LOG").env_remove("MQ_CONFIG");
        command
    }

    /// Runs it to its end.
    #[track_caller]
    pub(crate) fn mq(&self, arguments: &[&str]) -> Done {
        run(&mut self.command(arguments))
    }

    /// Runs it to its end with input.
    #[track_caller]
    pub(crate) fn mq_with(&self, arguments: &[&str], input: &[u8]) -> Done {
        run_with(&mut self.command(arguments), input)
    }

    /// Starts it.
    #[track_caller]
    pub(crate) fn start(&self, arguments: &[&str]) -> Running {
        Running::start(&mut self.command(arguments))
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let mut command = self.command(&["topic", "delete", &self.topic]);
        let _ = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

/// A variable without which there is nothing to test.
#[track_caller]
pub(crate) fn required(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: start the brokers with `cargo xtask brokers up` and set what it prints")
    })
}
