//! The pictures of a transfer.

use std::fmt::Write;

use super::svg::{Picture, nice};
use super::{COLOURS, escaped, words};
use crate::report::story::{BINS, Conn, Role, Story};
use crate::report::units::{bit_rate, size};

/// Marks of takeovers that are drawn; the table has more.
const MARKS_MAX: usize = 60;
/// How high the row of one connection is, at most.
const ROW: f64 = 14.0;

/// All connections together in one interval.
#[derive(Clone, Copy, Default)]
pub(super) struct Bin {
    /// What they delivered, padding included, or what has arrived where that is not known.
    pub(super) bytes: f64,
    pub(super) lost: f64,
    /// The mean round trip, and the least and the longest of a connection; 0 if none was told.
    pub(super) rtt_ms: f64,
    rtt_low_ms: f64,
    rtt_high_ms: f64,
    rtt_count: u32,
    window: f64,
    in_flight: f64,
    /// How many there were, by role.
    pub(super) roles: [u32; 5],
}

impl Bin {
    pub(super) fn lost_percent(&self) -> f64 {
        100.0 * self.lost / (self.bytes + self.lost).max(1.0)
    }
}

/// How long the time axis is, in seconds.
pub(super) fn span_s(story: &Story) -> f64 {
    story.end_s.max(story.bin_s)
}

fn bin_count(story: &Story) -> usize {
    ((span_s(story) / story.bin_s).ceil() as usize).clamp(1, BINS)
}

/// All connections together, by interval.
pub(super) fn bins(story: &Story) -> Vec<Bin> {
    let mut bins = vec![Bin::default(); bin_count(story)];
    for conn in &story.conns {
        let states = conn.filled(bins.len(), story.bin_s);
        for (at, (bin, state)) in bins.iter_mut().zip(states).enumerate() {
            bin.bytes += conn.bytes.get(at).copied().unwrap_or(0.0);
            bin.lost += conn.lost.get(at).copied().unwrap_or(0.0);
            bin.window += f64::from(state.window_bytes);
            bin.in_flight += f64::from(state.in_flight_bytes);
            bin.roles[state.role as usize] += 1;
            let rtt_ms = f64::from(state.rtt_ms);
            if rtt_ms > 0.0 {
                let is_first = bin.rtt_low_ms == 0.0;
                bin.rtt_low_ms = if is_first { rtt_ms } else { bin.rtt_low_ms.min(rtt_ms) };
                bin.rtt_high_ms = bin.rtt_high_ms.max(rtt_ms);
                bin.rtt_ms += rtt_ms;
                bin.rtt_count += 1;
            }
        }
    }
    let is_untold = bins.iter().all(|bin| bin.bytes == 0.0);
    for (at, bin) in bins.iter_mut().enumerate() {
        // It was a sum.
        bin.rtt_ms /= f64::from(bin.rtt_count.max(1));
        if is_untold {
            bin.bytes = story.arrived.get(at).copied().unwrap_or(0.0);
        }
    }
    bins
}

fn section(id: &str, title: &str, note: &str, picture: &str) -> String {
    format!(
        "<section id=\"{id}\"><h2>{title}</h2>\n{picture}<p class=\"note\">{note}</p>\n\
         <p class=\"readout\" aria-live=\"off\"></p></section>\n"
    )
}

