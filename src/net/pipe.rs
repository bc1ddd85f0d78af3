//! Datagrams over a pipe that is reliable and in order, as ssh's: for networks that let no UDP through.
//!
//! What goes through it are frames: a kind, a port, a length and so many bytes. Each socket of the client has a
//! port, which is all that tells them apart; the server sees each as a client of its own at an address that
//! stands for the pipe. That is an address of the loopback, so that nobody looks for a path's limits: datagrams
//! are as large as they can be. What is waiting to be written is bounded, and whoever wants to send more is
//! asked to wait: the pipe's own pressure is all the congestion control that there has to be. Messages that are
//! not for sockets go through it as well.

mod queue;
mod socket;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use quinn::AsyncUdpSocket;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use self::queue::{Inbox, Outgoing, Routes};
use self::socket::PipeSocket;
pub use self::socket::WithPipe;
use super::sockets::Sockets;

/// The address that stands for the other end of a pipe.
const PIPE_IP: Ipv4Addr = Ipv4Addr::new(127, 255, 255, 254);
/// A message is no longer than this, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;

const MESSAGE: u8 = 1;
const DATAGRAM: u8 = 2;
/// Kind, port and length.
const HEADER_BYTES: usize = 7;

/// Whether an address is that of the other end of a pipe.
pub fn is_pipe(address: SocketAddr) -> bool {
    address.ip().to_canonical() == IpAddr::V4(PIPE_IP)
}

/// The other end of a pipe, as an address to connect to.
pub fn pipe_address() -> SocketAddr {
    (PIPE_IP, 1).into()
}

/// One end of a pipe.
#[derive(Debug, Default)]
pub struct Pipe {
    outgoing: Arc<Outgoing>,
    routes: Mutex<Routes>,
    last_port: AtomicU16,
}

impl Pipe {
    /// Says something that is no datagram.
    pub fn say(&self, message: &[u8]) {
        self.outgoing.push(MESSAGE, 0, message);
    }

    /// Writes what is to be sent until the pipe is closed.
    pub async fn write_to(&self, mut writer: impl AsyncWrite + Unpin) -> io::Result<()> {
        let mut bytes = Vec::new();
        let result = loop {
            bytes.clear();
            if !self.outgoing.take(&mut bytes).await {
                break writer.shutdown().await;
            }
            let written = async {
                writer.write_all(&bytes).await?;
                writer.flush().await
            };
            if let Err(error) = written.await {
                break Err(error);
            }
        };
        self.close();
        result
    }

    /// Takes what comes to its end; gives what is no datagram to `hear`.
    pub async fn read_from(
        &self,
        mut reader: impl AsyncRead + Unpin,
        mut hear: impl FnMut(Vec<u8>),
    ) -> io::Result<()> {
        let result = loop {
            match read_frame(&mut reader).await {
                Ok(None) => break Ok(()),
                Ok(Some((DATAGRAM, port, datagram))) => self.deliver(port, datagram).await,
                Ok(Some((_, _, message))) => hear(message),
                Err(error) => break Err(error),
            }
        };
        self.close();
        result
    }

    /// Nothing goes through it any more, once what was said is written.
    pub fn close(&self) {
        self.outgoing.close();
    }

    async fn deliver(&self, port: u16, datagram: Vec<u8>) {
        let inbox = crate::mutex::lock(&self.routes).find(port);
        if let Some(inbox) = inbox {
            inbox.push(port, datagram).await;
        }
    }

    /// A socket of the client's end, with a port of its own.
    fn client_socket(&self) -> PipeSocket {
        let port = self.last_port.fetch_add(1, Relaxed).wrapping_add(1).max(1);
        let inbox = Arc::new(Inbox::default());
        crate::mutex::lock(&self.routes).add(port, &inbox);
        PipeSocket { outgoing: Arc::clone(&self.outgoing), inbox, port: Some(port) }
    }

    /// The socket of the server's end, which all datagrams go to.
    fn server_socket(&self) -> PipeSocket {
        let inbox = Arc::new(Inbox::default());
        crate::mutex::lock(&self.routes).take_all(&inbox);
        PipeSocket { outgoing: Arc::clone(&self.outgoing), inbox, port: None }
    }

    /// The sockets of the server's end: there is one, which is `udp` as well if there is some.
    pub fn with_udp(self: &Arc<Self>, udp: Option<Arc<dyn AsyncUdpSocket>>) -> WithPipe {
        WithPipe::new(Arc::new(self.server_socket()), udp)
    }
}

/// The sockets of a client whose only way is a pipe.
#[derive(Debug)]
pub struct PipeSockets(pub Arc<Pipe>);

impl Sockets for PipeSockets {
    fn open(&self, _local: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Ok(Arc::new(self.0.client_socket()))
    }
}

fn header(kind: u8, port: u16, bytes: usize) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[0] = kind;
    header[1..3].copy_from_slice(&port.to_be_bytes());
    header[3..].copy_from_slice(&u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes());
    header
}

