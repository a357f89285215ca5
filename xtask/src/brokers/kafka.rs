//! One Kafka node in KRaft mode.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::cluster;
use super::launch;
use super::state::State;
use super::tls;
use crate::{command, install};

const VERSION: &str = "4.4.0";

/// Clients, clients with a password, the controller, clients with TLS; the listeners behind the ways of tests.
pub(crate) const SERVED: usize = 4 + ROUTES;

/// Also the ports where those ways begin: the broker names them to its clients, but a test listens there. The last:
/// clients which must show a certificate, clients with a password inside TLS.
pub(crate) const PORTS: usize = CERTIFICATE + 2;
const CONTROLLER: usize = 2;
const CERTIFICATE: usize = SERVED + ROUTES;

/// Kafka tells its clients where to go, so a client is kept on a way which a test can break only by a listener which
/// names the beginning of that way. So many ways can be broken at the same time, each without disturbing the others.
const ROUTES: usize = 8;

pub(crate) fn install() -> Result<PathBuf> {
    install::kafka(VERSION)
}

/// The command which becomes the broker.
pub(crate) fn server(folder: &Path, state: &State) -> Result<Command> {
    let jars = install()?;
    let settings = folder.join("server.properties");
    let data = folder.join("data");
    tls::ensure(folder)?;
    fs::write(&settings, properties(state, folder, &data)?)
        .with_context(|| format!("{} cannot be written", settings.display()))?;
    if !data.join("meta.properties").exists() {
        let id = state.cluster.as_ref().map_or_else(cluster::id, |cluster| Ok(cluster.id.clone()))?;
        let mut format = Command::new("java");
        options(&mut format, &jars, folder)?;
        format.args(["kafka.tools.StorageTool", "format", "-t", &id, "-c"]).arg(&settings);
        for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
            format.args(["--add-scram", &format!("{mechanism}=[name={USER},password={PASSWORD}]")]);
        }
        command::run(&mut format, &folder.join("format.log"), Duration::from_secs(60))?;
    }
    let mut server = launch::command(Path::new("java"));
    options(&mut server, &jars, folder)?.arg("kafka.Kafka").arg(settings);
    Ok(server)
}

fn options<'a>(java: &'a mut Command, jars: &Path, folder: &Path) -> Result<&'a mut Command> {
    Ok(launch::jvm(java, folder, "-Xms256m", "-Xmx512m")?
        // Its log is for a person who looks for the reason of a failure: not each setting and each partition.
        .arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
        .arg("-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info")
        // Who joins and leaves groups, and why a group stands still.
        .arg("-Dorg.slf4j.simpleLogger.log.org.apache.kafka.coordinator.group=info")
        .arg("-Dorg.slf4j.simpleLogger.showDateTime=true")
        .arg("-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSS")
        .arg("-cp")
        .arg(jars.join("*")))
}

