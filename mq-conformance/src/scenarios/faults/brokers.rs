//! The broker is killed or blocked, and comes back (G1, G2, G3, G9, G13, G14).

use std::time::Duration;

use super::{KEYS, MESSAGES, RATE};
use crate::failure::{Verdict, ensure};
use crate::faults::load::Load;
use crate::faults::plan::Plan;
use crate::lab::Lab;
use crate::scenario::scenarios;

scenarios!("faults":
    the_broker_killed_twice_under_load [1, 2, 3, 9, 13] [KeyedOrder, NoLossOnRestart] breaks [Broker];
    the_broker_killed_while_messages_fail [2, 3, 4, 6, 7, 9] [KeyOrderedRetry, NoLossOnRestart] breaks [Broker];
    an_idle_consumer_survives_the_broker [13] [KeyedOrder, NoLossOnRestart] breaks [Broker];
    a_blocked_broker_loses_nothing [1, 2, 3, 9, 13, 14] [KeyedOrder] breaks [Blocked];
    a_service_starts_before_its_broker [13] [KeyedOrder, NoLossOnRestart] breaks [Broker];
);

async fn twice(lab: &Lab, plan: Plan) -> Verdict {
    let mut load = Load::new(lab, plan).await?;
    load.join().await?;
    load.join_task().await?;
    load.send_throughout(MESSAGES, KEYS, RATE);
    for part in 1..=2 {
        load.handled(part * MESSAGES / 5).await?;
        load.kill_broker().await?;
        tokio::time::sleep(Duration::from_millis(300)).await;
        load.start_broker().await?;
        load.recovered().await?;
    }
    let seen = load.finish().await?;
    ensure!(seen.confirmed >= MESSAGES, "{} of {MESSAGES} sends were confirmed", seen.confirmed);
    Ok(())
}

async fn the_broker_killed_twice_under_load(lab: &Lab) -> Verdict {
    twice(lab, Plan::smooth(31)).await
}

async fn the_broker_killed_while_messages_fail(lab: &Lab) -> Verdict {
    twice(lab, Plan { retried: 60, retried_twice: 20, hopeless: 20, ..Plan::rough(32, true) }).await
}

async fn an_idle_consumer_survives_the_broker(lab: &Lab) -> Verdict {
    let mut load = Load::new(lab, Plan::smooth(33)).await?;
    load.join().await?;
    // Idle, and known to be subscribed.
    load.send_aside(1, 1, RATE).await?;
    load.handled(1).await?;
    load.kill_broker().await?;
    load.start_broker().await?;
    load.send_aside_from(1, 4, 4, RATE).await?;
    load.recovered().await?;
    load.finish().await.map(drop)
}

/// Senders wait within their bounds; a broker that stands still may end sessions, one that is full does not.
async fn a_blocked_broker_loses_nothing(lab: &Lab) -> Verdict {
    let mut load = Load::new(lab, Plan::smooth(35)).await?;
    load.join().await?;
    load.join_task().await?;
    load.send_throughout(MESSAGES, KEYS, RATE);
    for part in 1..=2 {
        load.handled(part * MESSAGES / 5).await?;
        load.strike(load.members());
        load.block_broker(Duration::from_secs(3)).await?;
        load.recovered_from(part * MESSAGES / 4).await?;
    }
    let seen = load.finish().await?;
    ensure!(seen.confirmed >= MESSAGES, "{} of {MESSAGES} sends were confirmed", seen.confirmed);
    Ok(())
}

async fn a_service_starts_before_its_broker(lab: &Lab) -> Verdict {
    let mut load = Load::new(lab, Plan::smooth(34)).await?;
    load.kill_broker().await?;
    load.join().await?;
    // Long enough for its first tries to fail.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    load.start_broker().await?;
    load.send(20, 4, RATE);
    load.recovered().await?;
    load.finish().await.map(drop)
}
