//! Runs the test binaries: one lane a broker at the same time, as they mostly wait.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::anyhow;

use super::allowed::Allowed;
use super::binaries::Binary;
use super::outcome::{Ended, Outcome};
use super::servers::Servers;
use super::step::Step;
use super::stream;
use super::tally::Tally;
use crate::brokers::Kind;

/// For one test binary. A scenario that hangs has its own, shorter deadline; this one is the last.
const PATIENCE: Duration = Duration::from_secs(25 * 60);

#[derive(Debug)]
pub(crate) struct Lanes<'a> {
    pub(crate) binaries: &'a [Binary],
    pub(crate) servers: Option<&'a Servers>,
    pub(crate) allowed: &'a Allowed,
    pub(crate) logs: PathBuf,
    /// Where the conformance binaries write what they have found.
    pub(crate) results: PathBuf,
}

impl Lanes<'_> {
    pub(crate) fn run(&self, steps: &[Step]) -> Vec<Outcome> {
        // Not all at once, which disturbs what is timed on a small machine; two versions of one broker never are.
        let lanes: [&[Step]; 3] = [
            &[Step::Unit, Step::Redis70, Step::Redis80],
            &[Step::Kafka, Step::Rocket54, Step::RocketCluster],
            &[Step::Rabbit310, Step::Rabbit40, Step::RedisCluster, Step::RedisSentinel],
        ];
        thread::scope(|scope| {
            let threads: Vec<_> = lanes
                .into_iter()
                .map(|lane| {
                    let wanted = lane.iter().filter(|step| steps.contains(step));
                    scope.spawn(move || wanted.map(|step| self.step(*step)).collect::<Vec<_>>())
                })
                .collect();
            let panicked = || {
                let result = Err(anyhow!("a lane panicked: what it had to run is not checked"));
                vec![Outcome::of_check("lane", Duration::ZERO, result)]
            };
            threads.into_iter().flat_map(|thread| thread.join().unwrap_or_else(|_| panicked())).collect()
        })
    }

    fn step(&self, step: Step) -> Outcome {
        let begin = Instant::now();
        let mut whole = Outcome { step: step.name(), ..Outcome::default() };
        for binary in self.binaries.iter().filter(|binary| belongs(binary, step)) {
            let one = self.binary(step, binary);
            whole.passed += one.passed;
            whole.failed += one.failed;
            whole.failures.extend(one.failures);
            whole.notes.extend(one.notes);
        }
        whole.took = begin.elapsed();
        if whole.passed + whole.failed == 0 {
            whole.failed = 1;
            whole.failures.push("no test has run".to_owned());
        }
        whole
    }

    fn binary(&self, step: Step, binary: &Binary) -> Outcome {
        let begin = Instant::now();
        let name = format!("{}/{}", binary.crate_name(), binary.name);
        let mut command = binary.command();
        command.envs(self.environment(step)).env("MQ_CONFORMANCE_OUT", &self.results);
        let log = self.logs.join(format!("{}-{}-{}.log", step.name(), binary.crate_name(), binary.name));
        let label = if step == Step::Unit { name.clone() } else { step.name() };
        let (tally, ended) = stream::run(&label, &mut command, &log, PATIENCE)
            .unwrap_or_else(|error| (Tally::default(), Ended::Badly(format!("{error:#}"))));
        Outcome::of_tests(&step.name(), &name, begin.elapsed(), tally, ended, self.allowed)
    }

    /// Every lane sees every kind of broker, of RabbitMQ and Redis one version.
    fn environment(&self, step: Step) -> BTreeMap<&'static str, String> {
        let rabbit = if step == Step::Rabbit310 { Kind::Rabbit310 } else { Kind::Rabbit40 };
        let redis = match step {
            Step::Redis70 => Kind::Redis70,
            Step::RedisCluster => Kind::RedisCluster,
            _ => Kind::Redis80,
        };
        let profile = match step {
            Step::Kafka => Kind::Kafka,
            Step::Redis70 | Step::Redis80 | Step::RedisCluster => redis,
            Step::Rocket54 => Kind::Rocket54,
            _ => rabbit,
        };
        let mut environment = BTreeMap::new();
        let rocket = [Kind::Rocket54, Kind::Rocket54Guarded, Kind::RocketCluster];
        let kinds = [Kind::Kafka, rabbit, redis, Kind::RedisSentinel].into_iter().chain(rocket);
        for report in kinds.filter_map(|kind| self.servers?.report(kind)) {
            environment.extend(report.environment.clone());
        }
        environment.insert("MQ_TEST_PROFILE", profile.name().to_owned());
        environment
    }
}

fn belongs(binary: &Binary, step: Step) -> bool {
    // Who uses a broker runs in its lane: scenarios with faults kill it.
    let owner = match (binary.crate_name().as_str(), binary.name.as_str()) {
        ("mq-kafka", _) | ("mq-cli", "kafka") => Step::Kafka,
        ("mq-redis-stream", "cluster") => Step::RedisCluster,
        ("mq-redis-stream", "sentinel") => Step::RedisSentinel,
        ("mq-redis-stream", _) | ("mq-cli", "redis") => Step::Redis80,
        ("mq-rocket", "failover") => Step::RocketCluster,
        ("mq-rocket", _) | ("mq-cli", "rocket") => Step::Rocket54,
        ("mq-rabbit", _) | ("mq-cli", "rabbit") => Step::Rabbit40,
        _ => Step::Unit,
    };
    // Unit tests of an adapter do not depend on the version of its broker: once is enough.
    let again = match step {
        Step::Rabbit310 => owner == Step::Rabbit40 && binary.crate_name() == "mq-rabbit",
        Step::Redis70 => owner == Step::Redis80 && binary.crate_name() == "mq-redis-stream",
        // What is true of a single server alone is not repeated.
        Step::RedisCluster => binary.crate_name() == "mq-redis-stream" && binary.name == "conformance",
        _ => false,
    };
    binary.is_test && (owner == step || (again && binary.is_integration))
}
