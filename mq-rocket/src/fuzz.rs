//! Frames, messages, receipts and settings, against anything they could be. `MQ_FUZZ_CASES` is how many inputs each of
//! these tests tries.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use mq_conformance::hostile::{cases, texts};
use mq_core::config::{Secret, Url};
use mq_core::message::{Headers, Message};
use mq_core::name::{Group, Topic};
use proptest::collection::vec;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::config::RocketConfig;
use crate::error::from_answer;
use crate::names;
use crate::receipt::Batch;
use crate::remoting::{Access, Command, Link};
use crate::route::{Node, Route};
use crate::source::Source;
use crate::stored::{self, read_properties};
use crate::wire;

const HEADERS: &[&str] = &[
    r#"{"code":0,"flag":1,"language":"JAVA","opaque":1,"serializeTypeCurrentRPC":"JSON","version":475}"#,
    r#"{"code":210,"flag":1,"opaque":1,"remark":"NO_MESSAGE_IN_QUEUE","extFields":{"popTime":"0","restNum":null}}"#,
    r#"{"code":0,"flag":1,"opaque":2147483648,"extFields":{"offset":"-1","popTime":"9223372036854775808"}}"#,
];
const ROUTES: &[&str] = &[
    r#"{"brokerDatas":[{"brokerAddrs":{"0":"h:1"},"brokerName":"a"}],"queueDatas":[{"brokerName":"a","perm":6,"readQueueNums":4294967295,"writeQueueNums":1}]}"#,
    r#"{"brokerDatas":[{"brokerAddrs":{"1":"h:1"},"brokerName":"a"}],"queueDatas":[{"brokerName":"b"}]}"#,
];
const OFFSETS: &[&str] = &["0 3 40;1 0 7", "0 qo3%42 5", "1 3 9223372036854775808;;0 0", "40 100 30 2 1 a 3 42"];
const PROPERTIES: &[&str] = &[
    "KEYS\u{1}k\u{2}UNIQ_KEY\u{1}AC1100\u{2}mq-id\u{1}m1",
    "POP_CK\u{1}40 100 30 2 1 a 3 42\u{2}mq-key\u{1}b64:/w==\u{2}mq-tombstone\u{1}none",
    "mq-headers\u{1}AAFhAAAAATE=\u{2}mq-attempt\u{1}7\u{2}mq-due\u{1}99999999999999999999",
    "\u{1}\u{2}\u{2}TAGS\u{1}red",
];
const URLS: &[&str] = &[
    "rocketmq://key:hunter2@a,b:1234,[::1]:9?lease=10s&partitions=4&topology=verify",
    "rocketmq://h:99999/x?poll_wait=1h&nope=hunter2",
];

fn framed(header: &[u8], body: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u32(u32::try_from(header.len()).unwrap());
    frame.put_slice(header);
    frame.put_slice(body);
    frame.freeze()
}

/// A message as a broker writes it, with lengths and marks that may lie.
fn message() -> impl Strategy<Value = Bytes> {
    let mark = prop_oneof![4 => Just(-626_843_481_i32), 2 => Just(-626_843_477), 1 => any::<i32>()];
    let flags = prop_oneof![3 => Just(0_i32), 2 => any::<i32>(), 1 => Just(1), 1 => Just(0x301)];
    let times = (any::<i64>(), any::<i64>(), any::<i32>());
    let lie = prop_oneof![6 => Just(0_u32), 1 => any::<u32>()];
    (mark, flags, times, vec(any::<u8>(), 0..40), texts(PROPERTIES), lie).prop_map(
        |(mark, flags, (offset, born, redeliveries), body, properties, lie)| {
            let mut bytes = BytesMut::new();
            bytes.put_i32(mark);
            bytes.put_slice(&[0; 4]);
            bytes.put_u32(3);
            bytes.put_slice(&[0; 4]);
            bytes.put_i64(offset);
            bytes.put_i64(0);
            bytes.put_i32(flags);
            bytes.put_i64(born);
            bytes.put_slice(&[0; 8]);
            bytes.put_i64(1001);
            bytes.put_slice(&[0; 8]);
            bytes.put_i32(redeliveries);
            bytes.put_i64(0);
            bytes.put_u32(u32::try_from(body.len()).unwrap().wrapping_add(lie));
            bytes.put_slice(&body);
            bytes.put_u8(1);
            bytes.put_slice(b"t");
            bytes.put_u16(u16::try_from(properties.len()).unwrap_or(u16::MAX));
            bytes.put_slice(properties.as_bytes());
            let mut whole = BytesMut::new();
            whole.put_u32(u32::try_from(bytes.len()).unwrap() + 4);
            whole.put_slice(&bytes);
            whole.freeze()
        },
    )
}

fn node() -> Arc<Node> {
    let body = br#"{"brokerDatas":[{"brokerAddrs":{"0":"h:1"},"brokerName":"a"}]}"#;
    Arc::clone(&Route::decode(body, &BTreeMap::new()).unwrap().nodes[0])
}

