//! One broker under a name of its own, with a folder for its state, data and log.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use serde::Serialize;

use super::kind::Kind;
use super::state::State;
use super::{kafka, launch, ports, rabbit, ready, redis, redis_cluster, redis_sentinel, rocket, rocket_cluster, tls};
use crate::install::Lock;
use crate::process::Process;
use crate::{command, paths};

/// How long a server may take to stop by itself.
const STOP_PATIENCE: Duration = Duration::from_secs(20);
const LOCK_PATIENCE: Duration = Duration::from_secs(180);

#[derive(Debug, Clone)]
pub(crate) struct Instance {
    pub(crate) kind: Kind,
    pub(crate) name: String,
    folder: PathBuf,
    /// Of several processes the one that is meant; `None`: all.
    only: Option<usize>,
}

/// What a caller of the command needs to know.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    pub(crate) broker: Kind,
    pub(crate) instance: String,
    /// Whether the process lives; with `start` and `up` also that it answers.
    pub(crate) running: bool,
    pub(crate) url: String,
    /// The environment which points tests at it.
    pub(crate) environment: BTreeMap<&'static str, String>,
    pub(crate) pid: Option<i32>,
    pub(crate) ports: Vec<u16>,
    pub(crate) folder: PathBuf,
    pub(crate) log: PathBuf,
}

impl Instance {
    pub(crate) fn new(kind: Kind, name: &str) -> Result<Self> {
        let allowed =
            |character: char| character.is_ascii_lowercase() || character.is_ascii_digit() || character == '-';
        if name.is_empty() || name.len() > 32 || !name.chars().all(allowed) {
            bail!("`{name}` is no name for an instance: 1 to 32 of a-z, 0-9 and -");
        }
        Ok(Self { kind, name: name.to_owned(), folder: paths::instances()?.join(name).join(kind.name()), only: None })
    }

    /// Of an instance that is several processes the one of this name.
    pub(crate) fn only(mut self, node: &str) -> Result<Self> {
        self.only = Some(self.kind.node(node).with_context(|| format!("{self} has no node `{node}`"))?);
        Ok(self)
    }

