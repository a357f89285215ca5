//! What may have been stored is sent again under the same id, until the broker says.

use std::time::Duration;

use mq::{Error, ErrorKind, Producer, Receipt, SendError};
use tokio::time::{Instant, sleep};

/// No message is sent again when none could be stored for this long.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// Pauses between tries. None before the first: a thousand messages were in flight when a connection broke, and all of
/// them but one come back to a broker that is there again.
const PAUSES: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
];

/// How a send ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) result: Result<Receipt, SendError>,
    /// How often it was sent again after an outcome that was ambiguous: as often it may be stored twice.
    pub(crate) resent: u32,
    /// True when it was sent more than once, for whatever reason.
    pub(crate) repeated: bool,
}

/// Sends again, from the outcome of the first try on, where that can help and harm nothing; not after `deadline`.
pub(crate) async fn ended(
    producer: &Producer,
    delay: Option<Duration>,
    mut result: Result<Receipt, SendError>,
    began: Instant,
    deadline: Instant,
) -> Ended {
    let mut resent = 0;
    let mut repeated = false;
    let mut pauses = PAUSES.into_iter().chain(std::iter::repeat(Duration::from_secs(1)));
    loop {
        let error = match result {
            Err(error) if may_repeat(error.error()) && Instant::now() < deadline => error,
            result => return Ended { result, resent, repeated },
        };
        repeated = true;
        resent += u32::from(error.error().is_ambiguous());
        sleep(error.error().retry_after().or_else(|| pauses.next()).unwrap_or_default().min(PATIENCE)).await;
        let message = error.into_message();
        result = match delay {
            None => producer.send(message).await,
            Some(delay) => producer.send_after(message, delay.saturating_sub(began.elapsed())).await,
        };
    }
}

fn may_repeat(error: &Error) -> bool {
    error.is_ambiguous() || error.is_transient() || error.kind() == ErrorKind::Fenced
}

#[cfg(test)]
mod tests {
    use super::*;
    use mq::Message;
    use mq::memory::{MemoryBroker, SendFault};

    /// How a send ends, and the ids stored, when the broker answers with these faults first.
    async fn send(faults: impl IntoIterator<Item = SendFault>, delay: Option<Duration>) -> (Ended, Vec<String>) {
        let memory = MemoryBroker::new();
        memory.declare_topic("t").unwrap();
        let producer = memory.broker().producer().await.unwrap();
        memory.faults().fail_sends(faults);
        let began = Instant::now();
        let message = Message::new("t").unwrap().key("k").body("x").id("7");
        let first = match delay {
            None => producer.send(message).await,
            Some(delay) => producer.send_after(message, delay).await,
        };
        let ended = ended(&producer, delay, first, began, began + PATIENCE).await;
        sleep(delay.unwrap_or_default() * 2).await;
        let ids = memory.sent("t").unwrap().iter().map(|message| message.message_id().unwrap().to_string()).collect();
        (ended, ids)
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_be_stored_is_sent_again_under_the_same_id_and_counted() {
        let (ended, ids) = send([SendFault::StoredUnconfirmed, SendFault::LostUnconfirmed], None).await;
        assert_eq!(ended.result.unwrap().id.unwrap().as_str(), "7");
        assert_eq!(ended.resent, 2);
        assert_eq!(ids, ["7", "7"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_stored_is_sent_again_and_not_counted() {
        let (ended, ids) = send([SendFault::Unavailable], None).await;
        assert!(ended.result.is_ok());
        assert_eq!((ended.resent, ids.len()), (0, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_broker_refuses_is_not_sent_again() {
        let (ended, ids) = send([SendFault::Refused], None).await;
        assert!(ended.result.is_err());
        assert!(ids.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_tried_for_ever() {
        let (ended, ids) = send(std::iter::repeat_n(SendFault::LostUnconfirmed, 1000), None).await;
        assert!(ended.result.unwrap_err().error().is_ambiguous());
        assert!(ended.resent > 10 && ids.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_delay_counts_from_the_first_try() {
        let (ended, _) = send([SendFault::LostUnconfirmed], Some(Duration::from_secs(5))).await;
        assert!(ended.result.is_ok());
        assert_eq!(ended.resent, 1);
    }
}
