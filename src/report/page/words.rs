//! What the numbers mean, in words.

use super::{Story, escaped, number, seconds};
use crate::report::story::{Conn, Holder, Share};

/// Why a connection ended, for a person.
pub(super) fn verdict(verdict: &str) -> &str {
    match verdict {
        "done" => "done with the transfer",
        "silent" => "silent: nothing was heard on it while others were answered",
        "slow" => "slow: less goodput than its siblings",
        "collapsed" => "its window had collapsed",
        "below_floor" => "below the floor that was set",
        "rtt_too_high" => "round trips longer than was allowed",
        "primed_badly" => "primed to much less than its siblings",
        "lost" => "lost",
        "surplus" => "surplus: fewer connections are enough",
        "given_up" => "given up by the server",
        other => other,
    }
}

/// The answer to what held the transfer back, as far as the events have it.
pub(super) fn held(story: &Story) -> String {
    let shares = story.holders();
    let answer = match shares.first() {
        None => {
            "It was over too soon to tell: the state of connections is told about once a second, and little was.".into()
        }
        Some(most) => answer(story, most),
    };
    let bars: Vec<String> = shares
        .iter()
        .map(|Share { holder, seconds: held_s, part }| {
            let percent = 100.0 * part;
            format!(
                "<tr><td>{}</td><td class=\"bar\"><span style=\"width:{percent:.1}%\"></span></td>\
                 <td class=\"n\">{percent:.0}%</td><td class=\"n\">{}</td></tr>\n",
                name(*holder),
                seconds(*held_s)
            )
        })
        .collect();
    let bars = if bars.is_empty() {
        String::new()
    } else {
        format!("<table class=\"bars\">\n{}</table>\n", bars.concat())
    };
    let lost = match story.lost_lines {
        0 => String::new(),
        lines => format!(
            "<p>{lines} lines of the events were lost to a slow reader: what is shown has gaps.</p>\n"
        ),
    };
    format!(
        "<section id=\"held\"><h2>What held it back</h2>\n<p>{}</p>\n{}{bars}{lost}</section>\n",
        escaped(&answer),
        small_files(story)
    )
}

fn name(holder: Holder) -> &'static str {
    match holder {
        Holder::Path => "the path: windows were full",
        Holder::Ends => "an end, or a limit: windows had room",
        Holder::Both => "the path and the ends in turn",
        Holder::Source => "looking through the source",
        Holder::Destination => "making it durable",
        Holder::Start => "opening and priming connections",
        Holder::Nothing => "no connection",
    }
}

fn answer(story: &Story, most: &Share) -> String {
    let percent = (100.0 * most.part).round();
    match most.holder {
        Holder::Path => format!(
            "The path. For {percent}% of the time the connections that carried data had their congestion windows full: \
             what the network delivered was the limit.{}",
            path(story)
        ),
        Holder::Ends => format!(
            "Not the path. For {percent}% of the time the congestion windows had room that nobody used: the source was not \
             read faster, the destination did not take more, a processor had no more to give, or a limit was set. The events \
             do not tell which of these: look at disks and processors of both ends, and at --limit."
        ),
        Holder::Both => format!(
            "The path and the ends in turn: for {percent}% of the time the congestion windows were neither full nor empty."
        ),
        Holder::Source => format!(
            "Looking through the source. For {percent}% of the time nearly all that had been found had arrived: files were \
             not found faster."
        ),
        Holder::Destination => format!(
            "The destination. For {percent}% of the time everything was sent, and was being made durable there."
        ),
        Holder::Start => format!(
            "The start. For {percent}% of the time connections were opened and primed, and carried no data yet: there was \
             little to send, or the server answered late."
        ),
        Holder::Nothing => format!("For {percent}% of the time there was no connection."),
    }
}

/// What was seen on the path.
fn path(story: &Story) -> String {
    let ratio = |conn: &Conn| {
        let told = conn.states.iter().flatten().map(|state| f64::from(state.rtt_ms));
        let told: Vec<_> = told.filter(|rtt_ms| *rtt_ms > 0.0).collect();
        let mean = told.iter().sum::<f64>() / told.len() as f64;
        (conn.rtt_min_ms > 0.0 && !told.is_empty()).then(|| mean / conn.rtt_min_ms)
    };
    let ratios: Vec<_> = story.conns.iter().filter_map(ratio).collect();
    let mean = ratios.iter().sum::<f64>() / ratios.len() as f64;
    let queue = match mean {
        _ if ratios.is_empty() => String::new(),
        ..1.25 => format!(
            " Round trips took {mean:.1} times their least: hardly a queue stood on the way."
        ),
        _ => format!(" Round trips took {mean:.1} times their least: a queue stood on the way."),
    };
    let lost: f64 = story.conns.iter().map(|conn| conn.lost_bytes).sum();
    let all = lost + story.conns.iter().map(|conn| conn.delivered_bytes).sum::<f64>();
    let percent = 100.0 * lost / all;
    let loss = match percent {
        0.1.. => format!(" {percent:.1}% of what was sent was lost."),
        _ => String::new(),
    };
    format!("{queue}{loss}")
}

/// With small files, bytes are not what takes time.
fn small_files(story: &Story) -> String {
    let Some(summary) = &story.summary else { return String::new() };
    let (files, bytes) = (number(summary, "files"), number(summary, "bytes"));
    if files < 1_000.0 || bytes / files > 65_536.0 {
        return String::new();
    }
    let per_s = files / number(summary, "seconds").max(0.001);
    format!(
        "<p>The files are small: it moved {per_s:.0} of them a second, and each is opened, synced and named.</p>\n"
    )
}
