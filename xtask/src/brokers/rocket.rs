//! RocketMQ: a name server and one broker which registers there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::kind::Kind;
use super::launch;
use super::ready;
use super::room::{self, Wanted};
use super::state::State;
use super::tls;
use crate::process::Process;
use crate::{install, interrupt};

/// Who may do everything at a broker that asks for a login.
const OWNER: (&str, &str) = ("mq", "moss-kettle-4711");

const VERSION: &str = "5.4.0";

/// The name server, which clients ask first; the broker; the listener only other brokers use, which the broker wants
/// anyway. The broker also listens two below its own port, for clients which want to be served apart.
pub(crate) const PORTS: usize = 5;

/// Which of them is the broker's, with room for the two below it.
const BROKER: usize = 3;
const REPLICATION: usize = 4;

/// It takes no message on a disk that is 90 % full, whatever its settings say, and deletes the oldest files from 85 %
/// on (`CleanCommitLogService` in its `DefaultMessageStore`). The disk of a whole test run fills while it runs.
const ROOM: Wanted = Wanted { used_percent: 75, free_bytes: 3 << 30 };

pub(crate) fn install() -> Result<PathBuf> {
    install::rocket(VERSION)
}

/// The name server, unless it runs.
pub(crate) fn ensure_helper(folder: &Path, state: &mut State, log: &Path) -> Result<()> {
    if state.helper.as_ref().is_some_and(Process::is_alive) {
        return Ok(());
    }
    let port = state.port(0)?;
    let process = launch::launch(&mut name_server(folder, port)?, log)?;
    let deadline = Instant::now() + Duration::from_secs(60);
    while ready::connect(port).is_err() {
        interrupt::check()?;
        if process.wait_end(Duration::from_millis(50))? || Instant::now() > deadline {
            bail!("the name server does not answer on port {port}");
        }
    }
    state.helper = Some(process);
    Ok(())
}

/// The command which becomes a name server.
pub(crate) fn name_server(folder: &Path, port: u16) -> Result<Command> {
    let settings = folder.join("namesrv.properties");
    let text = format!(
        "listenPort={port}\nbindAddress=127.0.0.1\nkvConfigPath={}\n",
        folder.join("data/kvConfig.json").display()
    );
    write(&settings, &text)?;
    let mut server = launch::command(Path::new("java"));
    // Clients ask in either way; brokers ask without encryption.
    options(&mut server, &install()?, folder, "-Xms64m", "-Xmx128m", Encryption::Offered)?;
    server.arg("org.apache.rocketmq.namesrv.NamesrvStartup").arg("-c").arg(settings);
    Ok(server)
}

/// The command which becomes the broker.
pub(crate) fn server(folder: &Path, state: &State) -> Result<Command> {
    let names = format!("127.0.0.1:{}", state.port(0)?);
    let place = Place { name: "broker-a", names, port: state.port(BROKER)?, replication: state.port(REPLICATION)? };
    let guarded = state.broker == Kind::Rocket54Guarded;
    broker_at(folder, &place, guarded)
}

/// One broker among those of its cluster.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) name: &'static str,
    /// The name servers, with `;` between them.
    pub(crate) names: String,
    pub(crate) port: u16,
    pub(crate) replication: u16,
}

/// The command which becomes a broker.
pub(crate) fn broker_at(folder: &Path, place: &Place, guarded: bool) -> Result<Command> {
    room::ensure(&store(folder), ROOM)?;
    let settings = folder.join("broker.properties");
    write(&settings, &properties(folder, place, guarded))?;
    let mut server = launch::command(Path::new("java"));
    let encryption = if guarded { Encryption::Demanded } else { Encryption::Offered };
    options(&mut server, &install()?, folder, "-Xms256m", "-Xmx512m", encryption)?;
    server.arg("-XX:MaxDirectMemorySize=512m");
    server.arg("org.apache.rocketmq.broker.BrokerStartup").arg("-c").arg(settings);
    Ok(server)
}

#[derive(Debug, Clone, Copy)]
enum Encryption {
    /// Who wants it gets it, at the same port.
    Offered,
    /// Nobody without it, nor without a certificate.
    Demanded,
}

