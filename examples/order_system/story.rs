//! What happens, in order.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mq::driver::{GroupSpec, TopicSpec};
use mq::{Broker, Group, Message, Producer, RetryPolicy, Topic};
use tokio::time::{sleep, timeout};

use crate::ledger::Ledger;
use crate::services::{self, Running, Street};
use crate::shop::{OrderPlaced, SERVICES, Service};
use crate::timeline::{Mood, Timeline};

/// Between two orders.
const PACE: Duration = Duration::from_millis(120);
/// By when everything must have been handled: a real broker may take a while to notice a dead consumer.
const PATIENCE: Duration = Duration::from_secs(60);

/// The orders to which something happens.
const SHAKY: &str = "A-102";
const GARBLED: &str = "A-103";
const TWICE: &str = "A-104";
const FATAL: &str = "A-105";

/// Runs the whole story on the broker at `url`; true when nothing was lost.
pub(crate) async fn tell(url: &str) -> mq::Result<bool> {
    let broker = mq::connect(url).await?;
    println!("An order system on {}: five services, one topic, and nobody waits for anybody.", broker.name());
    let topic = open_street(&broker).await?;
    let (timeline, printer) = Timeline::start();
    let (fatal, shaky) = (FATAL, SHAKY);
    let street = Street { broker, topic, timeline, ledger: Ledger::default(), fatal, begun: Arc::default(), shaky };

    let outcome = act(&street).await;

    let Street { broker, topic, ledger, timeline, .. } = street;
    drop(timeline);
    // The last lines: it ends by itself when nobody can write any more.
    let _ = printer.await;
    let well = match outcome {
        Ok(down) => close(&broker, &topic, &ledger, down).await,
        Err(error) => Err(error),
    };
    let cleared = clear_street(&broker, &topic).await;
    broker.close().await?;
    cleared.and(well)
}

/// Declares the topic and a group for each service: a group must be there before the first order is sent. The name is
/// new in every run, so that runs on one broker do not meet.
async fn open_street(broker: &Broker) -> mq::Result<Topic> {
    let run = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    let topic = Topic::parse(format!("demo.orders.{run:x}"))?;
    broker.admin().declare_topic(&TopicSpec::new(topic.clone())).await?;
    for service in SERVICES {
        let mut group = GroupSpec::new(topic.clone(), Group::parse(service.name())?);
        group.retry_delays = RetryPolicy::default().tiers();
        broker.admin().declare_group(&group).await?;
    }
    Ok(topic)
}

async fn clear_street(broker: &Broker, topic: &Topic) -> mq::Result<()> {
    for service in SERVICES {
        broker.admin().delete_group(topic, &Group::parse(service.name())?).await?;
    }
    broker.admin().delete_topic(topic).await
}

/// The time logistics was dead.
type Down = (Duration, Duration);

async fn act(street: &Street) -> mq::Result<Down> {
    let Street { timeline, ledger, .. } = street;
    let shop = Shop { producer: street.broker.producer().await?, topic: street.topic.clone(), timeline, ledger };
    let mut open = Vec::new();
    for service in SERVICES {
        open.push((service, services::start(street, service).await?));
    }

    shop.order("A-101", "a lamp", 4900).await?;
    shop.order(SHAKY, "a chair", 12900).await?;
    shop.garbled(GARBLED).await?;
    timeline.note(format!("the shop is not sure that {TWICE} went out, and sends it again"));
    shop.order(TWICE, "a desk", 29900).await?;
    shop.order(TWICE, "a desk", 29900).await?;

    let begun = street.begun.notified();
    shop.place(FATAL, "a shelf", 8900).await?;
    timeout(PATIENCE, begun).await.map_err(|_| mq::Error::timeout(PATIENCE))?;
    let logistics = take(&mut open, Service::Logistics)?;
    logistics.kill().await;
    let died = timeline.service(Service::Logistics, format!("{FATAL} ✗"), Mood::Lost);
    timeline.down(Service::Logistics, true);
    timeline.note(format!("logistics is killed while it packs {FATAL}; the shop does not even notice"));
    sleep(PACE).await;
    for (order, item) in [("A-106", "a rug"), ("A-107", "a clock"), ("A-108", "a vase"), ("A-109", "a mirror")] {
        shop.order(order, item, 5900).await?;
    }
    let back = timeline.now();
    timeline.note("logistics comes back and catches up");
    timeline.down(Service::Logistics, false);
    open.push((Service::Logistics, services::start(street, Service::Logistics).await?));
    for (order, item) in [("A-110", "a stool"), ("A-111", "a bench")] {
        shop.order(order, item, 7900).await?;
    }

    let settled = timeout(PATIENCE, ledger.settled()).await;
    if settled.is_err() {
        timeline.note(format!("not everything is done after {PATIENCE:?}"));
    }
    for (_, running) in open {
        running.stop().await?;
    }
    shop.producer.close().await?;
    Ok((died, back))
}