/// What each connection delivered, one upon the other.
pub(super) fn goodput(story: &Story, shown: &[&Conn], others: &[&Conn]) -> String {
    let count = bin_count(story);
    let rate = |bytes: f64| bytes * 8.0 / story.bin_s;
    let of = |conn: &Conn, at: usize| rate(conn.bytes.get(at).copied().unwrap_or(0.0));
    let total: Vec<_> = bins(story).iter().map(|bin| rate(bin.bytes)).collect();
    let most = total.iter().copied().fold(0.0, f64::max);
    let mut picture = Picture::new(260.0, span_s(story), most * 1.05);
    picture.grid(|bits| bit_rate(bits / 8.0));
    let mut low = vec![0.0; count];
    for (number, conn) in shown.iter().enumerate() {
        let high: Vec<_> = low.iter().enumerate().map(|(at, low)| low + of(conn, at)).collect();
        let title = format!("connection {}: {}", conn.number, size(conn.delivered_bytes as u64));
        picture.area(&format!("c{}", number % COLOURS), &title, story.bin_s, &low, &high);
        low = high;
    }
    if !others.is_empty() || shown.is_empty() {
        // What is in no row of its own, or what has arrived where nothing is told of connections.
        picture.area("rest", "all others", story.bin_s, &low, &total);
    }
    for (at, takeover) in story.takeovers.iter().take(MARKS_MAX).enumerate() {
        let why = escaped(words::verdict(&takeover.verdict));
        let title = format!(
            "connection {} given up: {why}; others took over {} stripes",
            takeover.conn, takeover.stripes
        );
        picture.mark(takeover.at_s, &(at + 1).to_string(), &title);
    }
    for (at_s, reason) in story.interruptions.iter().take(MARKS_MAX) {
        picture.mark(*at_s, "!", &format!("interrupted: {}", escaped(reason)));
    }
    let peak = bit_rate(most / 8.0);
    let label = format!("Goodput of each connection over time, stacked; {peak} at most");
    section(
        "goodput",
        "Goodput",
        "What each connection delivered, padding included, one upon the other. A number marks a connection that was given up: \
         the table of takeovers has why, and what others took over.",
        &picture.end(&label),
    )
}

/// What each connection was for.
pub(super) fn roles(story: &Story, shown: &[&Conn], others: usize) -> String {
    let rows = shown.len().max(1) as f64;
    let mut picture = Picture::new(rows * ROW, span_s(story), rows);
    for (row, conn) in shown.iter().enumerate() {
        let top = picture.y(rows - row as f64);
        let mut bars = format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            super::svg::LEFT - 6.0,
            top + ROW - 4.0,
            conn.number
        );
        let states = conn.filled(bin_count(story), story.bin_s);
        let mut from = 0;
        for run in states.chunk_by(|one, two| one.role == two.role) {
            let until = from + run.len();
            let (one, two) =
                (picture.x(from as f64 * story.bin_s), picture.x(until as f64 * story.bin_s));
            from = until;
            // They differ in height and kind of filling, and not in colour alone.
            let (class, name, inset) = match run[0].role {
                Role::None => continue,
                Role::Opening => ("opening", "opening", 5.5),
                Role::Priming => ("priming", "priming", 3.0),
                Role::Reserve => ("reserve", "reserve", 4.5),
                Role::Active => ("active", "active", 1.5),
            };
            write!(
                bars,
                "<rect class=\"{class}\" x=\"{one:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\">\
                 <title>connection {}: {name}</title></rect>",
                top + inset,
                (two - one).max(0.5),
                ROW - 2.0 * inset,
                conn.number
            )
            .ok();
        }
        if let (Some(until_s), Some(end)) = (conn.until_s, &conn.end)
            && !matches!(&**end, "done" | "error")
        {
            let (x, y) = (picture.x(until_s), top + ROW / 2.0);
            write!(
                bars,
                "<path class=\"cross\" d=\"M{:.1} {:.1}l8 8m0 -8l-8 8\"><title>{}</title></path>",
                x - 4.0,
                y - 4.0,
                escaped(words::verdict(end))
            )
            .ok();
        }
        picture.add(&bars);
    }
    let more = match others {
        0 => String::new(),
        others => format!(" {others} more are not drawn."),
    };
    let legend: Vec<_> = [
        ("<rect class=\"opening\" y=\"5\" width=\"12\" height=\"3\"/>", "opening"),
        ("<rect class=\"priming\" y=\"2\" width=\"12\" height=\"8\"/>", "priming"),
        ("<rect class=\"reserve\" y=\"4\" width=\"12\" height=\"5\"/>", "reserve"),
        ("<rect class=\"active\" y=\"1\" width=\"12\" height=\"11\"/>", "active"),
        ("<path class=\"cross\" d=\"M2 2l8 8m0 -8l-8 8\"/>", "given up"),
    ]
    .into_iter()
    .map(|(sign, name)| format!("<span><svg viewBox=\"0 0 12 12\">{sign}</svg> {name}</span> "))
    .collect();
    let legend = format!("<p class=\"legend\">{}</p>\n", legend.concat());
    let picture = picture.end("What each connection was for over time, a row for each");
    section(
        "roles",
        "Connections: what each was for",
        &format!(
            "A row for each connection, by its number. Told about once a second; what is shorter is not seen.{more}"
        ),
        &format!("{legend}{picture}"),
    )
}

