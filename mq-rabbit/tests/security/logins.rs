//! Every way to log in works, from send to ack.

use crate::control::{demanding_port, users};
use crate::place::{config, variable, works};

#[tokio::test(flavor = "multi_thread")]
async fn a_password() {
    works(config(&variable("MQ_TEST_RABBIT")), "password").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_inside_tls() {
    works(config(&variable("MQ_TEST_RABBIT_TLS")), "password-tls").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_instead_of_a_password() {
    users();
    works(config(&variable("MQ_TEST_RABBIT_CERTIFICATE")), "certificate").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_where_one_is_demanded() {
    users();
    let mut config = config(&variable("MQ_TEST_RABBIT_CERTIFICATE"));
    config.hosts = vec![format!("127.0.0.1:{}", demanding_port())];
    works(config.clone(), "demanded").await;
    // And a password beside it.
    (config.user, config.password) = ("limited".to_owned(), mq_core::config::Secret::new("mq-test"));
    works(config, "may-demanded").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_by_the_name_in_its_certificate() {
    let mut config = config(&variable("MQ_TEST_RABBIT_TLS"));
    config.tls.server_name = Some("localhost".to_owned());
    works(config, "server-name").await;
}
