//! Exchanges, queues and bindings: what there must be, and declaring or checking it.

use std::time::Duration;

use lapin::options::{
    ExchangeBindOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, ExchangeKind};
use mq_core::driver::TopologyItem;
use mq_core::error::{Error, ErrorKind, Result};
use mq_core::name::{Group, Topic, TopicKind};
use mq_core::subscription::{GroupMode, Selector};
use tokio::time::Instant;

use crate::config::RabbitConfig;
use crate::error::{BACKEND, error, within};
use crate::link::Link;
use crate::names::{self, short};

/// A limit no message reaches: RabbitMQ 4 sets messages aside after 20 returns unless told otherwise, 3.10 knows no
/// word for "never", and listing dead letters returns them each time.
const NEVER: i64 = 2_000_000_000;

/// How long the attempts of a held message are remembered.
const KEEP_ATTEMPTS: Duration = Duration::from_secs(7 * 24 * 3600);

/// A queue, with everything that cannot change later.
#[derive(Debug, Clone)]
pub(crate) struct QueueSpec {
    pub(crate) name: String,
    arguments: Vec<(&'static str, AMQPValue)>,
    exclusive: bool,
}

impl QueueSpec {
    /// A durable queue of another program, to be compared with what is there.
    pub(crate) fn foreign(name: &str, arguments: Vec<(&'static str, AMQPValue)>) -> Self {
        Self { name: name.to_owned(), arguments, exclusive: false }
    }
}

/// A binding of a queue.
#[derive(Debug, Clone)]
pub(crate) struct Binding {
    exchange: String,
    queue: String,
    routing_key: String,
    arguments: Vec<(String, String)>,
    all: bool,
}

/// Everything one group needs.
#[derive(Debug, Clone)]
pub(crate) struct GroupPlan {
    /// The exchange that must be there already.
    pub(crate) source: Option<String>,
    /// A foreign queue that must be there already.
    pub(crate) foreign: Option<String>,
    headers_exchange: Option<String>,
    pub(crate) queues: Vec<QueueSpec>,
    bindings: Vec<Binding>,
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

fn quorum(name: String, limit: i64, dead_letters_to: Option<&str>) -> QueueSpec {
    let mut arguments = vec![
        ("x-queue-type", text("quorum")),
        ("x-delivery-limit", AMQPValue::LongLongInt(limit)),
        // Needed for dead lettering at least once; and a full queue refuses, never drops.
        ("x-overflow", text("reject-publish")),
    ];
    if let Some(queue) = dead_letters_to {
        arguments.push(("x-dead-letter-exchange", text("")));
        arguments.push(("x-dead-letter-routing-key", text(queue)));
        arguments.push(("x-dead-letter-strategy", text("at-least-once")));
    }
    QueueSpec { name, arguments, exclusive: false }
}

/// The dead letters of a group.
pub(crate) fn dead_letter_queue(topic: &Topic, group: &Group) -> QueueSpec {
    quorum(names::dead_letter_queue(topic, group), NEVER, None)
}

/// The queue in which retries of `delay` wait: they return by expiring.
pub(crate) fn retry_queue(topic: &Topic, group: &Group, delay: Duration) -> QueueSpec {
    let mut queue = quorum(names::retry_queue(topic, group, delay), NEVER, Some(&names::return_queue(topic, group)));
    let ttl = i64::try_from(names::millis(delay)).unwrap_or(i64::MAX);
    queue.arguments.push(("x-message-ttl", AMQPValue::LongLongInt(ttl)));
    queue
}

fn group_queue(config: &RabbitConfig, name: String, dead_letters: &str, mode: GroupMode) -> QueueSpec {
    let mut queue = quorum(name, i64::from(config.delivery_limit), Some(dead_letters));
    if mode == GroupMode::Ordered {
        queue.arguments.push(("x-single-active-consumer", AMQPValue::Boolean(true)));
    }
    if let Some(length) = config.max_length {
        queue.arguments.push(("x-max-length", AMQPValue::LongLongInt(i64::try_from(length).unwrap_or(i64::MAX))));
    }
    queue
}

/// What `group` needs to read `topic`.
pub(crate) fn plan(
    config: &RabbitConfig,
    topic: &Topic,
    group: &Group,
    mode: GroupMode,
    selector: Option<&Selector>,
    delays: &[Duration],
) -> Result<GroupPlan> {
    let dead_letters = dead_letter_queue(topic, group);
    let main = names::group_queue(topic, group);
    let back = names::return_queue(topic, group);
    let mut plan =
        GroupPlan { source: None, foreign: None, headers_exchange: None, queues: Vec::new(), bindings: Vec::new() };
    // In the order of declaring: what a queue sets messages aside to is there before it.
    plan.queues.push(dead_letters.clone());
    match topic.kind() {
        TopicKind::Queue => {
            if selector.is_some() {
                return Err(Error::config("messages of a foreign queue are chosen already: it has no selector")
                    .with_backend(BACKEND));
            }
            plan.foreign = Some(main);
        }
        TopicKind::Topic | TopicKind::Exchange => {
            plan.queues.push(group_queue(config, main.clone(), &dead_letters.name, mode));
            plan.source = Some(topic.name().to_owned());
            let mut binding = Binding {
                exchange: topic.name().to_owned(),
                queue: main,
                routing_key: "#".to_owned(),
                arguments: Vec::new(),
                all: true,
            };
            match selector {
                None => {}
                Some(Selector::RoutingPattern(pattern)) => binding.routing_key.clone_from(pattern),
                Some(Selector::Headers { pairs, all }) => {
                    binding.arguments.clone_from(pairs);
                    binding.all = *all;
                    if topic.kind() == TopicKind::Topic {
                        binding.exchange = names::headers_exchange(topic);
                        plan.headers_exchange = Some(binding.exchange.clone());
                    }
                }
                Some(_) => return Err(Error::config("this selector is not known here").with_backend(BACKEND)),
            }
            plan.bindings.push(binding);
        }
        _ => return Err(foreign_stream(topic)),
    }
    if topic.is_foreign() {
        plan.queues.push(group_queue(config, back, &dead_letters.name, mode));
    }
    plan.queues.extend(delays.iter().map(|delay| retry_queue(topic, group, *delay)));
    if mode == GroupMode::Ordered {
        let mut attempts = quorum(names::attempts_queue(topic, group), NEVER, None);
        let ttl = i64::try_from(names::millis(KEEP_ATTEMPTS)).unwrap_or(i64::MAX);
        attempts.arguments.push(("x-message-ttl", AMQPValue::LongLongInt(ttl)));
        plan.queues.push(attempts);
    }
    Ok(plan)
}

/// A queue of one consumer's own, gone with its connection.
pub(crate) fn private_queue(name: &str) -> QueueSpec {
    QueueSpec { name: name.to_owned(), arguments: Vec::new(), exclusive: true }
}

/// A consumer's own retry queue of one delay.
pub(crate) fn private_retry_queue(name: String, back: &str, delay: Duration) -> QueueSpec {
    let ttl = i64::try_from(names::millis(delay)).unwrap_or(i64::MAX);
    let arguments = vec![
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text(back)),
        ("x-message-ttl", AMQPValue::LongLongInt(ttl)),
    ];
    QueueSpec { name, arguments, exclusive: true }
}

pub(crate) fn foreign_stream(topic: &Topic) -> Error {
    Error::config(format!("`{topic}` is a Redis stream"))
        .with_backend(BACKEND)
        .with_hint("use NAME, queue:NAME or exchange:NAME")
}

/// Declares and checks, one channel a step where a refusal would close it.
#[derive(Debug, Clone)]
pub(crate) struct Topology {
    pub(crate) link: Link,
}

impl Topology {
    fn deadline(&self) -> Instant {
        Instant::now() + self.link.config().connect_timeout
    }