fn options(
    java: &mut Command,
    jars: &Path,
    folder: &Path,
    least: &str,
    most: &str,
    encryption: Encryption,
) -> Result<()> {
    tls::ensure(folder)?;
    let (mode, clients) = match encryption {
        Encryption::Offered => ("permissive", "none"),
        Encryption::Demanded => ("enforcing", "require"),
    };
    let settings = folder.join(format!("tls-{mode}.properties"));
    let file = |name: &str| folder.join(name).display().to_string();
    let text = format!(
        "\
# It would make itself a certificate at each start, which takes seconds.
tls.test.mode.enable=false
tls.server.certPath={}
tls.server.keyPath={}
tls.server.trustCertPath={}
tls.server.authClient={}
tls.server.need.client.auth={clients}
",
        file(tls::CERTIFICATE),
        file(tls::KEY),
        file(tls::AUTHORITY),
        clients == "require",
    );
    write(&settings, &text)?;
    launch::jvm(java, folder, least, most)?
        .arg(format!("-Dtls.server.mode={mode}"))
        .arg(format!("-Dtls.config.file={}", settings.display()))
        .args(["--add-opens", "java.base/java.nio=ALL-UNNAMED", "--add-opens", "java.base/sun.nio.ch=ALL-UNNAMED"])
        .args(["--add-exports", "java.base/jdk.internal.ref=ALL-UNNAMED"])
        // Its logs and whatever else it puts into a home go where `down` deletes them.
        .arg(format!("-Duser.home={}", folder.display()))
        .arg(format!("-Drocketmq.home.dir={}", folder.display()))
        .arg("-cp")
        .arg(jars.join("*"));
    Ok(())
}

fn properties(folder: &Path, place: &Place, guarded: bool) -> String {
    let Place { name, names, port, replication } = place;
    let store = store(folder);
    let store = store.display();
    let logins = if guarded { logins() } else { String::new() };
    format!(
        "\
brokerClusterName=mq
brokerName={name}
brokerId=0
namesrvAddr={names}
brokerIP1=127.0.0.1
bindAddress=127.0.0.1
listenPort={port}
haListenPort={replication}
storePathRootDir={store}
storePathCommitLog={store}/commitlog
# What is confirmed survives SIGKILL.
flushDiskType=SYNC_FLUSH
brokerRole=ASYNC_MASTER
# What a group has acknowledged is otherwise written every 5 s, and SIGKILL takes it back.
flushConsumerOffsetInterval=500
autoCreateTopicEnable=false
autoCreateSubscriptionGroup=false
timerWheelEnable=true
# Half messages nobody has decided about are asked back after 2 s, and again each second (6 s and 30 s by default).
transactionTimeOut=2000
transactionCheckInterval=1000
# Hundreds of short-lived topics on a small heap and a small disk.
mappedFileSizeCommitLog=67108864
mappedFileSizeConsumeQueue=60000
mappedFileSizeTimerLog=10485760
maxMessageSize=4194304
# A shared machine may be fuller than a broker likes its disk; what is stored stays.
diskMaxUsedSpaceRatio=95
cleanFileForciblyEnable=false
{logins}"
    )
}

/// Nobody without a login, and nobody more than what is his.
fn logins() -> String {
    let (user, password) = OWNER;
    format!(
        "\
authenticationEnabled=true
authenticationProvider=org.apache.rocketmq.auth.authentication.provider.DefaultAuthenticationProvider
authenticationMetadataProvider=org.apache.rocketmq.auth.authentication.provider.LocalAuthenticationMetadataProvider
initAuthenticationUser={{\"username\":\"{user}\",\"password\":\"{password}\"}}
innerClientAuthenticationCredentials={{\"accessKey\":\"{user}\",\"secretKey\":\"{password}\"}}
authorizationEnabled=true
authorizationProvider=org.apache.rocketmq.auth.authorization.provider.DefaultAuthorizationProvider
authorizationMetadataProvider=org.apache.rocketmq.auth.authorization.provider.LocalAuthorizationMetadataProvider
"
    )
}

/// What of its data lies outside of its folder.
pub(crate) fn clean(folder: &Path) -> Result<()> {
    room::remove(&store(folder))
}

fn store(folder: &Path) -> PathBuf {
    folder.join("data/store")
}

fn write(file: &Path, text: &str) -> Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder.join("data")).with_context(|| format!("{} cannot be created", folder.display()))?;
    }
    fs::write(file, text).with_context(|| format!("{} cannot be written", file.display()))
}

pub(crate) fn url(port: u16) -> String {
    format!("rocketmq://127.0.0.1:{port}")
}

/// The same, encrypted.
pub(crate) fn tls_url(state: &State, authority: &Path) -> Result<String> {
    Ok(format!("rocketmqs://127.0.0.1:{}?ca={}", state.port(0)?, authority.display()))
}

/// With all that a guarded broker demands.
pub(crate) fn guarded_url(state: &State, authority: &Path) -> Result<String> {
    let (user, password) = OWNER;
    let parameters = tls::client_parameters(authority);
    Ok(format!("rocketmqs://{user}:{password}@127.0.0.1:{}?{parameters}", state.port(0)?))
}

/// Where the broker itself listens; the URL names the name server.
pub(crate) fn broker(state: &State) -> Result<String> {
    Ok(format!("127.0.0.1:{}", state.port(BROKER)?))
}
