//! The `qbulk` command.

#![deny(clippy::print_stdout, clippy::print_stderr)] // they panic and block: see `out`

mod cli;
mod demo;
mod metrics;
mod out;
mod report;
mod service;
mod signals;
mod trace;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use qbulk::certs;
use qbulk::error::{EXIT_MAX_DELETE, EXIT_SOME_CHANGED, EXIT_SOME_FAILED, Error};
use qbulk::event::{
    ListEvent, PlanEvent, PlanSummary, PushEvent, ServeEvent, Summary, VerifyEvent,
};
use qbulk::identity::{Identity, config_dir};
use qbulk::work::ALL_MAX;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use cli::{CertCommand, Cli, Command, LsArgs, PullArgs, PushArgs, ServeArgs, VerifyArgs};
use metrics::Metrics;
use out::End;
use report::{ListReport, Output, Page, PlanReport, PushReport, ServeReport, VerifyReport};
use signals::{stop_signal, stop_signals};

/// Threads that read, hash and write; the machine's cores are the limit anyway. Some are left where clients
/// keep busy all that they may.
const BLOCKING_THREADS: usize = ALL_MAX + 8;
/// Writes may come to an end; what hangs, such as the look-up of a name, is left behind.
const SHUTDOWN_TIME: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    out::take_panics();
    keep_keys_from_disk();
    let cli = Cli::read(std::env::args_os());
    let output = cli.output().unwrap_or_default();
    // Whoever has started it by ssh is told what goes wrong, and no advice for this host.
    let is_stdio = matches!(&cli.command, Command::Serve(args) if args.stdio);
    let is_served = matches!(cli.command, Command::Serve(_)) && !is_stdio;
    trace::start(output.verbose.0, is_served, if is_stdio { "error" } else { "warn" });
    // Whoever stops a command does not want to wait for its readers.
    let mut end = if matches!(cli.command, Command::Serve(_)) { End::Hasty } else { End::Patient };
    let result = match cli.config {
        Some(lines) => {
            for line in &lines {
                out::print(line);
            }
            out::printed().map(|()| 0)
        }
        None => on_runtime(run(cli.command)),
    };
    let code = result.unwrap_or_else(|error| {
        report::error(&error, output.json);
        error.exit_code()
    });
    if code == Error::Interrupted.exit_code() {
        end = End::Hasty;
    }
    out::finish(end);
    code.into()
}

async fn run(command: Command) -> Result<u8, Error> {
    match command {
        Command::Push(args) => Box::pin(push(*args)).await,
        Command::Pull(args) => Box::pin(pull(*args)).await,
        Command::Verify(args) => verify(*args).await,
        Command::Ls(args) => ls(*args).await,
        Command::Serve(args) => serve(*args).await,
        Command::Clean(args) => args.run(),
        Command::Demo { size } => demo(size).await,
        Command::Completions { shell } => {
            cli::pages::completions(shell).lines().for_each(out::print);
            out::printed().map(|()| 0)
        }
        Command::Report { events, page } => {
            let told = report::page_of(&events)?;
            match page {
                Some(path) => Page::at(&path)?.put(told.as_bytes()),
                None => report::print(&told),
            }
            .map(|()| 0)
        }
        Command::Man { dir } => cli::pages::man(&dir).map(|()| 0),
        Command::Id => {
            out::print(&Identity::load_or_create(&config_dir()?)?.fingerprint().to_string());
            out::printed().map(|()| 0)
        }
        Command::Cert(command) => {
            let paths = match command {
                CertCommand::Ca { name, dir, valid } => certs::create_ca(&dir, &name, valid)?,
                CertCommand::Issue { subject, sans, dir, usage, valid } => {
                    let usage = cli::cert_use(usage, &sans)?;
                    certs::issue(&dir, &subject, &sans, usage, valid)?
                }
            };
            out::print(&paths.cert.display().to_string());
            out::print(&paths.key.display().to_string());
            out::printed().map(|()| 0)
        }
    }
}

async fn push(args: PushArgs) -> Result<u8, Error> {
    if args.is_dry_run() {
        let report = PlanReport::new(args.output.report());
        let tell = async |event: PlanEvent| report.tell(&event).await;
        return planned(Box::pin(args.plan(tell, stop_signal()?)).await);
    }
    let page = args.report.as_deref().map(Page::at).transpose()?;
    let report =
        Arc::new(PushReport::new(args.output.report()).with_page(page).streaming(args.is_stream()));
    let (tell, insists) = (Arc::clone(&report), args.insists_on_owners());
    let result =
        Box::pin(args.run(Arc::new(move |event: PushEvent| tell.tell(&event)), stop_signal()?))
            .await;
    Ok(pushed(&report, result, insists))
}

