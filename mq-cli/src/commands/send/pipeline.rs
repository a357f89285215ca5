//! Many sends in flight, receipts in the order of the input.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use mq::{Error, ErrorKind, Message, Producer, Receipt, SendError};
use serde::Serialize;
use serde_json::json;
use tokio::time::Instant;

use super::resend::{Ended, PATIENCE, ended};
use crate::failure::{Failure, one_line};
use crate::input::Lines;
use crate::output::{self, Output};
use crate::record::{millis, place};

/// The most sends in flight; the producer has the same bound.
const WINDOW: usize = 1000;

/// A send under way.
type Sending = Pin<Box<dyn Future<Output = Result<Receipt, SendError>> + Send>>;

/// A line whose outcome is awaited.
struct Slot {
    line: u64,
    began: Instant,
    sending: Sending,
}

/// What comes next.
enum Step {
    Line(Option<(u64, Bytes)>),
    Ended(u64, Instant, Result<Receipt, SendError>),
}

/// Sends messages and reports what became of each.
pub(crate) struct Pipeline<'a> {
    producer: &'a Producer,
    delay: Option<Duration>,
    output: &'a mut Output,
    slots: VecDeque<Slot>,
    sent: u64,
    failed: u64,
    resent: u64,
    needs_process: bool,
    /// Messages behind a repeated one may have to be repeated too: until all have ended, no new one is sent, which could
    /// overtake them.
    recovering: bool,
    /// When the broker last stored a message.
    stored: Instant,
}

#[derive(Debug, Serialize)]
struct Printed {
    id: Option<String>,
    position: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    due_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    needs_process: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resent: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
}

impl<'a> Pipeline<'a> {
    pub(crate) fn new(producer: &'a Producer, delay: Option<Duration>, output: &'a mut Output) -> Self {
        let slots = VecDeque::new();
        let stored = Instant::now();
        Self {
            producer,
            delay,
            output,
            slots,
            sent: 0,
            failed: 0,
            resent: 0,
            needs_process: false,
            recovering: false,
            stored,
        }
    }

    /// Sends one message; its error is the command's.
    pub(crate) async fn single(&mut self, message: Message) -> Result<(), Failure> {
        let began = Instant::now();
        let result = start(self.producer, self.delay, message).await.await;
        let Ended { result, resent, .. } = ended(self.producer, self.delay, result, began, began + PATIENCE).await;
        let receipt = result?;
        self.stored(&receipt, resent, None)?;
        self.output.flush()?;
        self.remark();
        Ok(())
    }

    /// Sends a message for each line. A line that cannot be sent is reported and counted; when no further line could
    /// do better, the rest is not read.
    pub(crate) async fn run(
        &mut self,
        lines: &mut Lines,
        make: impl Fn(Bytes) -> Result<Message, String>,
    ) -> Result<(), Failure> {
        let mut reading = true;
        while reading || !self.slots.is_empty() {
            let more = reading && !self.recovering && self.slots.len() < WINDOW;
            let step = match self.slots.front_mut() {
                None => {
                    // Nothing is under way: whoever reads the receipts gets them before the next line comes.
                    self.output.flush()?;
                    self.recovering = false;
                    Step::Line(lines.next().await?)
                }
                Some(slot) => tokio::select! {
                    biased;
                    // Cancel safe: what was read of a line stays in `lines`.
                    next = lines.next(), if more => Step::Line(next?),
                    result = &mut slot.sending => Step::Ended(slot.line, slot.began, result),
                },
            };
            match step {
                Step::Line(None) => reading = false,
                Step::Line(Some((line, text))) => self.take(line, text, &make).await?,
                Step::Ended(line, began, result) => {
                    self.slots.pop_front();
                    let deadline = began.max(self.stored) + PATIENCE;
                    let ended = ended(self.producer, self.delay, result, began, deadline).await;
                    self.recovering |= ended.repeated;
                    reading &= self.report(line, ended)?;
                }
            }
        }
        self.output.flush()?;
        self.summary()
    }

