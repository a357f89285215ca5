//! Every mistake in reaching the broker is an error of its kind, within the deadline, that says what to do.

use std::path::PathBuf;
use std::time::Instant;

use mq_core::config::{Secret, Tls};
use mq_core::error::ErrorKind;
use mq_rabbit::RabbitConfig;

use crate::control::demanding_port;
use crate::place::{CONNECT, MARGIN, config, connect, variable};

const WRONG: &str = "wr0ng/p@ss";

async fn refused(mut config: RabbitConfig, kind: ErrorKind, hint: &str) {
    if config.user == "guest" && config.tls.certificate.is_none() {
        config.password = Secret::new(if config.password.reveal() == "guest" { "guest" } else { WRONG });
    }
    let began = Instant::now();
    let error = connect(config).await.map(drop).unwrap_err();
    assert!(began.elapsed() < CONNECT + MARGIN, "took {:?}", began.elapsed());
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.hint().is_some_and(|text| text.contains(hint)), "no hint at `{hint}`: {error}");
    let text = format!("{error} {error:?}");
    assert_eq!(error.to_string().matches("hint:").count(), 1, "{error}");
    assert!(!text.contains(WRONG) && !text.contains("guest:guest"), "{text}");
}

fn beside(config: &RabbitConfig, name: &str) -> Option<PathBuf> {
    config.tls.ca.as_ref().map(|path| path.with_file_name(name))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password() {
    for name in ["MQ_TEST_RABBIT", "MQ_TEST_RABBIT_TLS"] {
        let mut config = config(&variable(name));
        config.password = Secret::new(WRONG);
        let began = Instant::now();
        refused(config, ErrorKind::Auth, "password").await;
        assert!(began.elapsed() < CONNECT, "a refused login does not wait: {:?}", began.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_nobody_knows() {
    let mut config = config(&variable("MQ_TEST_RABBIT"));
    config.user = "nobody".to_owned();
    refused(config, ErrorKind::Auth, "password").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_virtual_host_that_is_not_there() {
    let mut config = config(&variable("MQ_TEST_RABBIT"));
    config.vhost = "no-such".to_owned();
    refused(config, ErrorKind::NotFound, "virtual host").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_virtual_host_without_permission() {
    crate::control::users();
    let mut config = config(&variable("MQ_TEST_RABBIT"));
    (config.user, config.password) = ("unknown-here".to_owned(), Secret::new("mq-test"));
    refused(config, ErrorKind::Auth, "password").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_did_not_sign_the_server() {
    let mut config = config(&variable("MQ_TEST_RABBIT_TLS"));
    config.tls.ca = beside(&config, "stranger-ca.pem");
    refused(config, ErrorKind::Auth, "tls.ca").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_another_name() {
    let mut config = config(&variable("MQ_TEST_RABBIT_TLS"));
    config.tls.server_name = Some("elsewhere.example".to_owned());
    refused(config, ErrorKind::Auth, "tls.server_name").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_certificate_where_one_is_demanded() {
    let mut config = config(&variable("MQ_TEST_RABBIT_TLS"));
    config.hosts = vec![format!("127.0.0.1:{}", demanding_port())];
    refused(config, ErrorKind::Auth, "certificate").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_a_stranger() {
    for demanded in [false, true] {
        let mut config = config(&variable("MQ_TEST_RABBIT_CERTIFICATE"));
        config.tls.certificate = beside(&config, "stranger.pem");
        config.tls.key = beside(&config, "stranger.key");
        if demanded {
            config.hosts = vec![format!("127.0.0.1:{}", demanding_port())];
        }
        refused(config, ErrorKind::Auth, "certificate").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plaintext_to_a_port_with_tls() {
    let mut config = config(&variable("MQ_TEST_RABBIT_TLS"));
    config.tls = Tls::default();
    refused(config, ErrorKind::Unavailable, "amqps://").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_to_a_port_without() {
    let mut config = config(&variable("MQ_TEST_RABBIT"));
    config.tls.enabled = true;
    refused(config, ErrorKind::Unavailable, "amqp://").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_not_there_or_hold_no_certificate() {
    let mut absent = config(&variable("MQ_TEST_RABBIT_TLS"));
    absent.tls.ca = Some("no/such/file.pem".into());
    let error = connect(absent).await.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(error.to_string().contains("no/such/file.pem") && error.to_string().contains("tls.ca"), "{error}");
    let mut nonsense = config(&variable("MQ_TEST_RABBIT_CERTIFICATE"));
    nonsense.tls.key = nonsense.tls.certificate.clone();
    let error = connect(nonsense).await.map(drop).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Auth | ErrorKind::Config), "{error}");
    assert!(error.to_string().contains("tls.key"), "{error}");
}
