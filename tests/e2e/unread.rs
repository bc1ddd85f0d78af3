//! What clients send and nobody reads, as there is no room for it: it takes little memory.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use qbulk::wire::{CONTENT_BYTES_MAX, PushRequest, Record, Request, TransferSecret};
use quinn::congestion::CubicConfig;
use quinn::{ClientConfig, TransportConfig};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::greedy::{Beside, hello};
use crate::hostile::{Attacker, piece, stripe};
use crate::hostile_server::peak;

/// Connections over which a client sends as much as is taken, of which nothing can be used.
pub(crate) async fn stuck(beside: &Beside, connections: u32) -> Vec<Attacker> {
    /// Nothing more goes out when nothing did for so long.
    const STUCK: Duration = Duration::from_secs(5);
    let transfer = TransferSecret(rand::random());
    let content = vec![1; CONTENT_BYTES_MAX as usize];
    let whole = Record::Piece(piece(1, b"file", content.len() as u64, 0, &content));
    let mut stuck = Vec::new();
    let mut sending = JoinSet::new();
    for conn in 0..connections {
        let mut attacker = beside.attacker().await;
        let Request::Push(hello) = hello([3; 16]) else { unreachable!() };
        attacker.say(&Request::Push(PushRequest { transfer, conn, ..hello })).await;
        attacker.expect_welcome().await;
        let connection = attacker.connection.clone();
        let mut bytes = stripe(conn.into(), std::slice::from_ref(&whole), &content);
        bytes.pop();
        sending.spawn(async move {
            connection.set_send_window(1 << 20);
            for _ in 0..2 {
                let mut stream = connection.open_uni().await.unwrap();
                for part in bytes.chunks(1 << 16) {
                    if timeout(STUCK, stream.write_all(part)).await.is_err() {
                        break;
                    }
                }
                // It would be over otherwise, and what came of it forgotten.
                std::mem::forget(stream);
            }
        });
        stuck.push(attacker);
    }
    while let Some(sent) = sending.join_next().await {
        sent.unwrap();
    }
    stuck
}

/// Stripes that claim more than there is room for, over many connections: nothing of them can be read, and what the
/// transport holds of all of them has one bound.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_sends_and_nobody_reads_takes_little_memory_however_many_connections_it_has()
{
    // As many as a client may have are some work for this one: `GREEDY_CONNECTIONS=1000`.
    let many = std::env::var("GREEDY_CONNECTIONS").map_or(128, |many| many.parse().unwrap());
    let beside = Beside::new();
    let stuck = stuck(&beside, many).await;
    let mib = peak(&beside.serve.child);
    eprintln!("{mib} MiB");
    assert!(stuck.iter().all(|attacker| attacker.connection.close_reason().is_none()));
    beside.assert_push_served().await;
    assert!(mib < 400, "{mib} MiB");
    drop(stuck);
    assert_eq!(beside.serve.stop(), Some(0));
}

/// Of what is received at once a fortieth cannot be read yet, and the rest is used at once: that is not held as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_together_with_what_nobody_reads_is_not_kept_with_it() {
    /// As many datagrams as are received at once, and what fills them.
    const DATAGRAMS: usize = 40;
    const DATAGRAM_BYTES: u16 = 1_452;
    let beside = Beside::new();
    let small = |config: &mut ClientConfig| {
        let mut transport = TransportConfig::default();
        let mut fast = CubicConfig::default();
        fast.initial_window(16 << 20);
        transport
            .initial_mtu(DATAGRAM_BYTES)
            .min_mtu(DATAGRAM_BYTES)
            .mtu_discovery_config(None)
            .datagram_send_buffer_size(2 * DATAGRAMS * usize::from(DATAGRAM_BYTES))
            .congestion_controller_factory(Arc::new(fast));
        config.transport_config(Arc::new(transport));
    };
    let transfer = TransferSecret(rand::random());
    let content = vec![1; CONTENT_BYTES_MAX as usize];
    let whole = Record::Piece(piece(1, b"file", content.len() as u64, 0, &content));
    let bytes = stripe(0, std::slice::from_ref(&whole), &content);
    let mut all = Vec::new();
    for conn in 0..24 {
        let Beside { greedy, host, serve } = &beside;
        let mut attacker =
            Attacker::with_datagrams_of(DATAGRAM_BYTES, greedy, host, serve, small).await;
        let Request::Push(hello) = hello([3; 16]) else { unreachable!() };
        attacker.say(&Request::Push(PushRequest { transfer, conn, ..hello })).await;
        attacker.expect_welcome().await;
        all.push(attacker);
    }
    // What takes all the room that there is for stripes, so that the others are not read.
    let mut begun = Vec::new();
    for _ in 0..10 {
        let mut stream = all[0].connection.open_uni().await.unwrap();
        stream.write_all(&bytes[..4_096]).await.unwrap();
        begun.push(stream);
    }
    let before = peak(&beside.serve.child);
    let mut sending = JoinSet::new();
    for attacker in &all {
        let (connection, bytes) = (attacker.connection.clone(), bytes.clone());
        sending.spawn(async move {
            let mut stream = connection.open_uni().await.unwrap();
            let padding = Bytes::from(vec![0; connection.max_datagram_size().unwrap()]);
            for part in bytes.chunks(1_200) {
                for _ in 0..DATAGRAMS {
                    connection.send_datagram_wait(padding.clone()).await.unwrap();
                }
                if timeout(Duration::from_secs(3), stream.write_all(part)).await.is_err() {
                    break;
                }
            }
            std::mem::forget(stream);
        });
    }
    while let Some(sent) = sending.join_next().await {
        sent.unwrap();
    }
    let mib = peak(&beside.serve.child) - before;
    eprintln!("{mib} MiB more");
    assert!(all.iter().all(|attacker| attacker.connection.close_reason().is_none()));
    beside.assert_push_served().await;
    // As they may send that is not read, twice over; it was more than four times as much.
    assert!(mib < 200, "{mib} MiB");
    drop((all, begun));
    assert_eq!(beside.serve.stop(), Some(0));
}
