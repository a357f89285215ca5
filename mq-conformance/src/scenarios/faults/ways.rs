//! Connections that are cut, stalled, slow and half open (G1 to G4, G6, G9, G13).

use std::time::{Duration, Instant};

use mq_core::driver::{ConsumerSpec, Settled};
use mq_core::producer::ProducerOptions;
use mq_core::{ErrorKind, Producer, Subscription};

use super::{KEYS, MESSAGES, RATE};
use crate::checker::Checker;
use crate::failure::{Failure, Verdict, ensure};
use crate::faults::load::Load;
use crate::faults::plan::Plan;
use crate::history::What;
use crate::lab::Lab;
use crate::reader::ident;
use crate::scenario::scenarios;
use crate::scenarios::receive::all_come;

/// More than the bound of the producer.
const SENDS: usize = 60;
const BOUND: usize = 40;

scenarios!("faults":
    connections_cut_under_load [1, 2, 3, 9, 13] [KeyedOrder] breaks [Way];
    connections_cut_while_messages_fail [2, 3, 4, 6, 7, 8, 9] [KeyOrderedRetry, DeadLetters] breaks [Way];
    a_stall_longer_than_the_heartbeat [1, 2, 3, 9, 11, 13] [KeyedOrder] breaks [Way];
    a_stalled_member_is_replaced_and_settles_nothing [2, 3, 9, 11] [KeyedOrder] breaks [OneWay];
    a_member_paused_while_its_session_ends_reads_again [3, 13] [KeyedOrder, Pause] breaks [Way];
    a_settlement_of_a_lost_session_is_stale [2, 11] [Groups] breaks [Way];
    a_slow_way_is_only_slow [1, 2, 3, 9, 14] [KeyedOrder] breaks [Way, Slow];
    connections_half_open [1, 2, 3, 9, 13] [KeyedOrder] breaks [Way, HalfOpen];
    sends_without_a_broker_end_within_their_deadline [1, 14] [ConfirmedSend] breaks [Way];
    sends_to_a_blocked_broker_end_within_their_deadline [1, 14] [ConfirmedSend] breaks [Blocked];
);

async fn connections_cut_under_load(lab: &Lab) -> Verdict {
    let mut load = Load::new(lab, Plan::smooth(1)).await?;
    load.join().await?;
    load.join_task().await?;
    load.send(MESSAGES, KEYS, RATE);
    for part in 1..=3 {
        load.handled(part * MESSAGES / 5).await?;
        load.record.fault("every connection is cut");
        load.strike(load.members());
        load.way.cut();
        load.recovered().await?;
    }
    let seen = load.finish().await?;
    ensure!(seen.confirmed == MESSAGES, "{} of {MESSAGES} sends were confirmed", seen.confirmed);
    Ok(())
}

async fn connections_cut_while_messages_fail(lab: &Lab) -> Verdict {
    let plan = Plan { retried: 100, retried_twice: 40, hopeless: 40, ..Plan::rough(2, true) };
    let mut load = Load::new(lab, plan).await?;
    load.join_task().await?;
    load.send(MESSAGES / 2, KEYS, RATE / 2);
    for part in 1..=3 {
        load.handled(part * MESSAGES / 10).await?;
        load.record.fault("every connection is cut");
        load.strike(load.members());
        load.way.cut();
        load.recovered().await?;
    }
    let seen = load.finish().await?;
    ensure!(seen.dead > 0, "no message became a dead letter: {seen:?}");
    Ok(())
}

async fn a_stall_longer_than_the_heartbeat(lab: &Lab) -> Verdict {
    let mut load = Load::new(lab, Plan::smooth(3)).await?;
    load.join().await?;
    load.join_task().await?;
    load.send(MESSAGES / 2, KEYS, RATE / 2);
    load.handled(MESSAGES / 8).await?;
    load.record.fault("no byte passes");
    let since = lab.history().now();
    load.strike(load.members());
    load.way.stall(true);
    tokio::time::sleep(Duration::from_secs(7)).await;
    load.record.fault("bytes pass again");
    load.way.stall(false);
    load.blind_since(since);
    load.recovered().await?;
    load.finish().await.map(drop)
}

