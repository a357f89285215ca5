//! P1: confirmed pipelined sends.

use mq::Result;

use crate::cases::ours;
use crate::cases::place::{self, Place};
use crate::cli::Extent;
use crate::pair::{Outcome, Pair, cost};
use crate::raw::Raw;

pub(super) async fn measure(url: &str, extent: Extent) -> Result<Outcome> {
    let broker = mq::connect(url).await?;
    let place = Place::make(&broker, "send").await?;
    let body = place::body(extent.size);
    let producer = broker.producer().await?;
    let raw = Raw::connect(url).await?;
    let pair = Pair {
        name: "P1 confirmed pipelined send",
        ways: ("raw client", "mq producer"),
        raw: Box::new(|messages| Box::pin(cost(raw.send(&place, &body, ours::WINDOW, messages)))),
        ours: Box::new(|messages| Box::pin(cost(ours::send(&producer, &place, &body, messages)))),
        budget: Some(0.95),
    };
    let outcome = pair.measure(extent, extent.messages.unwrap_or(40_000)).await;
    producer.close().await?;
    place.remove(&broker).await?;
    broker.close().await?;
    outcome
}
