//! The scripts: every move of a message is one of them, so that no crash comes between its halves.

use std::sync::LazyLock;

use redis::{Cmd, Script};

macro_rules! scripts {
    ($($name:ident = $file:literal),+ $(,)?) => {
        $(pub(crate) static $name: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!(concat!("scripts/", $file))));)+

        /// Their texts, to be loaded with every new connection.
        pub(crate) const ALL: &[&str] = &[$(include_str!(concat!("scripts/", $file))),+];
    };
}

scripts! {
    ABANDONED = "abandoned.lua",
    ACK = "ack.lua",
    ATOMIC = "atomic.lua",
    BEAT = "beat.lua",
    CLAIM = "claim.lua",
    DEAD = "dead.lua",
    DELAY = "delay.lua",
    FENCE = "fence.lua",
    HOLD = "hold.lua",
    JOIN = "join.lua",
    LAG = "lag.lua",
    LEAVE = "leave.lua",
    MOVE = "move.lua",
    PARK = "park.lua",
    READ = "read.lua",
    REDRIVE = "redrive.lua",
    SEEK = "seek.lua",
    TOPIC = "topic.lua",
    TRIM = "trim.lua",
}

/// A call of a script by its hash; its arguments follow.
pub(crate) fn call(script: &Script, keys: &[&str]) -> Cmd {
    let mut command = redis::cmd("EVALSHA");
    command.arg(script.get_hash()).arg(keys.len());
    for key in keys {
        command.arg(*key);
    }
    command
}
