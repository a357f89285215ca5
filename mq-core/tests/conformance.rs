//! The conformance suite on the in-memory broker.

#[path = "../../mq-conformance/tests/memory/mod.rs"]
mod memory;

use std::process::ExitCode;

fn main() -> ExitCode {
    mq_conformance::main(memory::Memory::default())
}
