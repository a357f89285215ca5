//! Delayed sends: a delay in seconds, written in binary, steers the message through one queue for each bit that is set.
//!
//! The queue of bit k holds messages for 2^k seconds and passes them on by expiring, at least once. All messages of a
//! queue wait equally long, so none is held up by one in front of it, and any delay takes at most 20 queues.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use lapin::ExchangeKind;
use lapin::options::{ExchangeBindOptions, ExchangeDeclareOptions, QueueBindOptions};
use lapin::types::FieldTable;
use mq_core::error::{Error, Result};
use mq_core::name::{Topic, TopicKind};
use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::error::{BACKEND, within};
use crate::names::short;
use crate::topology::{Topology, level_queue};

const LEVELS: u32 = 20;
const DELIVER: &str = "mq-delay-deliver";

/// The longest delay: 2^20 - 1 seconds, twelve days.
pub(crate) const MAX_DELAY: Duration = Duration::from_secs((1 << LEVELS) - 1);

/// Where a delayed message starts, and when it arrives.
pub(crate) struct Route {
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
    pub(crate) due: SystemTime,
}

/// The queues of delays, declared when the first delayed message is sent.
#[derive(Debug, Default)]
pub(crate) struct Delays {
    ready: OnceCell<()>,
}

/// The way of a message for `topic` that may arrive at `at`, rounded up to whole seconds; `None` when that is now.
pub(crate) fn route(topic: &Topic, at: SystemTime, now: SystemTime) -> Result<Option<Route>> {
    let delay = at.duration_since(now).unwrap_or_default();
    let seconds = delay.as_nanos().div_ceil(1_000_000_000);
    if seconds == 0 {
        return Ok(None);
    }
    if topic.kind() != TopicKind::Topic {
        return Err(Error::config("only topics take delayed messages: a foreign queue or exchange cannot be bound to")
            .with_backend(BACKEND)
            .with_context("topic", topic));
    }
    let seconds = match u32::try_from(seconds) {
        Ok(seconds) if u64::from(seconds) <= MAX_DELAY.as_secs() => seconds,
        _ => {
            return Err(Error::config("the delay is too long").with_backend(BACKEND).with_context("limit", "12 days"));
        }
    };
    let mut routing_key = String::with_capacity(2 * LEVELS as usize + topic.name().len());
    for level in (0..LEVELS).rev() {
        routing_key.push_str(if seconds >> level & 1 == 1 { "1." } else { "0." });
    }
    routing_key.push_str(topic.name());
    let exchange = exchange(seconds.ilog2());
    Ok(Some(Route { exchange, routing_key, due: now + Duration::from_secs(u64::from(seconds)) }))
}

fn exchange(level: u32) -> String {
    format!("mq-delay-{level:02}")
}

/// Matches routing keys whose bit `level` is `bit`.
fn pattern(level: u32, bit: char) -> String {
    let mut pattern = "*.".repeat((LEVELS - 1 - level) as usize);
    // Writing to a string cannot fail.
    let _ = write!(pattern, "{bit}.#");
    pattern
}

impl Delays {
    /// Declares exchanges, queues and bindings, once.
    pub(crate) async fn declare(&self, topology: &Topology) -> Result<()> {
        self.ready.get_or_try_init(|| declare_levels(topology)).await.copied()
    }

    /// Leads what comes out of the delays to `topic`.
    pub(crate) async fn bind(&self, topology: &Topology, topic: &Topic) -> Result<()> {
        let limit = topology.link.config().connect_timeout;
        let channel = topology.link.channel(Instant::now() + limit).await?;
        let key = format!("{}{}", "*.".repeat(LEVELS as usize), topic.name());
        let (to, from, key) = (short(topic.name())?, short(DELIVER)?, short(&key)?);
        within(limit, channel.exchange_bind(to, from, key, ExchangeBindOptions::default(), FieldTable::default())).await
    }
}

async fn declare_levels(topology: &Topology) -> Result<()> {
    let limit = topology.link.config().connect_timeout;
    let channel = topology.link.channel(Instant::now() + limit).await?;
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let none = FieldTable::default;
    within(limit, channel.exchange_declare(short(DELIVER)?, ExchangeKind::Topic, options, none())).await?;
    for level in 0..LEVELS {
        let next = if level == 0 { DELIVER.to_owned() } else { exchange(level - 1) };
        let name = exchange(level);
        within(limit, channel.exchange_declare(short(&name)?, ExchangeKind::Topic, options, none())).await?;
        topology.declare_queue(&channel, &level_queue(&name, &next, Duration::from_secs(1 << level))).await?;
        let (waits, passes) = (pattern(level, '1'), pattern(level, '0'));
        let bind =
            channel.queue_bind(short(&name)?, short(&name)?, short(&waits)?, QueueBindOptions::default(), none());
        within(limit, bind).await?;
        let bind = channel.exchange_bind(
            short(&next)?,
            short(&name)?,
            short(&passes)?,
            ExchangeBindOptions::default(),
            none(),
        );
        within(limit, bind).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_round_up_and_take_the_highest_bit_first() {
        let topic = Topic::parse("a.b").unwrap();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let at = |millis| route(&topic, now + Duration::from_millis(millis), now).unwrap();
        assert!(at(0).is_none());
        assert!(route(&topic, SystemTime::UNIX_EPOCH, now).unwrap().is_none());
        let route_5 = at(4001).unwrap();
        assert_eq!(route_5.exchange, "mq-delay-02");
        assert_eq!(route_5.due, now + Duration::from_secs(5));
        assert!(route_5.routing_key.ends_with("0.1.0.1.a.b"));
        assert_eq!(route_5.routing_key.split('.').count(), 22);
        assert_eq!(at(1).unwrap().exchange, "mq-delay-00");
        assert!(route(&topic, now + MAX_DELAY + Duration::from_millis(1), now).is_err());
        assert_eq!(pattern(19, '1'), "1.#");
        assert_eq!(pattern(17, '0'), "*.*.0.#");
    }
}
