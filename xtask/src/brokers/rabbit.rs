//! One RabbitMQ node, on this machine's own Debian or inside a Debian of another release in a folder.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::kind::Kind;
use super::launch;
use super::ready;
use super::state::State;
use super::tls;
use crate::process::Process;
use crate::{install, interrupt};

/// AMQP, Erlang's port mapper, Erlang's distribution, AMQP with TLS.
pub(crate) const PORTS: usize = 4;

/// Which of them is the port mapper's.
pub(crate) const MAPPER: usize = 1;

/// Bytes it may use before it takes no more messages.
const MEMORY: &str = "2GB";

const CONFIG: &str = "rabbitmq.conf";
const PLUGINS: &str = "enabled_plugins";
/// The node's name ends in `@localhost`, which not every bare machine resolves.
const RESOLVER: &str = "inetrc";

pub(crate) fn install(kind: Kind) -> Result<PathBuf> {
    install::debian_root(kind.debian_release().context("not a RabbitMQ")?)
}

/// Where the node runs and how it sees its own folder from there.
struct Place {
    root: PathBuf,
    folder: PathBuf,
}

impl Place {
    fn new(kind: Kind, folder: &Path) -> Result<Self> {
        let root = install(kind)?;
        let folder = folder.to_path_buf();
        if root != Path::new("/") && !rustix::process::geteuid().is_root() {
            bail!("{} runs in a Debian of its own, which needs root (chroot): run this command as root", kind.name());
        }
        Ok(Self { root, folder })
    }

    fn inside(&self) -> &Path {
        if self.root == Path::new("/") { &self.folder } else { Path::new("/mq") }
    }

    /// A command which keeps its process id all the way into the program.
    fn command(&self, begin: fn(&Path) -> Command, program: &Path) -> Command {
        if self.root == Path::new("/") {
            return begin(program);
        }
        // Mounts in a namespace of its own: they go away with the process, however it ends.
        let mut command = begin(Path::new("unshare"));
        command.args(["--mount", "--propagation", "private", "sh", "-c", ENTER]);
        command.arg(&self.root).arg(&self.folder).arg(program);
        command
    }

    /// `/usr/lib/rabbitmq/lib/rabbitmq_server-VERSION/sbin/…`: the wrappers on the path insist on the `rabbitmq` user.
    fn program(&self, name: &str) -> Result<PathBuf> {
        let versions = Path::new("usr/lib/rabbitmq/lib");
        let entries = fs::read_dir(self.root.join(versions)).context("RabbitMQ is not installed")?;
        let names = entries.flatten().map(|entry| entry.file_name());
        let version = names.into_iter().find(|name| name.to_string_lossy().starts_with("rabbitmq_server-"));
        let version = version.context("RabbitMQ is not installed")?;
        Ok(Path::new("/").join(versions).join(version).join("sbin").join(name))
    }
}

const ENTER: &str = r#"set -e
mount -t proc proc "$0/proc"
mount --rbind /dev "$0/dev"
mount --bind "$1" "$0/mq"
shift
exec chroot "$0" "$@""#;