    /// The processes that are meant.
    fn meant<'a>(&self, state: &'a State) -> impl Iterator<Item = &'a Process> {
        let only = self.only;
        state.processes().enumerate().filter(move |(node, _)| only.is_none_or(|only| only == *node)).map(|(_, one)| one)
    }

    /// Every instance that has been brought up and not taken down.
    pub(crate) fn known() -> Result<Vec<Self>> {
        let mut known = Vec::new();
        let Ok(entries) = fs::read_dir(paths::instances()?) else { return Ok(known) };
        for name in entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
            let instances = Kind::EVERY.into_iter().filter_map(|kind| Self::new(kind, &name).ok());
            known.extend(instances.filter(|instance| instance.state_file().exists()));
        }
        known.sort_by(|one, other| (&one.name, one.kind.name()).cmp(&(&other.name, other.kind.name())));
        Ok(known)
    }

    /// Installs what is missing, creates the instance unless it exists, starts it unless it runs.
    pub(crate) fn up(&self) -> Result<Report> {
        self.install()?;
        let _lock = self.lock()?;
        let state = match self.load()? {
            Some(state) => state,
            None => self.create()?,
        };
        self.launch(state)
    }

    /// Creates the instance with its ports, unless it exists, and starts nothing.
    pub(crate) fn prepare(&self) -> Result<State> {
        self.install()?;
        let _lock = self.lock()?;
        self.load()?.map_or_else(|| self.create(), Ok)
    }

    pub(crate) fn remember(&self, state: &State) -> Result<()> {
        let _lock = self.lock()?;
        state.save(&self.state_file())
    }

    pub(crate) fn install(&self) -> Result<()> {
        match self.kind {
            Kind::Kafka => kafka::install().map(drop),
            Kind::Rabbit310 | Kind::Rabbit40 => rabbit::install(self.kind).map(drop),
            Kind::Redis70 | Kind::Redis80 | Kind::RedisCluster | Kind::RedisSentinel => {
                redis::install(self.kind).map(drop)
            }
            Kind::Rocket54 | Kind::Rocket54Guarded | Kind::RocketCluster => rocket::install().map(drop),
        }
    }

    /// Starts it again on the data it has.
    pub(crate) fn start(&self) -> Result<Report> {
        let _lock = self.lock()?;
        let state =
            self.load()?.with_context(|| format!("{self} is not there: `cargo xtask brokers up` creates it"))?;
        self.launch(state)
    }

    /// SIGKILL, as by a crash: nothing is flushed, nobody is told.
    pub(crate) fn kill(&self) -> Result<Report> {
        self.check_known()?;
        let _lock = self.lock()?;
        let state = self.load()?.with_context(|| format!("{self} is not there any more"))?;
        let mut killed = false;
        for process in self.meant(&state) {
            killed |= process.kill()?;
        }
        if !killed {
            bail!("{self} does not run: nothing to kill");
        }
        // The other nodes of a cluster need it.
        if state.cluster.is_none() && !self.helper_stays() {
            state.helper.as_ref().map_or(Ok(false), Process::kill)?;
        }
        self.report(&state)
    }

    /// Lets it take nothing more, or go on. It must run.
    pub(crate) fn block(&self, blocked: bool) -> Result<()> {
        self.check_known()?;
        let _lock = self.lock()?;
        if matches!(self.kind, Kind::Rabbit310 | Kind::Rabbit40) {
            return rabbit::block(&mut self.control()?, blocked);
        }
        let state = self.load()?.with_context(|| format!("{self} is not there any more"))?;
        let signal = if blocked { Signal::STOP } else { Signal::CONT };
        let mut done = false;
        for process in self.meant(&state) {
            done |= process.signal(signal)?;
        }
        if !done {
            bail!("{self} does not run: nothing to stop or continue");
        }
        Ok(())
    }

    /// Stops it and deletes all that belongs to it; nothing to do is fine.
    pub(crate) fn down(&self) -> Result<()> {
        if !self.folder.exists() {
            return Ok(());
        }
        let _lock = self.lock()?;
        if let Some(state) = self.load()? {
            // One that was blocked must hear that it is to end.
            for server in state.processes() {
                let told = server.signal(Signal::CONT)? && server.signal(Signal::TERM)?;
                if told && !server.wait_end(STOP_PATIENCE)? {
                    eprintln!("{self} still runs {STOP_PATIENCE:?} after SIGTERM: SIGKILL");
                    server.kill()?;
                }
            }
            state.helper.as_ref().map_or(Ok(false), Process::kill)?;
        }
        match self.kind {
            Kind::RocketCluster => rocket_cluster::clean(&self.folder)?,
            kind if kind.is_rocket() => rocket::clean(&self.folder)?,
            _ => {}
        }
        fs::remove_dir_all(&self.folder).with_context(|| format!("{} cannot be removed", self.folder.display()))?;
        // The last of the instance's brokers takes the folder of the instance along; others in it keep it.
        let _ = fs::remove_file(self.lock_file());
        let _ = self.folder.parent().map(fs::remove_dir);
        Ok(())
    }

    /// `rabbitmqctl`, pointed at this instance.
    pub(crate) fn control(&self) -> Result<Command> {
        let state =
            self.load()?.with_context(|| format!("{self} is not there: `cargo xtask brokers up` creates it"))?;
        match self.kind {
            Kind::Kafka => bail!("Kafka has no tool of its own here: use `mq` or kcat"),
            Kind::Rabbit310 | Kind::Rabbit40 => rabbit::control(self.kind, &self.folder, &state),
            Kind::Redis70 | Kind::Redis80 | Kind::RedisCluster | Kind::RedisSentinel => {
                bail!("Redis has no tool of its own here: use `mq` or redis-cli")
            }
            Kind::Rocket54 | Kind::Rocket54Guarded | Kind::RocketCluster => {
                bail!("RocketMQ has no tool of its own here: use `mq`")
            }
        }
    }

    pub(crate) fn status(&self) -> Result<Option<Report>> {
        self.load()?.map(|state| self.report(&state)).transpose()
    }

    fn create(&self) -> Result<State> {
        fs::create_dir_all(&self.folder).with_context(|| format!("{} cannot be created", self.folder.display()))?;
        let mut state = State {
            broker: self.kind,
            ports: Vec::new(),
            server: None,
            others: Vec::new(),
            helper: None,
            cluster: None,
        };
        self.complete_ports(&mut state)?;
        Ok(state)
    }

    /// Gives the instance the ports it lacks: all when it is new, some when an older version has made it.
    fn complete_ports(&self, state: &mut State) -> Result<()> {
        let count = self.port_count();
        let lacking = count.saturating_sub(state.ports.len());
        if lacking == 0 {
            return Ok(());
        }
        // Over all instances, so that two which start together are not given the same ports.
        let _lock = Lock::acquire(&paths::instances()?.join("ports.lock"), LOCK_PATIENCE)?;
        let mut taken = state.ports.clone();
        for other in Self::known()? {
            taken.extend(other.load()?.map(|state| state.ports).unwrap_or_default());
        }
        state.ports.extend(ports::allocate(self.kind.first_port(), lacking, &taken)?);
        state.save(&self.state_file())
    }

    fn port_count(&self) -> usize {
        match self.kind {
            Kind::Kafka => kafka::PORTS,
            Kind::Rabbit310 | Kind::Rabbit40 => rabbit::PORTS,
            Kind::Redis70 | Kind::Redis80 => redis::PORTS,
            Kind::RedisCluster => redis_cluster::PORTS,
            Kind::RedisSentinel => redis_sentinel::PORTS,
            Kind::Rocket54 | Kind::Rocket54Guarded => rocket::PORTS,
            Kind::RocketCluster => rocket_cluster::PORTS,
        }
    }

    /// A name server is no part of the broker: it lives on when that is killed.
    fn helper_stays(&self) -> bool {
        self.kind.is_rocket()
    }

    /// Which port is the helper's.
    fn helper_port(&self) -> usize {
        if self.kind.is_rocket() { 0 } else { rabbit::MAPPER }
    }

    fn launch(&self, mut state: State) -> Result<Report> {
        if !state.is_running() {
            // A port mapper which outlived its server would hold the port of the new one.
            if state.cluster.is_none() && !self.helper_stays() {
                state.helper.take().map_or(Ok(false), |helper| helper.kill())?;
            }
            self.complete_ports(&mut state)?;
            // Where the ways of tests begin, tests listen, also while the broker is down.
            let served = if self.kind == Kind::Kafka { kafka::SERVED } else { self.port_count() };
            let nodes = self.kind.processes();
            let living: Vec<bool> = state.processes().map(Process::is_alive).collect();
            for (index, port) in state.ports.iter().enumerate().take(served) {
                let in_use = nodes > 1 && living.get(self.kind.process_of(index)).copied().unwrap_or(false);
                if !in_use && (state.helper.is_none() || index != self.helper_port()) {
                    ports::check_free(*port)?;
                }
            }
        }
        let started = self.run(&mut state);
        if started.is_err() {
            self.meant(&state).for_each(|process| drop(process.kill()));
            if state.cluster.is_none() {
                let _ = state.helper.as_ref().map(Process::kill);
            }
        }
        started.with_context(|| format!("{self} is not started"))?;
        self.report(&state)
    }

    /// The state is saved after each process: whatever happens next, it can be ended by its number.
    fn run(&self, state: &mut State) -> Result<()> {
        let (file, log) = (self.state_file(), self.log());
        match self.kind {
            Kind::RedisCluster => return self.run_nodes(state, redis_cluster::servers(&self.folder, state)?),
            Kind::RedisSentinel => return self.run_nodes(state, redis_sentinel::servers(&self.folder, state)?),
            Kind::RocketCluster => return self.run_nodes(state, rocket_cluster::servers(&self.folder, state)?),
            _ => {}
        }
        if !state.is_running() {
            let mut server = match self.kind {
                Kind::Kafka => kafka::server(&self.folder, state)?,
                Kind::Rabbit310 | Kind::Rabbit40 => {
                    rabbit::ensure_helper(self.kind, &self.folder, state, &log)?;
                    state.save(&file)?;
                    rabbit::server(self.kind, &self.folder, state)?
                }
                Kind::Redis70 | Kind::Redis80 | Kind::RedisCluster | Kind::RedisSentinel => {
                    redis::server(self.kind, &self.folder, state)?
                }
                Kind::Rocket54 | Kind::Rocket54Guarded | Kind::RocketCluster => {
                    rocket::ensure_helper(&self.folder, state, &log)?;
                    state.save(&file)?;
                    rocket::server(&self.folder, state)?
                }
            };
            state.server = Some(launch::launch(&mut server, &log)?);
            state.save(&file)?;
        }
        let server = state.server.as_ref().context("started without a process")?;
        ready::wait(self.kind, state.port(0)?, server, self.kind.start_patience())
            .with_context(|| format!("last lines of {}:\n{}", log.display(), command::tail(&log, 20)))
    }

    /// Those of several nodes that do not run.
    fn run_nodes(&self, state: &mut State, servers: Vec<Command>) -> Result<()> {
        let (file, log) = (self.state_file(), self.log());
        for (node, mut server) in servers.into_iter().enumerate() {
            let others = self.only.is_some_and(|only| only != node);
            if others && state.processes().nth(node).is_none() {
                bail!("{self} has never been up as a whole");
            }
            if others || state.processes().nth(node).is_some_and(Process::is_alive) {
                continue;
            }
            let process = launch::launch(&mut server, &log)?;
            match node.checked_sub(1) {
                None => state.server = Some(process),
                Some(other) if other < state.others.len() => {
                    if let Some(place) = state.others.get_mut(other) {
                        *place = process;
                    }
                }
                Some(_) => state.others.push(process),
            }
            state.save(&file)?;
        }
        let patience = self.kind.start_patience();
        for ((node, process), port) in state.processes().enumerate().zip(&state.ports) {
            // One that stays down on purpose is waited for by nobody.
            if self.only.is_some_and(|only| only != node) {
                continue;
            }
            let answers = match self.kind {
                Kind::RocketCluster => {
                    ready::wait_until(self.kind, process, patience, || rocket_cluster::is_ready(state, node))
                }
                _ => ready::wait(self.kind, *port, process, patience),
            };
            answers.with_context(|| format!("last lines of {}:\n{}", log.display(), command::tail(&log, 20)))?;
        }
        Ok(())
    }

    fn report(&self, state: &State) -> Result<Report> {
        Ok(Report {
            broker: self.kind,
            instance: self.name.clone(),
            running: state.is_running(),
            url: self.kind.url(&state.ports),
            environment: self.environment(state)?,
            pid: state.server.as_ref().filter(|server| server.is_alive()).map(|server| server.pid),
            ports: state.ports.clone(),
            folder: self.folder.clone(),
            log: self.log(),
        })
    }

    fn environment(&self, state: &State) -> Result<BTreeMap<&'static str, String>> {
        let authority = self.folder.join(tls::AUTHORITY);
        let mut environment = BTreeMap::new();
        if self.kind == Kind::Kafka {
            environment.insert("MQ_TEST_KAFKA", self.kind.url(&state.ports));
            environment.insert("MQ_TEST_KAFKA_SASL", kafka::password_url(state)?);
            environment.insert("MQ_TEST_KAFKA_LIMITED", kafka::limited_url(state)?);
            environment.insert("MQ_TEST_KAFKA_WAYS", kafka::ways(state)?);
            environment.insert("MQ_TEST_KAFKA_CONTROL", self.control_command()?);
            if authority.exists() {
                environment.insert("MQ_TEST_KAFKA_TLS", kafka::tls_url(state, &authority)?);
                // An instance which an older version has started does not listen there yet.
                let certificate = kafka::certificate_url(state, &authority).ok();
                environment.extend(certificate.map(|url| ("MQ_TEST_KAFKA_CERTIFICATE", url)));
                let both = kafka::encrypted_password_url(state, &authority).ok();
                environment.extend(both.map(|url| ("MQ_TEST_KAFKA_SASL_TLS", url)));
            }
        } else if self.kind == Kind::RedisSentinel {
            environment.insert("MQ_TEST_REDIS_SENTINEL", self.kind.url(&state.ports));
            environment.insert("MQ_TEST_REDIS_SENTINEL_CONTROL", self.control_command()?);
        } else if self.kind == Kind::RedisCluster {
            environment.insert("MQ_TEST_PROFILE", self.kind.name().to_owned());
            environment.insert("MQ_TEST_REDIS", self.kind.url(&state.ports));
            environment.insert("MQ_TEST_REDIS_NODES", redis_cluster::nodes_of(&state.ports));
            environment.insert("MQ_TEST_REDIS_CONTROL", self.control_command()?);
        } else if matches!(self.kind, Kind::Redis70 | Kind::Redis80) {
            environment.insert("MQ_TEST_PROFILE", self.kind.name().to_owned());
            environment.insert("MQ_TEST_REDIS", self.kind.url(&state.ports));
            environment.insert("MQ_TEST_REDIS_CONTROL", self.control_command()?);
            environment.insert("MQ_TEST_REDIS_SERVER", redis::words_of(self.kind)?);
            environment.insert("MQ_TEST_REDIS_LIMITED", redis::limited_url(state)?);
            if authority.exists() {
                environment.insert("MQ_TEST_REDIS_TLS", redis::tls_url(state, &authority)?);
                environment.insert("MQ_TEST_REDIS_CERTIFICATE", redis::certificate_url(state, &authority)?);
            }
        } else if self.kind == Kind::Rocket54 {
            environment.insert("MQ_TEST_ROCKET", self.kind.url(&state.ports));
            environment.insert("MQ_TEST_ROCKET_BROKER", rocket::broker(state)?);
            environment.insert("MQ_TEST_ROCKET_CONTROL", self.control_command()?);
            environment.insert("MQ_TEST_ROCKET_JARS", rocket::install()?.display().to_string());
            if authority.exists() {
                environment.insert("MQ_TEST_ROCKET_TLS", rocket::tls_url(state, &authority)?);
            }
        } else if self.kind == Kind::RocketCluster {
            environment.insert("MQ_TEST_ROCKET_CLUSTER", self.kind.url(&state.ports));
            environment.insert("MQ_TEST_ROCKET_CLUSTER_CONTROL", self.control_command()?);
        } else if self.kind == Kind::Rocket54Guarded {
            environment.insert("MQ_TEST_ROCKET_GUARDED", rocket::guarded_url(state, &authority)?);
        } else {
            environment.insert("MQ_TEST_PROFILE", self.kind.name().to_owned());
            environment.insert("MQ_TEST_RABBIT", self.kind.url(&state.ports));
            environment.insert("MQ_TEST_RABBIT_CONTROL", self.control_command()?);
            if authority.exists() {
                environment.insert("MQ_TEST_RABBIT_TLS", rabbit::tls_url(state, &authority)?);
                environment.insert("MQ_TEST_RABBIT_CERTIFICATE", rabbit::certificate_url(state, &authority)?);
            }
        }
        Ok(environment)
    }

    /// For a shell: with `kill`, `start`, `block` or `unblock` in the variable `VERB` it does that to this broker.
    fn control_command(&self) -> Result<String> {
        let program = std::env::current_exe().context("this program does not know where it is")?;
        let program = program.display().to_string().replace('"', "\\\"");
        // Of several processes the variable `NODE` may name one.
        let node = if self.kind.processes() > 1 { " ${NODE:+--node \"$NODE\"}" } else { "" };
        Ok(format!("\"{program}\" brokers \"$VERB\" {} --instance {}{node}", self.kind.name(), self.name))
    }

    fn check_known(&self) -> Result<()> {
        if !self.state_file().exists() {
            bail!("{self} is not there: `cargo xtask brokers up` creates it");
        }
        Ok(())
    }

    fn load(&self) -> Result<Option<State>> {
        State::load(&self.state_file())
    }

    /// Beside the folder, which `down` deletes.
    fn lock(&self) -> Result<Lock> {
        Lock::acquire(&self.lock_file(), LOCK_PATIENCE)
    }

    fn lock_file(&self) -> PathBuf {
        self.folder.with_file_name(format!("{}.lock", self.kind.name()))
    }

    fn state_file(&self) -> PathBuf {
        self.folder.join("state.json")
    }

    fn log(&self) -> PathBuf {
        self.folder.join(Path::new("server.log"))
    }
}

impl std::fmt::Display for Instance {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} of instance {}", self.kind.name(), self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_the_folder() {
        for name in ["", "..", "a/b", "A", "a b", &"x".repeat(33)] {
            assert!(Instance::new(Kind::Kafka, name).is_err(), "{name:?}");
        }
        assert!(Instance::new(Kind::Kafka, "test-1").is_ok());
    }
}
