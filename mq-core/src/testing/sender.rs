//! The producers of a run.

use std::time::{Duration, SystemTime};

use crate::clock::Clock;
use crate::driver::Receipt;
use crate::error::ErrorKind;
use crate::message::Message;
use crate::producer::{Producer, SendError};
use crate::testing::history::{Recorder, What};
use crate::testing::probe::{key, name};
use crate::testing::random::Random;
use crate::testing::scenario::PlannedSend;

/// Sends one after the other, each until it is confirmed (or given up).
pub(crate) struct Sender {
    pub(crate) producer: Producer,
    pub(crate) recorder: Recorder,
    pub(crate) clock: Clock,
    pub(crate) random: Random,
    pub(crate) gives_up: bool,
}

/// How long it waits before it sends again.
const AGAIN: Duration = Duration::from_millis(400);

impl Sender {
    pub(crate) async fn run(mut self, sends: Vec<PlannedSend>) {
        for send in sends {
            tokio::time::sleep(send.at.saturating_sub(self.recorder.now())).await;
            self.send(send).await;
        }
    }

    async fn send(&mut self, send: PlannedSend) {
        let mut message = send.message;
        let (id, key) = (name(&message), key(&message));
        let due = send.delay.map(|delay| self.clock.after(delay));
        let mut again = false;
        loop {
            self.recorder
                .write(None, What::Sending { id: id.clone(), key: key.clone(), delayed: due.is_some(), again });
            again = true;
            let error = match self.try_once(message, due).await {
                Ok(receipt) => {
                    let due = receipt.due.map(|due| self.recorder.now() + self.clock.until(due));
                    self.recorder.write(None, What::Confirmed { id, due });
                    return;
                }
                Err(error) => error,
            };
            let ambiguous = error.error().is_ambiguous();
            let permanent = error.error().kind() == ErrorKind::Rejected;
            let text = format!("{:?}", error.error().kind());
            self.recorder.write(None, What::SendFailed { id: id.clone(), ambiguous, error: text });
            message = error.into_message();
            if self.gives_up && (permanent || self.random.chance(30)) {
                self.producer.forget_key(&message);
                self.recorder.write(None, What::GivenUp { id });
                return;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn try_once(&self, message: Message, due: Option<SystemTime>) -> Result<Receipt, SendError> {
        match due {
            Some(due) => self.producer.send_at(message, due).await,
            None => self.producer.send(message).await,
        }
    }
}
