//! Brokers by name: `memory:orders` means one broker in a whole process, as long as somebody holds it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::error::{ErrorKind, Result};
use crate::memory::config::MemoryConfig;
use crate::memory::server::Server;
use crate::memory::state::fail;

static NAMED: Mutex<Option<HashMap<String, Weak<Server>>>> = Mutex::new(None);

/// The broker of that name, a new one when nobody holds it; without a name always a new one.
pub(super) fn attach(config: MemoryConfig) -> Result<Arc<Server>> {
    let Some(name) = config.name.clone() else { return Ok(Arc::new(Server::new(config))) };
    let mut named = NAMED.lock().unwrap_or_else(PoisonError::into_inner);
    let named = named.get_or_insert_default();
    named.retain(|_, server| server.strong_count() > 0);
    if let Some(server) = named.get(&name).and_then(Weak::upgrade) {
        if server.config.same_broker(&config) {
            return Ok(server);
        }
        return Err(fail(ErrorKind::TopologyConflict, "the broker of that name has other settings")
            .with_context("name", name)
            .with_hint("use the same parameters everywhere, or another name"));
    }
    let server = Arc::new(Server::new(config));
    named.insert(name, Arc::downgrade(&server));
    Ok(server)
}
