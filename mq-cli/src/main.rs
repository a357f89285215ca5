//! The `mq` command: topics, groups, messages and dead letters on any broker, made to be scripted against.

mod args;
mod commands;
mod connect;
mod failure;
mod input;
mod log;
mod output;
mod parse;
mod record;
mod stop;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let arguments = args::Arguments::parse();
    log::start();
    match commands::main(arguments) {
        Ok(code) => code,
        Err(failure) => {
            if let Some(text) = failure.text() {
                output::note(format_args!("mq: {text}"));
            }
            ExitCode::from(failure.code())
        }
    }
}
