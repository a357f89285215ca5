//! A TCP proxy in this process: a way to a broker that can be broken without touching the broker.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

/// What is read at once: the bound of what the proxy holds for each direction of a connection.
const BUFFER: usize = 16 * 1024;
const CONNECT: Duration = Duration::from_secs(5);

/// What the proxy does to the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Mode {
    /// No byte passes in either direction; connections stay open.
    stalled: bool,
    /// At most so many bytes a second in each direction of a connection.
    slow: Option<u32>,
    /// New connections are refused.
    refusing: bool,
    /// Connections made before this many cuts are closed.
    cuts: u64,
    /// Connections made before this many have lost their broker's side, and nobody has told the client.
    halves: u64,
}

/// A listening address whose connections lead to another one. Ends with the last of its clones.
#[derive(Debug, Clone)]
pub struct Proxy {
    address: SocketAddr,
    mode: Arc<watch::Sender<Mode>>,
    _task: Arc<Stop>,
}

/// Where proxies of this process listen, also while they refuse: then the port itself is free, and is not to be taken.
static HELD: Mutex<BTreeSet<SocketAddr>> = Mutex::new(BTreeSet::new());

fn held() -> MutexGuard<'static, BTreeSet<SocketAddr>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct Stop {
    task: AbortHandle,
    address: SocketAddr,
}

impl Drop for Stop {
    fn drop(&mut self) {
        self.task.abort();
        held().remove(&self.address);
    }
}

impl Proxy {
    /// Listens on `listen` and leads to `upstream`.
    ///
    /// # Errors
    /// When nobody can listen there: mostly because another one does.
    pub async fn start(listen: SocketAddr, upstream: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        if !held().insert(address) {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "a proxy that refuses has this address"));
        }
        let (mode, watched) = watch::channel(Mode::default());
        let task = tokio::spawn(accept(listener, address, upstream, watched));
        Ok(Self { address, mode: Arc::new(mode), _task: Arc::new(Stop { task: task.abort_handle(), address }) })
    }

    /// Where to connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes every connection, in the middle of whatever they carry. New ones are welcome.
    pub fn cut(&self) {
        self.mode.send_modify(|mode| mode.cuts += 1);
    }

    /// Lets no byte pass in either direction, or lets them pass again. Nobody is told.
    pub fn stall(&self, stalled: bool) {
        self.mode.send_modify(|mode| mode.stalled = stalled);
    }

    /// Lets at most this many bytes a second pass in each direction of a connection; `None` lifts it.
    pub fn slow(&self, bytes_per_second: Option<u32>) {
        self.mode.send_modify(|mode| mode.slow = bytes_per_second.map(|rate| rate.max(1)));
    }

    /// Closes the broker's side of every connection, and leaves the client's open and mute, as when a machine between
    /// them has forgotten the connection. New connections are whole.
    pub fn half_open(&self) {
        self.mode.send_modify(|mode| mode.halves += 1);
    }

    /// Refuses new connections, or accepts them again. Those that stand go on.
    pub fn refuse(&self, refusing: bool) {
        self.mode.send_modify(|mode| mode.refusing = refusing);
    }

    /// Ends every fault that lasts.
    pub fn mend(&self) {
        self.mode.send_modify(|mode| *mode = Mode { cuts: mode.cuts, halves: mode.halves, ..Mode::default() });
    }
}

