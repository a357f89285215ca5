//! Delayed messages: never early, late by a declared bound, and the receipt says what must be running (G6).

use std::time::{Duration, Instant, SystemTime};

use mq_core::Broker;
use mq_core::capability::Feature;
use mq_core::driver::SchedulerDriver;
use mq_core::error::ErrorKind;
use mq_core::message::Message;
use tokio::sync::oneshot;

use crate::checker::Checker;
use crate::failure::{Failure, Verdict, ensure, ensure_eq};
use crate::history::{History, What};
use crate::lab::{Lab, QUIET};
use crate::reader::ident;
use crate::scenario::scenarios;
use crate::scenarios::publish::{all_same, refused};

scenarios!("delay":
    a_delayed_message_waits_and_is_whole [6] [DelayedSend];
    delays_of_several_lengths_come_in_their_time [6] [DelayedSend];
    the_receipt_says_when_and_who [6, 15] [DelayedSend];
    a_time_gone_by_is_now [6] [DelayedSend];
    too_long_a_delay_is_refused [6, 15] [DelayedSend];
    every_group_gets_a_delayed_message_once [2, 6] [DelayedSend];
);

/// Moves due messages while a scenario runs, where the broker cannot do it alone. Dropped, it leaves as a worker does
/// that stops: all of them share what waits, and one that just vanishes leaves repetitions to the others.
struct Mover(#[expect(dead_code, reason = "dropped, it says so")] Option<oneshot::Sender<()>>);

impl Mover {
    fn start(lab: &Lab, broker: &Broker) -> Self {
        Self(broker.scheduler().map(|scheduler| {
            let (sender, stopped) = oneshot::channel();
            tokio::spawn(run(broker.clone(), scheduler, stopped, lab.history().clone()));
            sender
        }))
    }
}

async fn run(
    broker: Broker,
    mut scheduler: Box<dyn SchedulerDriver>,
    mut stopped: oneshot::Receiver<()>,
    history: History,
) {
    loop {
        let turn = tokio::select! {
            biased;
            _ = &mut stopped => break,
            turn = scheduler.run(Duration::from_millis(500)) => turn,
        };
        if let Err(error) = turn {
            history.note("", "", What::Note(format!("the scheduler failed: {error}")));
            tokio::time::sleep(Duration::from_millis(200)).await;
            scheduler = broker.scheduler().unwrap_or(scheduler);
        }
    }
    if let Err(error) = scheduler.close(Duration::from_secs(10)).await {
        history.note("", "", What::Note(format!("the scheduler could not leave: {error}")));
    }
}

fn delay(lab: &Lab) -> Duration {
    lab.delay(Feature::DelayedSend)
}

async fn send_after(
    lab: &Lab,
    producer: &mq_core::Producer,
    message: Message,
    delay: Duration,
) -> Verdict<mq_core::Receipt> {
    let id = lab.sending(&message, Some(delay));
    let outcome = producer.send_after(message, delay).await;
    lab.sent(&id, outcome.as_ref().map_err(mq_core::SendError::error));
    Ok(outcome?)
}

async fn a_delayed_message_waits_and_is_whole(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let broker = lab.broker().await?;
    let _mover = Mover::start(lab, &broker);
    let producer = lab.producer().await?;
    let delay = delay(lab) * 2;
    let began = Instant::now();
    for number in 0..5 {
        let message = lab.message(&topic, number).key("k").header("bytes", vec![0xff, 0]);
        send_after(lab, &producer, message, delay).await?;
    }
    let mut reader = lab.reader(&topic, &group).await?;
    let got = reader.consume(5).await?;
    let limit = delay + lab.lateness(Feature::DelayedSend) + lab.slack();
    ensure!(began.elapsed() <= limit, "the last came after {:?}; allowed are {limit:?}", began.elapsed());
    reader.silent(Duration::from_millis(300)).await?;
    reader.close().await?;
    all_same(lab, &got)?;
    Checker::new(&group).judge(lab.history())
}

/// One that waits long does not hold up one that waits less.
async fn delays_of_several_lengths_come_in_their_time(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let broker = lab.broker().await?;
    let _mover = Mover::start(lab, &broker);
    let producer = lab.producer().await?;
    let unit = delay(lab).max(Duration::from_secs(1));
    let late = lab.lateness(Feature::DelayedSend) + lab.slack();
    // The longest first, and longer than the next may be late.
    let delays = [late + unit * 2, unit, Duration::ZERO];
    let began = Instant::now();
    for (number, delay) in (0..).zip(delays) {
        let message = lab.message(&topic, number);
        if delay.is_zero() {
            lab.send(&producer, message).await?;
        } else {
            send_after(lab, &producer, message, delay).await?;
        }
    }
    let mut reader = lab.reader(&topic, &group).await?;
    for (ident_of, delay) in [("m2", delays[2]), ("m1", delays[1]), ("m0", delays[0])] {
        let got: Vec<String> = reader.consume(1).await?.iter().map(ident).collect();
        ensure_eq!(got, [ident_of], "the message that comes next, {delay:?} being its delay");
        // A group that forms and has no place yet is not what this is about.
        let limit = delay + late + if delay.is_zero() { lab.patience() } else { Duration::ZERO };
        ensure!(began.elapsed() <= limit, "{ident_of} came after {:?}; allowed are {limit:?}", began.elapsed());
    }
    reader.close().await?;
    Checker::new(&group).judge(lab.history())
}

async fn the_receipt_says_when_and_who(lab: &Lab) -> Verdict {
    let (topic, _) = lab.place().await?;
    let producer = lab.producer().await?;
    let delay = delay(lab) * 3;
    let before = SystemTime::now();
    let receipt = producer.send_after(lab.message(&topic, 0), delay).await?;
    let due = receipt.due.ok_or_else(|| Failure::new("the receipt of a delayed send does not say when it is due"))?;
    // A millisecond: what headers and brokers count in.
    ensure!(due + Duration::from_millis(1) >= before + delay, "due at {due:?}, before it was asked for");
    let declared = lab.capabilities().get(Feature::DelayedSend).is_some_and(|known| known.limits.needs_process);
    ensure_eq!(receipt.needs_process, declared, "whether a living process is needed, receipt against capability");
    ensure_eq!(lab.broker().await?.scheduler().is_some(), declared, "whether there is a scheduler to run");
    Ok(())
}

async fn a_time_gone_by_is_now(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let broker = lab.broker().await?;
    let _mover = Mover::start(lab, &broker);
    let producer = lab.producer().await?;
    let message = lab.message(&topic, 0);
    let id = lab.sending(&message, None);
    let outcome = producer.send_at(message, SystemTime::now() - Duration::from_secs(60)).await;
    lab.sent(&id, outcome.as_ref().map_err(mq_core::SendError::error));
    outcome?;
    let mut reader = lab.reader(&topic, &group).await?;
    reader.consume(1).await?;
    reader.close().await?;
    Checker::new(&group).judge(lab.history())
}

async fn too_long_a_delay_is_refused(lab: &Lab) -> Verdict {
    let (topic, _) = lab.place().await?;
    let producer = lab.producer().await?;
    let longest = lab.capabilities().get(Feature::DelayedSend).and_then(|known| known.limits.max_delay);
    let Some(longest) = longest else {
        // No bound is declared: then ten years must be accepted.
        producer.send_after(lab.message(&topic, 0), Duration::from_secs(10 * 365 * 86_400)).await?;
        return Ok(());
    };
    let outcome = producer.send_after(lab.message(&topic, 0), longest + Duration::from_secs(3600)).await;
    let kinds = [ErrorKind::Config, ErrorKind::Unsupported, ErrorKind::TooLarge];
    let error = refused(outcome, "m0", &kinds).await?;
    ensure!(!error.is_ambiguous(), "a delay that cannot be is not ambiguous: {error}");
    Ok(())
}

async fn every_group_gets_a_delayed_message_once(lab: &Lab) -> Verdict {
    let topic = lab.topic("t").await?;
    let groups = [lab.group(&topic, "one").await?, lab.group(&topic, "two").await?];
    let broker = lab.broker().await?;
    let (_one, _two) = (Mover::start(lab, &broker), Mover::start(lab, &broker));
    let producer = lab.producer().await?;
    for number in 0..5 {
        send_after(lab, &producer, lab.message(&topic, number), delay(lab)).await?;
    }
    for group in &groups {
        let mut reader = lab.reader(&topic, group).await?;
        reader.consume(5).await?;
        reader.silent(QUIET).await?;
        reader.close().await?;
        Checker::new(group).judge(lab.history())?;
    }
    Ok(())
}
