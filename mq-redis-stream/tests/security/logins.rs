//! Every way to log in works, from send to ack.

use crate::control::{User, demanded, optional};
use crate::place::{config, variable, works};

#[tokio::test(flavor = "multi_thread")]
async fn without_a_password() {
    works(config(&variable("MQ_TEST_REDIS")), "open").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn inside_tls() {
    let _optional = optional().await;
    works(config(&variable("MQ_TEST_REDIS_TLS")), "tls").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password() {
    works(User::new("login", &["~*", "&*", "+@all"]).config(), "password").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_inside_tls() {
    let _optional = optional().await;
    let user = User::new("login-tls", &["~*", "&*", "+@all"]);
    let mut config = config(&variable("MQ_TEST_REDIS_TLS"));
    (config.user, config.password) = (user.config().user, user.config().password);
    works(config, "password-tls").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_where_one_is_demanded() {
    let _demanded = demanded().await;
    works(config(&variable("MQ_TEST_REDIS_CERTIFICATE")), "certificate").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_by_the_name_in_its_certificate() {
    let _optional = optional().await;
    let mut config = config(&variable("MQ_TEST_REDIS_TLS"));
    config.host = "localhost".to_owned();
    works(config, "server-name").await;
}
