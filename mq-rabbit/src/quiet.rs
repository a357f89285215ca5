//! The client's own thread logs nothing: at `TRACE` it prints every frame, the login's with the password among them,
//! and at `WARN` returned messages with their contents. What goes wrong there is told by the errors of this adapter.

use std::cell::RefCell;

use tracing::dispatcher::{DefaultGuard, Dispatch, set_default};

/// The name the client gives the thread that reads and writes frames, and that runs what opens the stream.
const CLIENT_THREAD: &str = "lapin-io-loop";

thread_local! {
    static SILENCE: RefCell<Option<DefaultGuard>> = const { RefCell::new(None) };
}

/// Silences the thread this runs on for as long as it lives, if it is the client's. To be called by what opens the
/// stream, before anything is written to it.
pub(crate) fn this_thread() {
    if std::thread::current().name() != Some(CLIENT_THREAD) {
        return;
    }
    SILENCE.with_borrow_mut(|silence| {
        silence.get_or_insert_with(|| set_default(&Dispatch::none()));
    });
}
