//! P4: a lone confirmed send, alternating between both ways message by message.

use std::time::Instant;

use mq::Result;

use crate::cases::place::{self, Place};
use crate::cli::Extent;
use crate::pair::Outcome;
use crate::raw::Raw;
use crate::stats;

pub(super) async fn measure(url: &str, extent: Extent) -> Result<Outcome> {
    let messages = extent.messages.unwrap_or(300);
    let broker = mq::connect(url).await?;
    let place = Place::make(&broker, "lone").await?;
    let body = place::body(extent.size);
    let producer = broker.producer().await?;
    let raw = Raw::connect(url).await?;
    for _ in 0..20 {
        raw.send(&place, &body, 1, 1).await?;
        producer.send(place.message(&body)).await?;
    }
    // A round's figure is its median latency; a round alternates the two ways message by message.
    let (mut theirs, mut mine) = (Vec::new(), Vec::new());
    for _ in 0..extent.pairs {
        let (mut raw_times, mut our_times) = (Vec::new(), Vec::new());
        for turn in 0..messages {
            if turn % 2 == 0 {
                raw_times.push(time(raw.send(&place, &body, 1, 1)).await?);
                our_times.push(time(producer.send(place.message(&body))).await?);
            } else {
                our_times.push(time(producer.send(place.message(&body))).await?);
                raw_times.push(time(raw.send(&place, &body, 1, 1)).await?);
            }
        }
        theirs.push(stats::median(&raw_times));
        mine.push(stats::median(&our_times));
    }
    producer.close().await?;
    place.remove(&broker).await?;
    broker.close().await?;
    Ok(Outcome::of_latencies("P4 lone confirmed send, median latency", messages, &theirs, &mine, 1.0 / 1.05))
}

async fn time<T, E>(send: impl Future<Output = Result<T, E>>) -> Result<f64>
where
    mq::Error: From<E>,
{
    let started = Instant::now();
    send.await?;
    Ok(started.elapsed().as_secs_f64())
}