fn answer() -> impl Strategy<Value = Command> {
    let number = || prop_oneof![4 => any::<i64>().prop_map(|n| n.to_string()), 1 => texts(OFFSETS)];
    (number(), number(), number(), texts(OFFSETS), texts(OFFSETS)).prop_map(
        |(time, invisible, queue, starts, counts)| {
            Command::request(0)
                .field("popTime", time)
                .field("invisibleTime", invisible)
                .field("reviveQid", queue)
                .field("startOffsetInfo", starts)
                .field("orderCountInfo", counts)
        },
    )
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn any_frame_is_read_or_refused(header in texts(HEADERS), body in vec(any::<u8>(), 0..20)) {
        if let Ok(command) = Command::decode(framed(header.as_bytes(), &body)) {
            prop_assert_eq!(&*command.body, &*body);
            drop(command.refusal());
        }
    }

    #[test]
    fn any_delivery_is_taken_in(answer in answer(), messages in vec(message(), 0..4), trusted: bool) {
        let (topic, group) = (Topic::parse("t").unwrap(), Group::parse("g").unwrap());
        let [plain, retry] = Source::of_group(&topic, &group).unwrap();
        let source = if trusted { retry } else { plain };
        let Ok(stored) = stored::decode(messages.concat().into()) else { return Ok(()) };
        let Ok(batch) = Batch::read(&answer) else { return Ok(()) };
        for one in stored {
            let receipt = batch.receipt(&node(), &"g".into(), &source.from, &one);
            drop((receipt.renewed(&answer), receipt.ack()));
            let redeliveries = batch.redeliveries(&one);
            let incoming = source.incoming(0, &node(), one, redeliveries);
            prop_assert!(incoming.control.attempt >= 1);
        }
    }

    #[test]
    fn any_route_is_bounded(text in texts(ROUTES)) {
        if let Ok(route) = Route::decode(text.as_bytes(), &BTreeMap::new()) {
            prop_assert!(route.readable.len() <= 4096 * route.nodes.len().max(1) * 8);
        }
    }

    #[test]
    fn what_is_written_is_read(
        body in proptest::option::of(vec(any::<u8>(), 0..60)),
        key in proptest::option::of(vec(any::<u8>(), 0..20)),
        headers in vec(("[a-z]{1,8}|KEYS|POP_CK|TAGS|mq-headers", vec(any::<u8>(), 0..20)), 0..6),
    ) {
        let topic = Topic::parse("x").unwrap();
        let mut all = Headers::new();
        for (name, value) in headers.into_iter().filter(|(name, _)| !name.starts_with("mq-")) {
            all.append(name, value);
        }
        let message = Message::to(topic.clone())
            .with_body(body.map(Bytes::from))
            .with_key(key.map(Bytes::from))
            .with_headers(all)
            .id("an-id");
        let encoded = wire::encode(&message).unwrap();
        let stored = stored::Stored {
            queue: 0,
            offset: 0,
            born: std::time::SystemTime::UNIX_EPOCH,
            redeliveries: 0,
            body: encoded.body.clone(),
            properties: read_properties(&encoded.text()),
        };
        let read = wire::decode(&topic, stored).message;
        prop_assert_eq!(read.body_bytes(), message.body_bytes());
        prop_assert_eq!(read.key_bytes(), message.key_bytes());
        prop_assert_eq!(read.message_id(), message.message_id());
        let pairs = |message: &Message| {
            let pairs = message.headers().iter().map(|(name, value)| (name.to_string(), value.to_vec()));
            let mut pairs: Vec<_> = pairs.collect();
            // Properties have no order; one name's values keep theirs.
            pairs.sort_by(|one, other| one.0.cmp(&other.0));
            pairs
        };
        prop_assert_eq!(pairs(&read), pairs(&message));
    }

    #[test]
    fn any_name_is_a_topic_or_none(name in texts(&["order|events--g--retry", "%RETRY%g_t", "t--dlq"])) {
        drop(names::portable(&name));
        drop(names::group_of_retry(&Topic::parse("order.events").unwrap(), &name));
    }

    #[test]
    fn any_url_is_settings_or_an_error_without_the_password(text in texts(URLS)) {
        let Ok(url) = Url::parse(&text) else { return Ok(()) };
        if let Ok(config) = RocketConfig::from_url(&url) {
            // Whatever the password is, and whatever else holds the same letters: what is printed is the same.
            let mut other = config.clone();
            other.password = Secret::new("another");
            prop_assert_eq!(format!("{config:?}"), format!("{other:?}"));
            prop_assert!(config.check().is_ok());
        }
    }

    #[test]
    fn any_refusal_is_one_line(code: i32, text in texts(&["AclException: no\n\tat org.x", "size \u{7}\u{1b}[31m"])) {
        let error = from_answer(code, Some(&text));
        let more = error.to_string().contains(['\n', '\u{1b}']);
        prop_assert!(!more);
    }

    #[test]
    fn a_call_ends_whatever_comes(header in texts(HEADERS), junk in vec(any::<u8>(), 0..40), whole: bool, cut: u16) {
        let mut sent = framed(header.as_bytes(), &junk).to_vec();
        if whole {
            let length = u32::try_from(sent.len()).unwrap().to_be_bytes();
            sent.splice(0..0, length);
        }
        sent.truncate(usize::from(cut).max(1));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let server = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut question = [0; 1024];
                let _ = stream.read(&mut question).await;
                let _ = stream.write_all(&sent).await;
            };
            let access = Access::new(&RocketConfig { password: Secret::default(), ..RocketConfig::default() }).unwrap();
            let link = Link::new(&address, &Arc::new(access));
            let client = async {
                let deadline = Instant::now() + Duration::from_secs(5);
                drop(link.call(Command::request(1), deadline).await);
                // The broker hung up: nothing here waited for the deadline.
                assert!(Instant::now() < deadline, "the call ended only at its deadline");
            };
            tokio::join!(server, client);
        });
    }
}
