//! What is compared, and measuring it in turn.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::Result;
use crate::process::{Process, Usage};

/// One way to move the bytes.
pub(crate) struct Row {
    pub(crate) name: String,
    /// Every row gets a ratio to this one, under this name.
    pub(crate) reference: Option<&'static str>,
    pub(crate) run: Box<dyn FnMut() -> Result<Sample>>,
    pub(crate) samples: Vec<Sample>,
}

/// What moving the bytes once has cost.
pub(crate) struct Sample {
    /// From the sender's start to its end.
    pub(crate) time: Duration,
    pub(crate) sender: Usage,
    /// None where one process is both ends.
    pub(crate) receiver: Option<Usage>,
}

impl Row {
    pub(crate) fn new(
        name: impl Into<String>,
        run: impl FnMut() -> Result<Sample> + 'static,
    ) -> Self {
        Self { name: name.into(), reference: None, run: Box::new(run), samples: vec![] }
    }

    /// Others are compared with this row.
    pub(crate) fn reference(self, name: &'static str) -> Self {
        Self { reference: Some(name), ..self }
    }
}

/// Measures every row once a round, in turn, so that a machine that is busy for a while is so for all.
pub(crate) fn measure_all(title: &str, rows: &mut [Row], rounds: u32) -> Result<()> {
    for round in 1..=rounds {
        for row in &mut *rows {
            eprintln!("{title}: round {round} of {rounds}: {}", row.name);
            let sample = (row.run)().map_err(|error| format!("{}: {error}", row.name))?;
            row.samples.push(sample);
        }
    }
    Ok(())
}

/// Runs a program that is both ends.
pub(crate) fn measure(command: Command) -> Result<Sample> {
    let start = Instant::now();
    let sender = Process::start(command)?.succeed()?;
    Ok(Sample { time: start.elapsed(), sender, receiver: None })
}

/// Runs `sender` to its end, and then ends `receiver` by `end`.
pub(crate) fn measure_to(
    sender: Command,
    receiver: Process,
    end: fn(Process) -> Result<Usage>,
) -> Result<Sample> {
    let sample = measure(sender).map_err(|error| format!("{error}{}", receiver.said()))?;
    Ok(Sample { receiver: Some(end(receiver)?), ..sample })
}