    async fn channel(&self) -> Result<Channel> {
        self.link.channel(self.deadline()).await
    }

    fn limit(&self) -> Duration {
        self.link.config().connect_timeout
    }

    /// Declares the exchange of a topic.
    pub(crate) async fn declare_topic(&self, topic: &Topic) -> Result<()> {
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let channel = self.channel().await?;
        let declare =
            channel.exchange_declare(short(topic.name())?, ExchangeKind::Topic, options, FieldTable::default());
        within(self.limit(), declare).await.map_err(|cause| cause.with_context("topic", topic))
    }

    /// True when the exchange is there.
    pub(crate) async fn exchange_exists(&self, name: &str) -> Result<bool> {
        let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
        let channel = self.channel().await?;
        let ask = channel.exchange_declare(short(name)?, ExchangeKind::Topic, options, FieldTable::default());
        found(within(self.limit(), ask).await).map(|found| found.is_some())
    }

    /// Messages ready and consumers of a queue; `None` when it is not there.
    pub(crate) async fn queue_counts(&self, name: &str) -> Result<Option<(u64, u32)>> {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let channel = self.channel().await?;
        let answer = within(self.limit(), channel.queue_declare(short(name)?, options, FieldTable::default())).await;
        Ok(found(answer)?.map(|queue| (u64::from(queue.message_count()), queue.consumer_count())))
    }

