//! A broker is ready when it answers its own protocol, not when its port is open.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::kind::Kind;
use crate::interrupt;
use crate::process::Process;

/// Waits until the broker answers; an error when it ends before or does not within `patience`.
pub(crate) fn wait(kind: Kind, port: u16, server: &Process, patience: Duration) -> Result<()> {
    wait_until(kind, server, patience, || ask(kind, port))
}

/// Waits until it is so.
pub(crate) fn wait_until(kind: Kind, server: &Process, patience: Duration, ask: impl Fn() -> Result<()>) -> Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        interrupt::check()?;
        let answer = ask();
        if answer.is_ok() && server.is_alive() {
            return Ok(());
        }
        // Also the pause between two questions.
        if server.wait_end(Duration::from_millis(50))? {
            bail!("{} ended while it started", kind.name());
        }
        if Instant::now() >= deadline {
            return answer.with_context(|| format!("{} is not ready after {patience:?}", kind.name()));
        }
    }
}

/// One question in the broker's protocol.
pub(crate) fn ask(kind: Kind, port: u16) -> Result<()> {
    let mut stream = connect(port)?;
    match kind {
        Kind::Kafka => kafka_metadata(&mut stream),
        Kind::Rabbit310 | Kind::Rabbit40 => amqp_start(&mut stream),
        Kind::Redis70 | Kind::Redis80 => redis_ping(&mut stream),
        Kind::RedisCluster => redis_node(&mut stream),
        Kind::RedisSentinel => redis_watched(&mut stream),
        Kind::Rocket54 | Kind::Rocket54Guarded => rocket_route(&mut stream).map(drop),
        // One of several is asked about by name: `rocket_broker`.
        Kind::RocketCluster => Ok(()),
    }
}

pub(crate) fn connect(port: u16) -> Result<TcpStream> {
    let patience = Duration::from_secs(2);
    let stream = TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), patience)
        .with_context(|| format!("no connection to port {port}"))?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    Ok(stream)
}

/// Metadata of no topic: answered only once the broker is unfenced and knows itself as a member of the cluster.
fn kafka_metadata(stream: &mut TcpStream) -> Result<()> {
    let mut request: Vec<u8> = Vec::new();
    request.extend(3_i16.to_be_bytes()); // Metadata
    request.extend(4_i16.to_be_bytes()); // version
    request.extend(1_i32.to_be_bytes()); // correlation
    request.extend((-1_i16).to_be_bytes()); // no client id
    request.extend(0_i32.to_be_bytes()); // no topics
    request.push(0); // create none
    stream.write_all(&i32::try_from(request.len())?.to_be_bytes())?;
    stream.write_all(&request)?;
    let mut head = [0; 16]; // length, correlation, throttle, count of brokers
    stream.read_exact(&mut head).context("no answer to a metadata request")?;
    ensure!(head[4..8] == 1_i32.to_be_bytes(), "not a Kafka broker");
    ensure!(head[12..16] != [0; 4], "the cluster has no broker yet");
    Ok(())
}

/// The protocol header is answered by connection.start: a method frame (1) on channel 0 of class 10, method 10.
fn amqp_start(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"AMQP\x00\x00\x09\x01")?;
    let mut head = [0; 11];
    stream.read_exact(&mut head).context("no answer to an AMQP header")?;
    ensure!(head[..3] == [1, 0, 0] && head[7..] == [0, 10, 0, 10], "not an AMQP 0-9-1 server");
    Ok(())
}

/// Answered with an error while the data is still being loaded.
fn redis_ping(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"*1\r\n$4\r\nPING\r\n")?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).context("no answer to PING")?;
    ensure!(&answer == b"+PONG", "not a Redis, or one that is still loading");
    Ok(())
}

/// A node serves once the cluster does, and a replica only what it has copied.
fn redis_node(stream: &mut TcpStream) -> Result<()> {
    let state = redis_text(stream, &["CLUSTER", "INFO"])?;
    ensure!(state.contains("cluster_state:ok"), "the cluster does not serve yet");
    let copies = redis_text(stream, &["INFO", "replication"])?;
    ensure!(copies.contains("role:master") || copies.contains("master_link_status:up"), "the replica has no copy yet");
    Ok(())
}

