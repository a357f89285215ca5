//! Members that die, freeze, join, leave and dawdle (G2, G3, G8, G9, G11, G12).

use std::time::Duration;

use super::{KEYS, MESSAGES, RATE};
use crate::failure::{Verdict, ensure};
use crate::faults::load::Load;
use crate::faults::plan::Plan;
use crate::lab::Lab;
use crate::scenario::scenarios;

scenarios!("faults":
    members_killed_under_load [2, 3, 9] [KeyedOrder] breaks [Way];
    a_frozen_member_is_replaced [2, 3, 9, 11] [KeyedOrder] breaks [Process];
    members_come_and_go [3, 9, 12] [KeyedOrder] breaks [Way];
    members_join_leave_and_die_while_messages_fail [2, 3, 4, 6, 7, 9] [KeyOrderedRetry, DeadLetters] breaks [Way];
    handlers_slower_than_their_session [3, 9, 11] [KeyedOrder] breaks [Way];
    poison_and_kills [2, 7, 8] [KeyOrderedRetry, DeadLetters] breaks [Way];
);

async fn members_killed_under_load(lab: &Lab) -> Verdict {
    let mut load = Load::new(lab, Plan::smooth(11)).await?;
    load.join().await?;
    load.join().await?;
    load.send(MESSAGES, KEYS, RATE);
    for part in 1..=3 {
        load.handled(part * MESSAGES / 5).await?;
        load.kill_member(0).await;
        load.join().await?;
        load.recovered().await?;
    }
    load.finish().await.map(drop)
}

/// SIGSTOP: it holds its connections and says nothing, as a machine does that is swapping or being moved.
async fn a_frozen_member_is_replaced(lab: &Lab) -> Verdict {
    let mut load = Load::new(lab, Plan::smooth(12)).await?;
    load.join().await?;
    load.join().await?;
    load.send(MESSAGES / 2, KEYS, RATE / 2);
    load.handled(MESSAGES / 8).await?;
    let since = lab.history().now();
    ensure!(load.freeze(0, true), "there is no process to stop");
    load.strike(load.members());
    tokio::time::sleep(Duration::from_secs(8)).await;
    load.freeze(0, false);
    load.blind_since(since);
    load.finish().await.map(drop)
}

/// As deployments go: nothing comes twice.
async fn members_come_and_go(lab: &Lab) -> Verdict {
    let mut load = Load::new(lab, Plan::smooth(13)).await?;
    load.join().await?;
    load.send(MESSAGES, KEYS, RATE);
    for part in 1..=3 {
        load.handled(part * MESSAGES / 5).await?;
        load.join().await?;
        load.handled(part * MESSAGES / 5 + MESSAGES / 10).await?;
        load.leave(0).await?;
    }
    load.finish().await.map(drop)
}

async fn members_join_leave_and_die_while_messages_fail(lab: &Lab) -> Verdict {
    let plan = Plan { retried: 100, retried_twice: 30, hopeless: 30, ..Plan::rough(14, true) };
    let mut load = Load::new(lab, plan).await?;
    load.join().await?;
    load.join().await?;
    load.send(MESSAGES / 2, KEYS, RATE / 2);
    load.handled(MESSAGES / 12).await?;
    load.kill_member(0).await;
    load.join().await?;
    load.handled(MESSAGES / 6).await?;
    load.leave(0).await?;
    load.join().await?;
    load.handled(MESSAGES / 4).await?;
    load.kill_member(0).await;
    load.join().await?;
    load.finish().await.map(drop)
}

/// While the session stands, nobody else is given what a slow handler is busy with.
async fn handlers_slower_than_their_session(lab: &Lab) -> Verdict {
    let plan = Plan { slow_ones: 40, slow: Duration::from_secs(5), ..Plan::smooth(15) };
    let mut load = Load::new(lab, plan).await?;
    load.join().await?;
    load.join().await?;
    load.send(MESSAGES / 4, KEYS, RATE);
    load.finish().await.map(drop)
}

async fn poison_and_kills(lab: &Lab) -> Verdict {
    let plan = Plan { hopeless: 250, retried: 100, ..Plan::rough(16, true) };
    let mut load = Load::new(lab, plan).await?;
    load.join().await?;
    load.send(MESSAGES / 3, KEYS, RATE / 2);
    for part in 1..=2 {
        load.handled(part * MESSAGES / 10).await?;
        load.kill_member(0).await;
        load.join().await?;
    }
    let seen = load.finish().await?;
    ensure!(seen.dead > MESSAGES / 20, "of a quarter of {} messages {} are dead letters", MESSAGES / 3, seen.dead);
    Ok(())
}
