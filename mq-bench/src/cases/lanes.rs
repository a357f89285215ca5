//! P5: sixteen workers by key against one after the other, with a handler that waits 5 ms.

use mq::driver::GroupSpec;
use mq::{GroupMode, Result, Subscription};

use crate::cases::ours::{self, Handler};
use crate::cases::place::{self, Place};
use crate::cli::Extent;
use crate::pair::{Cost, Outcome, Pair};

/// Keys the messages are spread over.
const KEYS: u64 = 1000;

pub(super) async fn measure(url: &str, extent: Extent) -> Result<Outcome> {
    let broker = mq::connect(url).await?;
    let place = Place::make(&broker, "lanes").await?;
    let run = async |lanes: usize, messages: u64| -> Result<Cost> {
        let mut place = place.clone();
        place.group = mq::Group::parse(format!("lanes-{:08x}", fastrand::u32(..)))?;
        let mut spec = GroupSpec::new(place.topic.clone(), place.group.clone());
        spec.mode = GroupMode::Ordered;
        broker.admin().declare_group(&spec).await?;
        let producer = broker.producer().await?;
        let body = place::body(256);
        for n in 0..messages {
            drop(producer.enqueue(place.message(&body).key((n % KEYS).to_be_bytes())).await?);
        }
        producer.close().await?;
        let subscription = Subscription::new(&place.topic, &place.group).prefetch(256).mode(GroupMode::Ordered);
        let spent = ours::work(&broker, subscription, messages, Handler::Waits { lanes }).await?;
        broker.admin().delete_group(&place.topic, &place.group).await?;
        Ok(spent)
    };
    let pair = Pair {
        name: "P5 sixteen by key against sequential, 5 ms handler",
        ways: ("sequential", "by key, 16"),
        raw: Box::new(|messages| Box::pin(run(1, messages))),
        ours: Box::new(|messages| Box::pin(run(16, messages))),
        budget: Some(15.0),
    };
    let outcome = pair.measure(Extent { pairs: extent.pairs.min(5), ..extent }, extent.messages.unwrap_or(4_000)).await;
    place.remove(&broker).await?;
    broker.close().await?;
    outcome
}
