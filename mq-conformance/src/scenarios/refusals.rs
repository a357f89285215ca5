//! What a broker cannot do answers so: typed, naming the feature, with a way out (G15).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use mq_core::capability::Feature;
use mq_core::driver::{CheckBack, ConsumerSpec, SeekTo};
use mq_core::error::{Error, ErrorKind};
use mq_core::message::{Message, Position};
use mq_core::name::Group;
use mq_core::subscription::{Selector, StartFrom, Subscription};
use mq_core::{RetryPolicy, Worker};

use crate::failure::{Failure, Verdict, ensure, ensure_eq};
use crate::lab::Lab;

/// The negative form of every scenario that needs a feature declared as unsupported.
pub(crate) async fn refusal(lab: &Lab, feature: Feature) -> Verdict {
    let broker = lab.broker().await?;
    let required = broker.require([feature]).err();
    typed(feature, required, "require").await?;
    match asked(lab, feature).await? {
        Asked::NoSuchCall => Ok(()),
        Asked::Answered(outcome) => typed(feature, outcome.err(), "the call itself").await,
    }
}

/// A check that is never asked.
#[derive(Debug)]
struct Unasked;

#[async_trait]
impl CheckBack for Unasked {
    async fn check(&self, _message: &Message) -> mq_core::Verdict {
        mq_core::Verdict::Unknown
    }
}

enum Asked {
    /// Nothing in the contract asks for this feature alone.
    NoSuchCall,
    Answered(Result<(), Error>),
}

async fn typed(feature: Feature, error: Option<Error>, what: &str) -> Verdict {
    let Some(error) = error else {
        return Err(Failure::new(format!("{feature} is declared as unsupported, yet {what} was accepted")));
    };
    ensure_eq!(error.kind(), ErrorKind::Unsupported, "{what} for {feature} answered `{error}`");
    ensure_eq!(error.feature(), Some(feature), "{what} names the feature");
    ensure!(error.hint().is_some_and(|hint| !hint.is_empty()), "no way out is named: {error}");
    if feature == Feature::HalfMessage {
        ensure!(error.hint().is_some_and(|hint| hint.contains("outbox")), "no outbox is named: {error}");
    }
    Ok(())
}

/// Asks for the feature through the call that needs it.
async fn asked(lab: &Lab, feature: Feature) -> Verdict<Asked> {
    let (topic, group) = lab.place().await?;
    let broker = lab.broker().await?;
    let message = lab.message(&topic, 0);
    let subscription = Subscription::new(&topic, &group);
    let outcome = match feature {
        Feature::DelayedSend => {
            broker.producer().await?.send_after(message, Duration::from_secs(1)).await.map(drop).map_err(Error::from)
        }
        Feature::UnconfirmedSend => broker.producer().await?.send_unconfirmed(message).await.map_err(Error::from),
        Feature::Tombstones => {
            broker.producer().await?.send(message.with_body(None)).await.map(drop).map_err(Error::from)
        }
        Feature::AtomicBatch => {
            let producer = broker.driver().open_producer().await?;
            producer.atomic(vec![message], Vec::new()).await
        }
        Feature::HalfMessage => {
            let name = Group::parse("p")?;
            broker.driver().open_half_producer(&name, Arc::new(Unasked)).await.map(drop)
        }
        Feature::AutoAck => {
            let mut spec = ConsumerSpec::new(subscription);
            spec.auto_ack = true;
            broker.consumer_with(spec).await.map(drop)
        }
        Feature::Broadcast => broker.consumer(Subscription::broadcast(&topic)).await.map(drop),
        Feature::ManyTopics => {
            let other = lab.topic("other").await?;
            broker.consumer(subscription.topic(&other)).await.map(drop)
        }
        Feature::Replay => broker.consumer(subscription.start(StartFrom::Earliest)).await.map(drop),
        Feature::RoutingPattern => {
            let selector = Selector::RoutingPattern("a.*".into());
            broker.consumer(subscription.select(selector)).await.map(drop)
        }
        Feature::RoutingHeaders => {
            let selector = Selector::Headers { pairs: vec![("a".into(), "b".into())], all: true };
            broker.consumer(subscription.select(selector)).await.map(drop)
        }
        Feature::KeyOrderedRetry => {
            let policy = RetryPolicy::delays([Duration::from_secs(1)]).keep_key_order();
            Worker::new(&broker, subscription).retry(policy).handle(|| async {}).run_until(async {}).await.map(drop)
        }
        Feature::NonBlockingRetry => {
            Worker::new(&broker, subscription).handle(|| async {}).run_until(async {}).await.map(drop)
        }
        Feature::SeekTime => broker.admin().seek(&topic, &group, &SeekTo::Time(SystemTime::now())).await,
        Feature::SeekPosition => {
            let to = SeekTo::Position(Position::Log { partition: 0, offset: 0 });
            broker.admin().seek(&topic, &group, &to).await
        }
        Feature::Lag => broker.admin().lag(&topic, &group).await.map(drop),
        Feature::ListTopics => broker.admin().list_topics().await.map(drop),
        Feature::DeadLetters => broker.admin().dead_letters(&topic, &group).await.map(drop),
        Feature::Pause => broker.consumer(subscription).await?.pause().await,
        _ => return Ok(Asked::NoSuchCall),
    };
    Ok(Asked::Answered(outcome))
}