/// A Sentinel is ready once it knows all, a replica once it has copied what there is.
fn redis_watched(stream: &mut TcpStream) -> Result<()> {
    let info = redis_text(stream, &["INFO"])?;
    let well = if info.contains("redis_mode:sentinel") {
        info.contains("status=ok") && info.contains("slaves=1,sentinels=3")
    } else {
        info.contains("role:master") || info.contains("master_link_status:up")
    };
    ensure!(well, "it does not know all of the others yet");
    Ok(())
}

/// What Redis answers in one string.
fn redis_text(stream: &mut TcpStream, command: &[&str]) -> Result<String> {
    let words: String = command.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
    stream.write_all(format!("*{}\r\n{words}", command.len()).as_bytes())?;
    let mut head = String::new();
    while !head.ends_with("\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).context("no answer")?;
        head.push(char::from(byte[0]));
        ensure!(head.len() < 1000, "no answer of Redis");
    }
    let length = head.trim().strip_prefix('$').and_then(|length| length.parse::<usize>().ok());
    let length = length.filter(|length| *length < 1 << 20).with_context(|| format!("Redis answers {}", head.trim()))?;
    let mut text = vec![0; length + 2];
    stream.read_exact(&mut text).context("half of an answer")?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Where a topic is that every broker has: answered with brokers only once one has registered with the name server.
fn rocket_route(stream: &mut TcpStream) -> Result<String> {
    let header = br#"{"code":105,"flag":0,"language":"OTHER","opaque":1,"serializeTypeCurrentRPC":"JSON","version":475,"extFields":{"topic":"SELF_TEST_TOPIC","acceptStandardJsonOnly":"true"}}"#;
    let length = u32::try_from(header.len())?;
    stream.write_all(&(length + 4).to_be_bytes())?;
    stream.write_all(&length.to_be_bytes())?;
    stream.write_all(header)?;
    let mut head = [0; 8];
    stream.read_exact(&mut head).context("no answer to a question for a route")?;
    let [a, b, c, d, _, e, f, g] = head;
    let (whole, header) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([0, e, f, g]));
    ensure!((4..1 << 20).contains(&whole) && header <= whole - 4, "not a RocketMQ name server");
    let mut answer = vec![0; usize::try_from(whole - 4)?];
    stream.read_exact(&mut answer).context("no answer to a question for a route")?;
    let route = answer.get(usize::try_from(header)?..).unwrap_or_default();
    ensure!(!route.is_empty(), "no broker has registered yet");
    Ok(String::from_utf8_lossy(route).into_owned())
}

/// Whether this broker serves, and has registered with this name server.
pub(crate) fn rocket_broker(names: u16, broker: u16) -> Result<()> {
    connect(broker)?;
    let route = rocket_route(&mut connect(names)?)?;
    ensure!(route.contains(&format!("127.0.0.1:{broker}\"")), "the broker has not registered yet");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn answer(bytes: &'static [u8]) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 8];
            stream.read_exact(&mut request).unwrap();
            stream.write_all(bytes).unwrap();
            // Keeps the connection until the other side has read and closed it.
            let _ = stream.read(&mut request);
        });
        port
    }

    #[test]
    fn only_the_right_protocol_is_ready() {
        let amqp = b"\x01\x00\x00\x00\x00\x01\x00\x00\x0a\x00\x0a";
        assert!(ask(Kind::Rabbit40, answer(amqp)).is_ok());
        assert!(ask(Kind::Rabbit310, answer(b"HTTP/1.1 400 Bad Request\r\n")).is_err());
        let one_broker = b"\x00\x00\x00\x20\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x01";
        assert!(ask(Kind::Kafka, answer(one_broker)).is_ok());
        let no_broker = b"\x00\x00\x00\x20\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00";
        assert!(ask(Kind::Kafka, answer(no_broker)).is_err());
        assert!(ask(Kind::Kafka, answer(amqp)).is_err());
    }
}
