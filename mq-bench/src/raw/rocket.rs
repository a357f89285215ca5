//! The remoting protocol of RocketMQ without any client: batches of messages, and POP with one request of
//! acknowledgements for each answer, the next POP behind it on the same connection.

use std::time::{Duration, SystemTime};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use mq::config::Url;
use mq::{Error, ErrorKind, Result};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use crate::cases::Place;
use crate::pair::{Cost, cost};

/// Batches under way at once, which share the window.
const AT_ONCE: usize = 2;
/// The most messages one POP hands out.
const POP: u64 = 32;
/// How long they are kept from others.
const INVISIBLE_MILLIS: u64 = 60_000;
/// Between two looks of a probe that found nothing.
const PAUSE: Duration = Duration::from_millis(20);

const SEND: i32 = 310;
const SEND_BATCH: i32 = 320;
const POP_MESSAGE: i32 = 200_050;
const BATCH_ACK: i32 = 200_151;
/// The answer to a POP that found nothing.
const NOTHING_NOW: i64 = 210;

pub(crate) struct Client {
    names: String,
    /// The broker, once the first place has told where it is.
    broker: Mutex<Option<Broker>>,
}

struct Broker {
    name: String,
    stream: TcpStream,
    buffer: BytesMut,
}

impl Client {
    pub(crate) fn connect(url: &Url) -> Result<Self> {
        let (host, port) = url.hosts.first().ok_or_else(|| Error::config("the URL names no host"))?;
        Ok(Self { names: format!("{host}:{}", port.unwrap_or(9876)), broker: Mutex::default() })
    }

    pub(crate) async fn send(&self, place: &Place, body: &Bytes, window: usize, messages: u64) -> Result<()> {
        let mut guard = self.broker.lock().await;
        let broker = self.broker(&mut guard, place).await?;
        let length = (window / AT_ONCE).max(1);
        let mut left = usize::try_from(messages).unwrap_or(usize::MAX);
        let mut under_way = 0;
        while left > 0 || under_way > 0 {
            if left > 0 && (under_way == 0 || (window > 1 && under_way < AT_ONCE)) {
                let count = length.min(left);
                broker.ask_to_store(place, body, count).await?;
                (left, under_way) = (left - count, under_way + 1);
                continue;
            }
            broker.answer().await?;
            under_way -= 1;
        }
        Ok(())
    }

    pub(crate) async fn consume(&self, place: &Place, messages: u64) -> Result<Cost> {
        let mut guard = self.broker.lock().await;
        let broker = self.broker(&mut guard, place).await?;
        let (mut received, mut acks) = (0, None);
        while received == 0 {
            broker.ask_to_pop(place, 1).await?;
            (received, acks) = broker.popped(place, false).await?;
        }
        cost(async {
            while received < messages {
                let acknowledging = broker.acknowledge(acks.take()).await?;
                broker.ask_to_pop(place, POP.min(messages - received)).await?;
                let (count, next) = broker.popped(place, acknowledging).await?;
                (received, acks) = (received + count, next);
            }
            if broker.acknowledge(acks).await? {
                broker.answer().await?;
            }
            Ok(())
        })
        .await
    }

    /// Receives and acknowledges until the connection ends.
    pub(crate) async fn receive(&self, place: &Place, received: &(dyn Fn() + Send + Sync)) -> Result<()> {
        let mut broker = self.find(place).await?;
        loop {
            broker.ask_to_pop(place, POP).await?;
            let (count, acks) = broker.popped(place, false).await?;
            if count == 0 {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            received();
            if broker.acknowledge(acks).await? {
                broker.answer().await?;
            }
        }
    }

    async fn broker<'a>(&self, known: &'a mut Option<Broker>, place: &Place) -> Result<&'a mut Broker> {
        if known.is_none() {
            *known = Some(self.find(place).await?);
        }
        known.as_mut().ok_or_else(|| failed("no broker"))
    }

    async fn find(&self, place: &Place) -> Result<Broker> {
        let mut names = Broker::open(String::new(), &self.names).await?;
        let fields = json!({ "topic": place.topic.name(), "acceptStandardJsonOnly": "true" });
        names.request(105, &fields, b"").await?;
        let (_, body) = names.answer().await?;
        let route: Value = serde_json::from_slice(&body).map_err(failed)?;
        let text = |path: &str| route.pointer(path).and_then(Value::as_str).ok_or_else(|| failed("no route"));
        Broker::open(text("/brokerDatas/0/brokerName")?.to_owned(), text("/brokerDatas/0/brokerAddrs/0")?).await
    }
}

