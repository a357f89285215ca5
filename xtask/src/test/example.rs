//! The same binary on every broker, chosen by its URL alone.

use std::path::Path;
use std::time::{Duration, Instant};

use super::binaries::Binary;
use super::outcome::{Ended, Outcome};
use super::servers::Servers;
use super::step::Step;
use super::stream;
use crate::brokers::Kind;

const NAME: &str = "order_system";
const PATIENCE: Duration = Duration::from_secs(180);

pub(crate) fn run(binaries: &[Binary], servers: Option<&Servers>, logs: &Path) -> Outcome {
    let begin = Instant::now();
    let step = Step::Example.name();
    let mut whole = Outcome { step: step.clone(), ..Outcome::default() };
    let mut fail = |what: String| {
        whole.failed += 1;
        whole.failures.push(what);
    };
    let Some(binary) = binaries.iter().find(|binary| !binary.is_test && binary.name == NAME) else {
        fail(format!("there is no example {NAME}"));
        return whole;
    };
    let mut urls = vec![("memory", Some("memory:".to_owned()))];
    urls.extend(Kind::ALL.map(|kind| {
        let report = servers.and_then(|servers| servers.report(kind));
        // One node has room for one copy only.
        let profile = if kind == Kind::Kafka { "?profile=development" } else { "" };
        (kind.name(), report.map(|report| format!("{}{profile}", report.url)))
    }));
    for (broker, url) in urls {
        let Some(url) = url else {
            fail(format!("{NAME} on {broker}: the broker is not there"));
            continue;
        };
        let log = logs.join(format!("{step}-{broker}.log"));
        let label = format!("{NAME} on {broker}");
        match stream::run(&label, binary.command().env("MQ_URL", url), &log, PATIENCE) {
            Ok((_, Ended::Well)) => whole.passed += 1,
            Ok((_, Ended::Badly(how))) => fail(format!("{label}: {how}")),
            Err(error) => fail(format!("{label}: {error:#}")),
        }
    }
    whole.took = begin.elapsed();
    whole
}