/// The way of one member is stalled; the other has its own, takes over, and is not disturbed when the first wakes up.
async fn a_stalled_member_is_replaced_and_settles_nothing(lab: &Lab) -> Verdict {
    let plan = Plan { slow_ones: 300, slow: Duration::from_millis(1500), ..Plan::smooth(4) };
    let mut load = Load::new(lab, plan).await?;
    load.join_task().await?;
    load.send_aside(MESSAGES / 4, KEYS, RATE / 2).await?;
    load.handled(MESSAGES / 20).await?;
    let since = lab.history().now();
    load.record.fault("no byte passes to or from member 1");
    load.strike(1);
    load.way.stall(true);
    load.join_aside().await?;
    load.handled(MESSAGES / 10).await?;
    load.record.fault("bytes pass again");
    load.way.stall(false);
    load.blind_since(since);
    // The group forms once more, of two members.
    load.strike(1);
    load.recovered().await?;
    load.finish().await.map(drop)
}

/// A pause belongs to the session it was made in: what comes again in a new one is read.
async fn a_member_paused_while_its_session_ends_reads_again(lab: &Lab) -> Verdict {
    const MESSAGES: usize = 24;
    let (topic, group) = lab.ordered_place().await?;
    let way = lab.faults()?.way().await?;
    let broker = lab.connect_by(&*way).await?;
    let mut opened = broker.driver().open_consumer(lab.ordered(&topic, &group, 2 * MESSAGES)).await?;
    let message = |n: usize| lab.message(&topic, n).key(format!("k{n}"));
    let producer = lab.fresh().await?.producer().await?;
    lab.send(&producer, message(0)).await?;
    // A member, and its partitions awake: or else there is nothing to pause.
    all_come(lab, &mut opened, 0..1).await?;
    opened.0.pause(true).await?;
    let mut events = Vec::new();
    opened.0.poll(&mut events, 1, Duration::from_millis(300)).await?;
    way.stall(true);
    tokio::time::sleep(Duration::from_secs(6)).await;
    // Where the session ends by the clock of the consumer, it has: nothing that it had is resumed by this.
    opened.0.pause(false).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    way.stall(false);
    lab.send_all(&producer, (1..MESSAGES).map(message)).await?;
    all_come(lab, &mut opened, 1..MESSAGES).await?;
    Ok(opened.0.close(Duration::from_secs(10)).await?)
}

/// What was delivered to a session that is over is void: settling it says so, and touches nothing that was delivered since.
async fn a_settlement_of_a_lost_session_is_stale(lab: &Lab) -> Verdict {
    const COUNT: usize = 5;
    let (topic, group) = lab.place().await?;
    let way = lab.faults()?.way().await?;
    let broker = lab.connect_by(&*way).await?;
    let mut reader = lab.reader_on(&broker, ConsumerSpec::new(Subscription::new(&topic, &group))).await?;
    lab.send_many(&lab.producer().await?, &topic, COUNT).await?;
    let old = reader.take(COUNT).await?;
    reader.giving_back(&old);
    // A session outlives a cut on some brokers, and a long silence on none.
    way.stall(true);
    tokio::time::sleep(Duration::from_secs(7)).await;
    way.stall(false);
    way.cut();
    let new = reader.take(COUNT).await?;
    for delivery in old {
        let id = ident(delivery.message());
        match delivery.ack().await {
            Ok(Settled::Stale) | Err(_) => {}
            Ok(settled) => {
                let text = format!("the ack of {id} is called {settled:?}, not stale, though its session was lost");
                return Err(Failure::new(text));
            }
        }
    }
    // Unsettled, whatever was said of the old ones: they come again.
    reader.giving_back(&new);
    drop(new);
    reader.close().await?;
    let mut reader = lab.reader(&topic, &group).await?;
    reader.consume(COUNT).await?;
    reader.close().await?;
    Checker::new(&group).judge(lab.history())
}

async fn a_slow_way_is_only_slow(lab: &Lab) -> Verdict {
    let mut load = Load::new(lab, Plan::smooth(5)).await?;
    load.join().await?;
    load.join_task().await?;
    load.send(MESSAGES / 3, KEYS, RATE);
    load.handled(MESSAGES / 30).await?;
    load.record.fault("20 kB a second pass on each connection");
    load.way.slow(Some(20_000));
    load.handled(MESSAGES / 4).await?;
    load.record.fault("the way is as fast as ever");
    load.way.slow(None);
    let seen = load.finish().await?;
    // No connection has to end for that, but a client may give one up.
    ensure!(seen.confirmed == MESSAGES / 3, "{} of {} sends were confirmed", seen.confirmed, MESSAGES / 3);
    Ok(())
}

