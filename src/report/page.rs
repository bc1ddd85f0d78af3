//! A transfer as a page that stands by itself: one file of HTML, with pictures in SVG, that asks the network for
//! nothing.

mod charts;
mod svg;
mod words;

use std::fmt::{Display, Write};

use qbulk::text::printable;
use serde_json::{Value, json};

use super::story::{Conn, Failed, Role, Story, Takeover, number, text};
use super::units::{bit_rate, count, size};

const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/script.js");
/// Connections with a row and a colour of their own; more of them are drawn as one.
const SHOWN_MAX: usize = 40;
/// Colours that are told apart with any eyes (Okabe and Ito), by their numbers in the style.
const COLOURS: usize = 7;

/// The whole page.
pub(super) fn page(story: &Story) -> String {
    let (shown, others) = shown(story);
    let mut html = String::with_capacity(256 << 10);
    let title = title(story);
    // A text takes whatever is written to it.
    let mut add = |text: &dyn Display| {
        write!(html, "{text}").ok();
    };
    add(&format_args!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; \
         script-src 'unsafe-inline'\">\n<meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n"
    ));
    add(&outcome(story));
    add(&sums(story));
    add(&words::held(story));
    add(&charts::goodput(story, &shown, &others));
    add(&charts::roles(story, &shown, others.len()));
    add(&charts::round_trips(story));
    add(&charts::windows(story));
    add(&charts::losses(story));
    add(&takeovers(story));
    add(&connections(story, &shown, others.len()));
    add(&failures(story));
    add(&format_args!(
        "</main>\n<footer>Made by qbulk {}. Times are from the first event on.</footer>\n\
         <script type=\"application/json\" id=\"data\">{}</script>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n",
        env!("CARGO_PKG_VERSION"),
        data(story),
    ));
    html
}

/// Connections that are told of one by one, which are those that carried most, in their order; and the rest.
fn shown(story: &Story) -> (Vec<&Conn>, Vec<&Conn>) {
    let mut by_bytes: Vec<_> = story.conns.iter().enumerate().collect();
    by_bytes.sort_by(|(_, one), (_, two)| two.delivered_bytes.total_cmp(&one.delivered_bytes));
    let others = by_bytes.split_off(by_bytes.len().min(SHOWN_MAX));
    by_bytes.sort_by_key(|(at, _)| *at);
    let shown = by_bytes.into_iter().map(|(_, conn)| conn).collect();
    (shown, others.into_iter().map(|(_, conn)| conn).collect())
}

/// Text as it may stand anywhere in HTML, an attribute as well.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in printable(text).chars() {
        match char {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            char => out.push(char),
        }
    }
    out
}

fn title(story: &Story) -> String {
    let transfer = story.summary.as_ref().map(|summary| text(summary, "transfer"));
    match transfer.filter(|name| !name.is_empty()) {
        Some(name) => format!("qbulk transfer {}", escaped(&name)),
        None => "qbulk transfer".into(),
    }
}

/// How it ended.
fn outcome(story: &Story) -> String {
    let time = story.time.as_deref().map_or(String::new(), |time| format!("{}: ", escaped(time)));
    let (class, said) = match (&story.summary, &story.error) {
        (_, Some(error)) => ("bad", format!("It failed: {}", escaped(error))),
        (Some(summary), None) => {
            let unkept = number(summary, "modes_not_kept") + number(summary, "times_not_kept");
            match number(summary, "failed") as u64 {
                0 if unkept == 0.0 => ("good", "Everything is there, verified and durable.".into()),
                0 => (
                    "fair",
                    "Everything is there, verified and durable, but for permissions or times that could not be kept."
                        .into(),
                ),
                failed => ("bad", format!("{failed} could not be moved; everything else is there, verified and durable.")),
            }
        }
        (None, None) => {
            ("bad", "There is no end of it in the events: it ran on, or was killed.".into())
        }
    };
    format!("<p class=\"outcome {class}\">{time}{said}</p>\n")
}