    async fn take(
        &mut self,
        line: u64,
        text: Bytes,
        make: &impl Fn(Bytes) -> Result<Message, String>,
    ) -> Result<(), Failure> {
        match make(text) {
            Ok(message) => {
                let began = Instant::now();
                let sending = start(self.producer, self.delay, message).await;
                self.slots.push_back(Slot { line, began, sending });
                Ok(())
            }
            Err(problem) => self.refused(line, None, &Error::new(ErrorKind::Codec, problem)),
        }
    }

    /// Prints what became of a line; false when reading on is pointless.
    fn report(&mut self, line: u64, ended: Ended) -> Result<bool, Failure> {
        match ended.result {
            Ok(receipt) => {
                self.stored(&receipt, ended.resent, Some(line))?;
                Ok(true)
            }
            Err(error) => {
                self.resent += u64::from(ended.resent);
                let id = error.message().message_id().map(|id| id.as_str());
                self.refused(line, id, error.error())?;
                Ok(concerns_one_message(error.error().kind()))
            }
        }
    }

    fn stored(&mut self, receipt: &Receipt, resent: u32, line: Option<u64>) -> Result<(), Failure> {
        self.sent += 1;
        self.stored = Instant::now();
        self.resent += u64::from(resent);
        self.needs_process |= receipt.needs_process;
        let printed = Printed {
            id: receipt.id.as_ref().map(ToString::to_string),
            position: place(&receipt.position),
            due_ms: receipt.due.map(millis),
            needs_process: receipt.due.map(|_| receipt.needs_process),
            resent: (resent > 0).then_some(resent),
            line,
        };
        let id = printed.id.as_deref().unwrap_or("-");
        let text = format!("{id}\t{}", receipt.position);
        Ok(self.output.result(&printed, text)?)
    }

    fn refused(&mut self, line: u64, id: Option<&str>, error: &Error) -> Result<(), Failure> {
        self.failed += 1;
        let text = one_line(&error.to_string());
        if self.output.is_json() {
            let kind = format!("{:?}", error.kind());
            let error = json!({"kind": kind, "message": text, "ambiguous": error.is_ambiguous()});
            self.output.json_line(&json!({"line": line, "id": id, "error": error}))?;
        } else {
            output::note(format_args!("mq: line {line}: {text}"));
        }
        Ok(())
    }

    fn remark(&self) {
        if self.resent > 0 {
            let resent = self.resent;
            output::note(format_args!("mq: sent again {resent} times after an ambiguous outcome, under the same id"));
        }
        if self.needs_process {
            output::note(format_args!(
                "mq: the delay needs a living process: keep `mq scheduler` or a worker of the topic running"
            ));
        }
    }

    fn summary(&self) -> Result<(), Failure> {
        output::note(format_args!("mq: sent {} messages", self.sent));
        self.remark();
        match self.failed {
            0 => Ok(()),
            failed => Err(Failure::Partly(format!("{failed} messages were not sent; see above"))),
        }
    }
}

/// Hands a message over, so that sends begin in the order of these calls; returns the rest of the send.
async fn start(producer: &Producer, delay: Option<Duration>, message: Message) -> Sending {
    match delay {
        None => match producer.enqueue(message).await {
            Ok(pending) => Box::pin(pending),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        },
        Some(delay) => {
            let producer = producer.clone();
            let mut sending: Sending = Box::pin(async move { producer.send_after(message, delay).await });
            match poll_fn(|context| Poll::Ready(sending.as_mut().poll(context))).await {
                Poll::Ready(result) => Box::pin(std::future::ready(result)),
                Poll::Pending => sending,
            }
        }
    }
}

/// True when another message may fare better.
fn concerns_one_message(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::TooLarge | ErrorKind::Codec | ErrorKind::Config | ErrorKind::Rejected)
}
