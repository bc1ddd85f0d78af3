//! Servers that are handed one connection and end with it, as inetd does it: all that they have used is
//! known then, whatever processes they have started.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::Result;
use crate::orphans::add_orphans;
use crate::process::Process;
use crate::rounds::Sample;

const CONNECT_TIME: Duration = Duration::from_secs(10);

/// Runs the sender, which is told a port, with `server` for whoever connects to it.
pub(crate) fn measure_with(server: Command, sender: impl FnOnce(u16) -> Command) -> Result<Sample> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let sender = sender(listener.local_addr()?.port());
    let start = Instant::now();
    let sender = Process::start(sender)?;
    let connection = loop {
        match listener.accept() {
            Ok((connection, _)) => break connection,
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error.into()),
            Err(_) if sender.has_ended()? || start.elapsed() > CONNECT_TIME => {
                return Err(format!("nobody connects{}", sender.said()).into());
            }
            Err(_) => std::thread::sleep(Duration::from_micros(200)),
        }
    };
    connection.set_nonblocking(false)?;
    let server = Process::start_on(server, connection.into())?;
    let sender = sender.succeed().map_err(|error| format!("{error}{}", server.said()))?;
    let time = start.elapsed();
    let mut receiver = server.finish()?;
    add_orphans(&mut receiver)?;
    Ok(Sample { time, sender, receiver: Some(receiver) })
}