fn take(open: &mut Vec<(Service, Running)>, service: Service) -> mq::Result<Running> {
    let place = open.iter().position(|(open, _)| *open == service);
    place
        .map(|place| open.swap_remove(place).1)
        .ok_or_else(|| mq::Error::config(format!("{} is not open", service.name())))
}

/// The first service: publishes what happened and knows none of the others.
struct Shop<'a> {
    producer: Producer,
    topic: Topic,
    timeline: &'a Timeline,
    ledger: &'a Ledger,
}

impl Shop<'_> {
    async fn order(&self, order: &str, item: &str, cents: u64) -> mq::Result<()> {
        self.place(order, item, cents).await?;
        sleep(PACE).await;
        Ok(())
    }

    async fn place(&self, order: &str, item: &str, cents: u64) -> mq::Result<()> {
        let placed = OrderPlaced { order: order.to_owned(), item: item.to_owned(), cents };
        let message = Message::json(&self.topic, &placed)?.key(order).id(order);
        self.send(message, order, "placed").await
    }

    /// Half of an order, as a program that died while writing might leave it.
    async fn garbled(&self, order: &str) -> mq::Result<()> {
        let message =
            Message::to(self.topic.clone()).key(order).id(order).body(format!("{{\"order\": \"{order}\", \"it"));
        self.send(message, order, "garbled").await?;
        sleep(PACE).await;
        Ok(())
    }

    async fn send(&self, message: Message, order: &str, what: &str) -> mq::Result<()> {
        let begin = self.timeline.now();
        // Written before it is sent: a service may be faster than the confirmation.
        self.timeline.shop(format!("{order} {what}"), if what == "placed" { Mood::Plain } else { Mood::Trouble });
        self.producer.send(message).await?;
        self.ledger.sent(order, begin, self.timeline.now().saturating_sub(begin));
        Ok(())
    }
}

/// Prints the accounts; true when they balance.
async fn close(broker: &Broker, topic: &Topic, ledger: &Ledger, down: Down) -> mq::Result<bool> {
    ledger.print();
    let (orders, stored, paid) = ledger.between(down.0, down.1, Service::Payment);
    println!(
        "\n  While logistics was dead for {} ms, {orders} orders were placed: the slowest was stored in {:.1} ms and paid \
         in {:.1} ms.",
        (down.1 - down.0).as_millis(),
        stored.as_secs_f64() * 1000.0,
        paid.as_secs_f64() * 1000.0
    );
    let mut balanced = true;
    for service in SERVICES {
        let column = ledger.column(service);
        let group = Group::parse(service.name())?;
        let letters = broker.admin().dead_letters(topic, &group).await?.list(100).await?;
        if service == Service::Stock {
            println!("\n  In the dead letters of {}, as the broker has them:", service.name());
            for letter in &letters {
                let body = letter.message.body_bytes().map(|body| String::from_utf8_lossy(body).into_owned());
                println!("    {}", body.unwrap_or_default());
                if let Some(record) = &letter.record {
                    println!("    {} after {} attempt: {}", record.reason, record.attempts, record.error);
                }
            }
        }
        // What the services reported and what the broker has must be the same.
        balanced &= letters.len() == column.dead && column.lost == 0;
    }
    match SERVICES.iter().map(|service| ledger.column(*service).lost).sum::<usize>() {
        0 if balanced => println!("\n  Nothing was lost."),
        0 => println!("\n  The broker has other dead letters than the services reported."),
        lost => println!("\n  {lost} orders were lost."),
    }
    Ok(balanced)
}
