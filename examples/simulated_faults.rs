//! Two versions of one handler under a few hundred simulated schedules of crashes, cut connections and lost
//! acknowledgements. The first has a bug that no ordinary test shows; the simulation finds it and tells how it happens.
#![expect(clippy::print_stdout, reason = "a program for people")]

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mq::testing::{Ending, Failure, Passed, Scenario, simulate};
use mq::{Broker, Context, Handler, HandlerError, Json, Message, Service, Subscription, Worker};
use serde::{Deserialize, Serialize};

/// So many pieces of something came in (or went out).
#[derive(Serialize, Deserialize)]
struct Move {
    item: String,
    pieces: i64,
}

/// The service's database: it outlives every crash.
#[derive(Clone, Default)]
struct Database(Arc<Mutex<Vec<Row>>>);

struct Row {
    message: String,
    #[expect(dead_code, reason = "what the service would be asked for")]
    pieces: i64,
}

impl Database {
    /// Books a move. Wrong under faults: a message that comes twice is booked twice.
    fn book(&self, message: &str, pieces: i64) {
        self.rows().push(Row { message: message.to_owned(), pieces });
    }

    /// Books a move unless it was booked before: one transaction, with a unique constraint on the message.
    fn book_once(&self, message: &str, pieces: i64) {
        let mut rows = self.rows();
        if !rows.iter().any(|row| row.message == message) {
            rows.push(Row { message: message.to_owned(), pieces });
        }
    }

    fn rows(&self) -> std::sync::MutexGuard<'_, Vec<Row>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The service under test. `book` is all that the two versions differ in.
fn stock(broker: &Broker, database: &Database, book: fn(&Database, &str, i64)) -> Service<impl Handler + use<>> {
    let database = database.clone();
    Worker::new(broker, Subscription::new("stock.moves", "stock")).handle(move |moved: Json<Move>, context: Context| {
        let database = database.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(20)).await; // what a database takes
            let id = context.id().ok_or_else(|| HandlerError::dead_letter("a move without an id"))?;
            book(&database, id.as_str(), moved.0.pieces);
            Ok::<(), HandlerError>(())
        }
    })
}

/// What one run is made of: moves of three items, two processes, and what must hold when all is done.
fn scenario(scenario: &mut Scenario, book: fn(&Database, &str, i64)) -> mq::Result<()> {
    let database = Database::default();
    for _ in 0..10 {
        let pieces = scenario.random().below(100) as i64;
        let item = scenario.random().pick(&["bolts", "nuts", "washers"]);
        scenario.send(Message::json("stock.moves", &Move { item: item.to_owned(), pieces })?.key(item));
    }
    let shared = database.clone();
    scenario.service(2, move |broker| stock(broker, &shared, book));
    scenario.invariant(move |ending: &Ending<'_>| {
        let rows = database.rows();
        for id in ending.confirmed() {
            let booked = rows.iter().filter(|row| row.message == id).count();
            if booked != 1 {
                return Err(format!("{id} was booked {booked} times"));
            }
        }
        Ok(())
    });
    Ok(())
}

/// Three hundred runs of a version of the service.
fn try_out(book: fn(&Database, &str, i64)) -> Result<Passed, Box<Failure>> {
    simulate(0..300, |run| {
        if let Err(error) = scenario(run, book) {
            run.invariant(move |_| Err(error.to_string()));
        }
    })
}

fn main() {
    match try_out(Database::book) {
        Ok(passed) => println!("the bug was not found: {passed}"),
        Err(failure) => println!("the first version is wrong.\n\n{failure}"),
    }
    match try_out(Database::book_once) {
        Ok(passed) => println!("the second version is right: {passed}"),
        Err(failure) => println!("the second version is wrong, too.\n\n{failure}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bug_is_found_and_its_story_told() {
        let failure = try_out(Database::book).unwrap_err();
        assert_eq!(failure.rule(), "invariant");
        let story = failure.to_string();
        assert!(story.contains("was booked 2 times") && story.contains("is delivered"), "{story}");
        // Nothing but what leads to it.
        assert!(failure.faults().len() <= 2, "{story}");
    }

    #[test]
    fn the_repaired_version_passes() {
        let passed = try_out(Database::book_once).unwrap();
        assert!(passed.repeats > 0, "no message came twice: {passed}");
    }
}
