//! The server's own settings and users, by a stock client.

use std::sync::LazyLock;

use mq_core::config::Secret;
use mq_redis_stream::RedisConfig;
use redis::{Cmd, cmd};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::place::{config, variable};

/// The password of users made by these tests; in nothing printed by chance.
pub(crate) const PASSWORD: &str = "j7-moss-kettle";

/// Asks as one who may do everything.
pub(crate) fn ask(command: &Cmd) -> redis::RedisResult<redis::Value> {
    let client = redis::Client::open(variable("MQ_TEST_REDIS").as_str()).unwrap();
    command.query(&mut client.get_connection().unwrap())
}

/// A user of the test's own, deleted at its end.
#[derive(Debug)]
pub(crate) struct User(String);

impl User {
    /// With these rules beside its password.
    pub(crate) fn new(name: &str, rules: &[&str]) -> Self {
        let user = Self(format!("{name}-{}", std::process::id()));
        let mut set = cmd("ACL");
        set.arg("SETUSER").arg(&user.0).arg("reset").arg("on").arg(format!(">{PASSWORD}")).arg(rules);
        ask(&set).unwrap();
        user
    }

    /// The broker as this user.
    pub(crate) fn config(&self) -> RedisConfig {
        let mut config = config(&variable("MQ_TEST_REDIS"));
        (config.user, config.password) = (Some(self.0.clone()), Secret::new(PASSWORD));
        config
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = ask(cmd("ACL").arg("DELUSER").arg(&self.0));
    }
}

/// The listener with TLS has one way for all: whether it demands a certificate.
static DEMAND: LazyLock<RwLock<()>> = LazyLock::new(RwLock::default);

/// While this is kept the listener with TLS asks for no certificate.
pub(crate) async fn optional() -> RwLockReadGuard<'static, ()> {
    DEMAND.read().await
}

/// While this is kept the listener with TLS demands a certificate.
#[derive(Debug)]
pub(crate) struct Demanded(#[expect(dead_code, reason = "kept")] RwLockWriteGuard<'static, ()>);

fn clients(how: &str) {
    ask(cmd("CONFIG").arg("SET").arg("tls-auth-clients").arg(how)).unwrap();
}

pub(crate) async fn demanded() -> Demanded {
    let guard = DEMAND.write().await;
    clients("yes");
    Demanded(guard)
}

impl Drop for Demanded {
    fn drop(&mut self) {
        clients("optional");
    }
}
