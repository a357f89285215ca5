//! Puts the worker together and runs it until it is asked to stop.

use std::sync::Arc;

use mq::config::Url;
use mq::{
    Broker, Concurrency, Context, Ended, Error, ErrorKind, MemoryGuard, RetryPolicy, Subscription, Summary, Worker,
    WorkerEvent, per_second,
};
use serde_json::json;

use super::arguments::Arguments;
use super::child::Program;
use crate::failure::{Failure, one_line};
use crate::output::{self, Output};
use crate::stop::Stop;

pub(crate) async fn run(broker: &Broker, arguments: Arguments, output: &mut Output) -> Result<(), Failure> {
    let mut stop = Stop::listen()?;
    let max = arguments.max;
    let drain = arguments.drain;
    let worker = worker(broker, &arguments)?;
    let program = Program::new(arguments.command).ok_or_else(|| Failure::Usage("no command".to_owned()))?;
    let program = Arc::new(program);
    let service = worker.handle(move |context: Context| {
        let program = Arc::clone(&program);
        async move { program.run(context.message(), context.id().as_ref(), context.attempt()).await }
    });
    let mut asked = stop.clone();
    let shutdown = async move {
        asked.requested().await;
        let drain = humantime::format_duration(drain);
        output::note(format_args!("mq: stopping: what runs may take {drain} to finish (again to abort)"));
    };
    let summary = tokio::select! {
        summary = service.run_until(shutdown) => summary?,
        () = stop.insisted() => return Err(Failure::Signal(stop.signal().unwrap_or(2))),
    };
    report(&summary, max, output)?;
    match (stop.signal(), max) {
        (Some(signal), Some(max)) if summary.received < max => Err(Failure::Signal(signal)),
        _ => Ok(()),
    }
}

fn worker(broker: &Broker, arguments: &Arguments) -> Result<Worker, Failure> {
    let mut subscription = Subscription::new(&arguments.of.topic, &arguments.of.group);
    if let Some(from) = &arguments.from {
        subscription = subscription.start(from.clone());
    }
    if let Some(prefetch) = arguments.prefetch {
        subscription = subscription.prefetch(usize::try_from(prefetch).unwrap_or(usize::MAX));
    }
    let concurrency = usize::try_from(arguments.concurrency).unwrap_or(usize::MAX);
    let retry = RetryPolicy::delays(arguments.retry.0.iter().copied());
    let mut worker = Worker::new(broker, subscription)
        .concurrency(match (arguments.by_key, concurrency) {
            (true, n) => Concurrency::ByKey(n),
            (false, 1) => Concurrency::Sequential,
            (false, n) => Concurrency::Parallel(n),
        })
        .retry(if arguments.by_key && !arguments.unordered_retries { retry.keep_key_order() } else { retry })
        .crash_limit(arguments.crash_limit)
        .on_unknown(arguments.on_unknown.into())
        .drain(arguments.drain)
        .observe(tell);
    if let Some(rate) = arguments.rate {
        worker = worker.rate_limit(per_second(rate));
    }
    if let Some(timeout) = arguments.timeout {
        worker = worker.timeout(timeout);
    }
    if let Some(max) = arguments.max {
        worker = worker.max_messages(max);
    }
    if let Some(idle) = arguments.idle {
        worker = worker.max_idle(idle);
    }
    if let Some(url) = &arguments.idempotency {
        worker = worker.idempotency(guard(url)?);
        if !arguments.of.topic.is_foreign() {
            // Every message the SDK sent has an id.
            worker = worker.id_extractor(|message| message.message_id().cloned());
        }
    }
    Ok(worker)
}

/// The store of what was handled.
fn guard(url: &str) -> Result<MemoryGuard, Failure> {
    let url = Url::parse(url)?;
    if url.scheme == "memory" {
        url.check_parameters(&[])?;
        return Ok(MemoryGuard::new());
    }
    let scheme: String = url.scheme.chars().take(40).collect();
    let error = Error::new(ErrorKind::FeatureDisabled, format!("there is no idempotency store for `{scheme}:`"));
    Err(error.with_operation("work").with_hint("in this version there is memory: (this process only)").into())
}

/// What a person should know while it runs.
fn tell(event: &WorkerEvent<'_>) {
    match event {
        WorkerEvent::Started => output::note(format_args!("ready")),
        WorkerEvent::DeadLettered { context, reason, error } => {
            let id = context.id().map_or_else(|| context.position().to_string(), |id| id.to_string());
            output::note(format_args!("mq: dead letter {}: {reason}: {}", one_line(&id), one_line(error)));
        }
        _ => {}
    }
}

fn report(summary: &Summary, max: Option<u64>, output: &mut Output) -> Result<(), Failure> {
    let received = summary.received;
    match max {
        Some(max) if received < max => output::note(format_args!("mq: received {received} of {max} messages")),
        _ => output::note(format_args!("mq: received {received} messages")),
    }
    if output.is_json() {
        output.json_line(&json!({
            "received": received,
            "handled": summary.handled,
            "discarded": summary.discarded,
            "duplicates": summary.duplicates,
            "retried": summary.retried,
            "dead_lettered": summary.dead_lettered,
            "released": summary.released,
            "cancelled": summary.cancelled,
            "stale": summary.stale,
            "ended": match summary.ended {
                Ended::Max => "max",
                Ended::Idle => "idle",
                Ended::Shutdown => "stopped",
                _ => "other",
            },
        }))?;
    }
    Ok(())
}
