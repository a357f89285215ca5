//! What no client would send: frames written by hand to a real RabbitMQ (`MQ_TEST_RABBIT`).
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test ends with its first surprise")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use mq_core::Broker;
use mq_core::config::Url;
use mq_core::driver::{GroupSpec, TopicSpec};
use mq_core::message::MessageId;
use mq_core::name::{Group, Topic};
use mq_core::subscription::Subscription;
use mq_rabbit::{RabbitBroker, RabbitConfig};

fn config() -> RabbitConfig {
    let url = std::env::var("MQ_TEST_RABBIT")
        .expect("MQ_TEST_RABBIT names no broker: cargo xtask brokers up rabbit-4.0 prints what to set");
    RabbitConfig::from_url(&Url::parse(&url).unwrap()).unwrap()
}

/// A connection with one channel in confirm mode.
struct ByHand(TcpStream);

fn short(text: &str) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
}

fn long(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

impl ByHand {
    fn connect(config: &RabbitConfig) -> Self {
        let stream = TcpStream::connect(config.hosts.first().unwrap()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut this = Self(stream);
        this.0.write_all(b"AMQP\0\0\x09\x01").unwrap();
        this.expect(10, 10);
        let login = format!("\0{}\0{}", config.user, config.password.reveal());
        this.method(0, 10, 11, &[long(b""), short("PLAIN"), long(login.as_bytes()), short("en_US")].concat());
        this.expect(10, 30);
        this.method(0, 10, 31, &[0, 1, 0, 2, 0, 0, 0, 0]);
        this.method(0, 10, 40, &[short(&config.vhost), short(""), vec![0]].concat());
        this.expect(10, 41);
        this.method(1, 20, 10, &short(""));
        this.expect(20, 11);
        this.method(1, 85, 10, &[0]);
        this.expect(85, 11);
        this
    }

    fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) {
        let head = [&[kind][..], &channel.to_be_bytes(), &long(payload), &[0xce]].concat();
        self.0.write_all(&head).unwrap();
    }

    fn method(&mut self, channel: u16, class: u16, method: u16, arguments: &[u8]) {
        let payload = [&class.to_be_bytes()[..], &method.to_be_bytes(), arguments].concat();
        self.frame(1, channel, &payload);
    }

    fn expect(&mut self, class: u16, method: u16) {
        let mut head = [0; 7];
        self.0.read_exact(&mut head).unwrap();
        let length = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
        let mut payload = vec![0; usize::try_from(length).unwrap() + 1];
        self.0.read_exact(&mut payload).unwrap();
        let expected = [class.to_be_bytes(), method.to_be_bytes()].concat();
        assert_eq!(payload.get(..4), Some(expected.as_slice()), "{:?}", String::from_utf8_lossy(&payload));
    }

    /// Publishes and waits for the confirmation.
    fn publish(&mut self, exchange: &str, headers: &[u8], body: &[u8]) {
        self.method(1, 60, 40, &[vec![0, 0], short(exchange), short(""), vec![1]].concat());
        let size = u64::try_from(body.len()).unwrap().to_be_bytes();
        self.frame(2, 1, &[&[0, 60, 0, 0][..], &size, &[0x20, 0], headers].concat());
        self.frame(3, 1, body);
        self.expect(60, 80);
    }
}

/// A table `deep` with a list in a list, and so on.
fn nested(depth: usize) -> Vec<u8> {
    // From the inside out, backwards: each step would copy everything otherwise.
    let mut bytes = vec![b'V'];
    for _ in 0..depth {
        let length = u32::try_from(bytes.len()).unwrap();
        bytes.extend(length.to_le_bytes());
        bytes.push(b'A');
    }
    bytes.extend(b"peed\x04");
    bytes.reverse();
    long(&bytes)
}

/// The client's parser calls itself for each list: unguarded, one such message ends the process of every consumer,
/// again and again.
#[tokio::test(flavor = "multi_thread")]
async fn headers_nested_as_deep_as_a_frame_allows() {
    let config = config();
    let broker = Broker::from_driver(Arc::new(RabbitBroker::connect(config.clone()).await.unwrap()));
    let topic = Topic::parse(format!("deep-{}", MessageId::generate(std::time::SystemTime::now()))).unwrap();
    let group = Group::parse("g").unwrap();
    broker.admin().declare_topic(&TopicSpec::new(topic.clone())).await.unwrap();
    broker.admin().declare_group(&GroupSpec::new(topic.clone(), group.clone())).await.unwrap();
    let name = topic.name().to_owned();
    let sent = tokio::task::spawn_blocking(move || {
        let mut by_hand = ByHand::connect(&config);
        for depth in [25_000, 3_000, 31, 0] {
            by_hand.publish(&name, &nested(depth), depth.to_string().as_bytes());
        }
    });
    sent.await.unwrap();
    let mut consumer = broker.consumer(Subscription::new(topic.clone(), "g")).await.unwrap();
    for depth in [25_000, 3_000, 31, 0] {
        let delivery = consumer.recv_within(Duration::from_secs(10)).await.unwrap().expect("a message");
        assert_eq!(delivery.message().body_bytes().unwrap().as_ref(), depth.to_string().as_bytes());
        let header = delivery.message().headers().get("deep").expect("its header").len();
        assert!(depth < 100 || header > depth, "the header is there whole: {header} bytes");
        // Through the dead letters and back, headers and all.
        delivery.dead_letter("too deep").await.unwrap();
    }
    let mut letters = broker.admin().dead_letters(&topic, &group).await.unwrap();
    let listed = letters.list(10).await.unwrap();
    assert_eq!(listed.len(), 4, "{listed:?}");
    drop(letters);
    consumer.close().await.unwrap();
    broker.admin().delete_topic(&topic).await.unwrap();
    broker.close().await.unwrap();
}
