//! Every way to log in works, from send to ack.

use mq_conformance::secrets::Log;

use crate::place::{encrypted, guarded, open, works};

#[tokio::test(flavor = "multi_thread")]
async fn without_anything() {
    works(open(), "open").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn inside_tls() {
    works(encrypted(), "tls").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_and_a_login() {
    let log = Log::start();
    let config = guarded();
    let secret = config.password.reveal().to_owned();
    assert!(!secret.is_empty() && !format!("{config:?}").contains(&secret), "the secret is printed");
    works(config, "guarded").await;
    assert!(!log.text().contains(&secret), "the secret is logged");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_by_the_name_in_its_certificate() {
    let mut config = encrypted();
    config.tls.server_name = Some("localhost".to_owned());
    works(config, "server-name").await;
}
