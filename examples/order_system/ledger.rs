//! Counts what really happened: the closing table is computed from it, nothing in it is known beforehand.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::shop::{SERVICES, Service};

/// Shared by the shop and all services.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger {
    book: Arc<Mutex<Book>>,
    changed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Book {
    /// By the id of a message: when it was sent first, and how often.
    sent: BTreeMap<String, Sent>,
    /// What one service did with one message.
    work: BTreeMap<(Service, String), Work>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Sent {
    at: Duration,
    times: usize,
    slowest: Duration,
}

#[derive(Debug, Clone, Copy, Default)]
struct Work {
    handled: usize,
    handled_at: Duration,
    failed: usize,
    duplicates: usize,
    dead: usize,
}

/// One column of the closing table.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) orders: usize,
    pub(crate) handled: usize,
    pub(crate) retried: usize,
    pub(crate) stopped: usize,
    pub(crate) again: usize,
    pub(crate) dead: usize,
    pub(crate) lost: usize,
}

impl Ledger {
    /// The broker has confirmed a message.
    pub(crate) fn sent(&self, id: &str, at: Duration, took: Duration) {
        self.write(|book| {
            let sent = book.sent.entry(id.to_owned()).or_insert(Sent { at, ..Sent::default() });
            sent.times += 1;
            sent.slowest = sent.slowest.max(took);
        });
    }

    pub(crate) fn handled(&self, service: Service, id: &str, at: Duration) {
        self.work(service, id, |work| {
            work.handled += 1;
            work.handled_at = at;
        });
    }

    pub(crate) fn failed(&self, service: Service, id: &str) {
        self.work(service, id, |work| work.failed += 1);
    }

    pub(crate) fn duplicate(&self, service: Service, id: &str) {
        self.work(service, id, |work| work.duplicates += 1);
    }

    pub(crate) fn dead(&self, service: Service, id: &str) {
        self.work(service, id, |work| work.dead += 1);
    }

    /// Waits until every copy of every message sent is accounted for in every service.
    pub(crate) async fn settled(&self) {
        loop {
            let changed = self.changed.notified();
            if self.read().is_settled() {
                return;
            }
            changed.await;
        }
    }

    pub(crate) fn column(&self, service: Service) -> Column {
        let book = self.read();
        let mut column = Column { orders: book.sent.len(), ..Column::default() };
        for id in book.sent.keys() {
            let work = book.work_of(service, id);
            column.handled += usize::from(work.handled > 0);
            column.retried += usize::from(work.failed > 0);
            column.stopped += work.duplicates;
            column.again += work.handled.saturating_sub(1);
            column.dead += work.dead;
            column.lost += usize::from(work.handled + work.dead == 0);
        }
        column
    }

    /// Of the orders sent between `from` and `to`: how many, the longest time until the broker had stored one, and the
    /// longest until `service` had handled one.
    pub(crate) fn between(&self, from: Duration, to: Duration, service: Service) -> (usize, Duration, Duration) {
        let book = self.read();
        let sent = book.sent.iter().filter(|(_, sent)| (from..to).contains(&sent.at));
        sent.fold((0, Duration::ZERO, Duration::ZERO), |(count, stored, handled), (id, sent)| {
            let took = book.work_of(service, id).handled_at.saturating_sub(sent.at);
            (count + 1, stored.max(sent.slowest), handled.max(took))
        })
    }

    /// Prints the closing table.
    pub(crate) fn print(&self) {
        let columns = SERVICES.map(|service| self.column(service));
        println!("  {:<26}{}", "", SERVICES.map(|service| format!("{:>14}", service.name())).concat());
        let line = |name: &str, value: fn(&Column) -> usize| {
            println!("  {name:<26}{}", columns.map(|column| format!("{:>14}", value(&column))).concat());
        };
        line("orders sent", |column| column.orders);
        line("handled", |column| column.handled);
        line("  after a retry", |column| column.retried);
        line("  more than once", |column| column.again);
        line("duplicates not run", |column| column.stopped);
        line("set aside (dead letters)", |column| column.dead);
        line("lost", |column| column.lost);
    }

    fn work(&self, service: Service, id: &str, change: impl FnOnce(&mut Work)) {
        self.write(|book| change(book.work.entry((service, id.to_owned())).or_default()));
    }

    fn write(&self, change: impl FnOnce(&mut Book)) {
        change(&mut self.read());
        self.changed.notify_waiters();
    }

    fn read(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn work_of(&self, service: Service, id: &str) -> Work {
        self.work.get(&(service, id.to_owned())).copied().unwrap_or_default()
    }

    fn is_settled(&self) -> bool {
        self.sent.iter().all(|(id, sent)| {
            SERVICES.iter().all(|service| {
                let work = self.work_of(*service, id);
                work.handled + work.duplicates + work.dead >= sent.times && work.handled + work.dead > 0
            })
        })
    }
}
