//! A client that knows nothing of the SDK: raw frames of the protocol, written from its description.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use mq_conformance::{Carries, Foreign, RawMessage};
use mq_core::error::{Error, ErrorKind, Result};
use mq_core::name::Topic;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[derive(Debug)]
pub(crate) struct Stock {
    names: String,
    broker: SocketAddr,
}

fn failed(cause: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Unavailable, format!("the stock client: {cause}"))
}

impl Stock {
    pub(crate) fn new(url: &str, broker: SocketAddr) -> Option<Self> {
        Some(Self { names: url.strip_prefix("rocketmq://")?.to_owned(), broker })
    }

    async fn ask(&self, address: &str, code: i32, fields: Value, body: &[u8]) -> Result<(Value, Vec<u8>)> {
        let limit = Duration::from_secs(10);
        tokio::time::timeout(limit, exchange(address, code, fields, body)).await.map_err(failed)?
    }

    async fn ask_broker(&self, code: i32, fields: Value, body: &[u8]) -> Result<(Value, Vec<u8>)> {
        self.ask(&self.broker.to_string(), code, fields, body).await
    }

    /// Changes settings of the broker, a `name=value` each line, as its own tool does.
    pub(crate) async fn set(&self, settings: &str) -> Result<()> {
        self.ask_broker(25, json!({}), settings.as_bytes()).await.map(drop)
    }

    /// What the broker says of itself. In the first second after its start it has no figures yet and fails over that.
    pub(crate) async fn version(&self) -> Result<String> {
        let deadline = Instant::now() + Duration::from_secs(10);
        let (_, body) = loop {
            match self.ask_broker(28, json!({}), b"").await {
                Err(_) if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(100)).await,
                answer => break answer?,
            }
        };
        let table: Value = serde_json::from_slice(&body).map_err(failed)?;
        let version = table.pointer("/table/brokerVersionDesc").and_then(Value::as_str).unwrap_or("unknown");
        Ok(format!("RocketMQ {}", version.trim_start_matches('V').replace('_', ".")))
    }
}

async fn exchange(address: &str, code: i32, fields: Value, body: &[u8]) -> Result<(Value, Vec<u8>)> {
    let mut stream = TcpStream::connect(address).await.map_err(failed)?;
    let header = json!({
        "code": code, "flag": 0, "language": "JAVA", "opaque": 7, "serializeTypeCurrentRPC": "JSON", "version": 475,
        "extFields": fields,
    });
    let header = header.to_string();
    let whole = u32::try_from(header.len() + body.len() + 4).map_err(failed)?;
    let length = u32::try_from(header.len()).map_err(failed)?;
    let frame = [&whole.to_be_bytes()[..], &length.to_be_bytes(), header.as_bytes(), body].concat();
    stream.write_all(&frame).await.map_err(failed)?;
    let whole = stream.read_u32().await.map_err(failed)?;
    let mut answer = vec![0; whole as usize];
    stream.read_exact(&mut answer).await.map_err(failed)?;
    let (length, rest) = answer.split_first_chunk::<4>().ok_or_else(|| failed("short answer"))?;
    let length = (u32::from_be_bytes(*length) & 0xff_ffff) as usize;
    let (header, body) = rest.split_at_checked(length).ok_or_else(|| failed("short answer"))?;
    let header: Value = serde_json::from_slice(header).map_err(failed)?;
    if header["code"] != 0 {
        return Err(failed(header));
    }
    Ok((header, body.to_vec()))
}