impl Broker {
    async fn open(name: String, address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        Ok(Self { name, stream, buffer: BytesMut::with_capacity(1 << 20) })
    }

    async fn request(&mut self, code: i32, fields: &Value, body: &[u8]) -> Result<()> {
        let header = json!({
            "code": code, "flag": 0, "language": "OTHER", "opaque": 1, "serializeTypeCurrentRPC": "JSON", "version": 475,
            "extFields": fields,
        });
        let header = header.to_string();
        let mut frame = BytesMut::with_capacity(8 + header.len() + body.len());
        frame.put_u32(u32::try_from(4 + header.len() + body.len()).map_err(failed)?);
        frame.put_u32(u32::try_from(header.len()).map_err(failed)?);
        frame.put_slice(header.as_bytes());
        frame.put_slice(body);
        self.stream.write_all(&frame).await.map_err(failed)
    }

    /// The next answer. A broker answers what waits on one connection in any order; here it does not matter which is
    /// which but for a POP, which is told by its body.
    async fn answer(&mut self) -> Result<(Value, Bytes)> {
        loop {
            if let Some(length) = self.buffer.get(..4).and_then(|head| <[u8; 4]>::try_from(head).ok()) {
                let whole = 4 + usize::try_from(u32::from_be_bytes(length)).map_err(failed)?;
                if self.buffer.len() >= whole {
                    return read(self.buffer.split_to(whole).freeze());
                }
            }
            if self.stream.read_buf(&mut self.buffer).await.map_err(failed)? == 0 {
                return Err(failed("the broker ended the connection"));
            }
        }
    }

    /// One message, or several as a batch.
    async fn ask_to_store(&mut self, place: &Place, body: &Bytes, count: usize) -> Result<()> {
        let now = SystemTime::now();
        let born = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
        let properties = || {
            let id = mq::MessageId::generate(now);
            format!("UNIQ_KEY\u{1}{id}\u{2}mq-id\u{1}{id}")
        };
        let (alone, batch) = (count == 1, count > 1);
        let fields = json!({
            "a": "raw", "b": place.topic.name(), "c": "none", "d": "1", "e": "0", "f": "0", "g": born.to_string(), "h": "0",
            "i": if alone { properties() } else { String::new() }, "j": "0", "k": "false", "m": batch.to_string(),
            "n": self.name,
        });
        if alone {
            return self.request(SEND, &fields, body).await;
        }
        let mut several = BytesMut::with_capacity(count * (body.len() + 160));
        for _ in 0..count {
            let properties = properties();
            let size = 22 + body.len() + properties.len();
            several.put_u32(u32::try_from(size).map_err(failed)?);
            several.put_slice(&[0; 12]);
            several.put_u32(u32::try_from(body.len()).map_err(failed)?);
            several.put_slice(body);
            several.put_u16(u16::try_from(properties.len()).map_err(failed)?);
            several.put_slice(properties.as_bytes());
        }
        self.request(SEND_BATCH, &fields, &several).await
    }

    async fn ask_to_pop(&mut self, place: &Place, count: u64) -> Result<()> {
        let fields = json!({
            "consumerGroup": place.group.as_str(), "topic": place.topic.name(), "queueId": "0",
            "maxMsgNums": count.to_string(), "invisibleTime": INVISIBLE_MILLIS.to_string(), "pollTime": "0",
            "bornTime": "0", "initMode": "0", "expType": "TAG", "exp": "*", "order": "false",
        });
        self.request(POP_MESSAGE, &fields, b"").await
    }