async fn pull(args: PullArgs) -> Result<u8, Error> {
    if args.is_dry_run() {
        let report = PlanReport::new(args.output.report());
        let tell = async |event: PlanEvent| report.tell(&event).await;
        return planned(Box::pin(args.plan(tell, stop_signal()?)).await);
    }
    let page = args.report.as_deref().map(Page::at).transpose()?;
    let report =
        Arc::new(PushReport::new(args.output.report()).with_page(page).streaming(args.is_stream()));
    let (tell, insists) = (Arc::clone(&report), args.insists_on_owners());
    let result =
        Box::pin(args.run(Arc::new(move |event: PushEvent| tell.tell(&event)), stop_signal()?))
            .await;
    Ok(pushed(&report, result, insists))
}

async fn verify(args: VerifyArgs) -> Result<u8, Error> {
    let report = Arc::new(VerifyReport::new(args.output.report()));
    let tell = Arc::clone(&report);
    let result =
        args.run(Arc::new(move |event: VerifyEvent| tell.tell(&event)), stop_signal()?).await;
    out::show(None);
    result.map(|summary| match summary {
        summary if summary.is_same() => 0,
        summary if summary.is_live() => EXIT_SOME_CHANGED,
        _ => EXIT_SOME_FAILED,
    })
}

async fn ls(args: LsArgs) -> Result<u8, Error> {
    let report = ListReport::new(args.output.report());
    let summary =
        args.run(async |event: ListEvent| report.tell(&event).await, stop_signal()?).await?;
    out::printed()?;
    Ok(if summary.not_listed == 0 { 0 } else { EXIT_SOME_FAILED })
}

async fn serve(args: ServeArgs) -> Result<u8, Error> {
    if args.stdio {
        return args.over_stdio(stop_signal()?).await.map(|()| 0);
    }
    let (drain, stop) = stop_signals(args.drain_time)?;
    let (server, own) = args.bind()?;
    let metrics = match args.metrics {
        Some(address) => Some(Metrics::bind(address).await?),
        None => None,
    };
    let report = ServeReport::new(args.output.report(), own);
    if let Some(metrics) = metrics {
        report.tell_of_metrics(metrics.address());
        tokio::spawn(metrics.run(server.counts()));
    }
    let tell = Arc::new(move |event: ServeEvent| {
        service::tell(&event);
        report.tell(&event);
    });
    server.run_and_drain(tell, drain, stop).await?;
    Ok(0)
}

async fn demo(bytes: u64) -> Result<u8, Error> {
    let report = Arc::new(PushReport::new(Output::default()));
    let result = demo::run(bytes, Arc::clone(&report), stop_signal()?).await;
    Ok(pushed(&report, result, true))
}

/// The exit code is what it would be, as far as that shows.
fn planned(result: Result<PlanSummary, Error>) -> Result<u8, Error> {
    let summary = result?;
    out::printed()?;
    Ok(match summary.failed {
        0 => undeleted(summary.delete_refused),
        failed if failed == summary.vanished + summary.changed_source => EXIT_SOME_CHANGED,
        _ => EXIT_SOME_FAILED,
    })
}

/// What all else is well with ends with, if nothing was removed for this reason.
fn undeleted(refused: Option<&str>) -> u8 {
    match refused {
        None => 0,
        Some("max_delete") => EXIT_MAX_DELETE,
        Some(_) => EXIT_SOME_CHANGED,
    }
}

fn pushed(report: &PushReport, result: Result<Summary, Error>, insists_on_owners: bool) -> u8 {
    let code = match result {
        Ok(summary) => code_of(&summary, insists_on_owners),
        Err(error) => report.fail(&error),
    };
    report.finish(code)
}

fn code_of(summary: &Summary, insists_on_owners: bool) -> u8 {
    let owners = summary.owners_not_kept + summary.special_bits_not_kept;
    let unkept = summary.modes_not_kept
        + summary.times_not_kept
        + summary.xattrs_not_kept
        + summary.acls_not_kept
        + if insists_on_owners { owners } else { 0 };
    match summary.failed {
        0 if unkept == 0 => undeleted(summary.delete_refused),
        failed if unkept == 0 && failed == summary.vanished + summary.changed => EXIT_SOME_CHANGED,
        _ => EXIT_SOME_FAILED,
    }
}

fn on_runtime(command: impl Future<Output = Result<u8, Error>>) -> Result<u8, Error> {
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

/// Has no core of this process written if it dies: there are keys in its memory.
fn keep_keys_from_disk() {
    // To Linux, 1 is less than any core has, and means that none is handed to a program either (core(5)); with 0 that
    // would get it. Whoever may attach a debugger still may.
    let limit = getrlimit(Resource::Core);
    let least = u64::from(cfg!(target_os = "linux"));
    let current = Some(limit.maximum.map_or(least, |maximum| maximum.min(least)));
    // Where it cannot be set, dying is no worse than it was.
    setrlimit(Resource::Core, Rlimit { current, ..limit }).ok();
}

/// A file above the limit on sizes (`ulimit -f`) is to fail by itself: the signal that comes with it would
/// end the process, and all that it does for others. It is taken, from now on, by nobody.
fn outlive_limits() -> Result<(), Error> {
    signal(SignalKind::from_raw(Signal::XFSZ.as_raw()))
        .map(drop)
        .map_err(|error| Error::Disk(format!("cannot listen for signals: {error}")))
}
