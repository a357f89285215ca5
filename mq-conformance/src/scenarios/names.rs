//! Names: what is portable, what is refused, and what is derived (G15).

use mq_core::driver::{ConsumerSpec, TopicSpec};
use mq_core::error::ErrorKind;
use mq_core::message::Message;
use mq_core::name::{Group, Topic};
use mq_core::subscription::Subscription;

use crate::checker::Checker;
use crate::failure::{Failure, Verdict, ensure, ensure_eq};
use crate::lab::Lab;
use crate::scenario::scenarios;

scenarios!("names":
    names_with_dots_work_and_stay_apart [2] [Topology];
    long_names_work [2] [Topology, DeadLetters];
    bad_names_are_clear_errors [15] [];
);

async fn names_with_dots_work_and_stay_apart(lab: &Lab) -> Verdict {
    // Escaping must be reversible: these three are three topics. (Kafka itself refuses two names that differ only in `.`
    // and `_`: they would share the names of its metrics.)
    let mut topics = Vec::new();
    for name in ["order.events", "order-events", "order.events.eu"] {
        let topic = lab.topic(name).await?;
        let group = lab.group(&topic, "billing.eu").await?;
        topics.push((topic, group));
    }
    let producer = lab.producer().await?;
    for (number, (topic, _)) in topics.iter().enumerate() {
        lab.send(&producer, lab.message(topic, number)).await?;
    }
    for (topic, group) in &topics {
        let mut reader = lab.reader(topic, group).await?;
        let got = reader.consume(1).await?;
        crate::scenarios::publish::all_same(lab, &got)?;
        reader.close().await?;
    }
    let listed = lab.admin().await?.list_topics().await?;
    for (topic, _) in &topics {
        ensure!(listed.iter().any(|info| info.topic == *topic), "{topic} is not listed under its own name");
    }
    Ok(())
}

async fn long_names_work(lab: &Lab) -> Verdict {
    let mut name = lab.name("long");
    name.push_str(&"x".repeat(180 - name.len()));
    let topic = lab.declare(&name).await?;
    let groups = [format!("{}-one", "g".repeat(60)), format!("{}-two", "g".repeat(60))];
    for group in &groups {
        lab.group(&topic, group).await?;
    }
    lab.send_many(&lab.producer().await?, &topic, 2).await?;
    for group in &groups {
        let group = Group::parse(group.clone())?;
        let broker = lab.broker().await?;
        let mut reader = lab.reader_on(&broker, ConsumerSpec::new(Subscription::new(&topic, &group))).await?;
        for delivery in reader.take(2).await? {
            reader.dead_letter(delivery, "no").await?;
        }
        reader.close().await?;
        // Derived names are shortened: they must not fall together.
        super::dead_letters::listed(lab, &topic, &group, 2).await?;
        Checker::new(&group).judge(lab.history())?;
    }
    Ok(())
}

async fn bad_names_are_clear_errors(lab: &Lab) -> Verdict {
    let broker = lab.broker().await?;
    for bad in ["", "a b", "ä", "x/y", "a\nb", ".", "..", "nosuch:scheme", "a\0b"] {
        let error =
            Message::new(bad).err().ok_or_else(|| Failure::new(format!("the topic name {bad:?} was accepted")))?;
        ensure_eq!(error.kind(), ErrorKind::Config, "the topic name {bad:?}: {error}");
        ensure!(!error.to_string().contains(['\n', '\0']), "control characters are printed: {error:?}");
        let outcome = broker.consumer(Subscription::new(bad, "g")).await;
        let error = outcome.err().ok_or_else(|| Failure::new(format!("a subscription to {bad:?} was accepted")))?;
        ensure_eq!(error.kind(), ErrorKind::Config, "a subscription to {bad:?}: {error}");
    }
    for bad in ["", "a b", "a--b", "ü"] {
        ensure!(Group::parse(bad).is_err(), "the group name {bad:?} was accepted");
    }
    // The separator of derived names, and places of other programs, are never declared.
    for bad in ["a--b", "queue:a", "exchange:a", "stream:a"] {
        let outcome = broker.admin().declare_topic(&TopicSpec::new(Topic::parse(bad)?)).await;
        let error = outcome.err().ok_or_else(|| Failure::new(format!("{bad} was declared")))?;
        ensure_eq!(error.kind(), ErrorKind::Config, "declaring {bad}: {error}");
    }
    Ok(())
}
