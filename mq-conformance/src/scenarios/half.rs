//! Half messages: unseen until committed, never seen when rolled back, asked back about when nobody decided (G1, G2).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use mq_core::message::Message;
use mq_core::{Broker, HalfProducer, Topic, Verdict as Answer};
use tokio::sync::Notify;

use crate::checker::Checker;
use crate::failure::{Failure, Verdict, ensure, ensure_eq};
use crate::lab::{Lab, QUIET};
use crate::reader::ident;
use crate::scenario::scenarios;
use crate::scenarios::publish::all_same;

scenarios!("half":
    nobody_sees_one_before_its_commit [1, 2] [HalfMessage];
    a_rollback_is_for_ever [1] [HalfMessage];
    one_nobody_decided_is_asked_back_about [1, 2] [HalfMessage];
    what_is_not_known_is_asked_again [1, 2] [HalfMessage];
    another_of_its_name_answers_for_a_producer_that_died [1, 13] [HalfMessage];
    a_refused_one_is_an_error [1] [HalfMessage];
    they_survive_the_brokers_death [1, 2, 13] [HalfMessage, NoLossOnRestart] breaks [Broker];
);

/// What the checks answer, and what they were asked.
#[derive(Debug, Clone, Default)]
struct Answers(Arc<(Mutex<Inner>, Notify)>);

#[derive(Debug, Default)]
struct Inner {
    /// By id; `Unknown` so many times before.
    known: HashMap<String, (usize, Answer)>,
    asked: Vec<Message>,
}

