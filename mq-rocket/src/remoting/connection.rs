//! One TCP connection: requests leave in order, answers come as they come.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::{Bytes, BytesMut};
use mq_core::error::{Error, ErrorKind, Result};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::access::{Access, refusal};
use super::acl::Login;
use super::frame::{Command, MAX_FRAME};
use crate::error::{BACKEND, again, error};

/// Requests written to the connection's task and not yet to the socket.
const QUEUE: usize = 256;
/// Requests gathered into one write.
const WRITE: usize = 256 * 1024;

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The request never left.
    NotSent(Error),
    /// It left, or may have: the broker may have done what was asked.
    Unknown(Error),
}

impl Failure {
    /// For requests that may be repeated without harm.
    pub(crate) fn into_error(self) -> Error {
        match self {
            Self::NotSent(cause) | Self::Unknown(cause) => cause,
        }
    }
}

/// What a broker asks of its own accord.
#[derive(Debug)]
pub(crate) struct Question {
    /// The broker that asks.
    pub(crate) address: Arc<str>,
    pub(crate) command: Command,
}

/// A connection that stands until it is lost.
pub(crate) struct Connection {
    shared: Arc<Shared>,
    outgoing: mpsc::Sender<Bytes>,
    login: Option<Login>,
}

struct Shared {
    waiting: Mutex<HashMap<i32, oneshot::Sender<Command>>>,
    next: AtomicI32,
    lost: AtomicBool,
    /// Frames read so far: a silent connection does not count on.
    heard: AtomicU64,
    end: tokio::sync::Notify,
    /// Why the broker does not want this connection, where it says so.
    refused: OnceLock<Error>,
    /// Who answers the broker's own questions; nobody: they are passed over.
    questions: Option<(Arc<str>, mpsc::Sender<Question>)>,
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, HashMap<i32, oneshot::Sender<Command>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve<R, W>(self: &Arc<Self>, (reader, writer): (R, W), queue: mpsc::Receiver<Bytes>)
    where
        R: AsyncRead + Send + Unpin + 'static,
        W: AsyncWrite + Send + Unpin + 'static,
    {
        tokio::spawn(read(reader, Arc::clone(self)));
        tokio::spawn(write(writer, queue, Arc::clone(self)));
    }

    /// A connection that ended; what the broker did with what was sent is not known, unless it wanted nothing at all.
    fn ended(&self) -> Failure {
        match self.refused.get() {
            Some(cause) => Failure::NotSent(again(cause)),
            None if self.heard.load(Ordering::Relaxed) == 0 => {
                Failure::Unknown(lost().with_hint("it never answered: does this port want TLS (rocketmqs://)?"))
            }
            None => Failure::Unknown(lost()),
        }
    }

    /// Whoever waits learns it by the end of its channel.
    fn lose(&self) {
        // Under the lock, so that nobody begins to wait behind it.
        let mut waiting = self.waiting();
        self.lost.store(true, Ordering::Release);
        waiting.clear();
        drop(waiting);
        self.end.notify_one();
    }
}

/// Takes the entry out of the table also when the caller is cancelled.
struct Waiting<'a>(&'a Shared, i32);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting().remove(&self.1);
    }
}

impl Connection {
    pub(crate) async fn open(
        address: &str,
        access: &Access,
        questions: Option<mpsc::Sender<Question>>,
    ) -> Result<Self> {
        let failed =
            |cause: std::io::Error| error(ErrorKind::Unavailable, format!("no connection to {address}: {cause}"));
        let stream = TcpStream::connect(address).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let (outgoing, queue) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared {
            waiting: Mutex::default(),
            next: AtomicI32::new(1),
            lost: AtomicBool::new(false),
            heard: AtomicU64::new(0),
            end: tokio::sync::Notify::new(),
            refused: OnceLock::new(),
            questions: questions.map(|questions| (address.into(), questions)),
        });
        match &access.encryption {
            None => shared.serve(stream.into_split(), queue),
            Some(encryption) => shared.serve(tokio::io::split(encryption.over(stream, address).await?), queue),
        }
        Ok(Self { shared, outgoing, login: access.login.clone() })
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.shared.lost.load(Ordering::Acquire)
    }

    /// Asks, and waits for the answer, at most until `deadline`.
    pub(crate) async fn call(&self, command: Command, deadline: Instant) -> Result<Command, Failure> {
        let began = Instant::now();
        let opaque = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let (answer, receiver) = oneshot::channel();
        {
            let mut waiting = self.shared.waiting();
            if self.is_lost() {
                return Err(Failure::NotSent(lost()));
            }
            waiting.insert(opaque, answer);
        }
        let _waiting = Waiting(&self.shared, opaque);
        let heard = self.shared.heard.load(Ordering::Relaxed);
        self.send(command, opaque, deadline).await.map_err(Failure::NotSent)?;
        match tokio::time::timeout_at(deadline, receiver).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(self.shared.ended()),
            Err(_) => {
                // Nothing at all came since: what is on this connection now would wait in vain as well.
                if self.shared.heard.load(Ordering::Relaxed) == heard {
                    self.close();
                }
                Err(Failure::Unknown(Error::timeout(deadline - began).with_backend(BACKEND)))
            }
        }
    }

    /// Hands a request over that is not answered.
    pub(crate) async fn tell(&self, command: Command, deadline: Instant) -> Result<()> {
        if self.is_lost() {
            return Err(lost());
        }
        let opaque = self.shared.next.fetch_add(1, Ordering::Relaxed);
        self.send(command.one_way(), opaque, deadline).await
    }

    async fn send(&self, mut command: Command, opaque: i32, deadline: Instant) -> Result<()> {
        command.opaque = opaque;
        if let Some(login) = &self.login {
            login.sign(&mut command);
        }
        let frame = command.encode()?;
        match tokio::time::timeout_at(deadline, self.outgoing.send(frame)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(lost()),
            Err(_) => Err(error(ErrorKind::Unavailable, "the connection takes no more requests")),
        }
    }

    /// Ends the connection; whoever waits for an answer learns that it is lost.
    pub(crate) fn close(&self) {
        self.shared.lose();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("lost", &self.is_lost()).finish_non_exhaustive()
    }
}

