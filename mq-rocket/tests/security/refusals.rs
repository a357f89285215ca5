//! Every mistake in reaching the broker is an error of its kind, within the deadline, that says what to do.

use std::time::Instant;

use mq_core::config::{Secret, Tls};
use mq_core::error::ErrorKind;
use mq_rocket::RocketConfig;
use tokio::net::{TcpListener, TcpStream};

use crate::place::{CONNECT, MARGIN, beside, connect, encrypted, guarded, open};

const WRONG: &str = "wr0ng/p@ss";

async fn refused(config: RocketConfig, kind: ErrorKind, hint: &str) {
    let right = guarded().password;
    let began = Instant::now();
    let error = connect(config).await.map(drop).unwrap_err();
    let took = began.elapsed();
    assert!(took < CONNECT + MARGIN, "took {took:?}");
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.hint().is_some_and(|text| text.contains(hint)), "no hint at `{hint}`: {error}");
    let text = format!("{error} {error:?} {error:#?}");
    assert_eq!(error.to_string().matches("hint:").count(), 1, "{error}");
    assert!(!text.contains(WRONG) && !text.contains(right.reveal()), "{text}");
    assert!(text.contains("127.0.0."), "it does not name the host: {text}");
    // What no waiting mends is told at once.
    assert!(kind != ErrorKind::Auth || took < CONNECT, "took {took:?}: {error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret() {
    refused(RocketConfig { password: Secret::new(WRONG), ..guarded() }, ErrorKind::Auth, "user and password").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_nobody_knows() {
    refused(RocketConfig { user: "nobody".to_owned(), ..guarded() }, ErrorKind::Auth, "user and password").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_login_where_one_is_demanded() {
    let config = RocketConfig { user: String::new(), password: Secret::default(), ..guarded() };
    refused(config, ErrorKind::Auth, "user and password").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_did_not_sign_the_server() {
    let mut config = encrypted();
    config.tls.ca = beside(&config, "stranger-ca.pem");
    refused(config, ErrorKind::Auth, "tls.ca").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_authority_of_our_own() {
    let mut config = encrypted();
    config.tls.ca = None;
    refused(config, ErrorKind::Auth, "tls.ca").await;
}

/// The certificate is right, and of another host: as of one who passes traffic on.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_another_name() {
    let mut config = encrypted();
    let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let behind = config.hosts.first().unwrap().clone();
    config.hosts = vec![listener.local_addr().unwrap().to_string()];
    let passing = tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut far = TcpStream::connect(&behind).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
        }
    });
    refused(config, ErrorKind::Auth, "name the host").await;
    passing.abort();
}

/// The name server takes everybody; the broker does not.
#[tokio::test(flavor = "multi_thread")]
async fn no_certificate_where_one_is_demanded() {
    let mut config = guarded();
    (config.tls.certificate, config.tls.key) = (None, None);
    refused(config, ErrorKind::Auth, "tls.certificate").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_a_stranger() {
    let mut config = guarded();
    config.tls.certificate = beside(&config, "stranger.pem");
    config.tls.key = beside(&config, "stranger.key");
    refused(config, ErrorKind::Auth, "tls.certificate").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plaintext_where_tls_is_demanded() {
    refused(RocketConfig { tls: Tls::default(), ..guarded() }, ErrorKind::Unavailable, "rocketmqs://").await;
}

/// It takes the connection and says nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_says_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hosts = vec![listener.local_addr().unwrap().to_string()];
    refused(RocketConfig { hosts: hosts.clone(), ..open() }, ErrorKind::Timeout, "name server").await;
    refused(RocketConfig { hosts, ..encrypted() }, ErrorKind::Unavailable, "name server").await;
}

/// It ends whatever is no plain request.
#[tokio::test(flavor = "multi_thread")]
async fn tls_to_a_port_without() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hosts = vec![listener.local_addr().unwrap().to_string()];
    let ends = tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    refused(RocketConfig { hosts, ..encrypted() }, ErrorKind::Unavailable, "rocketmq://").await;
    ends.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_where_nobody_listens() {
    refused(RocketConfig { hosts: vec!["127.0.0.1:1".to_owned()], ..open() }, ErrorKind::Unavailable, "name server")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_not_there_or_hold_no_certificate() {
    let mut absent = encrypted();
    absent.tls.ca = Some("no/such/file.pem".into());
    let mut nonsense = guarded();
    nonsense.tls.key = nonsense.tls.certificate.clone();
    let mut empty = encrypted();
    empty.tls.ca = beside(&empty, "complete");
    let mut another = guarded();
    another.tls.key = beside(&another, "stranger.key");
    for (config, word) in [(absent, "no/such/file.pem"), (nonsense, "tls.key"), (empty, "tls.ca"), (another, "tls.key")]
    {
        let error = connect(config).await.map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        assert!(error.to_string().contains(word) && error.hint().is_some(), "{error}");
    }
}