/// Erlang's port mapper for this instance alone, so that no two instances share one; the nodes of a cluster share the
/// one of the first node.
pub(crate) fn ensure_helper(kind: Kind, folder: &Path, state: &mut State, log: &Path) -> Result<()> {
    let port = mapper_port(state)?;
    if state.port(MAPPER)? == port {
        if state.helper.as_ref().is_none_or(|helper| !helper.is_alive()) {
            state.helper = Some(helper(kind, folder, port, log)?);
        }
        return Ok(());
    }
    let deadline = Instant::now() + Duration::from_secs(15);
    while ready::connect(port).is_err() {
        interrupt::check()?;
        if Instant::now() > deadline {
            bail!("the first node of the cluster, whose port mapper all use, does not start");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn mapper_port(state: &State) -> Result<u16> {
    state.cluster.as_ref().map_or_else(|| state.port(MAPPER), |cluster| cluster.first_port(MAPPER))
}

fn node_name(number: Option<usize>) -> String {
    number.map_or_else(|| "mq@localhost".to_owned(), |number| format!("mq{number}@localhost"))
}

fn helper(kind: Kind, folder: &Path, port: u16, log: &Path) -> Result<Process> {
    let place = Place::new(kind, folder)?;
    let mut epmd = place.command(launch::command, Path::new("/usr/bin/epmd"));
    epmd.args(["-port", &port.to_string(), "-address", "127.0.0.1"]);
    let process = launch::launch(&mut epmd, log)?;
    let deadline = Instant::now() + Duration::from_secs(15);
    while ready::connect(port).is_err() {
        interrupt::check()?;
        if process.wait_end(Duration::from_millis(20))? || Instant::now() > deadline {
            bail!("Erlang's port mapper does not answer on port {port}");
        }
    }
    Ok(process)
}

/// The command which becomes the broker.
pub(crate) fn server(kind: Kind, folder: &Path, state: &State) -> Result<Command> {
    let place = Place::new(kind, folder)?;
    for name in ["data", "log", "home"] {
        fs::create_dir_all(folder.join(name)).with_context(|| format!("{} cannot be created", folder.display()))?;
    }
    tls::ensure(folder)?;
    if let Some(cluster) = &state.cluster {
        let cookie = folder.join("home/.erlang.cookie");
        if !cookie.exists() {
            fs::write(&cookie, &cluster.id)?;
            // Erlang refuses one that others may read.
            fs::set_permissions(&cookie, fs::Permissions::from_mode(0o400))?;
        }
    }
    fs::write(folder.join(CONFIG), config(state, place.inside())?)?;
    // Who shows a certificate needs no password.
    fs::write(folder.join(PLUGINS), "[rabbitmq_auth_mechanism_ssl].\n")?;
    fs::write(folder.join(RESOLVER), "{host, {127,0,0,1}, [\"localhost\"]}.\n{lookup, [file, native]}.\n")?;
    let mut server = place.command(launch::command, &place.program("rabbitmq-server")?);
    let inside = place.inside();
    environment(&mut server, inside, state)?
        .env("RABBITMQ_MNESIA_BASE", inside.join("data"))
        .env("RABBITMQ_LOG_BASE", inside.join("log"))
        .env("RABBITMQ_CONFIG_FILE", inside.join(CONFIG))
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", inside.join(PLUGINS))
        .env("RABBITMQ_PID_FILE", inside.join("server.pid"))
        .env("RABBITMQ_DIST_PORT", state.port(2)?.to_string())
        .env("ERL_EPMD_ADDRESS", "127.0.0.1")
        .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "+S 2:2 -kernel inet_dist_use_interface {127,0,0,1}")
        // Makes the start script become the Erlang machine instead of waiting for it: one process, one id.
        .env("RUNNING_UNDER_SYSTEMD", "true");
    Ok(server)
}

/// `rabbitmqctl` for this node.
pub(crate) fn control(kind: Kind, folder: &Path, state: &State) -> Result<Command> {
    let place = Place::new(kind, folder)?;
    let mut control = place.command(|program| Command::new(program), &place.program("rabbitmqctl")?);
    environment(&mut control, place.inside(), state)?;
    Ok(control)
}

/// How a program finds the node, and nothing of the environment of whoever starts it.
fn environment<'a>(command: &'a mut Command, inside: &Path, state: &State) -> Result<&'a mut Command> {
    Ok(command
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LANG", "C.UTF-8")
        .env("HOME", inside.join("home"))
        .env("RABBITMQ_NODENAME", node_name(state.cluster.as_ref().map(|cluster| cluster.number)))
        .env("ERL_INETRC", inside.join(RESOLVER))
        .env("ERL_EPMD_PORT", mapper_port(state)?.to_string()))
}

fn config(state: &State, inside: &Path) -> Result<String> {
    let (port, encrypted) = (state.port(0)?, state.port(3)?);
    let file = |name: &str| inside.join(name).display().to_string();
    let mut peers = String::new();
    if let Some(cluster) = &state.cluster {
        peers.push_str("cluster_formation.peer_discovery_backend = classic_config\n");
        for (number, _) in cluster.each_port(0)? {
            let name = node_name(Some(number));
            peers.push_str(&format!("cluster_formation.classic_config.nodes.{number} = {name}\n"));
        }
    }
    Ok(format!(
        "\
listeners.tcp.local = 127.0.0.1:{port}
listeners.ssl.local = 127.0.0.1:{encrypted}
ssl_options.cacertfile = {}
ssl_options.certfile = {}
ssl_options.keyfile = {}
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = false
auth_mechanisms.1 = PLAIN
auth_mechanisms.2 = AMQPLAIN
auth_mechanisms.3 = EXTERNAL
ssl_cert_login_from = common_name
# Alarms block publishers; a small disk or a busy machine is not what these tests are about.
vm_memory_high_watermark.absolute = {MEMORY}
disk_free_limit.absolute = 50MB
log.file = false
log.console = true
log.console.level = info
log.console.use_colors = off
{peers}",
        file(tls::AUTHORITY),
        file(tls::CERTIFICATE),
        file(tls::KEY),
    ))
}

/// The same broker by the listener with TLS, as the adapter's own URL.
pub(crate) fn tls_url(state: &State, authority: &Path) -> Result<String> {
    Ok(format!("amqps://guest:guest@127.0.0.1:{}?ca={}", state.port(3)?, authority.display()))
}

/// The same, showing the client's certificate instead of a password; a test makes the user.
pub(crate) fn certificate_url(state: &State, authority: &Path) -> Result<String> {
    Ok(format!("amqps://127.0.0.1:{}?{}", state.port(3)?, tls::client_parameters(authority)))
}

/// Raises the memory alarm, or lifts it: while it lasts the node reads nothing from connections that publish.
pub(crate) fn block(control: &mut Command, blocked: bool) -> Result<()> {
    control.args(["--quiet", "set_vm_memory_high_watermark"]);
    if blocked {
        control.arg("0")
    } else {
        control.args(["absolute", MEMORY])
    };
    crate::command::output(control).map(drop).context("the memory alarm cannot be set")
}
