//! No password in anything that is printed, whatever goes wrong, however much is logged.

use mq_conformance::secrets::{ENCODED, Log, PASSWORD, clean};
use mq_core::config::{Secret, Url};
use mq_rabbit::RabbitConfig;

use crate::control::LIMITED;
use crate::place::{config, connect, variable, works};

fn with_password(name: &str) -> RabbitConfig {
    let text = variable(name).replace("guest:guest@", &format!("guest:{ENCODED}@"));
    clean("the URL", &format!("{:?}", Url::parse(&text).unwrap()));
    let config = config(&text);
    assert_eq!(config.password.reveal(), PASSWORD);
    config
}

#[test]
fn printed_settings() {
    let config = with_password("MQ_TEST_RABBIT");
    clean("the configuration", &format!("{config:?} {config:#?}"));
    clean("the configuration as JSON", &serde_json::to_string(&config).unwrap());
    let base = format!("amqp://guest:{ENCODED}@127.0.0.1:1");
    for bad in ["?x=1", "?topology=hunter2", "?send_timeout=hunter2", "?heartbeat=hunter2", "?key=x", ":1"] {
        let Err(error) = Url::parse(&format!("{base}{bad}")).and_then(|url| RabbitConfig::from_url(&url)) else {
            panic!("{bad} is accepted")
        };
        clean("the error of a URL", &format!("{error} {error:?}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_login() {
    let log = Log::start();
    for name in ["MQ_TEST_RABBIT", "MQ_TEST_RABBIT_TLS"] {
        let error = connect(with_password(name)).await.map(drop).unwrap_err();
        clean("the error", &format!("{error} {error:?} {error:#?}"));
    }
    let text = log.text();
    assert!(text.contains("lapin"), "the client's trace is not there");
    clean("the log", &text);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accepted_login() {
    let log = Log::start();
    crate::control::users();
    let mut config = config(&variable("MQ_TEST_RABBIT_TLS"));
    (config.user, config.password) = (LIMITED.to_owned(), Secret::new("mq-test"));
    let broker = connect(config.clone()).await.unwrap();
    let printed = format!("{broker:?} {:?} {:?}", broker.admin(), broker.health(crate::place::CONNECT).await);
    assert!(!printed.contains("mq-test"), "{printed}");
    works(config, "may-traced").await;
    let text = log.text();
    assert!(text.contains("lapin"), "the client's trace is not there");
    // Two ways to print what logs in.
    for secret in ["\u{0}mq-test", "\\0mq-test", "109, 113, 45, 116, 101, 115, 116", "\\u{0}mq-test"] {
        if let Some(at) = text.find(secret) {
            let around: String = text.chars().skip(at.saturating_sub(300)).take(600).collect();
            panic!("the log holds the password: … {around} …");
        }
    }
}
