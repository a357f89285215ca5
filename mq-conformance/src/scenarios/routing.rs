//! Groups that choose their messages, where the broker can: by a pattern over the routing key, by headers.

use std::time::Duration;

use mq_core::driver::ConsumerSpec;
use mq_core::message::Message;
use mq_core::name::Topic;
use mq_core::subscription::{Selector, Subscription};

use crate::failure::{Verdict, ensure_eq};
use crate::lab::Lab;
use crate::reader::{Reader, ident};
use crate::scenario::scenarios;

scenarios!("routing":
    a_pattern_chooses_by_routing_key [1, 2] [RoutingPattern];
    headers_choose_all_or_any [1, 2] [RoutingHeaders];
);

async fn choosing<'a>(lab: &'a Lab, topic: &Topic, group: &str, selector: Selector) -> Verdict<Reader<'a>> {
    let broker = lab.broker().await?;
    lab.reader_on(&broker, ConsumerSpec::new(Subscription::new(topic, group).select(selector))).await
}

async fn chosen(mut reader: Reader<'_>, expected: &[&str], who: &str) -> Verdict {
    let mut ids: Vec<String> = reader.consume(expected.len()).await?.iter().map(ident).collect();
    ids.sort();
    ensure_eq!(ids, expected, "what {who} chose");
    reader.silent(Duration::from_millis(300)).await?;
    reader.close().await
}

async fn a_pattern_chooses_by_routing_key(lab: &Lab) -> Verdict {
    let topic = lab.topic("t").await?;
    let pattern = |text: &str| Selector::RoutingPattern(text.to_owned());
    let europe = choosing(lab, &topic, "europe", pattern("order.*.eu")).await?;
    let orders = choosing(lab, &topic, "orders", pattern("order.#")).await?;
    let all = lab.group(&topic, "all").await?;
    let producer = lab.producer().await?;
    for (number, key) in ["order.placed.eu", "order.placed.us", "invoice.sent.eu"].into_iter().enumerate() {
        lab.send(&producer, lab.message(&topic, number).routing_key(key)).await?;
    }
    chosen(europe, &["m0"], "order.*.eu").await?;
    chosen(orders, &["m0", "m1"], "order.#").await?;
    chosen(lab.reader(&topic, &all).await?, &["m0", "m1", "m2"], "the group without a selector").await
}

async fn headers_choose_all_or_any(lab: &Lab) -> Verdict {
    let topic = lab.topic("t").await?;
    let selector = |all| Selector::Headers {
        pairs: vec![("region".to_owned(), "eu".to_owned()), ("kind".to_owned(), "order".to_owned())],
        all,
    };
    let both = choosing(lab, &topic, "both", selector(true)).await?;
    let either = choosing(lab, &topic, "either", selector(false)).await?;
    let everything = lab.group(&topic, "all").await?;
    let producer = lab.producer().await?;
    let message = |n, region: &'static str, kind: &'static str| -> Message {
        lab.message(&topic, n).header("region", region).header("kind", kind)
    };
    for message in [message(0, "eu", "order"), message(1, "eu", "invoice"), message(2, "us", "invoice")] {
        lab.send(&producer, message).await?;
    }
    chosen(both, &["m0"], "both headers").await?;
    chosen(either, &["m0", "m1"], "either header").await?;
    chosen(lab.reader(&topic, &everything).await?, &["m0", "m1", "m2"], "the group without a selector").await
}
