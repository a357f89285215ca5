//! What is sent: a body from the arguments, a file, or standard input line by line.

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use mq::{Broker, Error, ErrorKind, Message, Topic};

use super::pipeline::Pipeline;
use crate::failure::Failure;
use crate::input::{self, Lines, MAX_BYTES};
use crate::output::Output;
use crate::parse;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// NAME, or queue:NAME, exchange:NAME for what another program owns; never created by sending
    topic: Topic,
    /// Messages of one key keep their order
    #[arg(long)]
    key: Option<String>,
    /// A header, as name=value; may be given several times
    #[arg(long = "header", value_parser = parse::header)]
    headers: Vec<(String, String)>,
    /// The message's id; without one it gets one
    #[arg(long, conflicts_with_all = ["lines", "ndjson"])]
    id: Option<String>,
    /// Visible only after this time: 500ms, 5s, 2m
    #[arg(long, value_parser = parse::duration)]
    delay: Option<Duration>,
    /// The body; without it, --file, --lines and --ndjson: standard input as a whole
    #[arg(group = "what")]
    body: Option<String>,
    /// The body is the content of this file; - is standard input
    #[arg(long, group = "what")]
    file: Option<PathBuf>,
    /// Each line of standard input is a body
    #[arg(long, group = "what")]
    lines: bool,
    /// Each line of standard input is a message: {"key","headers","id","body"|"body_base64"}
    #[arg(long, group = "what")]
    ndjson: bool,
}

impl Arguments {
    /// Nobody is made to wait for a body that nobody knows must be typed.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        let given = self.body.is_some() || self.file.is_some() || self.lines || self.ndjson;
        if !given && std::io::stdin().is_terminal() {
            return Err(Failure::Usage("no body; give BODY, --file F, --lines or --ndjson".to_owned()));
        }
        Ok(())
    }

    /// The body of a single message.
    fn read_body(&mut self) -> Result<Bytes, Failure> {
        if let Some(body) = self.body.take() {
            return Ok(Bytes::from(body));
        }
        let (name, read) = match self.file.as_deref().filter(|path| *path != Path::new("-")) {
            None => ("standard input".to_owned(), read_all(std::io::stdin().lock())),
            Some(path) => (path.display().to_string(), std::fs::File::open(path).and_then(read_all)),
        };
        let body = read.map_err(|error| Failure::Usage(format!("cannot read {name}: {error}")))?;
        if u64::try_from(body.len()).unwrap_or(u64::MAX) > MAX_BYTES {
            let error = Error::new(ErrorKind::TooLarge, format!("{name} is larger than 256 MiB"));
            return Err(error.with_hint("store it elsewhere and send a reference").into());
        }
        Ok(Bytes::from(body))
    }

    /// Key and headers of the command line, where the message has none of its own.
    fn complete(&self, mut message: Message) -> Message {
        if let (Some(key), None) = (&self.key, message.key_bytes()) {
            message = message.key(key);
        }
        for (name, value) in &self.headers {
            message.headers_mut().append(name.clone(), value.clone());
        }
        message
    }
}

fn read_all(from: impl Read) -> std::io::Result<Vec<u8>> {
    let mut body = Vec::new();
    from.take(MAX_BYTES + 1).read_to_end(&mut body)?;
    Ok(body)
}

pub(crate) async fn run(broker: &Broker, mut arguments: Arguments, output: &mut Output) -> Result<(), Failure> {
    let producer = broker.producer().await?;
    let mut pipeline = Pipeline::new(&producer, arguments.delay, output);
    if arguments.lines || arguments.ndjson {
        let mut lines = Lines::new();
        let topic = arguments.topic.clone();
        let make = |line: Bytes| match arguments.ndjson {
            true => input::message(&topic, &line).map(|message| arguments.complete(message)),
            false => Ok(arguments.complete(Message::to(topic.clone()).body(line))),
        };
        pipeline.run(&mut lines, make).await?;
    } else {
        let body = arguments.read_body()?;
        let mut message = arguments.complete(Message::to(arguments.topic.clone()).body(body));
        if let Some(id) = arguments.id.take() {
            message = message.id(id);
        }
        pipeline.single(message).await?;
    }
    producer.close().await?;
    Ok(())
}
