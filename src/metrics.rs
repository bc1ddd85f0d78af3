//! `qbulk serve --metrics`: what a server does, for Prometheus, and whether it takes transfers.

mod process;
mod request;
mod text;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use qbulk::error::Error;
use qbulk::serve::Counts;
use qbulk::store::reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use self::request::{Asked, HEAD_BYTES_MAX, asked};

/// Answered at a time; who comes when there are so many waits.
const AT_A_TIME: usize = 8;
/// How long one may take, from its first byte to having read the answer.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// How long it is waited after an error of the system's, such as too many open files.
const ERROR_PAUSE: Duration = Duration::from_millis(500);

/// Listens where metrics are asked for.
pub(crate) struct Metrics {
    listener: TcpListener,
    address: SocketAddr,
}

impl Metrics {
    /// Opens the TCP port.
    pub(crate) async fn bind(address: SocketAddr) -> Result<Self, Error> {
        let listen = |error: std::io::Error| {
            Error::Connect(format!("cannot listen on {address} (TCP): {}", reason(&error)))
        };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        process::begin();
        Ok(Self { listener, address })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until it is dropped. It holds as much as a few answers take, whoever asks.
    pub(crate) async fn run(self, counts: Arc<Counts>) {
        let turns = Arc::new(Semaphore::new(AT_A_TIME));
        loop {
            let Ok(turn) = Arc::clone(&turns).acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let counts = Arc::clone(&counts);
                    tokio::spawn(async move {
                        // Who is gone, or too slow, hears no more.
                        drop(timeout(ANSWER_TIME, answer(stream, &counts)).await);
                        drop(turn);
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "metrics");
                    tokio::time::sleep(ERROR_PAUSE).await;
                }
            }
        }
    }
}

async fn answer(mut stream: TcpStream, counts: &Counts) -> std::io::Result<()> {
    let mut head = Vec::new();
    let asked = loop {
        if let Some(asked) = asked(&head) {
            break asked;
        }
        let room = (HEAD_BYTES_MAX - head.len()) as u64;
        if (&mut stream).take(room).read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    };
    let response = match asked {
        Asked::Metrics { with_body } => {
            response("200 OK", text::CONTENT_TYPE, &told(counts), with_body)
        }
        Asked::Health { with_body } => {
            let (status, body) = if counts.snapshot().is_draining {
                ("503 Service Unavailable", "stopping\n")
            } else {
                ("200 OK", "ok\n")
            };
            response(status, PLAIN, body, with_body)
        }
        Asked::Refused(status) => response(status, PLAIN, &format!("{status}\n"), true),
    };
    stream.write_all(&response).await?;
    stream.shutdown().await?;
    // Until it has read that: closed before, with something of it unread, the answer could be lost.
    let mut rest = [0; 512];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

/// What the server and its process say.
fn told(counts: &Counts) -> String {
    let mut text = text::of(&counts.snapshot());
    process::add(&mut text);
    text.into_string()
}

const PLAIN: &str = "text/plain; charset=utf-8";

fn response(status: &str, content_type: &str, body: &str, with_body: bool) -> Vec<u8> {
    let len = body.len();
    let body = if with_body { body } else { "" };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len}\r\n\
         Cache-Control: no-store\r\nConnection: close\r\n\r\n{body}"
    )
    .into_bytes()
}
