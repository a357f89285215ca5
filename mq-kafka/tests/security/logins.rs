//! Every way to log in works, from send to ack.

use mq_core::config::Secret;

use crate::place::{config, url, works};

#[tokio::test(flavor = "multi_thread")]
async fn plain() {
    works(config(&url("MQ_TEST_KAFKA_SASL")), "plain").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scram_sha_256() {
    works(config(&format!("{}?sasl=scram-sha-256", url("MQ_TEST_KAFKA_SASL"))), "scram-256").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scram_sha_512() {
    works(config(&format!("{}?sasl=scram-sha-512", url("MQ_TEST_KAFKA_SASL"))), "scram-512").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_inside_tls() {
    works(config(&url("MQ_TEST_KAFKA_SASL_TLS")), "plain-tls").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scram_sha_256_inside_tls() {
    works(config(&format!("{}&sasl=scram-sha-256", url("MQ_TEST_KAFKA_SASL_TLS"))), "scram-256-tls").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scram_sha_512_inside_tls() {
    works(config(&format!("{}&sasl=scram-sha-512", url("MQ_TEST_KAFKA_SASL_TLS"))), "scram-512-tls").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_the_client() {
    works(config(&url("MQ_TEST_KAFKA_CERTIFICATE")), "certificate").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn by_settings_of_the_client_alone() {
    let mut config = config(&url("MQ_TEST_KAFKA_SASL"));
    let sasl = config.sasl.take().unwrap();
    for (name, value) in [
        ("security.protocol", "sasl_plaintext"),
        ("sasl.mechanism", "SCRAM-SHA-512"),
        ("sasl.username", &sasl.username),
        ("sasl.password", sasl.password.reveal()),
    ] {
        config.native.insert(name.to_owned(), Secret::new(value));
    }
    works(config, "native").await;
}
