//! What one run is made of.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::broker::Broker;
use crate::driver::BrokerDriver;
use crate::handler::Handler;
use crate::message::Message;
use crate::testing::ending::Ending;
use crate::testing::fault::{self, Bounds, Fault, Planned};
use crate::testing::member::{Made, Make};
use crate::testing::random::Random;
use crate::worker::Service;

type Invariant = Box<dyn FnOnce(&Ending<'_>) -> Result<(), String> + Send>;
/// Puts a driver around another.
pub(crate) type Wrap = Arc<dyn Fn(Arc<dyn BrokerDriver>) -> Arc<dyn BrokerDriver> + Send + Sync>;

/// One run to be: what is sent, who handles it, what must hold in the end. Filled by the closure given to
/// [`simulate`](crate::testing::simulate), once for each seed; everything random in it comes from
/// [`random`](Self::random).
pub struct Scenario {
    seed: u64,
    random: Random,
    pub(crate) partitions: u32,
    pub(crate) sends: Vec<PlannedSend>,
    pub(crate) services: Vec<ServicePlan>,
    pub(crate) invariants: Vec<Invariant>,
    pub(crate) fault_count: usize,
    pub(crate) fault_time: Duration,
    pub(crate) only: Option<Vec<Planned>>,
    pub(crate) beneath: Option<Wrap>,
    pub(crate) above: Option<Wrap>,
    pub(crate) producer_gives_up: bool,
    pub(crate) redrives: bool,
}

/// A message to be sent.
pub(crate) struct PlannedSend {
    pub(crate) at: Duration,
    pub(crate) delay: Option<Duration>,
    pub(crate) message: Message,
}

/// A service, and how many processes run it.
pub(crate) struct ServicePlan {
    pub(crate) make: Make,
    pub(crate) members: usize,
}

impl Scenario {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            random: Random::stream(seed, 0),
            partitions: 3,
            sends: Vec::new(),
            services: Vec::new(),
            invariants: Vec::new(),
            fault_count: 8,
            fault_time: Duration::from_secs(15),
            only: None,
            beneath: None,
            above: None,
            producer_gives_up: false,
            redrives: false,
        }
    }

    /// The seed of this run.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Chance: the same for the same seed.
    pub fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    /// How many partitions every topic has. Default: 3.
    pub fn partitions(&mut self, partitions: u32) -> &mut Self {
        self.partitions = partitions.max(1);
        self
    }

    /// Sends a message some time in the first seconds of the run. Messages of one key are sent in the order of these
    /// calls, each after the one before was confirmed; a send that fails is sent again under the same id. Without an id
    /// it is given one: `m1`, `m2` and so on.
    ///
    /// Its topic is declared by being named.
    pub fn send(&mut self, message: Message) -> &mut Self {
        self.put(message, None)
    }

    /// As [`send`](Self::send), not to be delivered before `delay` has passed.
    pub fn send_after(&mut self, message: Message, delay: Duration) -> &mut Self {
        self.put(message, Some(delay))
    }

    fn put(&mut self, mut message: Message, delay: Option<Duration>) -> &mut Self {
        let at = self.random.between(Duration::ZERO, self.fault_time * 2 / 3);
        if message.message_id().is_none() {
            message = message.id(format!("m{}", self.sends.len() + 1));
        }
        self.sends.push(PlannedSend { at, delay, message });
        self
    }

    /// A service run by `processes` processes, at least one. `make` is called whenever one of them starts; what it
    /// captures outlives them, as a database does.
    ///
    /// The subscription must have a group. Handlers must be deterministic: no `tokio::select!` without `biased`, no
    /// clock but tokio's, no threads (so no [`handle_blocking`](crate::Worker::handle_blocking)), no chance of their own.
    pub fn service<H: Handler>(
        &mut self,
        processes: usize,
        make: impl Fn(&Broker) -> Service<H> + Send + Sync + 'static,
    ) -> &mut Self {
        self.services.push(ServicePlan {
            make: Box::new(move |broker, process| Made::of(make(broker), process)),
            members: processes.max(1),
        });
        self
    }

    /// What must hold in the end, when all faults are over and everything was handled. May be called several times.
    ///
    /// Judge by [`Ending::confirmed`], not by what was given to [`send`](Self::send): while a failure is made smaller,
    /// messages are left out. A panic (`assert!`) is a failure like an `Err`; naming the message's id in the text makes
    /// the story one of that message.
    pub fn invariant(&mut self, holds: impl FnOnce(&Ending<'_>) -> Result<(), String> + Send + 'static) -> &mut Self {
        self.invariants.push(Box::new(holds));
        self
    }

    /// At most this many faults, within this time from the beginning. Default: 8 within 15 s.
    pub fn faults(&mut self, most: usize, within: Duration) -> &mut Self {
        (self.fault_count, self.fault_time) = (most, within);
        self
    }

    /// Exactly these faults, instead of random ones.
    pub fn exactly(&mut self, faults: impl IntoIterator<Item = (Duration, Fault)>) -> &mut Self {
        self.only = Some(faults.into_iter().map(|(at, fault)| Planned { at, fault }).collect());
        self
    }

    /// Puts a driver of your own around that of the broker in memory, where the history does not see it: what a broker
    /// does wrong.
    pub fn broker_beneath(
        &mut self,
        wrap: impl Fn(Arc<dyn BrokerDriver>) -> Arc<dyn BrokerDriver> + Send + Sync + 'static,
    ) -> &mut Self {
        self.beneath = Some(Arc::new(wrap));
        self
    }

    /// Puts a driver of your own between each worker and the history: what a worker does wrong.
    pub fn broker_above(
        &mut self,
        wrap: impl Fn(Arc<dyn BrokerDriver>) -> Arc<dyn BrokerDriver> + Send + Sync + 'static,
    ) -> &mut Self {
        self.above = Some(Arc::new(wrap));
        self
    }

    /// Producers give some sends up that failed, instead of sending them again until they are confirmed.
    pub fn producers_give_up(&mut self) -> &mut Self {
        self.producer_gives_up = true;
        self
    }

    /// When everything was handled or set aside, brings the dead letters back once: each must run again.
    pub fn redrive(&mut self) -> &mut Self {
        self.redrives = true;
        self
    }

    /// How many processes there are.
    pub(crate) fn members(&self) -> usize {
        self.services.iter().map(|service| service.members).sum()
    }

    /// The faults of this run.
    pub(crate) fn schedule(&self, guarded: bool) -> Vec<Planned> {
        if let Some(only) = &self.only {
            return only.clone();
        }
        let bounds =
            Bounds { most: self.fault_count, within: self.fault_time, members: self.members().max(1), guarded };
        fault::schedule(&mut Random::stream(self.seed, 1), &bounds)
    }
}

impl fmt::Debug for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scenario")
            .field("seed", &self.seed)
            .field("sends", &self.sends.len())
            .field("services", &self.services.len())
            .finish_non_exhaustive()
    }
}
