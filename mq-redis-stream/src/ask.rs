//! Asking: commands and their answers, each within its deadline.

use std::sync::Arc;
use std::time::Duration;

use mq_core::error::{Error, ErrorKind, Result};
use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, Value};
use tokio::time::Instant;

use crate::connection::load;
use crate::error::{checked, copy, error, unexpected, within};
use crate::link::{Link, Live, Role, To};
use crate::slots::Address;
use crate::{cluster, reply};

/// What a command was answered, and how many copies there were by then, if that was asked.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) value: Value,
    pub(crate) copies: Option<i64>,
}

impl Link {
    /// One command, answered within `limit`, waiting for a connection included.
    pub(crate) async fn ask(&self, command: &Cmd, limit: Duration) -> Result<Value> {
        if self.is_cluster() {
            let mut commands = redis::pipe();
            commands.add_command(command.clone());
            let mut answers = self.ask_many(&commands, limit).await?;
            return checked(answers.pop().unwrap_or(Value::Nil));
        }
        let deadline = Instant::now() + limit;
        let mut live = self.ready(deadline).await?;
        for _ in 0..2 {
            let left = deadline.saturating_duration_since(Instant::now());
            let To::One(connection) = &mut live.to else { break };
            let answer = tokio::select! {
                biased;
                answer = within(left, connection.send_packed_command(command)) => answer.and_then(checked),
                () = self.gone(live.standing) => Err(lost()),
            };
            match answer {
                Err(cause) if is_no_script(&cause) => self.load(&mut live, left).await?,
                Err(cause) => {
                    if ends_connection(&cause) {
                        self.report(live.number);
                    }
                    return Err(cause);
                }
                Ok(value) => return Ok(value),
            }
        }
        Err(forgetful())
    }

    /// Several commands on a connection the caller got from [`Link::ready`]; one answer each. Errors of the connection
    /// are ambiguous: what was sent may have been done. With `wait`, a `WAIT`, each is told how many copies there are.
    pub(crate) async fn run(
        &self,
        live: &mut Live,
        commands: &Pipeline,
        wait: Option<&Cmd>,
        limit: Duration,
    ) -> Vec<Result<Answer>> {
        let number = live.number;
        let connection = match &mut live.to {
            To::Many(nodes) => {
                let nodes = Arc::clone(nodes);
                return cluster::run(self, number, nodes, commands, wait, limit).await;
            }
            To::One(connection) => connection,
        };
        let answers = match wait {
            None => self.run_here(number, connection, commands, limit).await,
            Some(wait) => {
                let mut commands = commands.clone();
                commands.add_command(wait.clone());
                self.run_here(number, connection, &commands, limit).await
            }
        };
        spread(answers, commands.len(), wait.is_some())
    }

    /// Several commands on the one connection of that number.
    pub(crate) async fn run_here(
        &self,
        number: u64,
        connection: &mut MultiplexedConnection,
        commands: &Pipeline,
        limit: Duration,
    ) -> Result<Vec<Value>> {
        let count = commands.len();
        let answers = tokio::select! {
            // First: that it is sent in the order of the calls.
            biased;
            answers = within(limit, connection.send_packed_commands(commands, 0, count)) => answers,
            () = self.gone(number) => Err(lost()),
        };
        match answers {
            Ok(answers) if answers.len() == count => {
                // A master no more: what follows must not be sent there.
                if matches!(self.shared.role, Role::Master) && answers.iter().any(is_read_only) {
                    self.report(number);
                }
                Ok(answers)
            }
            Ok(_) => {
                self.report(number);
                Err(unexpected("a pipeline").ambiguous())
            }
            Err(cause) => {
                if ends_connection(&cause) {
                    self.report(number);
                }
                Err(cause.ambiguous())
            }
        }
    }

    /// As [`Link::run`], waiting for a connection.
    pub(crate) async fn ask_many(&self, commands: &Pipeline, limit: Duration) -> Result<Vec<Value>> {
        let deadline = Instant::now() + limit;
        let mut live = self.ready(deadline).await?;
        for _ in 0..2 {
            let left = deadline.saturating_duration_since(Instant::now());
            let answers = self.run(&mut live, commands, None, left).await.into_iter();
            let answers = answers.map(|answer| Ok(answer?.value)).collect::<Result<Vec<Value>>>()?;
            let forgotten = |value: &Value| matches!(value, Value::ServerError(cause) if cause.code() == "NOSCRIPT");
            if !answers.iter().any(forgotten) {
                return Ok(answers);
            }
            self.load(&mut live, left).await?;
        }
        Err(forgetful())
    }

    /// The same question to each server: answers with their addresses.
    pub(crate) async fn ask_each(&self, command: &Cmd, limit: Duration) -> Result<Vec<(Address, Value)>> {
        if !self.is_cluster() {
            return Ok(vec![(self.shared.address.clone(), self.ask(command, limit).await?)]);
        }
        let mut live = self.ready(Instant::now() + limit).await?;
        let To::Many(nodes) = &mut live.to else { return Ok(Vec::new()) };
        let mut answers = Vec::new();
        for (address, mut connection) in nodes.each() {
            let answer = within(limit, connection.send_packed_command(command)).await.and_then(checked)?;
            answers.push((address, answer));
        }
        Ok(answers)
    }

    pub(crate) async fn load(&self, live: &mut Live, limit: Duration) -> Result<()> {
        match &mut live.to {
            To::One(connection) => load(connection, limit).await,
            To::Many(nodes) => {
                for (_, mut connection) in nodes.each() {
                    load(&mut connection, limit).await?;
                }
                Ok(())
            }
        }
    }
}

/// An answer for each command: of those the connection gave, the last is that of `WAIT`.
pub(crate) fn spread(answers: Result<Vec<Value>>, count: usize, waited: bool) -> Vec<Result<Answer>> {
    match answers {
        Ok(mut values) => {
            let copies = if waited { Some(values.pop().as_ref().and_then(reply::number).unwrap_or(0)) } else { None };
            values.into_iter().map(|value| Ok(Answer { value, copies })).collect()
        }
        Err(cause) => (0..count).map(|_| Err(copy(&cause))).collect(),
    }
}

fn forgetful() -> Error {
    error(ErrorKind::Unavailable, "the broker forgets its scripts as fast as they are loaded")
}

fn is_read_only(answer: &Value) -> bool {
    matches!(answer, Value::ServerError(cause) if cause.code() == "READONLY")
}

fn lost() -> Error {
    error(ErrorKind::Unavailable, "the connection was lost before the broker answered")
}

fn is_no_script(cause: &Error) -> bool {
    cause.kind() == ErrorKind::Rejected && cause.to_string().contains("NOSCRIPT")
}

/// True when the connection is of no more use.
pub(crate) fn ends_connection(cause: &Error) -> bool {
    matches!(cause.kind(), ErrorKind::Unavailable | ErrorKind::Timeout)
}
