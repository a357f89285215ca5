//! URLs, files of settings, and the broker's own words.

use std::time::{Duration, SystemTime};

use mq_conformance::hostile::{cases, texts};
use mq_core::config::Url;
use mq_core::name::Topic;
use proptest::prelude::*;

use crate::config::RabbitConfig;
use crate::error::printable;

const URLS: &[&str] = &[
    "amqps://al:s3cret@h1:5671,h2/my%2Fvhost?topology=verify&send_timeout=5s&ca=/ca.pem&max_in_flight=7",
    "amqp://[::1]:1/",
    "amqp://h?heartbeat=65536&delivery_limit=0",
    "amqp://h?name=%00&connect_timeout=\"",
    "amqp:///",
    "amqp://h?certificate=a&key=b&server_name=c&max_reconnect_delay=99999999999999y&max_message_bytes=-1",
];
const FILES: &[&str] = &[
    include_str!("../../reference.toml"),
    "hosts = [\"[::1\", \"a:b:c\", \":1\", \"h:99999\"]\nvhost = \"x\"\nheartbeat = 70000\n",
    "password = \"x\"\nmax_length = -1\n[tls]\nenabled = true\n[native]\na = \"b\"\n",
];

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn urls(text in texts(URLS)) {
        match Url::parse(&text).and_then(|url| RabbitConfig::from_url(&url)) {
            Ok(config) => prop_assert_eq!(config.addresses().len(), config.hosts.len()),
            Err(error) => prop_assert!(!error.to_string().chars().any(char::is_control), "{}", error),
        }
    }

    #[test]
    fn files(text in texts(FILES)) {
        if let Ok(config) = toml::from_str::<RabbitConfig>(&text)
            && config.check().is_ok()
        {
            prop_assert_eq!(config.addresses().len(), config.hosts.len());
        }
    }

    #[test]
    fn words_of_the_broker(text in any::<String>()) {
        let shown = printable(&text);
        prop_assert!(!shown.chars().any(char::is_control), "{:?}", shown);
    }

    #[test]
    fn delays(now in 0..4_000_000_000_u64, delay in any::<u64>()) {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now);
        let Some(at) = now.checked_add(Duration::from_nanos(delay)) else { return Ok(()) };
        let topic = Topic::parse("order.events").unwrap();
        if let Ok(Some(route)) = crate::delay::route(&topic, at, now) {
            prop_assert!(route.due >= at && route.due < at + Duration::from_secs(1));
            prop_assert!(route.routing_key.len() < 256);
        }
    }
}
