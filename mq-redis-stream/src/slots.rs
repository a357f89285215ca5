//! Where the keys of a cluster lie: the slot of a key, and the node of a slot.

use std::fmt;

use redis::{Arg, Cmd, Value};

use crate::config::RedisConfig;
use crate::reply;

/// A cluster divides its keys among so many slots.
pub(crate) const SLOTS: u16 = 16_384;

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Address(pub(crate) String, pub(crate) u16);

impl Address {
    /// `host:port`; the last colon counts, so that an IPv6 address needs no brackets, as nodes write it.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        Some(Self(host.trim_matches(['[', ']']).to_owned(), port.parse().ok()?))
    }

    /// As a node names another one: without a host it means the host it was asked by.
    pub(crate) fn named(host: &str, port: u16, asked: &Self, config: &RedisConfig) -> Self {
        let host = if host.is_empty() || host == "?" { &asked.0 } else { host };
        let named = Self(host.to_owned(), port);
        config.address_map.get(&named.to_string()).and_then(|mapped| Self::parse(mapped)).unwrap_or(named)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.contains(':') { write!(f, "[{}]:{}", self.0, self.1) } else { write!(f, "{}:{}", self.0, self.1) }
    }
}

/// CRC-16/XMODEM, as the specification of Redis Cluster demands.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(
            crc ^ (u16::from(*byte) << 8),
            |crc, _| {
                if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
            },
        )
    })
}

/// The slot of a key: of what is between its first `{` and the `}` behind it, unless that is nothing.
pub(crate) fn slot(key: &[u8]) -> u16 {
    let open = key.iter().position(|byte| *byte == b'{');
    let tag = open.and_then(|open| {
        let rest = key.get(open + 1..)?;
        let close = rest.iter().position(|byte| *byte == b'}')?;
        rest.get(..close).filter(|tag| !tag.is_empty())
    });
    crc16(tag.unwrap_or(key)) % SLOTS
}

/// The first key of a command of ours; `None` when it has none.
pub(crate) fn key_of(command: &Cmd) -> Option<&[u8]> {
    let mut arguments = command.args_iter().filter_map(|argument| match argument {
        Arg::Simple(bytes) => Some(bytes),
        _ => None,
    });
    match arguments.next()? {
        b"EVALSHA" => {
            let count = arguments.nth(1)?;
            if count == b"0" { None } else { arguments.next() }
        }
        b"XGROUP" | b"XINFO" => arguments.nth(1),
        b"XREAD" | b"XREADGROUP" => arguments.skip_while(|argument| *argument != b"STREAMS").nth(1),
        b"PING" | b"INFO" | b"CONFIG" | b"CLIENT" | b"CLUSTER" | b"SCRIPT" | b"WAIT" | b"ASKING" => None,
        _ => arguments.next(),
    }
}

/// Which node has which slots, as one of them says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SlotMap {
    /// First and last slot, and their master; in order.
    ranges: Vec<(u16, u16, Address)>,
    /// Every node that was named, replicas too: any of them may be asked.
    pub(crate) nodes: Vec<Address>,
}

impl SlotMap {
    /// What `CLUSTER SLOTS` answers. What has another shape is left out.
    pub(crate) fn read(answer: Value, asked: &Address, config: &RedisConfig) -> Self {
        let mut map = Self::default();
        for range in reply::items(answer) {
            let mut parts = reply::items(range).into_iter();
            let mut bound = || parts.next().as_ref().and_then(reply::number).and_then(|slot| u16::try_from(slot).ok());
            let (Some(first), Some(last)) = (bound(), bound()) else { continue };
            let nodes: Vec<Address> = parts.filter_map(|node| node_of(node, asked, config)).collect();
            if let Some(master) = nodes.first().filter(|_| first <= last && last < SLOTS) {
                map.ranges.push((first, last, master.clone()));
            }
            map.nodes.extend(nodes);
        }
        map.ranges.sort();
        map.nodes.sort();
        map.nodes.dedup();
        map
    }

    /// True when each slot has a master.
    pub(crate) fn is_whole(&self) -> bool {
        let mut next = 0;
        for (first, last, _) in &self.ranges {
            if *first != next {
                return false;
            }
            next = last + 1;
        }
        next == SLOTS
    }

    pub(crate) fn master(&self, slot: u16) -> Option<&Address> {
        let at = self.ranges.partition_point(|(_, last, _)| *last < slot);
        self.ranges.get(at).filter(|(first, _, _)| *first <= slot).map(|(_, _, master)| master)
    }

    /// Each master once.
    pub(crate) fn masters(&self) -> Vec<Address> {
        let mut masters: Vec<Address> = self.ranges.iter().map(|(_, _, master)| master.clone()).collect();
        masters.sort();
        masters.dedup();
        masters
    }
}