/// The next frame; `None` at the end.
async fn read_frame(
    reader: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<(u8, u16, Vec<u8>)>> {
    let Ok(kind) = reader.read_u8().await else { return Ok(None) };
    let port = reader.read_u16().await?;
    let length = reader.read_u32().await? as usize;
    let most = match kind {
        MESSAGE => MESSAGE_BYTES_MAX,
        DATAGRAM => usize::from(u16::MAX),
        _ => 0,
    };
    if length > most || !matches!(kind, MESSAGE | DATAGRAM) {
        let what = "something else than qbulk speaks in between";
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    let mut content = vec![0; length];
    reader.read_exact(&mut content).await?;
    Ok(Some((kind, port, content)))
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::IoSliceMut;
    use std::time::Duration;

    use quinn::udp::{RecvMeta, Transmit};
    use tokio::io::{duplex, split};

    use super::*;

    fn send(socket: &dyn AsyncUdpSocket, to: SocketAddr, contents: &[u8]) -> io::Result<()> {
        socket.try_send(&Transmit {
            destination: to,
            ecn: None,
            contents,
            segment_size: None,
            src_ip: None,
        })
    }

    async fn receive(socket: &Arc<dyn AsyncUdpSocket>) -> (SocketAddr, Vec<u8>) {
        let mut bytes = vec![0; 65_535];
        let mut meta = [RecvMeta::default()];
        let count =
            poll_fn(|cx| socket.poll_recv(cx, &mut [IoSliceMut::new(&mut bytes)], &mut meta));
        assert_eq!(count.await.unwrap(), 1);
        (meta[0].addr, bytes[..meta[0].len].to_vec())
    }

    fn joined(capacity: usize) -> (Arc<Pipe>, Arc<Pipe>) {
        let (ours, theirs) = (Arc::new(Pipe::default()), Arc::new(Pipe::default()));
        let (one, other) = duplex(capacity);
        for (pipe, end) in [(&ours, one), (&theirs, other)] {
            let (reader, writer) = split(end);
            let (out, back) = (Arc::clone(pipe), Arc::clone(pipe));
            tokio::spawn(async move { out.write_to(writer).await });
            tokio::spawn(async move { back.read_from(reader, |_| {}).await });
        }
        (ours, theirs)
    }

    #[tokio::test]
    async fn datagrams_get_to_the_socket_whose_port_they_have_and_back() {
        let (client, server) = joined(100_000);
        let sockets = PipeSockets(Arc::clone(&client));
        let any = pipe_address();
        let (one, other) = (sockets.open(any).unwrap(), sockets.open(any).unwrap());
        let served = server.with_udp(None).open(any).unwrap();
        send(&*one, any, b"first").unwrap();
        send(&*other, any, &vec![7; 65_000]).unwrap();
        let (from_one, first) = receive(&served).await;
        let (from_other, second) = receive(&served).await;
        assert_eq!((first.as_slice(), second.len()), (b"first" as &[u8], 65_000));
        assert!(is_pipe(from_one) && is_pipe(from_other) && from_one != from_other);
        send(&*served, from_other, b"to the other").unwrap();
        send(&*served, from_one, b"to the one").unwrap();
        assert_eq!(receive(&other).await.1, b"to the other");
        assert_eq!(receive(&one).await.1, b"to the one");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_sends_more_than_the_pipe_takes_waits_and_nothing_is_lost() {
        let client = Arc::new(Pipe::default());
        let socket = PipeSockets(Arc::clone(&client)).open(pipe_address()).unwrap();
        let mut sent = 0_u32;
        while send(&*socket, pipe_address(), &sent.to_be_bytes().repeat(1_000)).is_ok() {
            sent += 1;
            assert!(sent < 1_000, "it takes whatever comes");
        }
        let mut writable = Arc::clone(&socket).create_io_poller();
        let ready = poll_fn(|cx| writable.as_mut().poll_writable(cx));
        assert!(tokio::time::timeout(Duration::from_secs(1), ready).await.is_err());
        let server = Arc::new(Pipe::default());
        let served = server.with_udp(None).open(pipe_address()).unwrap();
        let (one, other) = duplex(10);
        let out = Arc::clone(&client);
        tokio::spawn(async move { out.write_to(one).await });
        tokio::spawn(async move { server.read_from(other, |_| {}).await });
        poll_fn(|cx| writable.as_mut().poll_writable(cx)).await.unwrap();
        send(&*socket, pipe_address(), b"last").unwrap();
        for number in 0..sent {
            assert_eq!(receive(&served).await.1[..4], number.to_be_bytes());
        }
        assert_eq!(receive(&served).await.1, b"last");
    }

    #[tokio::test]
    async fn what_is_no_frame_ends_it_and_messages_are_bounded() {
        let read = async |bytes: &[u8]| {
            let mut heard = Vec::new();
            let read = Pipe::default().read_from(bytes, |message| heard.push(message)).await;
            (read.is_ok(), heard)
        };
        let whole = [&header(MESSAGE, 0, 2)[..], b"ab"].concat();
        assert_eq!(read(&whole).await, (true, vec![b"ab".to_vec()]));
        assert_eq!(read(&[]).await, (true, vec![]));
        assert!(!read(&whole[..8]).await.0, "it ends within a frame");
        assert!(!read(b"bash: no such thing").await.0);
        assert!(!read(&header(MESSAGE, 0, MESSAGE_BYTES_MAX + 1)).await.0);
        assert!(!read(&header(DATAGRAM, 0, 65_536)).await.0);
        let stray = [&header(DATAGRAM, 9, 1)[..], b"x", &whole].concat();
        assert_eq!(read(&stray).await, (true, vec![b"ab".to_vec()]), "nobody has this port");
    }
}