    /// Fails with the way out when the topic is not there.
    pub(crate) async fn require_topic(&self, topic: &Topic) -> Result<()> {
        if self.exchange_exists(topic.name()).await? { Ok(()) } else { Err(no_topic(topic)) }
    }

    /// Declares everything of `plan`.
    pub(crate) async fn declare(&self, topic: &Topic, plan: &GroupPlan) -> Result<()> {
        self.require(topic, plan).await?;
        let channel = self.channel().await?;
        for queue in &plan.queues {
            self.declare_queue(&channel, queue).await?;
        }
        if let Some(name) = &plan.headers_exchange {
            let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
            let declare = channel.exchange_declare(short(name)?, ExchangeKind::Headers, options, FieldTable::default());
            within(self.limit(), declare).await?;
            let source = plan.source.as_deref().unwrap_or_default();
            let (options, none) = (ExchangeBindOptions::default(), FieldTable::default());
            within(self.limit(), channel.exchange_bind(short(name)?, short(source)?, "#".into(), options, none))
                .await?;
        }
        for binding in &plan.bindings {
            self.bind(&channel, binding).await?;
        }
        Ok(())
    }

    /// Checks that everything of `plan` is there as it would be declared. Bindings cannot be seen over AMQP.
    pub(crate) async fn verify(&self, topic: &Topic, plan: &GroupPlan) -> Result<()> {
        self.require(topic, plan).await?;
        for queue in &plan.queues {
            if self.queue_counts(&queue.name).await?.is_none() {
                return Err(error(ErrorKind::NotFound, "a queue of the group is missing")
                    .with_context("queue", &queue.name)
                    .with_hint("`mq topology` prints what must be created; or connect with topology = \"declare\""));
            }
            // It is there, so this creates nothing: it compares the arguments.
            let channel = self.channel().await?;
            self.declare_queue(&channel, queue).await?;
        }
        Ok(())
    }

    async fn require(&self, topic: &Topic, plan: &GroupPlan) -> Result<()> {
        if let Some(name) = &plan.source
            && !self.exchange_exists(name).await?
        {
            return Err(no_topic(topic));
        }
        if let Some(name) = &plan.foreign
            && self.queue_counts(name).await?.is_none()
        {
            return Err(error(ErrorKind::NotFound, "the queue does not exist")
                .with_context("queue", name)
                .with_hint("a foreign queue is created by its owner"));
        }
        Ok(())
    }

    pub(crate) async fn declare_queue(&self, channel: &Channel, queue: &QueueSpec) -> Result<()> {
        let options = QueueDeclareOptions {
            durable: !queue.exclusive,
            exclusive: queue.exclusive,
            auto_delete: queue.exclusive,
            ..QueueDeclareOptions::default()
        };
        let mut arguments = FieldTable::default();
        for (name, value) in &queue.arguments {
            arguments.insert(short(name)?, value.clone());
        }
        let declared = within(self.limit(), channel.queue_declare(short(&queue.name)?, options, arguments)).await;
        declared.map(drop).map_err(|cause| {
            let cause = cause.with_context("queue", &queue.name);
            if cause.to_string().contains("x-single-active-consumer") {
                return cause.with_hint(
                    "a group is shared or ordered from its creation on: open it in its own mode, or delete and create it",
                );
            }
            cause
        })
    }

    /// Declares a queue on a channel of its own.
    pub(crate) async fn ensure_queue(&self, queue: &QueueSpec) -> Result<()> {
        let channel = self.channel().await?;
        self.declare_queue(&channel, queue).await
    }

