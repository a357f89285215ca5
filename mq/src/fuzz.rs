//! What names a broker, against anything somebody could write there. `MQ_FUZZ_CASES` is how many inputs each of these
//! tests tries.

use mq_conformance::hostile::{cases, texts};
use proptest::prelude::*;

use crate::{Config, ErrorKind};

const URLS: &[&str] = &[
    "memory:",
    "memory:?partitions=3&topology=verify",
    "kafka://user:hunter2@a:9092,b:9093?profile=development&send_timeout=5s",
    "kafkas://10.0.0.1:9092?ca=/etc/ca.pem",
    "amqp://user:hunter2@host:5672/vhost?heartbeat=10s&prefetch=20",
    "amqps://[::1]:5671/%2f?name=x",
    "redis://host",
];

const FILES: &[&str] = &[
    "[broker.kafka]\nbrokers = [\"10.0.0.1:9092\"]\nsend_timeout = \"10s\"\n",
    "[broker.rabbit]\nurl = \"amqp://user:hunter2@host/\"\n",
    "[broker.memory]\npartitions = 3\n",
    "broker = \"kafka://user:hunter2@host\"\n",
];

fn judge(read: crate::Result<Config>) -> Result<(), TestCaseError> {
    if let Err(error) = read {
        prop_assert!(matches!(error.kind(), ErrorKind::Config | ErrorKind::FeatureDisabled), "{:?}", error);
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn urls(text in texts(URLS)) {
        judge(Config::from_url(&text))?;
    }

    #[cfg(feature = "toml")]
    #[test]
    fn files(text in texts(FILES)) {
        judge(Config::from_toml(&text))?;
    }
}
