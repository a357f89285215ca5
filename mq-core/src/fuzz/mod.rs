//! Everything that reads what strangers write, against anything they could write: no panic, and what is written is
//! read back. `MQ_FUZZ_CASES` is how many inputs each of these tests tries; an input that failed once is kept in
//! `proptest-regressions` and tried first.

mod bodies;
mod control;
mod names;
mod settings;
