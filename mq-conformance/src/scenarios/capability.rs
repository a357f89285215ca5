//! What is declared is true, in both directions (G15), and nothing secret is printed (G16).

use std::time::Duration;

use mq_core::capability::{Feature, Level};
use mq_core::config::{Secret, Url};
use mq_core::error::ErrorKind;

use crate::failure::{Failure, Verdict, ensure, ensure_eq};
use crate::lab::Lab;
use crate::scenario::scenarios;
use crate::scenarios::refusal;

scenarios!("capability":
    what_is_missing_is_refused [15] [];
    require_tells_what_is_missing [15] [];
    bounds_are_declared [6, 15] [];
    the_same_on_every_connection [15] [];
    emulations_are_explained [15] [];
    secrets_do_not_print [16] [];
    contents_do_not_print [16] [Headers];
);

async fn what_is_missing_is_refused(lab: &Lab) -> Verdict {
    for feature in Feature::ALL {
        if !lab.supports(*feature) {
            refusal(lab, *feature).await?;
        }
    }
    Ok(())
}

async fn require_tells_what_is_missing(lab: &Lab) -> Verdict {
    let broker = lab.broker().await?;
    let (has, lacks): (Vec<Feature>, Vec<Feature>) = Feature::ALL.iter().partition(|feature| lab.supports(**feature));
    broker.require(has.iter().copied())?;
    for feature in lacks {
        // Behind everything that is there: the one that is missing must be found.
        let outcome = broker.require(has.iter().copied().chain([feature]));
        let error = outcome.err().ok_or_else(|| Failure::new(format!("{feature} is missing, and was granted")))?;
        ensure_eq!((error.kind(), error.feature()), (ErrorKind::Unsupported, Some(feature)), "the refusal: {error}");
        ensure!(error.to_string().contains(feature.name()), "the error does not name {feature}: {error}");
    }
    Ok(())
}

async fn bounds_are_declared(lab: &Lab) -> Verdict {
    for feature in [Feature::DelayedSend, Feature::NonBlockingRetry] {
        if lab.supports(feature) {
            let limits = lab.capabilities().get(feature).map(|known| known.limits.clone()).unwrap_or_default();
            ensure!(limits.lateness.is_some(), "{feature} declares no bound of lateness");
        }
    }
    super::send::limit(lab).map(drop)
}

async fn the_same_on_every_connection(lab: &Lab) -> Verdict {
    let broker = lab.fresh().await?;
    ensure_eq!(broker.capabilities(), lab.capabilities(), "the capabilities of a second connection");
    ensure_eq!(broker.capabilities().backend(), broker.name(), "the backend named by the capabilities");
    Ok(())
}

async fn emulations_are_explained(lab: &Lab) -> Verdict {
    for (feature, known) in lab.capabilities().iter() {
        // Native speaks for itself; what is emulated or missing needs a word for the user.
        let explained = known.level == Level::Native || known.note.len() > 10;
        ensure!(explained, "{feature} is {:?} without a note that says how, or the way out", known.level);
    }
    Ok(())
}

async fn secrets_do_not_print(lab: &Lab) -> Verdict {
    const SECRET: &str = "hunter2-do-not-print";
    let broker = lab.broker().await?;
    let (topic, _) = lab.place().await?;
    let producer = lab.producer().await?;
    for text in [format!("{broker:?}"), format!("{producer:?}"), format!("{:?}", broker.admin())] {
        let lower = text.to_lowercase();
        for word in ["password\": \"", "password: \"", "://guest:guest@"] {
            ensure!(!lower.contains(word), "Debug prints a password: {text}");
        }
    }
    ensure!(!format!("{:?} {}", Secret::new(SECRET), Secret::new(SECRET)).contains(SECRET), "a secret prints");
    for url in [format!("kafka://user:{SECRET}@h:bad"), format!("://{SECRET}"), format!("amqp://user:{SECRET}@[::1")] {
        let printed = Url::parse(&url).map_or_else(|error| format!("{error} {error:?}"), |url| format!("{url:?}"));
        ensure!(!printed.contains(SECRET), "an error prints the password: {printed}");
    }
    let outcome = producer.send(lab.message(&topic, 0).header("mq-token", SECRET)).await;
    let text = format!("{outcome:?}");
    ensure!(!text.contains(SECRET), "a send error prints a header's value: {text}");
    Ok(())
}

async fn contents_do_not_print(lab: &Lab) -> Verdict {
    const CONTENT: &str = "4111-1111-1111-1111";
    let (topic, group) = lab.place().await?;
    let message = lab.message(&topic, 0).key(CONTENT).body(CONTENT).header("authorization", CONTENT);
    lab.send(&lab.producer().await?, message).await?;
    let mut reader = lab.reader(&topic, &group).await?;
    let delivery = reader.next().await?;
    let text = format!("{delivery:?}");
    ensure!(!text.contains(CONTENT), "a delivery prints its contents: {text}");
    reader.dead_letter(delivery, "no").await?;
    let letters = super::dead_letters::listed(lab, &topic, &group, 1).await?;
    let text = format!("{letters:?}");
    ensure!(!text.contains(CONTENT), "a dead letter prints its contents: {text}");
    reader.consumer().recv_within(Duration::from_millis(1)).await?;
    reader.close().await
}