fn sums(story: &Story) -> String {
    let nothing = Value::Null;
    let summary = story.summary.as_ref().unwrap_or(&nothing);
    let of = |name| number(summary, name);
    let lost: f64 = story.conns.iter().map(|conn| conn.lost_bytes).sum();
    let delivered: f64 = story.conns.iter().map(|conn| conn.delivered_bytes).sum();
    let arrived: f64 = story.arrived.iter().sum();
    let mut cards = Vec::new();
    let mut card = |name: &str, value: String, more: String| {
        cards.push(format!(
            "<div><dt>{name}</dt><dd>{}</dd><dd class=\"more\">{}</dd></div>",
            escaped(&value),
            escaped(&more)
        ));
    };
    if story.summary.is_some() {
        let others = of("others") as u64;
        card("Delivered", size(of("bytes") as u64), {
            let files = count(of("files") as u64, "file");
            if others > 0 { format!("{files}, {}", super::units::others(others)) } else { files }
        });
        card("Time", seconds(of("seconds")), "from start to durable".into());
        card("Rate", bit_rate(of("bytes_per_s")), "over all that time".into());
    } else {
        card(
            "Arrived",
            size(arrived as u64),
            format!("of {} found", size(number(&story.progress, "found_bytes") as u64)),
        );
        card("Time", seconds(story.end_s), "of the events".into());
    }
    if of("kept_bytes") > 0.0 {
        card(
            "From before",
            size(of("kept_bytes") as u64),
            "kept of an earlier run, not sent again".into(),
        );
    }
    if of("matched_bytes") > 0.0 {
        card(
            "Matched",
            size(of("matched_bytes") as u64),
            "in the files that were replaced, not sent".into(),
        );
    }
    if of("skipped_files") > 0.0 {
        let files = count(of("skipped_files") as u64, "file");
        card("Skipped", size(of("skipped_bytes") as u64), format!("{files}, for what is there"));
    }
    let opened = of("connections_opened").max(story.conns.len() as f64 + story.conns_untold as f64);
    card("Connections", format!("{opened}"), format!("{} given up", story.takeovers_count));
    if story.summary.is_some() {
        card(
            "Sent again",
            count(of("stripes_again") as u64, "stripe"),
            format!("of {}", of("stripes")),
        );
        let percent = of("padding_percent");
        card(
            "Padding",
            size(of("padding_sent_bytes") as u64),
            format!("{percent:.1}% of what was sent"),
        );
    }
    card(
        "Lost on the way",
        size(lost as u64),
        match delivered + lost {
            _ if lost == 0.0 => String::new(),
            all => format!("{:.2}% of what was sent, and sent again", 100.0 * lost / all),
        },
    );
    if story.interruptions_count > 0 {
        card(
            "Interruptions",
            story.interruptions_count.to_string(),
            "and it went on by itself".into(),
        );
    }
    format!("<dl class=\"sums\">{}</dl>\n", cards.concat())
}

/// A time, as short as it may be said.
fn seconds(seconds: f64) -> String {
    match seconds {
        ..10.0 => format!("{seconds:.2} s"),
        ..120.0 => format!("{seconds:.1} s"),
        ..7_200.0 => format!("{} min {:02} s", (seconds / 60.0) as u64, seconds as u64 % 60),
        _ => format!("{} h {:02} min", (seconds / 3_600.0) as u64, (seconds / 60.0) as u64 % 60),
    }
}

fn takeovers(story: &Story) -> String {
    if story.takeovers.is_empty() && story.interruptions.is_empty() && story.waited.is_empty() {
        return String::new();
    }
    let mut rows = Vec::new();
    for (at, Takeover { at_s, conn, verdict, stripes }) in story.takeovers.iter().enumerate() {
        rows.push((*at_s, format!(
            "<td class=\"n\">{}</td><td>connection {conn} was given up: {}</td><td class=\"n\">{stripes}</td>",
            at + 1,
            escaped(words::verdict(verdict)),
        )));
    }
    for (at_s, reason) in &story.interruptions {
        rows.push((*at_s, format!("<td></td><td>interrupted: {}</td><td></td>", escaped(reason))));
    }
    for (at_s, reason) in &story.waited {
        rows.push((
            *at_s,
            format!("<td></td><td>waited for a turn: {}</td><td></td>", escaped(reason)),
        ));
    }
    rows.sort_by(|(one, _), (two, _)| one.total_cmp(two));
    let told = story.takeovers.len() + story.interruptions.len();
    let untold = story.takeovers_count + story.interruptions_count - told as u64;
    let rows: Vec<String> = rows
        .into_iter()
        .map(|(at_s, row)| format!("<tr><td class=\"n\">{}</td>{row}</tr>\n", seconds(at_s)))
        .collect();
    let more = if untold > 0 {
        format!("<p>{untold} more are not told of here.</p>\n")
    } else {
        String::new()
    };
    format!(
        "<section id=\"takeovers\"><h2>Takeovers and interruptions</h2>\n<div class=\"wide\"><table>\n\
         <tr><th class=\"n\">at</th><th class=\"n\">mark</th><th>what</th><th class=\"n\">stripes that others took over</th></tr>\n\
         {}</table></div>\n{more}</section>\n",
        rows.concat()
    )
}

