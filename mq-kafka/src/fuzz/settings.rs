//! URLs and files of settings.

use mq_conformance::hostile::{cases, texts};
use proptest::prelude::*;

use crate::config::Config;

const URLS: &[&str] = &[
    "kafkas://mq:p%40ss@a:1,[::1]?profile=development&topology=off&sasl=scram-sha-512&connect_timeout=3s",
    "kafka://h?ca=/c&certificate=/d&key=/e&tls&instance_id=i&client_id=c",
    "kafka://",
    "kafka:///x",
    "kafka://h?tls=\"",
    "kafka://h?send_timeout=99999999999999999999y&profile=\\u0000",
];
const FILES: &[&str] = &[
    include_str!("../../reference.toml"),
    "brokers = [\"a:1\"]\n[sasl]\nusername = \"u\"\npassword = \"p\"\n[native]\n\"debug\" = \"all\"\n",
    "[topic]\npartitions = -1\nretention = \"1000000000y\"\n[consumer]\nheartbeat_interval = \"584554531y\"\n",
];

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn urls(text in texts(URLS)) {
        if let Err(error) = Config::from_url(&text) {
            prop_assert!(!error.to_string().chars().any(char::is_control), "{}", error);
        }
    }

    #[test]
    fn files(text in texts(FILES)) {
        if let Ok(config) = toml::from_str::<Config>(&text) {
            let _ = (config.check(), config.replication());
        }
    }
}
