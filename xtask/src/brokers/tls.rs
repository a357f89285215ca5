//! Certificates of an instance: an authority of its own, a server signed by it, valid for loopback, a client; and a
//! stranger with an authority of its own, whom nobody must trust.
//!
//! Tests find the stranger beside the authority: `stranger-ca.pem`, `stranger.pem`, `stranger.key`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::command;
use crate::install::apt;

/// File names inside the folder of the instance.
pub(crate) const AUTHORITY: &str = "tls/ca.pem";
pub(crate) const CERTIFICATE: &str = "tls/server.pem";
pub(crate) const KEY: &str = "tls/server.key";
/// Key and certificate in one file.
pub(crate) const BOTH: &str = "tls/server-with-key.pem";
/// Written last: where it is, all others are.
const COMPLETE: &str = "tls/complete";

const STEPS: [&str; 8] = [
    "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=mq-test-authority \
     -addext keyUsage=critical,keyCertSign -keyout ca.key -out ca.pem",
    "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost -keyout server.key -out server.csr",
    "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile names -out server.pem",
    "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=mq -keyout client.key -out client.csr",
    "x509 -req -in client.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile client -out client.pem",
    "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=mq-test-stranger \
     -addext keyUsage=critical,keyCertSign -keyout stranger-ca.key -out stranger-ca.pem",
    "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=mq -keyout stranger.key -out stranger.csr",
    "x509 -req -in stranger.csr -CA stranger-ca.pem -CAkey stranger-ca.key -CAcreateserial -days 30 -extfile client \
     -out stranger.pem",
];

/// Makes the certificates unless they are there; answers the authority that clients must trust.
pub(crate) fn ensure(folder: &Path) -> Result<PathBuf> {
    let tls = folder.join("tls");
    if !folder.join(COMPLETE).exists() {
        if command::output(Command::new("openssl").arg("version")).is_none() {
            apt::ensure(&["openssl"])?;
        }
        fs::create_dir_all(&tls).with_context(|| format!("{} cannot be created", tls.display()))?;
        fs::write(tls.join("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n")?;
        fs::write(tls.join("client"), "extendedKeyUsage=clientAuth\n")?;
        for step in STEPS {
            let mut openssl = Command::new("openssl");
            openssl.args(step.split_ascii_whitespace()).current_dir(&tls);
            command::run(&mut openssl, &tls.join("openssl.log"), Duration::from_secs(60))?;
        }
        let both = fs::read_to_string(folder.join(KEY))? + &fs::read_to_string(folder.join(CERTIFICATE))?;
        fs::write(folder.join(BOTH), both)?;
        fs::write(folder.join(COMPLETE), "")?;
    }
    Ok(folder.join(AUTHORITY))
}

/// The parameters of a URL which show the client's certificate and trust the authority at `authority`.
pub(crate) fn client_parameters(authority: &Path) -> String {
    let file = |name: &str| authority.with_file_name(name).display().to_string();
    format!("ca={}&certificate={}&key={}", file("ca.pem"), file("client.pem"), file("client.key"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_signed_by_the_authority() {
        let folder = std::env::temp_dir().join(format!("xtask-tls-{}", std::process::id()));
        let authority = ensure(&folder).unwrap();
        let mut verify = Command::new("openssl");
        verify.args(["verify", "-verify_hostname", "localhost", "-verify_ip", "127.0.0.1", "-CAfile"]);
        assert!(command::output(verify.arg(authority).arg(folder.join(CERTIFICATE))).is_some());
        let trusted = |authority: &str, name: &str| {
            let tls = folder.join("tls");
            let mut verify = Command::new("openssl");
            verify.args(["verify", "-CAfile", authority, name]).current_dir(tls);
            command::output(&mut verify).is_some()
        };
        assert!(trusted("ca.pem", "client.pem") && trusted("stranger-ca.pem", "stranger.pem"));
        assert!(!trusted("ca.pem", "stranger.pem") && !trusted("stranger-ca.pem", "server.pem"));
        fs::remove_dir_all(folder).unwrap();
    }
}
