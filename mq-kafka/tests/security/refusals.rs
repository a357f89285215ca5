//! Every mistake in reaching the broker is an error of its kind, within the deadline, that says what to do.

use std::path::Path;
use std::time::Instant;

use mq_core::Error;
use mq_core::error::ErrorKind;
use mq_core::message::Message;
use mq_core::subscription::Subscription;
use mq_kafka::{Config, Mechanism};

use crate::place::{CONNECT, MARGIN, broker, config, topic, unique, url};

/// Nobody's password; with characters a URL must encode.
const WRONG: &str = "wr0ng/p@ss";
const WRONG_ENCODED: &str = "wr0ng%2Fp%40ss";

/// What every way to begin answers to `config`.
async fn errors(config: &Config) -> Vec<Error> {
    let mut errors = Vec::new();
    let subscription = Subscription::new(unique("never"), "g");
    let began = Instant::now();
    errors.push(broker(config.clone()).producer().await.map(drop).unwrap_err());
    assert!(began.elapsed() < CONNECT + MARGIN, "opening a producer took {:?}", began.elapsed());
    let began = Instant::now();
    errors.push(broker(config.clone()).consumer(subscription).await.map(drop).unwrap_err());
    assert!(began.elapsed() < CONNECT + MARGIN, "opening a consumer took {:?}", began.elapsed());
    let began = Instant::now();
    errors.push(broker(config.clone()).admin().list_topics().await.map(drop).unwrap_err());
    assert!(began.elapsed() < CONNECT + MARGIN, "listing topics took {:?}", began.elapsed());
    let health = broker(config.clone()).health(CONNECT).await;
    assert!(!health.ready && !health.detail.is_empty(), "{health:?}");
    for text in errors.iter().map(|error| format!("{error} {error:?}")).chain([health.detail]) {
        assert!(!text.contains(WRONG) && !text.contains(WRONG_ENCODED) && !text.contains("mq-test"), "{text}");
    }
    errors
}

async fn refused(config: &Config, kind: ErrorKind, hint: &str) {
    for error in errors(config).await {
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.hint().is_some_and(|text| text.contains(hint)), "no hint at `{hint}`: {error}");
    }
}

/// The file beside the authority which `url` names.
fn beside(url: &str, name: &str) -> std::path::PathBuf {
    let config = Config::from_url(url).unwrap();
    config.tls.ca.as_deref().map(|path: &Path| path.with_file_name(name)).unwrap()
}

async fn a_wrong_password(variable: &str) {
    for mechanism in [Mechanism::Plain, Mechanism::ScramSha256, Mechanism::ScramSha512] {
        let url = url(variable).replace(":mq-test@", &format!(":{WRONG_ENCODED}@"));
        let mut config = config(&url);
        let sasl = config.sasl.as_mut().unwrap();
        assert_eq!(sasl.password.reveal(), WRONG);
        sasl.mechanism = mechanism;
        refused(&config, ErrorKind::Auth, "password").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_refused_at_once() {
    let began = Instant::now();
    a_wrong_password("MQ_TEST_KAFKA_SASL").await;
    // Four ways for each of three mechanisms: waiting for the deadline would take 48 s.
    assert!(began.elapsed() < CONNECT * 6, "took {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_inside_tls() {
    a_wrong_password("MQ_TEST_KAFKA_SASL_TLS").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_password_where_one_is_asked_for() {
    let url = url("MQ_TEST_KAFKA_SASL").replace("mq:mq-test@", "");
    refused(&config(&url), ErrorKind::Unavailable, "password").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_where_none_is_asked_for() {
    let url = url("MQ_TEST_KAFKA").replace("kafka://", "kafka://mq:mq-test@");
    refused(&config(&url), ErrorKind::Auth, "SASL").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_did_not_sign_the_server() {
    let url = url("MQ_TEST_KAFKA_TLS");
    let mut config = config(&url);
    config.tls.ca = Some(beside(&url, "stranger-ca.pem"));
    refused(&config, ErrorKind::Auth, "tls.ca").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_certificate_where_one_is_demanded() {
    let mut config = config(&url("MQ_TEST_KAFKA_CERTIFICATE"));
    (config.tls.certificate, config.tls.key) = (None, None);
    refused(&config, ErrorKind::Auth, "tls.certificate").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_a_stranger() {
    let url = url("MQ_TEST_KAFKA_CERTIFICATE");
    let mut config = config(&url);
    config.tls.certificate = Some(beside(&url, "stranger.pem"));
    config.tls.key = Some(beside(&url, "stranger.key"));
    refused(&config, ErrorKind::Auth, "tls.certificate").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plaintext_to_a_port_with_tls() {
    let mut config = config(&url("MQ_TEST_KAFKA_TLS"));
    config.tls = mq_core::config::Tls::default();
    refused(&config, ErrorKind::Unavailable, "TLS").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_to_a_port_without() {
    let mut config = config(&url("MQ_TEST_KAFKA"));
    config.tls.enabled = true;
    refused(&config, ErrorKind::Unavailable, "TLS").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_not_there_is_named() {
    let mut config = config(&url("MQ_TEST_KAFKA_TLS"));
    config.tls.ca = Some("no/such/file.pem".into());
    let error = mq_kafka::Kafka::new(config).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(error.to_string().contains("no/such/file.pem") && error.to_string().contains("tls.ca"), "{error}");
}

/// A password that is changed while the program runs: sends fail in time and say why.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_exists_does_not_help_a_stranger() {
    let topic = topic("stranger").await;
    let url = url("MQ_TEST_KAFKA_SASL").replace(":mq-test@", ":another@");
    let error = broker(config(&url)).producer().await.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Auth, "{error}");
    let producer = crate::place::owner().producer().await.unwrap();
    producer.send(Message::to(topic)).await.unwrap();
}
