//! Every mistake in reaching the broker is an error of its kind, within the deadline, that says what to do.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use mq_core::config::{Secret, Tls};
use mq_core::error::ErrorKind;
use mq_redis_stream::RedisConfig;
use tokio::net::{TcpListener, TcpStream};

use crate::control::{PASSWORD, User, demanded, optional};
use crate::place::{CONNECT, MARGIN, config, connect, variable};

const WRONG: &str = "wr0ng/p@ss";

async fn refused(config: RedisConfig, kind: ErrorKind, hint: &str) {
    let began = Instant::now();
    let error = connect(config).await.map(drop).unwrap_err();
    let took = began.elapsed();
    assert!(took < CONNECT + MARGIN, "took {took:?}");
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.hint().is_some_and(|text| text.contains(hint)), "no hint at `{hint}`: {error}");
    let text = format!("{error} {error:?} {error:#?}");
    assert_eq!(error.to_string().matches("hint:").count(), 1, "{error}");
    assert!(!text.contains(WRONG) && !text.contains(PASSWORD), "{text}");
    assert!(text.contains("127.0.0."), "it does not name the host: {text}");
    // What no waiting mends is told at once.
    assert!(kind != ErrorKind::Auth || took < CONNECT, "took {took:?}: {error}");
}

fn beside(config: &RedisConfig, name: &str) -> Option<PathBuf> {
    config.tls.ca.as_ref().map(|path| path.with_file_name(name))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password() {
    let _optional = optional().await;
    let user = User::new("wrong", &["~*", "&*", "+@all"]);
    for name in ["MQ_TEST_REDIS", "MQ_TEST_REDIS_TLS"] {
        let mut config = config(&variable(name));
        (config.user, config.password) = (user.config().user, Secret::new(WRONG));
        refused(config, ErrorKind::Auth, "password").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_nobody_knows() {
    let mut config = config(&variable("MQ_TEST_REDIS"));
    (config.user, config.password) = (Some("nobody".to_owned()), Secret::new(WRONG));
    refused(config, ErrorKind::Auth, "password").await;
}

/// A server without a password refuses one: whoever gives it believes in a protection that is not there.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_where_none_is_asked_for() {
    let mut config = config(&variable("MQ_TEST_REDIS"));
    config.password = Secret::new(WRONG);
    refused(config, ErrorKind::Auth, "password").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_not_there() {
    let mut config = config(&variable("MQ_TEST_REDIS"));
    config.database = 12345;
    refused(config, ErrorKind::Config, "database").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_did_not_sign_the_server() {
    let _optional = optional().await;
    let mut config = config(&variable("MQ_TEST_REDIS_TLS"));
    config.tls.ca = beside(&config, "stranger-ca.pem");
    refused(config, ErrorKind::Auth, "tls.ca").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_authority_of_our_own() {
    let _optional = optional().await;
    let mut config = config(&variable("MQ_TEST_REDIS_TLS"));
    config.tls.ca = None;
    refused(config, ErrorKind::Auth, "tls.ca").await;
}

/// The certificate is right, and of another host: as of one who passes traffic on.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_another_name() {
    let _optional = optional().await;
    let mut config = config(&variable("MQ_TEST_REDIS_TLS"));
    let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let behind = (config.host.clone(), config.port);
    (config.host, config.port) = ("127.0.0.2".to_owned(), listener.local_addr().unwrap().port());
    let passing = tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut far = TcpStream::connect((behind.0.as_str(), behind.1)).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
        }
    });
    refused(config, ErrorKind::Auth, "names the host").await;
    passing.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_certificate_where_one_is_demanded() {
    let _demanded = demanded().await;
    refused(config(&variable("MQ_TEST_REDIS_TLS")), ErrorKind::Auth, "tls.certificate").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_a_stranger() {
    let mut config = config(&variable("MQ_TEST_REDIS_CERTIFICATE"));
    config.tls.certificate = beside(&config, "stranger.pem");
    config.tls.key = beside(&config, "stranger.key");
    {
        let _optional = optional().await;
        refused(config.clone(), ErrorKind::Auth, "tls.certificate").await;
    }
    let _demanded = demanded().await;
    refused(config, ErrorKind::Auth, "tls.certificate").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plaintext_to_a_port_with_tls() {
    let mut config = config(&variable("MQ_TEST_REDIS_TLS"));
    config.tls = Tls::default();
    refused(config, ErrorKind::Unavailable, "wants rediss://").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_to_a_port_without() {
    let mut config = config(&variable("MQ_TEST_REDIS"));
    config.tls.enabled = true;
    // Redis waits for the end of a line that never comes.
    refused(config, ErrorKind::Timeout, "wants redis://").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_where_nobody_listens() {
    let mut config = config(&variable("MQ_TEST_REDIS"));
    config.port = 1;
    refused(config, ErrorKind::Unavailable, "running").await;
}

/// It takes the connection and says nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_says_nothing() {
    let mut config = config(&variable("MQ_TEST_REDIS"));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    config.port = listener.local_addr().unwrap().port();
    for tls in [false, true] {
        let mut config = config.clone();
        config.tls.enabled = tls;
        let began = Instant::now();
        refused(config, ErrorKind::Timeout, "running").await;
        assert!(began.elapsed() + Duration::from_millis(100) >= CONNECT, "it was waited for");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_not_there_or_hold_no_certificate() {
    let mut absent = config(&variable("MQ_TEST_REDIS_TLS"));
    absent.tls.ca = Some("no/such/file.pem".into());
    let error = connect(absent).await.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(error.to_string().contains("no/such/file.pem") && error.to_string().contains("tls.ca"), "{error}");
    let mut nonsense = config(&variable("MQ_TEST_REDIS_CERTIFICATE"));
    nonsense.tls.key = nonsense.tls.certificate.clone();
    let error = connect(nonsense).await.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(error.to_string().contains("tls.key"), "{error}");
    let mut empty = config(&variable("MQ_TEST_REDIS_TLS"));
    empty.tls.ca = beside(&empty, "complete");
    let error = connect(empty).await.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(error.to_string().contains("tls.ca"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_name_for_the_certificate_is_refused_at_once() {
    let mut config = config(&variable("MQ_TEST_REDIS_TLS"));
    config.tls.server_name = Some("elsewhere.example".to_owned());
    let error = connect(config).await.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(error.hint().is_some(), "{error}");
}