fn lost() -> Error {
    error(ErrorKind::Unavailable, "the connection is lost")
}

async fn write(mut writer: impl AsyncWrite + Unpin, mut queue: mpsc::Receiver<Bytes>, shared: Arc<Shared>) {
    let mut buffer = BytesMut::new();
    while let Some(frame) = queue.recv().await {
        buffer.clear();
        buffer.extend_from_slice(&frame);
        while buffer.len() < WRITE
            && let Ok(frame) = queue.try_recv()
        {
            buffer.extend_from_slice(&frame);
        }
        // A stalled network ends with the deadline of the request that then closes the connection.
        let written = tokio::select! {
            written = whole(&mut writer, &buffer) => written.is_ok(),
            () = closed(&shared) => false,
        };
        if !written {
            break;
        }
    }
    shared.lose();
}

/// What is encrypted waits in a buffer until it is flushed.
async fn whole(writer: &mut (impl AsyncWrite + Unpin), buffer: &[u8]) -> std::io::Result<()> {
    writer.write_all(buffer).await?;
    writer.flush().await
}

async fn closed(shared: &Shared) {
    while !shared.lost.load(Ordering::Acquire) {
        shared.end.notified().await;
    }
    // For the other task that waits.
    shared.end.notify_one();
}

async fn read(mut reader: impl AsyncRead + Unpin, shared: Arc<Shared>) {
    let mut buffer = BytesMut::with_capacity(64 * 1024);
    loop {
        let read = tokio::select! {
            read = reader.read_buf(&mut buffer) => read,
            () = closed(&shared) => break,
        };
        match read {
            Ok(1..) => {}
            Ok(0) => break,
            Err(cause) => {
                // A certificate is looked at after the handshake seems done.
                if let Some(refused) = refusal(&cause) {
                    let _ = shared.refused.set(refused);
                }
                break;
            }
        }
        match frames(&mut buffer, &shared) {
            Ok(()) => {}
            Err(cause) => {
                tracing::warn!(%cause, "the connection is closed: what came cannot be read");
                break;
            }
        }
    }
    shared.lose();
}

/// Hands out every whole frame of the buffer.
fn frames(buffer: &mut BytesMut, shared: &Shared) -> Result<()> {
    while let Some(length) = buffer.get(..4).and_then(|head| <[u8; 4]>::try_from(head).ok()) {
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > MAX_FRAME {
            return Err(error(ErrorKind::Internal, "a frame is larger than any the broker sends"));
        }
        if buffer.len() < length + 4 {
            buffer.reserve(length + 4 - buffer.len());
            return Ok(());
        }
        let mut frame = buffer.split_to(length + 4).freeze();
        let _ = frame.split_to(4);
        shared.heard.fetch_add(1, Ordering::Relaxed);
        let command = Command::decode(frame)?;
        if command.is_response() {
            let waiting = shared.waiting().remove(&command.opaque);
            if let Some(waiting) = waiting {
                let _ = waiting.send(command);
            }
        } else if let Some((address, questions)) = &shared.questions {
            // Beyond what can be answered, the broker asks again.
            let _ = questions.try_send(Question { address: Arc::clone(address), command });
        }
    }
    Ok(())
}