#[async_trait]
impl Foreign for Stock {
    async fn create(&self, name: &str) -> Result<Topic> {
        let fields = json!({
            "topic": name, "defaultTopic": "TBW102", "readQueueNums": "2", "writeQueueNums": "2", "perm": "6",
            "topicFilterType": "SINGLE_TAG", "topicSysFlag": "0", "order": "false",
        });
        self.ask_broker(17, fields, b"").await?;
        let began = Instant::now();
        // The broker tells the name server in its own time.
        while let Err(cause) = self.ask(&self.names, 105, json!({ "topic": name }), b"").await {
            if began.elapsed() > Duration::from_secs(10) {
                return Err(cause);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Topic::parse(name.to_owned())
    }

    async fn publish(&self, place: &Topic, message: &RawMessage) -> Result<()> {
        let mut properties = String::new();
        if let Some(key) = &message.key {
            properties = format!("KEYS\u{1}{}\u{2}", String::from_utf8_lossy(key));
        }
        for (name, value) in &message.headers {
            let value = value.as_deref().unwrap_or_default();
            properties.push_str(&format!("{name}\u{1}{}\u{2}", String::from_utf8_lossy(value)));
        }
        let fields = json!({
            "producerGroup": "stock", "topic": place.name().replace('.', "|"), "defaultTopic": "TBW102",
            "defaultTopicQueueNums": "4", "queueId": "0", "sysFlag": "0", "bornTimestamp": "1", "flag": "0",
            "properties": properties, "reconsumeTimes": "0", "unitMode": "false", "batch": "false",
        });
        // Its clients refuse to send bodies of no bytes, as does the broker.
        let body = message.body.clone().filter(|body| !body.is_empty()).unwrap_or_else(|| vec![b' ']);
        self.ask_broker(10, fields, &body).await.map(drop)
    }

    async fn read(&self, place: &Topic, max: usize, wait: Duration) -> Result<Vec<RawMessage>> {
        let began = Instant::now();
        let mut read = Vec::new();
        let mut offsets = BTreeMap::from([(0, 0), (1, 0)]);
        let group = json!({ "groupName": "stock-reader" }).to_string();
        self.ask_broker(200, json!({}), group.as_bytes()).await?;
        while read.len() < max && began.elapsed() < wait {
            for (queue, offset) in &mut offsets {
                let fields = json!({
                    "consumerGroup": "stock-reader", "topic": place.name(), "queueId": queue.to_string(),
                    "queueOffset": offset.to_string(), "maxMsgNums": "32", "sysFlag": "4", "commitOffset": "0",
                    "suspendTimeoutMillis": "0", "subscription": "*", "subVersion": "0", "expressionType": "TAG",
                });
                // A refusal is that there is nothing.
                let Ok((header, body)) = self.ask_broker(11, fields, b"").await else { continue };
                let next = header["extFields"]["nextBeginOffset"].as_str().and_then(|text| text.parse().ok());
                *offset = next.unwrap_or(*offset);
                let mut rest = body.as_slice();
                while let Some((message, left)) = message(rest) {
                    read.push(message);
                    rest = left;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(read)
    }

    async fn remove(&self, place: &Topic) -> Result<()> {
        self.ask(&self.names, 216, json!({ "topic": place.name() }), b"").await?;
        self.ask_broker(215, json!({ "topic": place.name() }), b"").await.map(drop)
    }

    fn carries(&self) -> Carries {
        Carries::little().binary_headers(false)
    }
}

/// One stored message, with addresses of four bytes.
fn message(bytes: &[u8]) -> Option<(RawMessage, &[u8])> {
    let size = u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let (one, rest) = bytes.split_at_checked(size)?;
    let length = u32::from_be_bytes(one.get(84..88)?.try_into().ok()?) as usize;
    let body = one.get(88..88 + length)?;
    let tail = one.get(88 + length..)?;
    let topic = usize::from(*tail.first()?);
    let properties = String::from_utf8_lossy(tail.get(1 + topic + 2..)?).into_owned();
    let mut message = RawMessage::new(body);
    for (name, value) in properties.split('\u{2}').filter_map(|pair| pair.split_once('\u{1}')) {
        message = if name == "KEYS" { message.key(value) } else { message.header(name, value) };
    }
    Some((message, rest))
}
