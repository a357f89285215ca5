//! The steps of a whole run, in their order.

use clap::ValueEnum;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Step {
    /// Compilers, headers and stock clients that the tests need
    Tools,
    /// Formatting
    Fmt,
    /// Lints, warnings denied
    Clippy,
    /// API documentation, warnings denied
    Doc,
    /// Every test and example compiles
    Build,
    /// Examples in documentation and README
    Doctest,
    /// Own brokers, fresh data
    Brokers,
    /// Unit, memory conformance and command line tests
    Unit,
    /// Tests of the Kafka adapter
    Kafka,
    /// Tests of the RabbitMQ adapter on 3.10
    #[value(name = "rabbit-3.10")]
    Rabbit310,
    /// Tests of the RabbitMQ adapter on 4.0
    #[value(name = "rabbit-4.0")]
    Rabbit40,
    /// Tests of the Redis Streams adapter on Redis 7.0
    #[value(name = "redis-7.0")]
    Redis70,
    /// Tests of the Redis Streams adapter on Redis 8.0
    #[value(name = "redis-8.0")]
    Redis80,
    /// Conformance and fail-over of the Redis Streams adapter on a cluster of Redis 8.0
    #[value(name = "redis-cluster")]
    RedisCluster,
    /// Fail-over of the Redis Streams adapter on Redis 8.0 with Sentinels
    #[value(name = "redis-sentinel")]
    RedisSentinel,
    /// Tests of the RocketMQ adapter
    #[value(name = "rocket-5.4")]
    Rocket54,
    /// Fail-over of the RocketMQ adapter on two name servers and two brokers
    #[value(name = "rocket-cluster")]
    RocketCluster,
    /// The same example on each broker by its URL alone
    Example,
    /// Each feature compiles alone
    Features,
    /// One feature pulls in no other broker's client
    Purity,
    /// Licences and advisories, where cargo-deny is installed
    Deny,
    /// The published matrix is what this run has shown
    Matrix,
}

impl Step {
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// The steps which run test binaries.
    pub(crate) const LANES: [Self; 10] = [
        Self::Unit,
        Self::Kafka,
        Self::Rabbit310,
        Self::Rabbit40,
        Self::Redis70,
        Self::Redis80,
        Self::RedisCluster,
        Self::RedisSentinel,
        Self::Rocket54,
        Self::RocketCluster,
    ];

    /// What must have been built or started before.
    pub(crate) fn needs(self) -> &'static [Self] {
        match self {
            Self::Example => &[Self::Build, Self::Brokers],
            step if Self::LANES.contains(&step) => &[Self::Build, Self::Brokers],
            _ => &[],
        }
    }
}