async fn connections_half_open(lab: &Lab) -> Verdict {
    let mut load = Load::new(lab, Plan::smooth(6)).await?;
    load.join().await?;
    load.join_task().await?;
    load.send(MESSAGES / 2, KEYS, RATE / 2);
    load.handled(MESSAGES / 8).await?;
    load.record.fault("every connection has lost its broker, and nobody was told");
    let since = lab.history().now();
    load.strike(load.members());
    load.way.half_open();
    load.recovered_from(MESSAGES / 4).await?;
    load.blind_since(since);
    load.finish().await.map(drop)
}

async fn sends_without_a_broker_end_within_their_deadline(lab: &Lab) -> Verdict {
    let silence = async |load: &Load<'_>, silent: bool| {
        load.way.refuse(silent);
        if silent {
            load.way.cut();
        }
        Ok(())
    };
    let confirmed = sends_end_within_their_deadline(lab, silence).await?;
    ensure!(confirmed == 0, "{confirmed} sends were confirmed without a broker");
    Ok(())
}

async fn sends_to_a_blocked_broker_end_within_their_deadline(lab: &Lab) -> Verdict {
    // Some brokers notice that they are full when they get something: they may take that.
    let silence = async |load: &Load<'_>, silent: bool| Ok(load.faults()?.block(silent).await?);
    sends_end_within_their_deadline(lab, silence).await.map(drop)
}

/// More than fits into the bounds of the producer: each send is answered in time, and none of them is a lie. Returns how
/// many were confirmed while the broker was silent.
async fn sends_end_within_their_deadline(
    lab: &Lab,
    silence: impl AsyncFn(&Load<'_>, bool) -> Verdict,
) -> Verdict<usize> {
    let load = Load::new(lab, Plan::smooth(7)).await?;
    let broker = load.connect().await?;
    let mut options = ProducerOptions::default();
    (options.max_in_flight, options.deadline) = (BOUND, Duration::from_secs(3));
    let producer = broker.producer_with(options).await?;
    // A producer at work, not one that has yet to learn of its topic.
    load.send_until_confirmed(&producer, SENDS, SENDS + 1).await?;
    load.record.fault("nobody answers any more");
    silence(&load, true).await?;
    let sent = send_into_the_void(lab, &load, &producer).await;
    load.record.fault("the broker takes sends again");
    silence(&load, false).await?;
    let confirmed = sent?;
    // The same producer goes on, and a second time is a first time: the same ids.
    for number in 0..SENDS {
        load.send_until_confirmed(&producer, number, SENDS).await?;
    }
    let mut load = load;
    // What was under way may have been stored after all, beside its repetition.
    load.terms.bound += SENDS;
    load.join_task().await?;
    let seen = load.finish().await?;
    ensure!(seen.handled == SENDS + 1, "{} of {SENDS} and one were handled", seen.handled);
    Ok(confirmed)
}

/// How many were confirmed.
async fn send_into_the_void(lab: &Lab, load: &Load<'_>, producer: &Producer) -> Verdict<usize> {
    let began = Instant::now();
    let mut pending = Vec::new();
    let mut full = 0;
    for number in 0..SENDS {
        let message = load.message(number, SENDS);
        lab.history().note(format!("m{number}"), "", What::Sent { key: message.key_bytes().cloned(), due: None });
        let called = Instant::now();
        match producer.enqueue(message).await {
            Ok(sent) => pending.push((number, sent)),
            Err(error) => {
                full += usize::from(error.error().kind() == ErrorKind::Backpressure);
                lab.sent(&format!("m{number}"), Err(error.error()));
                let limit = Duration::from_secs(3) + lab.slack();
                ensure!(called.elapsed() < limit, "a send waited {:?} for room, of 3 s", called.elapsed());
            }
        }
        if full == 2 {
            break;
        }
        let (limit, taken) = (Duration::from_secs(30) + lab.slack(), number + 1);
        ensure!(
            began.elapsed() < limit,
            "one after the other, {taken} sends took {:?} to be taken in",
            began.elapsed()
        );
    }
    let mut confirmed = 0;
    // Some wait for their deadline, some are refused at once: because the bound is felt, or their key waits.
    let limit = began.elapsed() + Duration::from_secs(30) + lab.slack();
    for (number, sent) in pending {
        let left = limit.saturating_sub(began.elapsed());
        let outcome = tokio::time::timeout(left, sent).await;
        let Ok(outcome) = outcome else {
            return Err(Failure::new(format!("send {number} had no answer within {limit:?}")));
        };
        confirmed += usize::from(outcome.is_ok());
        lab.sent(&format!("m{number}"), outcome.as_ref().map_err(|error| error.error()));
    }
    Ok(confirmed)
}
