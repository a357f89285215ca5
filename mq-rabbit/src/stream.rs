//! The stream the client reads from, and the runtime that knows its type: tokio, with [`Shallow`] in between.

use std::future::Future;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_rs::traits::{Executor, Reactor, RuntimeKit};
use async_rs::util::Task;
use async_rs::{Runtime, Tokio, TokioRuntime};
use futures_util::Stream;
use futures_util::io::{AsyncRead, AsyncWrite};
use lapin::tcp::AsyncTcpStream;

use crate::shallow::Shallow;

/// The encrypted or plain stream of the client's own runtime.
pub(crate) type Inner = AsyncTcpStream<<Tokio as Reactor>::TcpStream>;

/// A stream whose reader meets no deeply nested headers.
pub(crate) struct Guarded {
    inner: Inner,
    shallow: Shallow,
}

impl Guarded {
    pub(crate) fn new(inner: Inner) -> Self {
        Self { inner, shallow: Shallow::new() }
    }
}

impl AsyncRead for Guarded {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let read = ready!(Pin::new(&mut this.inner).poll_read(context, bytes))?;
        this.shallow.pass(bytes.get_mut(..read).unwrap_or_default());
        Poll::Ready(Ok(read))
    }

    fn poll_read_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let read = ready!(Pin::new(&mut this.inner).poll_read_vectored(context, buffers))?;
        let mut left = read;
        for buffer in buffers {
            let filled = left.min(buffer.len());
            this.shallow.pass(buffer.get_mut(..filled).unwrap_or_default());
            left -= filled;
        }
        Poll::Ready(Ok(read))
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(context, buffers)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(context)
    }

    fn poll_close(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_close(context)
    }
}

/// Tokio as the client wants a runtime, but for the type of its streams.
#[derive(Debug, Clone)]
pub(crate) struct Kit(TokioRuntime);

impl Kit {
    /// On the runtime this is called in.
    pub(crate) fn current() -> Self {
        Self(Runtime::tokio_current())
    }

    /// For opening the stream that is then guarded.
    pub(crate) fn plain(&self) -> &TokioRuntime {
        &self.0
    }
}

impl RuntimeKit for Kit {}

impl Executor for Kit {
    type Task<T: Send + 'static> = <TokioRuntime as Executor>::Task<T>;

    fn block_on<T, F: Future<Output = T>>(&self, future: F) -> T {
        self.0.block_on(future)
    }

    fn spawn<T: Send + 'static, F: Future<Output = T> + Send + 'static>(&self, future: F) -> Task<Self::Task<T>> {
        self.0.spawn(future)
    }

    fn spawn_blocking<T: Send + 'static, F: FnOnce() -> T + Send + 'static>(&self, call: F) -> Task<Self::Task<T>> {
        self.0.spawn_blocking(call)
    }
}

impl Reactor for Kit {
    type TcpStream = Guarded;
    type Sleep = <TokioRuntime as Reactor>::Sleep;

    /// The client never asks for it, and its bound has no public name to hand on.
    fn register<H: Read + Write + Send + 'static>(
        &self,
        _: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        Err::<Guarded, _>(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, time: Duration) -> Self::Sleep {
        self.0.sleep(time)
    }

    fn interval(&self, time: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(time)
    }

    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        let connecting = self.0.tcp_connect_addr(address);
        async move { Ok(Guarded::new(AsyncTcpStream::Plain(connecting.await?))) }
    }
}