/// Accepts until it is aborted; its connections end with it.
async fn accept(listener: TcpListener, address: SocketAddr, upstream: SocketAddr, mut mode: watch::Receiver<Mode>) {
    let mut connections = JoinSet::new();
    let mut listener = Some(listener);
    loop {
        // Not being told of what has ended would be a list that only grows.
        while connections.try_join_next().is_some() {}
        let refusing = mode.borrow_and_update().refusing;
        if refusing {
            listener = None;
        } else if listener.is_none() {
            // The port is ours: nobody else is given it, and the error of a moment passes.
            listener = TcpListener::bind(address).await.ok();
        }
        let Some(open) = &listener else {
            if !refusing {
                tokio::time::sleep(Duration::from_millis(20)).await;
            } else if mode.changed().await.is_err() {
                return;
            }
            continue;
        };
        tokio::select! {
            accepted = open.accept() => match accepted {
                // It came before the listener was closed, and must not be told apart from those that come after.
                Ok(_) if mode.borrow().refusing => {}
                Ok((client, _)) => {
                    connections.spawn(connection(client, upstream, mode.clone()));
                }
                // Out of file descriptors, or a client gone already: neither lasts.
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            },
            changed = mode.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

/// One connection from its beginning to its end.
async fn connection(client: TcpStream, upstream: SocketAddr, mode: watch::Receiver<Mode>) {
    let born = *mode.borrow();
    // A stalled way lets no handshake with the broker pass either.
    let reach = async {
        pass(&mut mode.clone()).await;
        tokio::time::timeout(CONNECT, TcpStream::connect(upstream)).await
    };
    let server = tokio::select! {
        reached = reach => reached,
        () = cut(mode.clone(), born) => return,
    };
    let Ok(Ok(mut server)) = server else { return };
    let mut client = client;
    // As the operating system would: small frames are not held back.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let halved = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let forth = pump(from_client, to_server, mode.clone());
        let back = pump(from_server, to_client, mode.clone());
        tokio::select! {
            // First the orders: no byte that comes after a cut passes.
            biased;
            () = cut(mode.clone(), born) => false,
            () = halve(mode.clone(), born) => true,
            _ = futures_util::future::join(forth, back) => false,
        }
    };
    drop(server);
    if halved {
        // The client is left with a connection that says nothing, until it gives up or the proxy ends.
        let gone = async { while client.ready(Interest::ERROR).await.is_ok_and(|ready| !ready.is_error()) {} };
        tokio::select! {
            () = gone => {}
            () = cut(mode, born) => {}
        }
    }
}

/// Waits until connections born then are cut.
async fn cut(mut mode: watch::Receiver<Mode>, born: Mode) {
    let _ = mode.wait_for(|now| now.cuts > born.cuts).await;
}

/// Waits until connections born then lose their broker's side.
async fn halve(mut mode: watch::Receiver<Mode>, born: Mode) {
    let _ = mode.wait_for(|now| now.halves > born.halves).await;
}

/// Waits until bytes may pass.
async fn pass(mode: &mut watch::Receiver<Mode>) {
    let _ = mode.wait_for(|now| !now.stalled).await;
}

/// One direction of a connection. What it has read waits here while the way is stalled: one buffer, no more.
async fn pump(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, mut mode: watch::Receiver<Mode>) {
    let mut buffer = vec![0; BUFFER];
    loop {
        pass(&mut mode).await;
        let slow = mode.borrow().slow;
        // A slow way carries little at a time, so that its rate is even.
        let most = slow.map_or(BUFFER, |rate| (rate as usize / 20).clamp(1, BUFFER));
        let Some(room) = buffer.get_mut(..most) else { return };
        let read = match from.read(room).await {
            Ok(0) | Err(_) => break,
            Ok(read) => read,
        };
        pass(&mut mode).await;
        if let Some(rate) = slow {
            tokio::time::sleep(Duration::from_secs_f64(read as f64 / f64::from(rate))).await;
        }
        if to.write_all(buffer.get(..read).unwrap_or_default()).await.is_err() {
            break;
        }
    }
    // The other side learns that no more comes this way, once bytes may pass at all.
    pass(&mut mode).await;
    let _ = to.shutdown().await;
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const SOON: Duration = Duration::from_secs(5);
    const SILENCE: Duration = Duration::from_millis(200);

    #[tokio::test]
    async fn a_way_that_refuses_is_not_given_to_another() {
        let (proxy, _) = way().await;
        proxy.refuse(true);
        while TcpStream::connect(proxy.address()).await.is_ok() {
            tokio::task::yield_now().await;
        }
        let second = Proxy::start(proxy.address(), "127.0.0.1:1".parse().unwrap()).await;
        assert_eq!(second.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    /// A server that answers with what it was told; counts the connections it has lost.
    async fn echo() -> (SocketAddr, watch::Receiver<usize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (lost, seen) = watch::channel(0);
        tokio::spawn(async move {
            let lost = Arc::new(lost);
            while let Ok((mut stream, _)) = listener.accept().await {
                let lost = Arc::clone(&lost);
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                    lost.send_modify(|lost| *lost += 1);
                });
            }
        });
        (address, seen)
    }

    async fn way() -> (Proxy, watch::Receiver<usize>) {
        let (upstream, lost) = echo().await;
        (Proxy::start("127.0.0.1:0".parse().unwrap(), upstream).await.unwrap(), lost)
    }

    async fn ask(stream: &mut TcpStream, text: &[u8]) -> io::Result<Vec<u8>> {
        stream.write_all(text).await?;
        let mut answer = vec![0; text.len()];
        stream.read_exact(&mut answer).await?;
        Ok(answer)
    }

    #[tokio::test]
    async fn bytes_pass_and_ends_are_told() {
        let (proxy, mut lost) = way().await;
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        let large = vec![7; 5 * BUFFER];
        assert_eq!(ask(&mut client, b"hello").await.unwrap(), b"hello");
        let (mut from, mut to) = client.split();
        let mut answer = vec![0; large.len()];
        let (sent, got) = tokio::join!(to.write_all(&large), from.read_exact(&mut answer));
        assert!(sent.is_ok() && got.is_ok() && answer == large);
        drop(client);
        tokio::time::timeout(SOON, lost.wait_for(|lost| *lost == 1)).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_cut_ends_what_stands_and_nothing_else() {
        let (proxy, mut lost) = way().await;
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        ask(&mut client, b"x").await.unwrap();
        proxy.cut();
        let ended = tokio::time::timeout(SOON, client.read(&mut [0])).await.unwrap();
        assert!(!matches!(ended, Ok(1..)), "{ended:?}");
        tokio::time::timeout(SOON, lost.wait_for(|lost| *lost == 1)).await.unwrap().unwrap();
        let mut again = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(ask(&mut again, b"y").await.unwrap(), b"y");
    }

    #[tokio::test]
    async fn a_stall_keeps_bytes_and_connections() {
        let (proxy, lost) = way().await;
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        ask(&mut client, b"x").await.unwrap();
        proxy.stall(true);
        client.write_all(b"late").await.unwrap();
        let mut answer = [0; 4];
        assert!(tokio::time::timeout(SILENCE, client.read(&mut answer)).await.is_err());
        proxy.stall(false);
        tokio::time::timeout(SOON, client.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!((&answer, *lost.borrow()), (b"late", 0));
    }

    #[tokio::test]
    async fn a_slow_way_keeps_its_rate() {
        let (proxy, _lost) = way().await;
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        proxy.slow(Some(10_000));
        let began = Instant::now();
        assert_eq!(ask(&mut client, &[5; 4000]).await.unwrap(), [5; 4000]);
        assert!(began.elapsed() >= Duration::from_millis(400), "{:?}", began.elapsed());
        proxy.mend();
        assert_eq!(ask(&mut client, b"quick").await.unwrap(), b"quick");
    }

    #[tokio::test]
    async fn half_open_is_mute_and_the_broker_has_gone() {
        let (proxy, mut lost) = way().await;
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        ask(&mut client, b"x").await.unwrap();
        proxy.half_open();
        tokio::time::timeout(SOON, lost.wait_for(|lost| *lost == 1)).await.unwrap().unwrap();
        client.write_all(b"anybody?").await.unwrap();
        assert!(tokio::time::timeout(SILENCE, client.read(&mut [0; 8])).await.is_err());
        let mut again = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(ask(&mut again, b"y").await.unwrap(), b"y");
    }

    #[tokio::test]
    async fn refusing_refuses_until_it_is_lifted() {
        let (proxy, _lost) = way().await;
        let mut before = TcpStream::connect(proxy.address()).await.unwrap();
        ask(&mut before, b"x").await.unwrap();
        proxy.refuse(true);
        let refused = async {
            while TcpStream::connect(proxy.address()).await.is_ok() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(SOON, refused).await.unwrap();
        assert_eq!(ask(&mut before, b"stands").await.unwrap(), b"stands");
        proxy.refuse(false);
        let welcome = async {
            loop {
                if let Ok(mut stream) = TcpStream::connect(proxy.address()).await {
                    break ask(&mut stream, b"y").await.unwrap();
                }
                tokio::task::yield_now().await;
            }
        };
        assert_eq!(tokio::time::timeout(SOON, welcome).await.unwrap(), b"y");
    }

    #[tokio::test]
    async fn it_ends_with_its_handle() {
        let (proxy, mut lost) = way().await;
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        ask(&mut client, b"x").await.unwrap();
        drop(proxy);
        let ended = tokio::time::timeout(SOON, client.read(&mut [0])).await.unwrap();
        assert!(!matches!(ended, Ok(1..)), "{ended:?}");
        tokio::time::timeout(SOON, lost.wait_for(|lost| *lost == 1)).await.unwrap().unwrap();
    }
}
