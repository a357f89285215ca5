//! What was decided here, and confirmed by the broker.
//!
//! The broker writes its note of a decision up to 3 s later, and a message it had already asked about it asks about again
//! although it was decided since. A check that says `Commit` then would make a second message of it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use mq_core::driver::Decision;

/// So many are remembered; the oldest are forgotten first.
const MOST: usize = 20_000;

/// What was decided of one transaction. Locked while the broker is told: a producer and the check that answers for it
/// must not both tell it.
pub(super) type Cell = Arc<tokio::sync::Mutex<Option<Decision>>>;

#[derive(Debug, Default)]
pub(super) struct Decided(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    known: HashMap<String, Cell>,
    order: VecDeque<String>,
}

impl Decided {
    pub(super) fn of(&self, transaction: &str) -> Cell {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cell) = inner.known.get(transaction) {
            return Arc::clone(cell);
        }
        let cell = Cell::default();
        inner.known.insert(transaction.to_owned(), Arc::clone(&cell));
        inner.order.push_back(transaction.to_owned());
        if inner.order.len() > MOST
            && let Some(oldest) = inner.order.pop_front()
        {
            inner.known.remove(&oldest);
        }
        cell
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn is_bounded() {
        let decided = Decided::default();
        for number in 0..=MOST {
            *decided.of(&number.to_string()).lock().await = Some(Decision::Commit);
        }
        assert_eq!(*decided.of("1").lock().await, Some(Decision::Commit));
        assert_eq!(*decided.of("0").lock().await, None, "forgotten");
        let inner = decided.0.lock().unwrap();
        assert_eq!((inner.order.len(), inner.known.len()), (MOST, MOST));
    }
}
