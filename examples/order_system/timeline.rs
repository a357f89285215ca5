//! Prints what happens as it happens: one lane a service, one row for what happens together.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::timeout_at;

use crate::shop::{SERVICES, Service};

/// What happens within this time shares a row.
const TOGETHER: Duration = Duration::from_millis(20);
const WIDTH: usize = 16;
const LANES: usize = 1 + SERVICES.len();

/// How an entry looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    Plain,
    Good,
    Trouble,
    Lost,
}

#[derive(Debug)]
enum Entry {
    /// In the lane of the shop (`None`) or of a service.
    Cell { lane: Option<Service>, at: Duration, text: String, mood: Mood },
    /// Across all lanes.
    Note { at: Duration, text: String },
    /// From here on the lane shows that its service is down, or no longer.
    Down { service: Service, down: bool },
}

/// Where services write what they do. The queue has no bound: it never holds more than the few entries of one run.
#[derive(Debug, Clone)]
pub(crate) struct Timeline {
    entries: UnboundedSender<Entry>,
    begin: Instant,
}

impl Timeline {
    /// Starts the task that prints. It ends when every clone of the timeline is dropped.
    pub(crate) fn start() -> (Self, JoinHandle<()>) {
        let (entries, receiver) = unbounded_channel();
        let begin = Instant::now();
        (Self { entries, begin }, tokio::spawn(print(receiver)))
    }

    pub(crate) fn now(&self) -> Duration {
        self.begin.elapsed()
    }

    pub(crate) fn shop(&self, text: impl Into<String>, mood: Mood) {
        self.send(Entry::Cell { lane: None, at: self.now(), text: text.into(), mood });
    }

    /// Returns the time it wrote down.
    pub(crate) fn service(&self, service: Service, text: impl Into<String>, mood: Mood) -> Duration {
        let at = self.now();
        self.send(Entry::Cell { lane: Some(service), at, text: text.into(), mood });
        at
    }

    pub(crate) fn note(&self, text: impl Into<String>) {
        self.send(Entry::Note { at: self.now(), text: text.into() });
    }

    pub(crate) fn down(&self, service: Service, down: bool) {
        self.send(Entry::Down { service, down });
    }

    fn send(&self, entry: Entry) {
        // The printer ends after the last sender: it cannot be gone while this one is here.
        let _ = self.entries.send(entry);
    }
}

/// One row under construction.
#[derive(Debug, Default)]
struct Row {
    at: Option<Duration>,
    cells: [Option<(String, Mood)>; LANES],
}

async fn print(mut entries: UnboundedReceiver<Entry>) {
    let paint = Paint::detect();
    let mut down = [false; LANES];
    let mut row = Row::default();
    paint.header();
    loop {
        // A row is printed when its time is over, even if nothing else happens for a while.
        let entry = if row.at.is_some() {
            match timeout_at(tokio::time::Instant::now() + TOGETHER, entries.recv()).await {
                Ok(entry) => entry,
                Err(_) => {
                    paint.row(&mut row, &down);
                    continue;
                }
            }
        } else {
            entries.recv().await
        };
        match entry {
            None => break,
            Some(Entry::Cell { lane, at, text, mood }) => {
                let lane = lane.map_or(0, |service| 1 + service as usize);
                let late = row.at.is_some_and(|begin| at.saturating_sub(begin) > TOGETHER);
                if late || row.cells.get(lane).is_some_and(Option::is_some) {
                    paint.row(&mut row, &down);
                }
                row.at.get_or_insert(at);
                if let Some(cell) = row.cells.get_mut(lane) {
                    *cell = Some((text, mood));
                }
            }
            Some(Entry::Note { at, text }) => {
                paint.row(&mut row, &down);
                paint.note(at, &text);
            }
            Some(Entry::Down { service, down: is_down }) => {
                paint.row(&mut row, &down);
                if let Some(lane) = down.get_mut(1 + service as usize) {
                    *lane = is_down;
                }
            }
        }
    }
    paint.row(&mut row, &down);
    println!();
}

/// Colours, when somebody looks.
#[derive(Debug, Clone, Copy)]
struct Paint(bool);

impl Paint {
    fn detect() -> Self {
        Self(std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none())
    }

    fn header(self) {
        let names = std::iter::once("orders").chain(SERVICES.iter().map(|service| service.name()));
        let cells: Vec<String> = names.map(|name| self.cell(name, "1")).collect();
        println!("\n{:>7}  {}", "ms", cells.join(" ").trim_end());
        println!("{}", "─".repeat(9 + LANES * (WIDTH + 1)));
    }

    /// Prints the row, if there is anything in it, and empties it.
    fn row(self, row: &mut Row, down: &[bool; LANES]) {
        let Row { at: Some(at), cells } = std::mem::take(row) else { return };
        let cells = cells.into_iter().zip(down).map(|(cell, down)| match (cell, down) {
            (Some((text, mood)), _) => self.cell(&text, mood.code()),
            (None, true) => self.cell("  ✗", "31"),
            (None, false) => self.cell("  ·", "2"),
        });
        let line: Vec<String> = cells.collect();
        println!("{:>7}  {}", at.as_millis(), line.join(" ").trim_end());
        flush();
    }

    fn note(self, at: Duration, text: &str) {
        println!("{:>7}  {}", at.as_millis(), self.paint(&format!("── {text}"), "1;33"));
        flush();
    }

    fn cell(self, text: &str, code: &str) -> String {
        let width = text.chars().count();
        let padding = " ".repeat(WIDTH.saturating_sub(width));
        format!("{}{padding}", self.paint(text, code))
    }

    fn paint(self, text: &str, code: &str) -> String {
        if self.0 && !code.is_empty() { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

impl Mood {
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Good => "32",
            Self::Trouble => "33",
            Self::Lost => "31",
        }
    }
}

fn flush() {
    // A reader that went away (`| head`) ends the program at the next line anyway.
    let _ = std::io::stdout().flush();
}
