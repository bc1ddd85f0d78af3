//! The `qbulk` command.

mod cli;
mod demo;
mod report;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use qbulk::certs::{self, CertPaths};
use qbulk::error::{EXIT_SOME_FAILED, Error};
use qbulk::event::{PushEvent, ServeEvent, Summary, VerifyEvent};
use qbulk::identity::{Identity, config_dir};
use rustix::process::Signal;
use tokio::signal::unix::{self, SignalKind, signal};
use tokio::sync::Notify;
use tracing_subscriber::EnvFilter;

use cli::{CertCommand, Cli, Command, OutputArgs, PushArgs, ServeArgs, VerifyArgs};
use report::{PushReport, ServeReport, VerifyReport};

/// Threads that read, hash and write; the machine's cores are the limit anyway.
const BLOCKING_THREADS: usize = 16;
/// Writes may come to an end; what hangs, such as the look-up of a name, is left behind.
const SHUTDOWN_TIME: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let cli = Cli::read(std::env::args_os());
    let output = cli.output().unwrap_or_default();
    trace(output.verbose);
    match run(cli.command) {
        Ok(code) => code,
        Err(error) => {
            report::error(&error, output.json);
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(command: Command) -> Result<ExitCode, Error> {
    match command {
        Command::Push(args) => return on_runtime(push(*args)),
        Command::Verify(args) => return on_runtime(verify(*args)),
        Command::Serve(args) => return on_runtime(serve(*args)),
        Command::Clean(args) => return args.run(),
        Command::Demo { size } => return on_runtime(demo(size)),
        Command::Id => println!("{}", Identity::load_or_create(&config_dir()?)?.fingerprint()),
        Command::Cert(CertCommand::Ca { name, dir }) => show(&certs::create_ca(&dir, &name)?),
        Command::Cert(CertCommand::Issue { subject, sans, dir }) => {
            show(&certs::issue(&dir, &subject, &sans)?);
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn push(args: PushArgs) -> Result<ExitCode, Error> {
    let report = Arc::new(PushReport::new(args.output));
    let tell = Arc::clone(&report);
    let result =
        args.run(Arc::new(move |event: PushEvent| tell.tell(&event)), stop_signal()?).await;
    report.end();
    result.map(|summary| exit_code(&summary))
}

async fn verify(args: VerifyArgs) -> Result<ExitCode, Error> {
    let report = Arc::new(VerifyReport::new(args.output));
    let tell = Arc::clone(&report);
    let result =
        args.run(Arc::new(move |event: VerifyEvent| tell.tell(&event)), stop_signal()?).await;
    report.end();
    result
        .map(|summary| if summary.is_same() { ExitCode::SUCCESS } else { EXIT_SOME_FAILED.into() })
}

async fn serve(args: ServeArgs) -> Result<ExitCode, Error> {
    let (drain, stop) = stop_signals(args.drain_time)?;
    let (server, own) = args.bind()?;
    let root = args.root.canonicalize().unwrap_or(args.root).display().to_string();
    let report = ServeReport::new(args.output, root, own);
    let tell = Arc::new(move |event: ServeEvent| report.tell(&event));
    server.run_and_drain(tell, drain, stop).await?;
    Ok(ExitCode::SUCCESS)
}

async fn demo(bytes: u64) -> Result<ExitCode, Error> {
    let report = Arc::new(PushReport::new(OutputArgs::default()));
    let result = demo::run(bytes, Arc::clone(&report), stop_signal()?).await;
    report.end();
    result.map(|summary| exit_code(&summary))
}

fn exit_code(summary: &Summary) -> ExitCode {
    if summary.failed > 0 { ExitCode::from(EXIT_SOME_FAILED) } else { ExitCode::SUCCESS }
}

fn on_runtime(command: impl Future<Output = Result<ExitCode, Error>>) -> Result<ExitCode, Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()
        .map_err(|error| Error::Disk(format!("cannot start threads: {error}")))?;
    let result = runtime.block_on(async {
        outlive_limits()?;
        command.await
    });
    runtime.shutdown_timeout(SHUTDOWN_TIME);
    result
}

/// A file above the limit on sizes (`ulimit -f`) is to fail by itself: the signal that comes with it would
/// end the process, and all that it does for others. It is taken, from now on, by nobody.
fn outlive_limits() -> Result<(), Error> {
    signal(SignalKind::from_raw(Signal::XFSZ.as_raw()))
        .map(drop)
        .map_err(|error| Error::Disk(format!("cannot listen for signals: {error}")))
}

/// Resolves on Ctrl-C or SIGTERM.
fn stop_signal() -> Result<impl Future<Output = ()> + Send, Error> {
    let mut signals = Signals::listen()?;
    Ok(async move { signals.next().await })
}

/// The first resolves on Ctrl-C or SIGTERM, the second on another one or `time` later.
fn stop_signals(
    time: Duration,
) -> Result<(impl Future<Output = ()> + Send, impl Future<Output = ()> + Send), Error> {
    let mut signals = Signals::listen()?;
    let first = Arc::new(Notify::new());
    let drain = Arc::clone(&first);
    let stop = async move {
        signals.next().await;
        first.notify_one();
        drop(tokio::time::timeout(time, signals.next()).await);
    };
    Ok((async move { drain.notified().await }, stop))
}

struct Signals {
    interrupt: unix::Signal,
    terminate: unix::Signal,
}

impl Signals {
    fn listen() -> Result<Self, Error> {
        let listen = |kind| {
            signal(kind).map_err(|error| Error::Disk(format!("cannot listen for signals: {error}")))
        };
        let interrupt = listen(SignalKind::interrupt())?;
        let terminate = listen(SignalKind::terminate())?;
        Ok(Self { interrupt, terminate })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

fn trace(verbose: u8) {
    let default = match verbose {
        0 => "warn",
        1 => "warn,qbulk=debug",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}

fn show(paths: &CertPaths) {
    println!("{}", paths.cert.display());
    println!("{}", paths.key.display());
}
