//! No password in anything that is printed, whatever goes wrong, however much is logged.

use std::sync::Arc;

use mq_conformance::secrets::{ENCODED, Log, PASSWORD, clean};
use mq_core::config::{Secret, Url};
use mq_core::subscription::Subscription;
use mq_kafka::{Config, Kafka, Mechanism};

use crate::place::{broker, config, unique, url, works};

/// `variable` with the password of these tests, and with everything traced the client can trace.
fn traced(variable: &str) -> (String, Config) {
    let text = url(variable).replace(":mq-test@", &format!(":{ENCODED}@"));
    let mut config = config(&text);
    assert_eq!(config.sasl.as_ref().unwrap().password.reveal(), PASSWORD);
    config.native.insert("debug".to_owned(), Secret::new("all"));
    (text, config)
}

#[test]
fn printed_settings() {
    let (text, mut config) = traced("MQ_TEST_KAFKA_SASL");
    config.native.insert("ssl.key.password".to_owned(), Secret::new(PASSWORD));
    clean("the configuration", &format!("{config:?} {config:#?}"));
    clean("the configuration as JSON", &serde_json::to_string(&config).unwrap());
    clean("the URL", &format!("{:?}", Url::parse(&text).unwrap()));
    let kafka = Kafka::new(config).unwrap();
    clean("the driver", &format!("{kafka:?}"));
    let broker = mq_core::Broker::from_driver(Arc::new(kafka));
    clean("the broker", &format!("{broker:?} {:?}", broker.admin()));
    let native = broker.driver().native_client().unwrap();
    let native = native.downcast_ref::<rdkafka::ClientConfig>().unwrap();
    clean("the client's configuration", &format!("{native:?}"));
}

#[test]
fn refused_settings() {
    let base = format!("kafka://mq:{ENCODED}@127.0.0.1:1");
    for bad in ["?x=1", "?profile=hunter2", "?send_timeout=hunter2", "/path", "?certificate=x", "?sasl=hunter2"] {
        let error = Config::from_url(&format!("{base}{bad}")).unwrap_err();
        clean("the error of a URL", &format!("{error} {error:?}"));
    }
    // Pasted without encoding: what follows the first of `/?` is no part of the password to a parser.
    for bad in ["kafka://mq:1/hunter2@127.0.0.1:1", "kafka://mq:1?hunter2@127.0.0.1:1", "kafka://mq:a/hunter2@h:1"] {
        let error = Config::from_url(bad).unwrap_err();
        clean("the error of a URL", &format!("{error} {error:?}"));
    }
    for (name, value) in [("ssl.key.pem", "hunter2"), ("socket.timeout.ms", "hunter2")] {
        let mut config = Config::default();
        config.tls.enabled = true;
        config.native.insert(name.to_owned(), Secret::new(value));
        let error = Kafka::new(config).map(drop).unwrap_err();
        clean("the error of a client's setting", &format!("{error} {error:?}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_login() {
    let log = Log::start();
    for variable in ["MQ_TEST_KAFKA_SASL", "MQ_TEST_KAFKA_SASL_TLS"] {
        for mechanism in [Mechanism::Plain, Mechanism::ScramSha256, Mechanism::ScramSha512] {
            let (_, mut config) = traced(variable);
            config.sasl.as_mut().unwrap().mechanism = mechanism;
            let broker = broker(config);
            let error = broker.producer().await.map(drop).unwrap_err();
            clean("the error", &format!("{error} {error:?} {error:#?}"));
            let error = broker.consumer(Subscription::new(unique("never"), "g")).await.map(drop).unwrap_err();
            clean("the error", &format!("{error} {error:?}"));
            clean("the health", &format!("{:?}", broker.health(std::time::Duration::from_secs(4)).await));
        }
    }
    let text = log.text();
    assert!(text.contains("SASL"), "the client's trace is not there");
    clean("the log", &text);
}

/// The password of the tests' user, which works, with everything traced.
#[tokio::test(flavor = "multi_thread")]
async fn an_accepted_login() {
    let log = Log::start();
    for mechanism in ["plain", "scram-sha-256", "scram-sha-512"] {
        let mut config = config(&format!("{}?sasl={mechanism}", url("MQ_TEST_KAFKA_SASL")));
        config.native.insert("debug".to_owned(), Secret::new("all"));
        // Not in anything printed by itself, such as the name of a folder.
        let password = config.sasl.as_ref().unwrap().password.reveal().to_owned();
        works(config, "traced").await;
        let text = log.text();
        assert!(text.contains(&mechanism.to_uppercase()), "the client's trace is not there");
        assert!(!text.contains(&password), "the log holds the password");
    }
}
