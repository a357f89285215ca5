//! A password, an ear for all that is logged, and a look whether the one holds the other: for the tests of adapters.
#![expect(clippy::unwrap_used, clippy::panic, reason = "for tests alone")]

use std::io::Write;
use std::sync::{Arc, Mutex, OnceLock};

/// Nobody's password, with characters a URL must encode.
pub const PASSWORD: &str = "hunter2 /&%?=@x";
/// [`PASSWORD`] as a URL holds it.
pub const ENCODED: &str = "hunter2%20%2F%26%25%3F%3D%40x";

/// Everything logged in this process, by the SDK and by the client, at every level.
#[derive(Debug, Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Begins to listen, once for the process.
    ///
    /// # Panics
    /// When somebody else listens already.
    pub fn start() -> &'static Self {
        static LOG: OnceLock<Log> = OnceLock::new();
        LOG.get_or_init(|| {
            let log = Self::default();
            let writer = log.clone();
            tracing_subscriber::fmt()
                .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
                .with_ansi(false)
                .with_writer(move || writer.clone())
                .init();
            let client: &'static Log = Box::leak(Box::new(log.clone()));
            log::set_logger(client).unwrap();
            log::set_max_level(log::LevelFilter::Trace);
            log
        })
    }

    /// What was logged so far.
    ///
    /// # Panics
    /// When a thread panicked while it logged.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        writeln!(self.clone(), "{} {} {}", record.level(), record.target(), record.args()).unwrap();
    }

    fn flush(&self) {}
}

/// Fails the test when `text`, which is `what`, holds the password in any form.
///
/// # Panics
/// Then.
pub fn clean(what: &str, text: &str) {
    // As bytes, too: that is how the client's login prints when it is derived.
    let bytes = format!("{:?}", "hunter2".as_bytes());
    let bytes = bytes.trim_matches(['[', ']']);
    for secret in [PASSWORD, ENCODED, &ENCODED.to_lowercase(), "hunter2", bytes] {
        if let Some(at) = text.find(secret) {
            let around: String = text.chars().skip(at.saturating_sub(300)).take(600).collect();
            panic!("{what} holds `{secret}`: … {around} …");
        }
    }
}
