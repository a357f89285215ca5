//! A consumer that records what it sees and does.

use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use mq_core::driver::Settled;
use mq_core::message::Message;
use mq_core::{Consumer, Delivery};

use crate::failure::{Failure, Verdict};
use crate::history::{Action, What};
use crate::lab::Lab;

/// A consumer that records what it sees and does.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    lab: &'a Lab,
    consumer: Consumer,
    group: String,
}

/// The name a message has in the record: its id, else its body.
pub(crate) fn ident(message: &Message) -> String {
    match (message.message_id(), message.body_bytes()) {
        (Some(id), _) => id.to_string(),
        (None, Some(body)) => format!("body:{}", body.get(..body.len().min(40)).unwrap_or_default().escape_ascii()),
        (None, None) => "tombstone".into(),
    }
}

impl<'a> Reader<'a> {
    pub(crate) fn new(lab: &'a Lab, consumer: Consumer, group: String) -> Self {
        Self { lab, consumer, group }
    }

    /// The consumer underneath.
    pub(crate) fn consumer(&mut self) -> &mut Consumer {
        &mut self.consumer
    }

    /// The next message, which must come.
    pub(crate) async fn next(&mut self) -> Verdict<Delivery> {
        self.within(self.lab.patience()).await?.ok_or_else(|| Failure::new("no message came in time"))
    }

    /// The next message, if one comes.
    pub(crate) async fn within(&mut self, wait: Duration) -> Verdict<Option<Delivery>> {
        let delivery = self.consumer.recv_within(wait).await?;
        if let Some(delivery) = &delivery {
            self.seen(delivery);
        }
        Ok(delivery)
    }

    fn seen(&self, delivery: &Delivery) {
        let what = What::Delivered { attempt: delivery.attempt() };
        self.lab.history().note(ident(delivery.message()), &self.group, what);
    }

    /// The next `count` messages, which must come; held until all are there.
    pub(crate) async fn take(&mut self, count: usize) -> Verdict<Vec<Delivery>> {
        let mut taken = Vec::with_capacity(count);
        let began = Instant::now();
        while taken.len() < count {
            let left = self.lab.patience().saturating_sub(began.elapsed());
            match self.within(left).await? {
                Some(delivery) => taken.push(delivery),
                None => {
                    let text = format!("{} of {count} messages came in time", taken.len());
                    return Err(Failure::new(text));
                }
            }
        }
        Ok(taken)
    }

    /// Receives and acknowledges `count` messages, which must come; returns them in order.
    pub(crate) async fn consume(&mut self, count: usize) -> Verdict<Vec<Message>> {
        let mut messages = Vec::with_capacity(count);
        let began = Instant::now();
        while messages.len() < count {
            let left = self.lab.patience().saturating_sub(began.elapsed());
            let Some(delivery) = self.within(left).await? else {
                let text = format!("{} of {count} messages came in time", messages.len());
                return Err(Failure::new(format!(
                    "{text}\n{}",
                    crate::history::first_unseen(&self.lab.history().entries(), &self.group)
                )));
            };
            messages.push(delivery.message().clone());
            self.doing(&delivery, Action::Ack, None);
            drop(delivery.ack());
        }
        Ok(messages)
    }

    /// Fails when a message comes within `wait`.
    pub(crate) async fn silent(&mut self, wait: Duration) -> Verdict {
        match self.within(wait).await? {
            None => Ok(()),
            Some(delivery) => {
                let id = ident(delivery.message());
                let entries = self.lab.history().entries();
                let text = format!("a message came that should not\n{}", crate::history::story(&entries, &id));
                Err(Failure::new(text))
            }
        }
    }

    /// Records what is about to become of a delivery.
    pub(crate) fn doing(&self, delivery: &Delivery, action: Action, delay: Option<Duration>) {
        let due = delay.map(|delay| self.lab.history().now() + delay);
        self.lab.history().note(ident(delivery.message()), &self.group, What::Settled { action, due });
    }

    /// Acknowledges, and waits until it took effect.
    pub(crate) async fn ack(&mut self, delivery: Delivery) -> Verdict<Settled> {
        self.doing(&delivery, Action::Ack, None);
        fresh(delivery.ack().await?)
    }

    /// Gives back for redelivery.
    pub(crate) async fn requeue(&mut self, delivery: Delivery) -> Verdict<Settled> {
        self.doing(&delivery, Action::Requeue, None);
        fresh(delivery.requeue().await?)
    }

    /// Acknowledges; the outcome comes later, while others are received.
    pub(crate) fn acking(&self, delivery: Delivery) -> BoxFuture<'static, Verdict<Settled>> {
        self.doing(&delivery, Action::Ack, None);
        async move { fresh(delivery.ack().await?) }.boxed()
    }

    /// Gives back for redelivery; the outcome comes later, while others are received.
    pub(crate) fn requeueing(&self, delivery: Delivery) -> BoxFuture<'static, Verdict<Settled>> {
        self.doing(&delivery, Action::Requeue, None);
        async move { fresh(delivery.requeue().await?) }.boxed()
    }

    /// Gives back as never started.
    pub(crate) async fn release(&mut self, delivery: Delivery) -> Verdict<Settled> {
        self.doing(&delivery, Action::Release, None);
        fresh(delivery.release().await?)
    }

    /// Drops it unsettled.
    pub(crate) fn forget(&self, delivery: Delivery) {
        self.doing(&delivery, Action::Release, None);
        drop(delivery);
    }

    /// Stores it for another attempt.
    pub(crate) async fn retry(&mut self, delivery: Delivery, delay: Duration) -> Verdict<Settled> {
        self.doing(&delivery, Action::Retry, Some(delay));
        let settling = delivery.retry_after(delay).map_err(|refused| refused.0)?;
        fresh(settling.await?)
    }

    /// Sets it aside.
    pub(crate) async fn dead_letter(&mut self, delivery: Delivery, error: &str) -> Verdict<Settled> {
        self.doing(&delivery, Action::DeadLetter, None);
        fresh(delivery.dead_letter(error).await?)
    }

    /// Records what is given back when the consumer closes: `held` were delivered and not settled.
    pub(crate) fn giving_back<'d>(&self, held: impl IntoIterator<Item = &'d Delivery>) {
        for delivery in held {
            self.doing(delivery, Action::Release, None);
        }
    }

    /// Makes every settlement so far durable.
    pub(crate) async fn flush(&mut self) -> Verdict {
        Ok(self.consumer.flush().await?)
    }

    /// Leaves the group.
    pub(crate) async fn close(self) -> Verdict {
        Ok(self.consumer.close().await?)
    }
}

fn fresh(settled: Settled) -> Verdict<Settled> {
    match settled {
        Settled::Stale => Err(Failure::new("the settlement was called stale, though the session stands")),
        settled => Ok(settled),
    }
}
