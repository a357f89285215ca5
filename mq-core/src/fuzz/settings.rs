//! Broker URLs, and settings in any format of serde.

use mq_conformance::hostile::{cases, texts};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use proptest::prelude::*;

use crate::config::{Secret, Tls, Topology, Url};
use crate::memory::MemoryConfig;

const URLS: &[&str] = &[
    "amqp://user:p%40ss@[::1]:5672,b/%2f?topology=verify&x",
    "kafka://127.0.0.1:9092,h2?profile=development&sasl=scram-sha-256&connect_timeout=3s",
    "memory:orders?auto_create=true&partitions=3&capacity=7&send_timeout=2s&topology=off",
    "amqp://u:a/b?c@h",
    "memory:",
    "://",
    "a:",
    "kafka://%ff@h",
    "kafka://h:99999",
    "amqp://@:@,,@",
];
const JSON: &[&str] = &[
    r#"{"partitions": 3, "send_timeout": "2s", "topology": "verify", "name": null, "auto_create": true}"#,
    r#"{"enabled": true, "ca": "/ca.pem", "certificate": "c", "key": "k", "server_name": "s"}"#,
    r#"{"capacity": 18446744073709551616, "history": -1, "send_timeout": "99999999999999y"}"#,
];

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn urls(text in texts(URLS)) {
        match Url::parse(&text) {
            Ok(url) => {
                let _ = (url.check_parameters(&["topology"]), MemoryConfig::from_url(&url));
                if let Some(password) = url.password.as_ref().map(Secret::reveal).filter(|text| text.len() > 3) {
                    let rest = Url { password: None, ..url.clone() };
                    // (Unless it stands elsewhere as well, as a part of something that is no secret.)
                    let elsewhere = format!("{rest:?} [redacted] password: Some").contains(password);
                    let printed = format!("{url:?}");
                    prop_assert!(elsewhere || !printed.contains(password));
                }
            }
            Err(error) => prop_assert!(!error.to_string().chars().any(char::is_control), "{}", error),
        }
    }

    #[test]
    fn logins_come_back(user in "\\PC{1,12}", password in "\\PC{0,20}", path in "\\PC{0,12}") {
        let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let text = format!("amqp://{}:{}@h:1/{}", encode(&user), encode(&password), encode(&path));
        let url = Url::parse(&text).unwrap();
        prop_assert_eq!(url.user.as_deref(), Some(user.as_str()));
        prop_assert_eq!(url.password.as_ref().map(Secret::reveal), Some(password.as_str()));
        prop_assert_eq!(url.path.as_deref(), Some(path.as_str()));
        prop_assert_eq!(url.hosts, [("h".to_owned(), Some(1))]);
    }

    #[test]
    fn files(text in texts(JSON)) {
        let _ = serde_json::from_str::<Tls>(&text);
        let _ = serde_json::from_str::<Topology>(&text);
        let _ = serde_json::from_str::<Secret>(&text);
        if let Ok(config) = serde_json::from_str::<MemoryConfig>(&text) {
            let written = serde_json::to_string(&config).unwrap();
            prop_assert_eq!(serde_json::from_str::<MemoryConfig>(&written).unwrap(), config);
        }
    }
}
