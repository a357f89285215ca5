//! The name servers: which one is asked, and when another is asked as well.
//!
//! They do not know of each other. One that was just started knows nothing until the brokers register again, up to 30 s
//! later: what it does not know the others may.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use mq_core::error::{Error, ErrorKind, Result};
use tokio::time::Instant;

use crate::config::RocketConfig;
use crate::error::error;
use crate::remoting::{Access, Command, Failure, Link};

/// Between two rounds over the name servers.
const ROUND: Duration = Duration::from_millis(50);
/// How long one name server is waited for before the next is asked.
const PATIENCE: Duration = Duration::from_secs(3);
/// The same in the first round, when there is another.
const FIRST: Duration = Duration::from_secs(1);
/// How long others are waited for when one has answered.
const SOON: Duration = Duration::from_millis(300);
/// One that did not answer is left out for so long, as long as another answers.
const REST: Duration = Duration::from_secs(10);

/// Asks name servers.
#[derive(Debug)]
pub(crate) struct NameServers {
    links: Vec<Arc<Link>>,
    /// The one that answered last.
    favourite: AtomicUsize,
    /// When each of them last did not answer.
    silent: Mutex<Vec<Option<Instant>>>,
}

impl NameServers {
    pub(crate) fn new(config: &RocketConfig, access: &Arc<Access>) -> Self {
        let links: Vec<_> = config.name_servers().iter().map(|host| Arc::new(Link::new(host, access))).collect();
        let silent = Mutex::new(vec![None; links.len()]);
        Self { links, favourite: AtomicUsize::new(0), silent }
    }

    /// Asks all until one answers, and returns what those said that answered soon, the one that answered last before
    /// first.
    pub(crate) async fn ask(&self, command: &Command, deadline: Instant) -> Result<Vec<Command>> {
        let (mut round, mut last): (usize, Option<Error>) = (0, None);
        loop {
            match self.round(command, round, deadline).await {
                Ok(answers) => return Ok(answers),
                // That the time was up at last says less than what was wrong before.
                Err(Some(cause)) if cause.kind() == ErrorKind::Timeout && last.is_some() => {}
                Err(cause) => last = cause.or(last),
            }
            let hopeless = last.as_ref().is_some_and(|cause| !cause.is_transient());
            if hopeless || Instant::now() >= deadline {
                let cause = last.unwrap_or_else(no_answer);
                return Err(match cause.hint() {
                    Some(_) => cause,
                    None => cause.with_hint("is this the address of a name server?"),
                });
            }
            // One that ends every connection at once is not asked without a pause.
            tokio::time::sleep(ROUND).await;
            round += 1;
        }
    }

    async fn round(&self, command: &Command, round: usize, deadline: Instant) -> Result<Vec<Command>, Option<Error>> {
        let order = self.order(round);
        let mut asked = FuturesUnordered::new();
        for (place, index) in (0_usize..).zip(&order) {
            asked.push(async move { (place, self.one(*index, command, round, deadline).await) });
        }
        let (mut answers, mut last, mut until) = (Vec::new(), None, deadline);
        while let Ok(Some((place, outcome))) = tokio::time::timeout_at(until, asked.next()).await {
            match outcome {
                Ok(answer) => {
                    until = until.min(Instant::now() + SOON);
                    answers.push((place, answer));
                }
                Err(cause) => last = Some(cause),
            }
        }
        drop(asked);
        if answers.is_empty() {
            return Err(last);
        }
        for (place, index) in (0_usize..).zip(&order) {
            if !answers.iter().any(|(answered, _)| *answered == place) {
                self.note(*index, false);
            }
        }
        answers.sort_by_key(|(place, _)| *place);
        Ok(answers.into_iter().map(|(_, answer)| answer).collect())
    }

    /// Tells each that answers.
    pub(crate) async fn tell(&self, command: &Command, deadline: Instant) -> Result<()> {
        let told = join_all((0..self.links.len()).map(|index| self.one(index, command, 1, deadline))).await;
        let mut last = None;
        let mut done = false;
        for outcome in told {
            match outcome {
                Ok(answer) => done |= answer.success().is_ok(),
                Err(cause) => last = Some(cause),
            }
        }
        match last {
            Some(cause) if !done => Err(cause),
            _ => Ok(()),
        }
    }

    pub(crate) fn close(&self) {
        self.links.iter().for_each(|link| link.close());
    }

    /// Whom to ask: the favourite first. In the first round those that were silent of late are left out.
    fn order(&self, round: usize) -> Vec<usize> {
        let (count, first) = (self.links.len(), self.favourite.load(Ordering::Relaxed));
        let all = (0..count).map(|step| (first + step) % count.max(1));
        let silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        let rests = |index: &usize| silent.get(*index).copied().flatten().is_some_and(|at| at.elapsed() < REST);
        let awake: Vec<usize> = all.clone().filter(|index| round > 0 || !rests(index)).collect();
        if awake.is_empty() { all.collect() } else { awake }
    }

    async fn one(&self, index: usize, command: &Command, round: usize, deadline: Instant) -> Result<Command> {
        let link = self.links.get(index).ok_or_else(no_answer)?;
        // The only one is waited for; of several one that refuses a connection gives way at once.
        let alone = self.links.len() == 1;
        let patience = if alone || round > 0 { PATIENCE } else { FIRST };
        let until = deadline.min(Instant::now() + patience);
        let connection = if alone { link.ready(until).await } else { link.ready_at_once(until).await };
        let answered = match connection {
            Ok(connection) => connection.call(command.clone(), until).await.map_err(Failure::into_error),
            Err(cause) => Err(cause),
        };
        self.note(index, answered.is_ok());
        answered
    }

    fn note(&self, index: usize, answered: bool) {
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(silent) = silent.get_mut(index) {
            *silent = (!answered).then(Instant::now);
        }
        drop(silent);
        if answered {
            self.favourite.store(index, Ordering::Relaxed);
        }
    }
}

fn no_answer() -> Error {
    error(ErrorKind::Unavailable, "no name server answers")
}
