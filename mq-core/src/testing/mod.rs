//! Simulated faults, for tests of your own handlers: crashes at any step, cut connections, lost acknowledgements, in
//! virtual time, and the same again for the same seed.
//!
//! [`simulate`] runs a [`Scenario`] once for each seed. Producer, worker and the broker in memory are the real ones;
//! around them, by a schedule drawn from the seed, sends and settlements fail or end in doubt, connections are cut,
//! processes crash and come back, partitions move, the guard's store goes away, the machine stands still. Tokio's clock
//! is paused, so that minutes take milliseconds. When all is over the faults end, everything must be handled, and the
//! history is judged: nothing lost, no repeat that no fault explains, keys in order, never early, attempts true, dead
//! letters whole, what is settled durable, and [what you say yourself](Scenario::invariant).
//!
//! A [`Failure`] has its seed, only those faults and messages it needs, and the story of the message it is about.
//!
//! ```
//! use std::sync::{Arc, Mutex};
//!
//! use mq_core::testing::simulate;
//! use mq_core::{Context, Message, Subscription, Worker};
//!
//! // A mailer that forgets what it has mailed: it will mail twice.
//! let result = simulate(0..100, |scenario| {
//!     let mails = Arc::new(Mutex::new(Vec::new())); // outlives every crash, as a database does
//!     let outbox = Arc::clone(&mails);
//!     for address in ["ann", "ben", "eve"] {
//!         scenario.send(Message::new("signups").unwrap().body(address).id(address));
//!     }
//!     scenario.service(2, move |broker| {
//!         let outbox = Arc::clone(&outbox);
//!         Worker::new(broker, Subscription::new("signups", "mailer")).handle(move |context: Context| {
//!             let outbox = Arc::clone(&outbox);
//!             async move { outbox.lock().unwrap().push(context.id()) }
//!         })
//!     });
//!     scenario.invariant(move |ending| {
//!         for id in ending.confirmed() {
//!             let mailed = mails.lock().unwrap().iter().flatten().filter(|mail| mail.as_str() == id).count();
//!             if mailed != 1 {
//!                 return Err(format!("{id} was mailed {mailed} times"));
//!             }
//!         }
//!         Ok(())
//!     });
//! });
//! let failure = result.unwrap_err();
//! assert!(failure.to_string().contains("was mailed 2 times"));
//! ```
//!
//! # What makes a run the same again
//!
//! One thread, a paused clock, and one seed for everything random, the SDK's own jitter and ids included. Your part:
//! `biased;` in every `tokio::select!` of the handler (its order is random otherwise), no iteration over a `HashMap`,
//! no clock but tokio's, no threads and no blocking handlers, randomness from [`Scenario::random`] or `fastrand`.
//!
//! # What it does not show
//!
//! The broker is the one in memory: it does not lose what it has confirmed, has no network that reorders and no sizes
//! or names only one broker minds. For those there is the suite on the real servers. A crash is that of a whole process
//! between two steps of its tasks: the order of steps within one instant is that of tokio's scheduler.

mod ending;
mod failure;
mod fault;
mod history;
mod judge;
mod member;
mod probe;
mod process;
mod random;
mod run;
mod scenario;
mod scripted;
mod sender;
mod shrink;
mod simulate;
mod tell;
mod weather;
mod weathering;

pub use ending::Ending;
pub use failure::Failure;
pub use fault::{Fault, Planned, Point};
pub use history::{Delivered, Event, Intent, Life, RunEnd, What};
pub use judge::Finding;
pub use random::Random;
pub use scenario::Scenario;
pub use scripted::scripted;
pub use simulate::{Passed, history, simulate};