/// Round trips: the mean of all connections, between the least and the longest of one.
pub(super) fn round_trips(story: &Story) -> String {
    let bins = bins(story);
    let most = bins.iter().map(|bin| bin.rtt_high_ms).fold(0.0, f64::max);
    if most <= 0.0 {
        return String::new();
    }
    let mut picture = Picture::new(140.0, span_s(story), most * 1.05);
    picture.grid(|ms| format!("{} ms", (ms * 100.0).round() / 100.0));
    let low: Vec<_> = bins.iter().map(|bin| bin.rtt_low_ms).collect();
    let high: Vec<_> = bins.iter().map(|bin| bin.rtt_high_ms).collect();
    picture.area("band", "from the least to the longest of a connection", story.bin_s, &low, &high);
    let mean: Vec<_> = bins.iter().map(|bin| (bin.rtt_ms > 0.0).then_some(bin.rtt_ms)).collect();
    picture.line("main", story.bin_s, &mean);
    section(
        "rtt",
        "Round trips",
        "Smoothed round-trip times: the line is the mean of all connections, the band goes from the shortest to the longest. \
         Where it grows, a queue does.",
        &picture.end("Round-trip times over time"),
    )
}

/// Windows, and how much of them was in flight.
pub(super) fn windows(story: &Story) -> String {
    let bins = bins(story);
    let most = bins.iter().map(|bin| bin.window.max(bin.in_flight)).fold(0.0, f64::max);
    if most <= 0.0 {
        return String::new();
    }
    let mut picture = Picture::new(140.0, span_s(story), most * 1.05);
    picture.grid_of_bytes(|bytes| size(bytes as u64));
    let zero = vec![0.0; bins.len()];
    let in_flight: Vec<_> = bins.iter().map(|bin| bin.in_flight).collect();
    picture.area("band", "in flight", story.bin_s, &zero, &in_flight);
    let window: Vec<_> = bins.iter().map(|bin| (bin.window > 0.0).then_some(bin.window)).collect();
    picture.line("main", story.bin_s, &window);
    section(
        "windows",
        "Congestion windows",
        "The line is what may be in flight on all connections together, reserves included; the area is what was. Where the area fills what \
         the active ones may send, the path is the limit; where there is room, something else is.",
        &picture.end("Congestion windows and bytes in flight over time"),
    )
}

/// What was lost, as a share of what was sent.
pub(super) fn losses(story: &Story) -> String {
    let bins = bins(story);
    let most = bins.iter().map(Bin::lost_percent).fold(0.0, f64::max);
    if most <= 0.0 {
        return "<section id=\"loss\"><h2>Loss</h2>\n<p>Nothing was lost on the way.</p></section>\n".into();
    }
    let most = nice(most).min(100.0);
    let mut picture = Picture::new(100.0, span_s(story), most);
    picture.grid(|percent| format!("{}%", (percent * 1_000.0).round() / 1_000.0));
    let zero = vec![0.0; bins.len()];
    let share: Vec<_> = bins.iter().map(Bin::lost_percent).collect();
    picture.area("bad", "lost", story.bin_s, &zero, &share);
    section(
        "loss",
        "Loss",
        "Of what was sent, what was declared lost. It was sent again.",
        &picture.end("Share of what was lost over time"),
    )
}
