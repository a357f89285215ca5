//! No password in anything that is printed, whatever goes wrong, however much is logged.

use mq_conformance::secrets::{ENCODED, Log, PASSWORD, clean};
use mq_core::config::Url;
use mq_redis_stream::RedisConfig;

use crate::control::{self, User, optional};
use crate::place::{CONNECT, config, connect, variable, works};

fn with_password(name: &str) -> RedisConfig {
    let text = variable(name).replacen("://", &format!("://somebody:{ENCODED}@"), 1);
    clean("the URL", &format!("{:?}", Url::parse(&text).unwrap()));
    let config = config(&text);
    assert_eq!(config.password.reveal(), PASSWORD);
    config
}

#[test]
fn printed_settings() {
    let config = with_password("MQ_TEST_REDIS");
    clean("the configuration", &format!("{config:?} {config:#?}"));
    clean("the configuration as JSON", &serde_json::to_string(&config).unwrap());
    let base = format!("redis://somebody:{ENCODED}@127.0.0.1:1");
    for bad in ["?x=1", "?topology=hunter2", "?send_timeout=hunter2", "?partitions=hunter2", "?key=x", "/hunter2"] {
        let Err(error) = Url::parse(&format!("{base}{bad}")).and_then(|url| RedisConfig::from_url(&url)) else {
            panic!("{bad} is accepted")
        };
        clean("the error of a URL", &format!("{error} {error:?}"));
    }
    // Pasted without encoding: what follows the first of `/?` is no part of the password to a parser.
    for bad in ["redis://mq:1/hunter2@127.0.0.1:1", "redis://mq:1?hunter2@127.0.0.1:1", "redis://mq:a/hunter2@h:1"] {
        let Err(error) = Url::parse(bad).and_then(|url| RedisConfig::from_url(&url)) else {
            panic!("{bad} is accepted")
        };
        clean("the error of a URL", &format!("{error} {error:?}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_login() {
    let _optional = optional().await;
    let log = Log::start();
    for name in ["MQ_TEST_REDIS", "MQ_TEST_REDIS_TLS"] {
        let error = connect(with_password(name)).await.map(drop).unwrap_err();
        clean("the error", &format!("{error} {error:?} {error:#?}"));
    }
    let text = log.text();
    assert!(text.contains("no connection yet"), "the trace is not there: {text}");
    clean("the log", &text);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accepted_login() {
    let _optional = optional().await;
    let log = Log::start();
    let user = User::new("traced", &["~*", "&*", "+@all"]);
    let mut config = config(&variable("MQ_TEST_REDIS_TLS"));
    (config.user, config.password) = (user.config().user, user.config().password);
    let broker = connect(config.clone()).await.unwrap();
    let native = broker.driver().native_client().unwrap();
    let native = native.downcast_ref::<redis::Client>().unwrap();
    let printed = format!("{broker:?} {:?} {:?} {native:?}", broker.admin(), broker.health(CONNECT).await);
    works(config, "traced").await;
    let text = log.text();
    for text in [printed, text] {
        assert!(!text.contains(control::PASSWORD), "the password is printed");
    }
}
