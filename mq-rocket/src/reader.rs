//! Takes messages of one topic from one broker, for one consumer.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use mq_core::driver::Incoming;
use mq_core::error::{ErrorKind, Result};
use tokio::time::Instant;

use crate::attempts;
use crate::error::answer;
use crate::gaps::Gaps;
use crate::leases;
use crate::names;
use crate::readers::{Next, Readers};
use crate::receipt::Batch;
use crate::remoting::{Command, Link, code};
use crate::route::Node;
use crate::session::Lease;
use crate::source::Source;
use crate::stored;

/// The most messages a broker gives for one question.
const MOST: usize = 32;
/// How long an answer may take, beyond what the broker waits of its own accord.
const GRACE: Duration = Duration::from_secs(5);
/// Between two questions, when the first found nothing; it doubles up to [`PAUSE`].
const SHORTEST: Duration = Duration::from_millis(5);
/// Between two questions, when the last one failed.
const PAUSE: Duration = Duration::from_millis(100);
/// Before a broker is asked again that refused where others do not.
const REFUSED: Duration = Duration::from_secs(1);

/// What a reader needs.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) readers: Arc<Readers>,
    pub(crate) link: Arc<Link>,
    pub(crate) node: Arc<Node>,
    pub(crate) lane: u32,
    /// The queue it reads; `None`: all of them.
    pub(crate) queue: Option<u32>,
    /// In ordered groups: what is settled behind what is given back.
    pub(crate) gaps: Option<Arc<Gaps>>,
}

impl Reader {
    /// Runs until the session closes or cannot go on, or the broker is somewhere else.
    pub(crate) async fn run(self) {
        let readers = Arc::clone(&self.readers);
        let source = usize::try_from(self.lane).ok().and_then(|lane| readers.sources.get(lane));
        // Lanes are numbered by the sources there are.
        if let Some(source) = source {
            self.read(source).await;
        }
        readers.ended(&self);
    }