impl Answers {
    fn with<T>(&self, what: impl FnOnce(&mut Inner) -> T) -> T {
        what(&mut self.0.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn know(&self, id: &str, answer: Answer) {
        self.know_after(id, 0, answer);
    }

    fn know_after(&self, id: &str, unknown: usize, answer: Answer) {
        self.with(|inner| inner.known.insert(id.to_owned(), (unknown, answer)));
    }

    fn answer(&self, message: &Message) -> Answer {
        let answer = self.with(|inner| {
            inner.asked.push(message.clone());
            match inner.known.get_mut(&ident(message)) {
                None => Answer::Unknown,
                Some((0, answer)) => *answer,
                Some((left, _)) => {
                    *left -= 1;
                    Answer::Unknown
                }
            }
        });
        self.0.1.notify_waiters();
        answer
    }

    fn asked(&self, id: &str) -> Vec<Message> {
        self.with(|inner| inner.asked.iter().filter(|message| ident(message) == id).cloned().collect())
    }

    async fn producer(&self, broker: &Broker, name: &str) -> Verdict<HalfProducer> {
        let answers = self.clone();
        let check = move |message: Message| {
            let answers = answers.clone();
            async move { answers.answer(&message) }
        };
        Ok(broker.half_producer(name, check).await?)
    }

    /// Waits until the check was asked about this one so many times.
    async fn until_asked(&self, lab: &Lab, id: &str, times: usize) -> Verdict {
        let asked = async {
            loop {
                let asked = self.0.1.notified();
                if self.asked(id).len() >= times {
                    return;
                }
                asked.await;
            }
        };
        let late = || Failure::new(format!("asked {} of {times} times about {id} in time", self.asked(id).len()));
        tokio::time::timeout(lab.patience(), asked).await.map_err(|_| late())
    }
}

/// Prepares, as one who means to commit.
async fn prepare(lab: &Lab, producer: &HalfProducer, message: Message) -> Verdict<mq_core::Prepared> {
    lab.sending(&message, None);
    Ok(producer.prepare(message).await?)
}

fn whole(lab: &Lab, topic: &Topic, number: usize) -> Message {
    lab.message(topic, number).key("k").header("bytes", vec![0xff, 0])
}

async fn nobody_sees_one_before_its_commit(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let answers = Answers::default();
    let producer = answers.producer(&lab.broker().await?, &lab.name("p")).await?;
    let mut reader = lab.reader(&topic, &group).await?;
    let mut prepared = Vec::new();
    for number in 0..3 {
        prepared.push(prepare(lab, &producer, whole(lab, &topic, number)).await?);
    }
    reader.silent(QUIET).await?;
    for (number, one) in prepared.into_iter().enumerate().rev() {
        ensure_eq!(one.id().as_str(), format!("m{number}"), "the id it is sent under");
        one.commit().await?;
    }
    let got = reader.consume(3).await?;
    reader.silent(QUIET).await?;
    reader.close().await?;
    all_same(lab, &got)?;
    Checker::new(&group).judge(lab.history())
}

async fn a_rollback_is_for_ever(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let answers = Answers::default();
    let producer = answers.producer(&lab.broker().await?, &lab.name("p")).await?;
    let mut reader = lab.reader(&topic, &group).await?;
    producer.prepare(lab.message(&topic, 0)).await?.rollback().await?;
    prepare(lab, &producer, lab.message(&topic, 1)).await?.commit().await?;
    let got: Vec<String> = reader.consume(1).await?.iter().map(ident).collect();
    ensure_eq!(got, ["m1"], "only what was committed is seen");
    reader.silent(QUIET).await?;
    reader.close().await?;
    Checker::new(&group).judge(lab.history())
}

async fn one_nobody_decided_is_asked_back_about(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let answers = Answers::default();
    let producer = answers.producer(&lab.broker().await?, &lab.name("p")).await?;
    let mut reader = lab.reader(&topic, &group).await?;
    answers.know("m0", Answer::Commit);
    answers.know("m1", Answer::Rollback);
    drop(prepare(lab, &producer, whole(lab, &topic, 0)).await?);
    drop(producer.prepare(whole(lab, &topic, 1)).await?);
    let got: Vec<Message> = reader.consume(1).await?;
    answers.until_asked(lab, "m1", 1).await?;
    all_same(lab, &got)?;
    // What is asked about is what was sent.
    all_same(lab, &answers.asked("m0"))?;
    reader.silent(QUIET).await?;
    reader.close().await?;
    Checker::new(&group).judge(lab.history())
}

async fn what_is_not_known_is_asked_again(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let answers = Answers::default();
    let producer = answers.producer(&lab.broker().await?, &lab.name("p")).await?;
    let mut reader = lab.reader(&topic, &group).await?;
    answers.know_after("m0", 2, Answer::Commit);
    drop(prepare(lab, &producer, lab.message(&topic, 0)).await?);
    answers.until_asked(lab, "m0", 2).await?;
    let asked = answers.asked("m0").len();
    reader.consume(1).await?;
    ensure!(answers.asked("m0").len() >= 3, "it came although the check had not known it {asked} times");
    reader.silent(QUIET).await?;
    reader.close().await?;
    Checker::new(&group).judge(lab.history())
}

async fn another_of_its_name_answers_for_a_producer_that_died(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let (name, other) = (lab.name("p"), lab.name("q"));
    let mut reader = lab.reader(&topic, &group).await?;
    let (dead, strangers, answers) = (Answers::default(), Answers::default(), Answers::default());
    answers.know("m0", Answer::Commit);
    answers.know("m1", Answer::Rollback);
    strangers.know("m1", Answer::Commit);
    {
        let broker = lab.fresh().await?;
        let producer = dead.producer(&broker, &name).await?;
        drop(prepare(lab, &producer, whole(lab, &topic, 0)).await?);
        drop(producer.prepare(whole(lab, &topic, 1)).await?);
        broker.close().await?;
    }
    let broker = lab.fresh().await?;
    let _stranger = strangers.producer(&broker, &other).await?;
    let _producer = answers.producer(&broker, &name).await?;
    let got = reader.consume(1).await?;
    all_same(lab, &got)?;
    ensure_eq!(got.iter().map(ident).collect::<Vec<_>>(), ["m0"], "what the other one committed");
    answers.until_asked(lab, "m1", 1).await?;
    reader.silent(QUIET).await?;
    let asked = strangers.with(|inner| inner.asked.len());
    ensure_eq!(asked, 0, "questions to a producer of another name");
    reader.close().await?;
    Checker::new(&group).judge(lab.history())
}

async fn a_refused_one_is_an_error(lab: &Lab) -> Verdict {
    let (topic, _) = lab.place().await?;
    let answers = Answers::default();
    let producer = answers.producer(&lab.broker().await?, &lab.name("p")).await?;
    let nowhere = Topic::parse(lab.name("nowhere"))?;
    let outcome = producer.prepare(lab.message(&nowhere, 0)).await;
    let error = outcome.err().ok_or_else(|| Failure::new("one for a topic that is not there was prepared"))?;
    ensure_eq!(error.error().is_ambiguous(), false, "whether it was stored is known: {error}");
    ensure_eq!(error.message().topic(), &nowhere, "the message is given back");
    let reserved = producer.prepare(lab.message(&topic, 0).header("mq-attempt", "7")).await;
    ensure!(reserved.is_err(), "a reserved header was taken");
    producer.close().await?;
    ensure!(producer.prepare(lab.message(&topic, 1)).await.is_err(), "a closed producer prepared a message");
    Ok(())
}

/// Prepared before, committed after, and asked back about after: the producer comes back by itself.
async fn they_survive_the_brokers_death(lab: &Lab) -> Verdict {
    let (topic, group) = lab.place().await?;
    let answers = Answers::default();
    let producer = answers.producer(&lab.broker().await?, &lab.name("p")).await?;
    let mut reader = lab.reader(&topic, &group).await?;
    let decided = prepare(lab, &producer, whole(lab, &topic, 0)).await?;
    drop(prepare(lab, &producer, whole(lab, &topic, 1)).await?);
    let back = producer.prepare(whole(lab, &topic, 2)).await?;
    let faults = lab.faults()?;
    faults.kill().await?;
    faults.start().await?;
    answers.know("m0", Answer::Commit);
    answers.know("m1", Answer::Commit);
    answers.know("m2", Answer::Rollback);
    // A check may have been faster: then it is decided already, the same way.
    drop(decided.commit().await);
    drop(back.rollback().await);
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < 2 {
        let delivery = reader.next().await?;
        all_same(lab, &[delivery.message().clone()])?;
        seen.insert(ident(delivery.message()));
        reader.ack(delivery).await?;
    }
    ensure_eq!(seen.into_iter().collect::<Vec<_>>(), ["m0", "m1"], "what is committed is seen, nothing else");
    // What was under way when the broker died may come again, what was rolled back must not.
    while let Some(again) = reader.within(QUIET).await? {
        ensure!(ident(again.message()) != "m2", "what was rolled back was seen");
        reader.ack(again).await?;
    }
    reader.close().await
}
