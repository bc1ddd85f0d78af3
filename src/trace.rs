//! What the program and its libraries note beside their results.

use std::fmt;

use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::out::Traces;
use crate::report::now;

/// Starts to write traces to standard error, in no colours: they may go to a file, and nothing that comes
/// from elsewhere may steer a terminal.
///
/// Unless somebody asks for more, only our own warnings are told, in a sentence: what libraries note is
/// about their insides, and what it means for a transfer is told by its events and its end.
pub(crate) fn start(verbose: u8, has_times: bool, least: &str) {
    let default = match verbose {
        0 => &format!("off,qbulk={least}"),
        1 => "warn,qbulk=debug",
        _ => "debug",
    };
    let asked = EnvFilter::try_from_default_env().ok();
    let is_plain = verbose == 0 && asked.is_none();
    let filter = asked.unwrap_or_else(|| EnvFilter::new(default));
    let traces =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| Traces).with_ansi(false);
    if is_plain {
        let fields = debug_fn(|writer, field, value| match field.name() {
            "message" => write!(writer, "{value:?}"),
            "error" => write!(writer, ": {value:?}"),
            name => write!(writer, " ({name} {value:?})"),
        });
        traces.fmt_fields(fields).event_format(Sentence { has_time: has_times }).init();
    } else {
        traces.init();
    }
}

/// A line as all others that the program says.
struct Sentence {
    has_time: bool,
}

impl<S, F> FormatEvent<S, F> for Sentence
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    F: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, F>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if self.has_time {
            write!(writer, "{} ", now())?;
        }
        write!(writer, "qbulk: ")?;
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}
