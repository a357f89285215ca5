//! Free loopback ports.

use std::net::TcpListener;

use anyhow::{Context, Result, bail};

/// As many ports as asked, from `first` up, which nobody listens on and no other instance has been given.
pub(crate) fn allocate(first: u16, count: usize, taken: &[u16]) -> Result<Vec<u16>> {
    let free = (first..first.saturating_add(200)).filter(|port| !taken.contains(port) && is_free(*port));
    let ports: Vec<u16> = free.take(count).collect();
    if ports.len() < count {
        bail!("fewer than {count} free ports among the 200 from {first}: `cargo xtask brokers down` unused instances");
    }
    Ok(ports)
}

/// An error when somebody else listens on a port that an instance was given earlier.
pub(crate) fn check_free(port: u16) -> Result<()> {
    TcpListener::bind(("127.0.0.1", port)).map(drop).with_context(|| {
        format!("port {port} of this instance is in use by another process: end that one, or `down` and `up` the instance for new ports")
    })
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_in_use_or_taken_are_passed_over() {
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let held = holder.local_addr().unwrap().port();
        let first = held.saturating_sub(1).min(u16::MAX - 200);
        let ports = allocate(first, 3, &[held + 1]).unwrap();
        assert!(!ports.contains(&held) && !ports.contains(&(held + 1)), "{ports:?}");
        assert!(format!("{:#}", check_free(held).unwrap_err()).contains("in use"));
    }
}