    async fn read(&self, source: &Source) {
        let session = &self.readers.session;
        let mut shortest = SHORTEST;
        let (mut served, mut refused) = (false, false);
        while !session.is_closing() {
            let room = self.room().await;
            if room == 0 {
                continue;
            }
            match self.ask_or_watch(source, room, shortest).await {
                Ok(found) => {
                    shortest = if found { SHORTEST } else { (shortest * 2).min(PAUSE) };
                    served = true;
                    if std::mem::take(&mut refused) {
                        self.readers.well(self);
                    }
                }
                Err(_) if session.is_closing() => break,
                Err(cause) if matches!(cause.kind(), ErrorKind::NotFound | ErrorKind::Auth) => {
                    if self.readers.refused(self, cause, served).await == Next::Stop {
                        break;
                    }
                    refused = true;
                    tokio::time::sleep(REFUSED).await;
                }
                // Somebody else reads at its new address.
                Err(_) if self.readers.core.routes.address(&self.node) != self.link.address() => break,
                Err(cause) => {
                    tracing::debug!(%cause, "no messages for now");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Waits for room; 0 when it is time to look around again.
    async fn room(&self) -> usize {
        let freed = self.readers.session.freed.notified();
        tokio::pin!(freed);
        freed.as_mut().enable();
        let room = self.readers.session.room();
        if room > 0 || self.readers.session.is_closing() {
            // Several readers share what is free: each asks for its part, and at least for one. In order a part of a
            // queue holds up the rest of it, so each asks for all; what is too much waits here, leased and unseen.
            return if self.readers.ordered { room } else { room.div_ceil(self.readers.count()) };
        }
        freed.await;
        0
    }

    /// Takes what is there, or waits until there is something; true when it took something.
    async fn ask_or_watch(&self, source: &Source, room: usize, shortest: Duration) -> Result<bool> {
        let found = self.ask(source, room).await?;
        if !found {
            self.watch(source, shortest).await?;
        }
        Ok(found)
    }

    /// Takes what is there, at most `room` messages; false when there was nothing. The broker answers at once: what it
    /// hands out always finds somebody who takes it in, or gives it back.
    async fn ask(&self, source: &Source, room: usize) -> Result<bool> {
        let lease = self.readers.core.config.lease;
        let command = self
            .question(code::POP_MESSAGE, source, Duration::ZERO)
            .field("maxMsgNums", room.clamp(1, MOST))
            .field("invisibleTime", lease.as_millis())
            // A group without a place yet begins with the oldest message.
            .field("initMode", 0)
            .field("expType", "TAG")
            .field("exp", "*");
        let deadline = Instant::now() + GRACE;
        let connection = self.link.ready(deadline).await?;
        let Some(_asking) = self.readers.session.begin_asking() else { return Ok(false) };
        let asked = Instant::now();
        let answer = connection.call(command, deadline).await.map_err(crate::remoting::Failure::into_error)?;
        match answer.code {
            answer::SUCCESS => self.take_in(source, answer, asked).await.map(|()| true),
            answer::PULL_NOT_FOUND | answer::PULL_RETRY_IMMEDIATELY | answer::PULL_OFFSET_MOVED => Ok(false),
            answer::POLLING_TIMEOUT | answer::POLLING_FULL => Ok(false),
            _ => Err(answer.refusal().with_context("topic", names::shown(&source.from))),
        }
    }

    /// Waits at the broker until there may be messages, and at least for `shortest`. Nothing is handed out by that: it
    /// may be cut off at any time.
    async fn watch(&self, source: &Source, shortest: Duration) -> Result<()> {
        let wait = self.readers.core.config.poll_wait;
        let began = Instant::now();
        let deadline = began + wait + GRACE;
        let connection = self.link.ready(deadline).await?;
        // Whoever closes ends this connection after saying so.
        if self.readers.session.is_closing() {
            return Ok(());
        }
        let question = self.question(code::NOTIFICATION, source, wait);
        let answer = connection.call(question, deadline).await.map_err(crate::remoting::Failure::into_error)?;
        if answer.code != answer::SUCCESS {
            return Err(answer.refusal().with_context("topic", names::shown(&source.from)));
        }
        // It also sees messages that another member is just taking or that are not for this kind of group, and answers
        // at once when too many wait.
        tokio::time::sleep_until(began + shortest).await;
        Ok(())
    }

    fn question(&self, code: i32, source: &Source, wait: Duration) -> Command {
        Command::request(code)
            .field("consumerGroup", &self.readers.group)
            .field("topic", &source.from)
            .field("queueId", self.queue.map_or(-1, i64::from))
            .field("pollTime", wait.as_millis())
            // Now, by the broker's clock: by ours it could be too old to be answered.
            .field("bornTime", 0)
            .field("order", self.readers.ordered)
    }

    async fn take_in(&self, source: &Source, answer: Command, asked: Instant) -> Result<()> {
        let batch = Batch::read(&answer)?;
        let mut again = false;
        let arrived = stored::decode(answer.body)?.into_iter().map(|stored| {
            let receipt = batch.receipt(&self.node, &self.readers.group, &source.from, &stored);
            let redeliveries = batch.redeliveries(&stored);
            again |= redeliveries > 0;
            let incoming = source.incoming(self.lane, &self.node, stored, redeliveries);
            // The broker counts from when it took the message out, which may be long after the question was asked:
            // a renewal soon makes good for what is lost by that.
            let until = asked + self.readers.core.config.lease;
            (incoming, Lease { receipt, gaps: self.gaps.clone(), until, settled: false })
        });
        let mut arrived: Vec<_> = arrived.collect();
        if let Some(gaps) = &self.gaps {
            let offsets: Vec<i64> = arrived.iter().map(|(_, lease)| lease.receipt.offset).collect();
            let begun = gaps.begin(&self.readers.core, &offsets, again, self.readers.core.deadline()).await;
            if !begun.done.is_empty() {
                self.skip(&begun.done, &mut arrived).await;
            }
            if begun.seen {
                self.recall(source, &mut arrived).await;
            }
        }
        self.readers.session.take_in(arrived);
        Ok(())
    }

    /// Gives what came again the attempts recorded of it. While they cannot be read it waits, as long as it is ours.
    async fn recall(&self, source: &Source, arrived: &mut [(Incoming, Lease)]) {
        let until = arrived.iter().map(|(_, lease)| lease.until).min().unwrap_or_else(Instant::now);
        loop {
            let came = arrived.iter_mut().map(|(incoming, lease)| (incoming, &lease.receipt));
            let Err(cause) = attempts::recall(&self.readers.core, source, &self.node, came).await else { return };
            if cause.kind() == ErrorKind::NotFound
                || self.readers.session.is_closing()
                || Instant::now() + PAUSE >= until
            {
                tracing::warn!(%cause, topic = names::shown(&source.from), "attempts recorded before are not known");
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Acknowledges what a member before has settled behind a message that it gave back. What cannot be acknowledged
    /// now comes twice.
    async fn skip(&self, done: &BTreeSet<i64>, arrived: &mut Vec<(Incoming, Lease)>) {
        let mut open = Vec::with_capacity(arrived.len());
        for (incoming, lease) in arrived.drain(..) {
            let skipped = done.contains(&lease.receipt.offset)
                && leases::ack(&self.readers.core, &lease).await.is_ok_and(|known| known);
            if !skipped {
                open.push((incoming, lease));
            }
        }
        *arrived = open;
    }
}
