//! One plain TCP stream, from memory to a reader that throws everything away.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use clap::Args;

use crate::Result;
use crate::ends::{self, STRIPE_BYTES};
use crate::job::Job;
use crate::rounds::Row;

#[derive(Args)]
pub(crate) struct Receive {
    bytes: u64,
}

#[derive(Args)]
pub(crate) struct Send {
    address: SocketAddr,
    bytes: u64,
}

pub(crate) fn row(job: &Job) -> Row {
    let arguments = vec![job.load.bytes().to_string()];
    Row::new(
        "one TCP stream, in clear, memory to memory",
        ends::between(job.place.clone(), "tcp", arguments.clone(), arguments),
    )
    .reference("TCP")
}

/// Reads all of it, throws it away and says so.
pub(crate) fn receive(end: &Receive) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("{}", listener.local_addr()?);
    let (mut stream, _) = listener.accept()?;
    let mut buffer = vec![0; STRIPE_BYTES as usize];
    let mut left = end.bytes;
    while left > 0 {
        let len = left.min(STRIPE_BYTES);
        stream.read_exact(&mut buffer[..len as usize])?;
        left -= len;
    }
    Ok(stream.write_all(b"k")?)
}

pub(crate) fn send(end: &Send) -> Result<()> {
    let mut stream = TcpStream::connect(end.address)?;
    let stripe = vec![7; STRIPE_BYTES as usize];
    let mut left = end.bytes;
    while left > 0 {
        let len = left.min(STRIPE_BYTES);
        stream.write_all(&stripe[..len as usize])?;
        left -= len;
    }
    Ok(stream.read_exact(&mut [0])?)
}
