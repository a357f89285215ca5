//! `mq scheduler`: moves delayed messages and retries when they are due, where the broker cannot do it alone.

use std::time::Duration;

use mq::{Broker, Retryability};

use crate::failure::Failure;
use crate::output;
use crate::stop::Stop;

/// How long one turn is.
const SLICE: Duration = Duration::from_secs(1);
/// Between two attempts, when the broker cannot be reached; it doubles up to [`LONGEST`].
const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(30);
/// How long leaving may take.
const DRAIN: Duration = Duration::from_secs(30);

pub(crate) async fn run(broker: &Broker) -> Result<(), Failure> {
    let Some(mut scheduler) = broker.scheduler() else {
        output::note(format_args!("mq: nothing to do: {} moves delayed messages by itself", broker.name()));
        return Ok(());
    };
    let mut stop = Stop::listen()?;
    output::note(format_args!("ready"));
    let mut moved = 0;
    let mut pause = FIRST;
    let outcome = loop {
        tokio::select! {
            biased;
            () = stop.requested() => break Ok(()),
            turn = scheduler.run(SLICE) => match turn {
                Ok(more) => {
                    moved += more;
                    pause = FIRST;
                }
                Err(error) if error.retryability() == Retryability::Permanent => break Err(error),
                Err(error) => {
                    output::note(format_args!("mq: {error}; again in {}", humantime::format_duration(pause)));
                    tokio::select! {
                        () = stop.requested() => break Ok(()),
                        () = tokio::time::sleep(pause) => {}
                    }
                    pause = (pause * 2).min(LONGEST);
                    scheduler = broker.scheduler().unwrap_or(scheduler);
                }
            },
        }
    };
    let closed = tokio::select! {
        closed = scheduler.close(DRAIN) => closed,
        () = stop.insisted() => return Err(Failure::Signal(stop.signal().unwrap_or(2))),
    };
    output::note(format_args!("mq: moved {moved} messages"));
    outcome?;
    Ok(closed?)
}