    async fn bind(&self, channel: &Channel, binding: &Binding) -> Result<()> {
        let mut arguments = FieldTable::default();
        if !binding.arguments.is_empty() {
            arguments.insert("x-match".into(), text(if binding.all { "all" } else { "any" }));
        }
        for (name, value) in &binding.arguments {
            arguments.insert(short(name)?, text(value));
        }
        let (queue, exchange, key) = (short(&binding.queue)?, short(&binding.exchange)?, short(&binding.routing_key)?);
        within(self.limit(), channel.queue_bind(queue, exchange, key, QueueBindOptions::default(), arguments)).await
    }

    /// Binds a queue to everything of an exchange, or to what `selector` chooses.
    pub(crate) async fn bind_private(
        &self,
        channel: &Channel,
        exchange: &str,
        queue: &str,
        selector: Option<&Selector>,
    ) -> Result<()> {
        let mut binding = Binding {
            exchange: exchange.to_owned(),
            queue: queue.to_owned(),
            routing_key: "#".to_owned(),
            arguments: Vec::new(),
            all: true,
        };
        match selector {
            None => {}
            Some(Selector::RoutingPattern(pattern)) => binding.routing_key.clone_from(pattern),
            Some(_) => {
                return Err(
                    Error::config("a broadcast subscription selects by routing pattern only").with_backend(BACKEND)
                );
            }
        }
        self.bind(channel, &binding).await
    }

    pub(crate) async fn delete_queue(&self, name: &str) -> Result<()> {
        let channel = self.channel().await?;
        let answer = within(self.limit(), channel.queue_delete(short(name)?, QueueDeleteOptions::default())).await;
        found(answer).map(drop)
    }

    pub(crate) async fn delete_exchange(&self, name: &str) -> Result<()> {
        let channel = self.channel().await?;
        found(within(self.limit(), channel.exchange_delete(short(name)?, Default::default())).await).map(drop)
    }
}

impl GroupPlan {
    /// For people who create it by hand.
    pub(crate) fn items(&self) -> Vec<TopologyItem> {
        let mut items = Vec::new();
        let item = |kind, name: &str, properties: Vec<(String, String)>| TopologyItem {
            kind,
            name: name.to_owned(),
            properties,
            exists: None,
        };
        let of = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        if let Some(name) = &self.source {
            items.push(item("exchange", name, of(&[("type", "topic"), ("durable", "true")])));
        }
        if let Some(name) = &self.headers_exchange {
            items.push(item("exchange", name, of(&[("type", "headers"), ("durable", "true")])));
            let source = self.source.as_deref().unwrap_or_default();
            items.push(item("binding", name, of(&[("source", source), ("routing_key", "#")])));
        }
        for queue in &self.queues {
            let mut properties = of(&[("durable", "true")]);
            for (name, value) in &queue.arguments {
                let value = crate::value::to_bytes(value);
                properties.push(((*name).to_owned(), String::from_utf8_lossy(&value).into_owned()));
            }
            items.push(item("queue", &queue.name, properties));
        }
        for binding in &self.bindings {
            let mut properties = of(&[("source", &binding.exchange), ("routing_key", &binding.routing_key)]);
            if !binding.arguments.is_empty() {
                properties.push(("x-match".to_owned(), if binding.all { "all" } else { "any" }.to_owned()));
                properties.extend(binding.arguments.iter().cloned());
            }
            items.push(item("binding", &binding.queue, properties));
        }
        items
    }
}

pub(crate) fn no_topic(topic: &Topic) -> Error {
    let missing = error(ErrorKind::NotFound, "the topic does not exist").with_context("topic", topic);
    match topic.kind() {
        TopicKind::Topic => missing.with_hint(format!("create it first: mq topic create {topic}")),
        _ => missing.with_hint("a foreign exchange is created by its owner"),
    }
}

/// `None` when the broker says that it is not there.
fn found<T>(answer: Result<T>) -> Result<Option<T>> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(cause) if cause.kind() == ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(cause),
    }
}

/// The empty name is the default exchange: its routing key is a queue's name.
pub(crate) fn default_exchange() -> ShortString {
    ShortString::default()
}

/// A queue of the delays: everything stays for `time`, then goes to the exchange `next` under its own routing key.
pub(crate) fn level_queue(name: &str, next: &str, time: Duration) -> QueueSpec {
    let mut queue = quorum(name.to_owned(), NEVER, None);
    let ttl = i64::try_from(names::millis(time)).unwrap_or(i64::MAX);
    queue.arguments.extend([
        ("x-dead-letter-exchange", text(next)),
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-message-ttl", AMQPValue::LongLongInt(ttl)),
    ]);
    queue
}
