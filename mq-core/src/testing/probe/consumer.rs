//! What a simulated process receives.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytestring::ByteString;

use crate::driver::{ConsumerDriver, Event, Incoming};
use crate::error::{Error, Result};
use crate::message::Message;
use crate::testing::fault::Point;
use crate::testing::history::{Delivered, What};
use crate::testing::process::Process;

#[derive(Debug)]
pub(crate) struct ProbedConsumer {
    inner: Option<Box<dyn ConsumerDriver>>,
    process: Arc<Process>,
}

impl ProbedConsumer {
    pub(crate) fn new(inner: Box<dyn ConsumerDriver>, process: Arc<Process>) -> Self {
        Self { inner: Some(inner), process }
    }

    fn inner(&mut self) -> Result<&mut Box<dyn ConsumerDriver>> {
        self.inner.as_mut().ok_or_else(|| Error::closed("consumer"))
    }

    fn record(&self, event: &Event) {
        let what = match event {
            Event::Message(incoming) => What::Delivered(self.delivered(incoming)),
            Event::Assigned(lanes) => What::Assigned(lanes.clone()),
            Event::Revoking(number, lanes) => What::Revoking(*number, lanes.clone()),
            Event::Lost(lanes) => What::Lost(lanes.clone()),
            Event::Disconnected(_) => What::Disconnected,
            Event::Reconnected => What::Reconnected,
        };
        self.process.write_fact(what);
    }

    fn delivered(&self, incoming: &Incoming) -> Delivered {
        let id = name(&incoming.message);
        self.process.remember(incoming.token, id.clone());
        Delivered {
            token: incoming.token,
            id,
            key: key(&incoming.message),
            attempt: incoming.control.attempt,
            redeliveries: incoming.redeliveries,
            redelivered: incoming.redelivered,
            redrives: incoming.control.redrives,
            origin: incoming.origin,
        }
    }
}

/// What a message is called in the history.
pub(crate) fn name(message: &Message) -> ByteString {
    message.message_id().map_or_else(|| ByteString::from_static("(no id)"), |id| id.text().clone())
}

/// Its key, as text.
pub(crate) fn key(message: &Message) -> Option<ByteString> {
    message.key_bytes().map(|key| String::from_utf8_lossy(key).into_owned().into())
}

#[async_trait]
impl ConsumerDriver for ProbedConsumer {
    async fn poll(&mut self, events: &mut Vec<Event>, max: usize, wait: Duration) -> Result<(), Error> {
        self.process.alive().await;
        let before = events.len();
        let polled = self.inner()?.poll(events, max, wait).await;
        let (mut messages, mut revoking) = (false, false);
        for event in events.iter().skip(before) {
            messages |= matches!(event, Event::Message(_));
            revoking |= matches!(event, Event::Revoking(..));
            self.record(event);
        }
        if messages {
            self.process.reach(Point::Received).await;
        }
        if revoking {
            self.process.reach(Point::Revoking).await;
        }
        polled
    }

    async fn pause(&mut self, paused: bool) -> Result<()> {
        self.process.alive().await;
        self.inner()?.pause(paused).await
    }

    async fn revoked(&mut self, revocation: u64) -> Result<()> {
        self.process.alive().await;
        self.process.write(What::Revoked(revocation));
        self.inner()?.revoked(revocation).await
    }

    async fn close(mut self: Box<Self>, deadline: Duration) -> Result<()> {
        self.process.reach(Point::Closing).await;
        let Some(inner) = self.inner.take() else { return Ok(()) };
        inner.close(deadline).await
    }
}

/// The process is gone; the broker notices sooner or later.
impl Drop for ProbedConsumer {
    fn drop(&mut self) {
        let Some(inner) = self.inner.take() else { return };
        let noticed = self.process.aftermath().noticed;
        let (recorder, life) = (self.process.recorder.clone(), self.process.life);
        if noticed.is_zero() || tokio::runtime::Handle::try_current().is_err() {
            drop(inner);
            recorder.write(Some(life), What::CrashNoticed);
            return;
        }
        tokio::spawn(async move {
            tokio::time::sleep(noticed).await;
            drop(inner);
            recorder.write(Some(life), What::CrashNoticed);
        });
    }
}
