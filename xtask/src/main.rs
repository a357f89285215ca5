//! Tasks of this repository: real brokers for tests, the whole test run, the capability matrix.
//!
//! `cargo xtask --help` lists them. Everything here is plain blocking Rust with few dependencies, so that the
//! first `cargo xtask test` on a bare machine is busy with the product after seconds.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a tool for the terminal")]

mod brokers;
mod command;
mod install;
mod interrupt;
mod kills;
mod matrix;
mod paths;
mod process;
mod soak;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Tasks of this repository")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Start, break and stop real brokers on this machine.
    Brokers(brokers::cli::Arguments),
    /// Check everything, from nothing: installs what is missing, starts its own brokers, ends with one verdict.
    Test(test::cli::Arguments),
    /// Run the command under load while its broker and its worker are killed, and judge what was handled.
    Kills(kills::cli::Arguments),
    /// What `kills` runs for each message.
    #[command(hide = true)]
    Note(kills::note::Arguments),
    /// Break a broker at random, schedule after schedule, and count what its adapter keeps.
    Soak(soak::Arguments),
    /// Write the capability matrix from the results of the last test run.
    Matrix(matrix::Arguments),
}

fn main() -> ExitCode {
    interrupt::install();
    let outcome = match Arguments::parse().task {
        Task::Brokers(arguments) => brokers::cli::run(&arguments),
        Task::Test(arguments) => test::cli::run(&arguments),
        Task::Kills(arguments) => kills::cli::run(&arguments),
        Task::Note(arguments) => kills::note::run(&arguments).map(|()| ExitCode::SUCCESS),
        Task::Soak(arguments) => soak::run(&arguments),
        Task::Matrix(arguments) => matrix::run(&arguments),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