fn properties(state: &State, folder: &Path, data: &Path) -> Result<String> {
    let (clients, password, controller, encrypted) =
        (state.port(0)?, state.port(1)?, state.port(CONTROLLER)?, state.port(3)?);
    let (data, keys) = (data.display(), folder.join(tls::BOTH));
    let keys = keys.display();
    let (certificate, both) = (state.port(CERTIFICATE)?, state.port(CERTIFICATE + 1)?);
    let authority = folder.join(tls::AUTHORITY);
    let authority = authority.display();
    let controllers = match &state.cluster {
        None => vec![(1, controller)],
        Some(cluster) => cluster.each_port(CONTROLLER)?,
    };
    let voters: Vec<String> = controllers.iter().map(|(node, port)| format!("{node}@127.0.0.1:{port}")).collect();
    let (voters, copies) = (voters.join(","), controllers.len().min(3));
    let in_sync = if copies > 2 { 2 } else { 1 };
    let node = state.cluster.as_ref().map_or(1, |cluster| cluster.number);
    let plain = "org.apache.kafka.common.security.plain.PlainLoginModule required";
    let plain = format!("{plain} user_{USER}=\"{PASSWORD}\" user_{LIMITED}=\"{PASSWORD}\";");
    let scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
    let (mut listeners, mut advertised, mut protocols) = (String::new(), String::new(), String::new());
    for (number, (begin, end)) in routes(state)?.into_iter().enumerate() {
        listeners.push_str(&format!(",ROUTE{number}://127.0.0.1:{end}"));
        advertised.push_str(&format!(",ROUTE{number}://127.0.0.1:{begin}"));
        protocols.push_str(&format!(",ROUTE{number}:PLAINTEXT"));
    }
    Ok(format!(
        "\
process.roles=broker,controller
node.id={node}
controller.quorum.voters={voters}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:{clients},SASL_PLAINTEXT://127.0.0.1:{password},SSL://127.0.0.1:{encrypted},CERTIFICATE://127.0.0.1:{certificate},SASL_SSL://127.0.0.1:{both},CONTROLLER://127.0.0.1:{controller}{listeners}
advertised.listeners=PLAINTEXT://127.0.0.1:{clients},SASL_PLAINTEXT://127.0.0.1:{password},SSL://127.0.0.1:{encrypted},CERTIFICATE://127.0.0.1:{certificate},SASL_SSL://127.0.0.1:{both}{advertised}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,SSL:SSL,CERTIFICATE:SSL,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT{protocols}
ssl.keystore.type=PEM
ssl.keystore.location={keys}
listener.name.certificate.ssl.client.auth=required
listener.name.certificate.ssl.truststore.type=PEM
listener.name.certificate.ssl.truststore.location={authority}
listener.name.certificate.ssl.principal.mapping.rules=RULE:^CN=(.*?)$/$1/
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.sasl_plaintext.plain.sasl.jaas.config={plain}
listener.name.sasl_plaintext.scram-sha-256.sasl.jaas.config={scram}
listener.name.sasl_plaintext.scram-sha-512.sasl.jaas.config={scram}
listener.name.sasl_ssl.plain.sasl.jaas.config={plain}
listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config={scram}
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config={scram}
# Everybody may do everything, but for one user, who may do what a test gives.
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:{USER}
log.dirs={data}
auto.create.topics.enable=false
# A single node can keep one copy of its own topics.
offsets.topic.replication.factor={copies}
transaction.state.log.replication.factor={copies}
transaction.state.log.min.isr={in_sync}
share.coordinator.state.topic.replication.factor={copies}
share.coordinator.state.topic.min.isr={in_sync}
# Tests wait for nobody else to join.
group.initial.rebalance.delay.ms=0
# Tests of members which die have no time for sessions of 6 s.
group.min.session.timeout.ms=1000
# After SIGKILL the controller takes the node back only once the session of its former life has run out.
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
# Hundreds of short-lived topics on a small heap.
offsets.topic.num.partitions=5
transaction.state.log.num.partitions=5
share.coordinator.state.topic.num.partitions=5
log.index.size.max.bytes=1048576
log.cleaner.dedupe.buffer.size=16777216
file.delete.delay.ms=1000
log.segment.delete.delay.ms=1000
"
    ))
}

/// Where each way begins, and the listener at its end.
fn routes(state: &State) -> Result<Vec<(u16, u16)>> {
    (0..ROUTES).map(|number| Ok((state.port(SERVED + number)?, state.port(4 + number)?))).collect()
}

/// `127.0.0.1:BEGIN=127.0.0.1:END`, with commas between them.
pub(crate) fn ways(state: &State) -> Result<String> {
    let ways = routes(state)?.into_iter().map(|(begin, end)| format!("127.0.0.1:{begin}=127.0.0.1:{end}"));
    Ok(ways.collect::<Vec<_>>().join(","))
}

/// Credentials of the listener with a password: loopback, tests only.
const USER: &str = "mq";
const PASSWORD: &str = "mq-test";
/// A user with the same password and no rights.
const LIMITED: &str = "limited";

/// The same broker by the listener with TLS, as the adapter's own URL.
pub(crate) fn tls_url(state: &State, authority: &Path) -> Result<String> {
    Ok(format!("kafkas://127.0.0.1:{}?ca={}", state.port(3)?, authority.display()))
}

/// The same broker by the listener which asks for a password.
pub(crate) fn password_url(state: &State) -> Result<String> {
    Ok(format!("kafka://{USER}:{PASSWORD}@127.0.0.1:{}", state.port(1)?))
}

/// The same broker by the listener which asks for a password, for the user without rights.
pub(crate) fn limited_url(state: &State) -> Result<String> {
    Ok(format!("kafka://{LIMITED}:{PASSWORD}@127.0.0.1:{}", state.port(1)?))
}

/// The same broker by the listener which asks for a certificate of the client.
pub(crate) fn certificate_url(state: &State, authority: &Path) -> Result<String> {
    Ok(format!("kafkas://127.0.0.1:{}?{}", state.port(CERTIFICATE)?, tls::client_parameters(authority)))
}

/// The same broker by the listener which asks for a password inside TLS.
pub(crate) fn encrypted_password_url(state: &State, authority: &Path) -> Result<String> {
    let port = state.port(CERTIFICATE + 1)?;
    Ok(format!("kafkas://{USER}:{PASSWORD}@127.0.0.1:{port}?ca={}", authority.display()))
}
