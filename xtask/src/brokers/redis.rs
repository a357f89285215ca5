//! One Redis, of this machine's own Debian or of a Debian of another release in a folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::kind::Kind;
use super::launch;
use super::state::State;
use super::tls;
use crate::install;

/// Plain, with TLS.
pub(crate) const PORTS: usize = 2;

const CONFIG: &str = "redis.conf";
/// Who may do little, for tests of permissions.
const LIMITED: (&str, &str) = ("limited", "limited-password");

pub(crate) fn install(kind: Kind) -> Result<PathBuf> {
    let root = install::debian_root(kind.debian_release().context("not a Redis")?)?;
    install::package_in(&root, "redis-server", "usr/bin/redis-server")?;
    Ok(root)
}

/// The command which becomes the broker.
pub(crate) fn server(kind: Kind, folder: &Path, state: &State) -> Result<Command> {
    fs::create_dir_all(folder.join("data")).with_context(|| format!("{} cannot be created", folder.display()))?;
    tls::ensure(folder)?;
    fs::write(folder.join(CONFIG), config(state, folder)?)?;
    program(kind, &folder.join(CONFIG))
}

/// The server with this configuration.
pub(crate) fn program(kind: Kind, config: &Path) -> Result<Command> {
    let words = words(kind)?;
    let (first, rest) = words.split_first().context("a server without a program")?;
    let mut server = launch::command(first);
    server.args(rest).arg(config);
    Ok(server)
}

/// What starts the server: its program, or what a program of another release needs before it.
fn words(kind: Kind) -> Result<Vec<PathBuf>> {
    let root = install(kind)?;
    if root == Path::new("/") {
        return Ok(vec!["/usr/bin/redis-server".into()]);
    }
    // The program of another release comes with its own loader and libraries: it needs no root for that.
    let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu"];
    let libraries: Vec<String> = libraries.iter().map(|name| root.join(name).display().to_string()).collect();
    let loaders = ["lib64/ld-linux-x86-64.so.2", "lib/ld-linux-aarch64.so.1"];
    let loader = loaders.iter().map(|name| root.join("usr").join(name)).find(|loader| loader.exists());
    let loader = loader.context("the other Debian has no loader for programs")?;
    Ok(vec![loader, "--library-path".into(), libraries.join(":").into(), root.join("usr/bin/redis-server")])
}

/// The same as one text, for tests that start a server of their own.
pub(crate) fn words_of(kind: Kind) -> Result<String> {
    let words: Vec<String> = words(kind)?.iter().map(|word| word.display().to_string()).collect();
    Ok(words.join(" "))
}

fn config(state: &State, folder: &Path) -> Result<String> {
    let (port, encrypted) = (state.port(0)?, state.port(1)?);
    let file = |name: &str| folder.join(name).display().to_string();
    let (user, password) = LIMITED;
    Ok(format!(
        "\
bind 127.0.0.1
port {port}
tls-port {encrypted}
tls-ca-cert-file {}
tls-cert-file {}
tls-key-file {}
tls-auth-clients optional
dir {}
appendonly yes
appendfsync always
save \"\"
maxmemory-policy noeviction
user {user} on >{password} ~{{mq:* ~{{mq}}:* ~mq:* &* +@all -config -@dangerous
",
        file(tls::AUTHORITY),
        file(tls::CERTIFICATE),
        file(tls::KEY),
        file("data"),
    ))
}

/// The same broker by the listener with TLS, as the adapter's own URL.
pub(crate) fn tls_url(state: &State, authority: &Path) -> Result<String> {
    Ok(format!("rediss://127.0.0.1:{}?ca={}", state.port(1)?, authority.display()))
}

/// The same, showing the client's certificate.
pub(crate) fn certificate_url(state: &State, authority: &Path) -> Result<String> {
    Ok(format!("rediss://127.0.0.1:{}?{}", state.port(1)?, tls::client_parameters(authority)))
}

/// As a user who may not do everything.
pub(crate) fn limited_url(state: &State) -> Result<String> {
    let (user, password) = LIMITED;
    Ok(format!("redis://{user}:{password}@127.0.0.1:{}", state.port(0)?))
}