fn connections(story: &Story, shown: &[&Conn], others: usize) -> String {
    let row = |(at, conn): (usize, &&Conn)| {
        let until_s = conn.until_s.unwrap_or(story.end_s);
        let up_s = (until_s - conn.from_s).max(0.0);
        let rtt_ms = conn.states.iter().flatten().next_back().map_or(0.0, |state| state.rtt_ms);
        let rate = if up_s > 0.0 { bit_rate(conn.delivered_bytes / up_s) } else { String::new() };
        let percent = 100.0 * conn.lost_bytes / (conn.delivered_bytes + conn.lost_bytes).max(1.0);
        let end = conn.end.as_deref().unwrap_or_default();
        format!(
            "<tr><td class=\"n\"><span class=\"c{}\">\u{25a0}</span> {}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td><td class=\"n\">{rate}</td><td class=\"n\">{rtt_ms:.1} ({:.1})</td>\
             <td class=\"n\">{percent:.2}%</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td>{}</td><td>{}</td></tr>\n",
            at % COLOURS,
            conn.number,
            seconds(conn.from_s),
            seconds(up_s),
            size(conn.delivered_bytes as u64),
            conn.rtt_min_ms,
            size(conn.padding_bytes as u64),
            conn.stripes,
            escaped(conn.primed.as_deref().unwrap_or_default()),
            escaped(words::verdict(end)),
        )
    };
    let rows: Vec<String> = shown.iter().enumerate().map(row).collect();
    let more = match others as u64 + story.conns_untold {
        0 => String::new(),
        more => {
            format!("<p>{} carried less, and have no row here.</p>\n", count(more, "connection"))
        }
    };
    format!(
        "<section id=\"connections\"><h2>Connections</h2>\n<div class=\"wide\"><table>\n<tr><th class=\"n\">number</th>\
         <th class=\"n\">up at</th><th class=\"n\">for</th><th class=\"n\">delivered</th><th class=\"n\">goodput</th>\
         <th class=\"n\">RTT (least), ms</th><th class=\"n\">lost</th><th class=\"n\">padding</th><th class=\"n\">stripes</th>\
         <th>priming ended by</th><th>end</th></tr>\n{}</table></div>\n{more}</section>\n",
        rows.concat()
    )
}

fn failures(story: &Story) -> String {
    if story.failures.is_empty() {
        return String::new();
    }
    let row = |Failed { kind, path, reason }: &Failed| {
        format!(
            "<tr><td>{}</td><td>{}</td><td>{}</td></tr>\n",
            escaped(kind),
            escaped(path),
            escaped(reason)
        )
    };
    let rows: Vec<String> = story.failures.iter().map(row).collect();
    format!(
        "<section id=\"failures\"><h2>What could not be moved</h2>\n<div class=\"wide\"><table>\n\
         <tr><th>where</th><th>path</th><th>why</th></tr>\n{}</table></div>\n</section>\n",
        rows.concat()
    )
}

/// What is shown where somebody points.
fn data(story: &Story) -> String {
    let bins = charts::bins(story);
    let whole = |number: f64| number.round().max(0.0) as u64;
    let data = json!({
        "bin_s": story.bin_s,
        "bits_per_s": bins.iter().map(|bin| whole(bin.bytes * 8.0 / story.bin_s)).collect::<Vec<_>>(),
        "rtt_ms": bins.iter().map(|bin| whole(bin.rtt_ms * 10.0) as f64 / 10.0).collect::<Vec<_>>(),
        "active": bins.iter().map(|bin| bin.roles[Role::Active as usize]).collect::<Vec<_>>(),
        "lost_percent": bins.iter().map(|bin| whole(bin.lost_percent() * 100.0) as f64 / 100.0).collect::<Vec<_>>(),
        "left": svg::LEFT, "right": svg::RIGHT, "width": svg::WIDTH, "span_s": charts::span_s(story),
    });
    // Nothing in it can end the script.
    data.to_string().replace('<', "\\u003c")
}

#[cfg(test)]
mod tests;