    /// True when there was something to acknowledge, which will be answered.
    async fn acknowledge(&mut self, acks: Option<Value>) -> Result<bool> {
        let Some(acks) = acks else { return Ok(false) };
        self.request(BATCH_ACK, &json!({}), acks.to_string().as_bytes()).await?;
        Ok(true)
    }

    /// What came of a POP, and of acknowledgements sent before it, which are answered in either order.
    async fn popped(&mut self, place: &Place, acknowledging: bool) -> Result<(u64, Option<Value>)> {
        let mut answer = self.answer().await?;
        if acknowledging {
            let other = self.answer().await?;
            if other.0.get("popTime").is_some() {
                answer = other;
            }
        }
        self.handed_out(place, &answer.0, answer.1)
    }

    /// How many a POP has handed out, and what acknowledges them; the bodies are looked at, and let go.
    fn handed_out(&self, place: &Place, fields: &Value, mut body: Bytes) -> Result<(u64, Option<Value>)> {
        let field = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let number = |name: &str| field(name).parse::<i64>().map_err(failed);
        let start = field("startOffsetInfo").split(' ').nth(2).and_then(|text| text.parse::<i64>().ok());
        // Nothing for the moment: a queue is locked for the time of a POP.
        let Some(start) = start else { return Ok((0, None)) };
        let mut count = 0;
        let mut bits: u64 = 0;
        while body.remaining() >= 28 {
            let size = body.get(..4).and_then(|size| <[u8; 4]>::try_from(size).ok()).map_or(0, u32::from_be_bytes);
            let offset = body.get(20..28).and_then(|offset| <[u8; 8]>::try_from(offset).ok()).map(i64::from_be_bytes);
            let behind = u32::try_from(offset.unwrap_or(start) - start).map_err(failed)?;
            bits |= 1_u64.checked_shl(behind).ok_or_else(|| failed("an answer with gaps"))?;
            std::hint::black_box(body.split_to(usize::try_from(size).map_err(failed)?.clamp(28, body.len())));
            count += 1;
        }
        let entry = json!({
            "c": place.group.as_str(), "t": place.topic.name(), "r": "0", "so": start, "q": 0,
            "rq": number("reviveQid")?, "pt": number("popTime")?, "it": number("invisibleTime")?, "b": base64(bits),
        });
        Ok((count, Some(json!({ "brokerName": self.name, "acks": [entry] }))))
    }
}

/// Eight bytes, the lowest first.
fn base64(bits: u64) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(12);
    for part in bits.to_le_bytes().chunks(3) {
        let whole =
            part.iter().enumerate().fold(0_u32, |sum, (index, byte)| sum | u32::from(*byte) << (16 - 8 * index));
        for letter in 0..=part.len() {
            let index = usize::try_from(whole >> (18 - 6 * letter) & 63).unwrap_or(0);
            text.push(LETTERS.get(index).map_or('A', |letter| char::from(*letter)));
        }
    }
    while !text.len().is_multiple_of(4) {
        text.push('=');
    }
    text
}

fn read(mut frame: Bytes) -> Result<(Value, Bytes)> {
    let _whole = frame.try_get_u32().map_err(failed)?;
    let length = usize::try_from(frame.try_get_u32().map_err(failed)? & 0xff_ffff).map_err(failed)?;
    if length > frame.len() {
        return Err(failed("a short answer"));
    }
    let header: Value = serde_json::from_slice(&frame.split_to(length)).map_err(failed)?;
    match header.get("code").and_then(Value::as_i64) {
        Some(0 | NOTHING_NOW) => Ok((header.get("extFields").cloned().unwrap_or_default(), frame)),
        _ => Err(failed(header)),
    }
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Internal, format!("raw RocketMQ: {error}"))
}