fn node_of(node: Value, asked: &Address, config: &RedisConfig) -> Option<Address> {
    let mut parts = reply::items(node).into_iter();
    let host = match parts.next()? {
        Value::Nil => String::new(),
        host => reply::text(host)?,
    };
    let port = parts.next().as_ref().and_then(reply::number).and_then(|port| u16::try_from(port).ok())?;
    Some(Address::named(&host, port, asked, config))
}

/// Where a refused command should go instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Redirect {
    /// The slot has moved there for good.
    Moved(Address),
    /// The slot is about to move there, and this key has: only for this command.
    Ask(Address),
    /// Some keys of a script have moved and others not yet.
    Again,
}

impl Redirect {
    pub(crate) fn of(answer: &Value, asked: &Address, config: &RedisConfig) -> Option<Self> {
        let Value::ServerError(cause) = answer else { return None };
        let to = || {
            let place = Address::parse(cause.details()?.split_ascii_whitespace().nth(1)?)?;
            Some(Address::named(&place.0, place.1, asked, config))
        };
        match cause.code() {
            "MOVED" => to().map(Self::Moved),
            "ASK" => to().map(Self::Ask),
            "TRYAGAIN" => Some(Self::Again),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!((slot(b"foo"), slot(b"")), (12_182, 0));
        assert_eq!(slot(b"{user1000}.following"), slot(b"user1000"));
        assert_eq!(slot(b"foo{}{bar}"), crc16(b"foo{}{bar}") % SLOTS, "an empty tag is none");
        assert_eq!(slot(b"foo{{bar}}zap"), slot(b"{bar"));
        assert_eq!(slot(b"foo{bar}{zap}"), slot(b"bar"));
        assert_eq!(slot(b"a}b{c"), crc16(b"a}b{c") % SLOTS);
    }

    #[test]
    fn keys_are_found() {
        let key = |words: &str| {
            let mut words = words.split(' ');
            let mut command = redis::cmd(words.next().unwrap());
            words.for_each(|word| drop(command.arg(word).to_owned()));
            key_of(&command).map(|key| String::from_utf8(key.to_vec()).unwrap())
        };
        let is = |words, expected: Option<&str>| assert_eq!(key(words).as_deref(), expected, "{words}");
        is("XADD s * body x", Some("s"));
        is("EVALSHA hash 2 a b c", Some("a"));
        is("EVALSHA hash 0 c", None);
        is("XGROUP CREATE s g 0", Some("s"));
        is("XINFO GROUPS s", Some("s"));
        is("XREAD COUNT 1 BLOCK 5 STREAMS s 0", Some("s"));
        is("XREADGROUP GROUP STREAMS m STREAMS s >", Some("m"));
        is("PING", None);
    }

    fn range(first: i64, last: i64, host: Value, port: i64) -> Value {
        Value::Array(vec![Value::Int(first), Value::Int(last), Value::Array(vec![host, Value::Int(port)])])
    }

    #[test]
    fn maps_are_read() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let mut config = RedisConfig::default();
        config.address_map.insert("10.0.0.2:7".to_owned(), "there:8".to_owned());
        let asked = Address("asked".to_owned(), 1);
        let answer = vec![range(8_000, 16_383, text("10.0.0.2"), 7), range(0, 7_999, Value::Nil, 7), Value::Int(3)];
        let map = SlotMap::read(Value::Array(answer), &asked, &config);
        assert!(map.is_whole());
        assert_eq!(map.master(7_999), Some(&Address("asked".to_owned(), 7)));
        assert_eq!(map.master(8_000), Some(&Address("there".to_owned(), 8)));
        assert_eq!(map.masters().len(), 2);
        let torn = SlotMap::read(Value::Array(vec![range(1, 16_383, text("h"), 7)]), &asked, &config);
        assert!(!torn.is_whole() && torn.master(0).is_none() && torn.master(1).is_some());
        assert!(!SlotMap::read(Value::Array(vec![range(0, 99_999, text("h"), 7)]), &asked, &config).is_whole());
    }

    #[test]
    fn redirects_are_read() {
        let read = |line: &str| {
            let answer = redis::parse_redis_value(line.as_bytes()).unwrap();
            Redirect::of(&answer, &Address("asked".to_owned(), 1), &RedisConfig::default())
        };
        assert_eq!(
            read("-MOVED 3999 127.0.0.1:6381\r\n"),
            Some(Redirect::Moved(Address("127.0.0.1".to_owned(), 6381)))
        );
        assert_eq!(read("-ASK 3999 :6381\r\n"), Some(Redirect::Ask(Address("asked".to_owned(), 6381))));
        assert_eq!(read("-TRYAGAIN Multiple keys\r\n"), Some(Redirect::Again));
        for other in ["-MOVED 3999\r\n", "-MOVED 3999 nowhere\r\n", "-ERR no\r\n", "+OK\r\n"] {
            assert_eq!(read(other), None, "{other}");
        }
    }
}
