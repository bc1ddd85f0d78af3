//! What is on a page, without a browser.

use std::collections::BTreeSet;

use super::*;

/// What happens in a transfer of some seconds: one connection of eight is given up under way.
fn events(seconds: u32) -> Vec<(f64, Value)> {
    let mut events = vec![(
        0.0,
        json!({"event": "begun", "transfer": "abc", "time": "2026-01-31T12:00:00.000Z"}),
    )];
    for conn in 0..8 {
        let connected = json!({"event": "connected", "conn": conn, "local": "a", "remote": "b"});
        events.push((0.05, connected));
        events.push((0.2, json!({"event": "primed", "conn": conn, "end": "data"})));
    }
    // Several times a second, unless it is long.
    let step = if seconds > 100 { 10 } else { 1 };
    for tenth in (step..=seconds * 10).step_by(step as usize) {
        let at_s = f64::from(tenth) / 10.0;
        for conn in (0..8).filter(|_| tenth % 10 == 0) {
            if conn == 3 && tenth >= seconds * 5 {
                continue;
            }
            let role = if conn < 6 { "active" } else { "reserve" };
            let state = json!({"event": "connection", "conn": conn, "role": role, "rtt_ms": 24.0 + f64::from(conn),
                "rtt_min_ms": 20.0, "window_bytes": 1_000_000, "in_flight_bytes": 900_000, "lost_bytes": tenth * 100,
                "delivered_bytes": u64::from(tenth) * 100_000, "padding_bytes": 5, "stripes": tenth});
            events.push((at_s, state));
        }
        let progress = json!({"event": "progress", "connections": 8, "scan_done": true, "found_bytes": 1u64 << 40,
            "confirmed_bytes": u64::from(tenth) * 600_000});
        events.push((at_s, progress));
        if tenth == seconds * 5 {
            events.push((
                at_s,
                json!({"event": "condemned", "conn": 3, "verdict": "slow", "stripes": 7}),
            ));
        }
    }
    events
}

fn story(seconds: u32) -> Story {
    let mut story = Story::new();
    for (at_s, event) in events(seconds) {
        assert!(story.note(&event, at_s), "{event}");
    }
    story
}

fn summed_up(mut story: Story) -> Story {
    let summary = json!({"event": "summary", "transfer": "abc", "files": 12, "bytes": 5 << 20, "seconds": 10.5,
        "bytes_per_s": 5e5, "connections_opened": 9, "takeovers": 1, "stripes": 80, "stripes_again": 7});
    let end_s = story.end_s + 0.5;
    story.note(&summary, end_s);
    story
}

/// That elements are closed in the order in which they are opened. Returns their names.
fn elements(page: &str) -> BTreeSet<String> {
    let mut open = Vec::new();
    let mut names = BTreeSet::new();
    let mut rest = page;
    while let Some(at) = rest.find('<') {
        rest = &rest[at + 1..];
        let end = rest.find('>').expect("every tag ends");
        let tag = &rest[..end];
        let name = |tag: &str| tag.split([' ', '\n', '/']).next().expect("a name").to_owned();
        if let Some(closed) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(closed), "in {}", &rest[..rest.len().min(200)]);
        } else if !tag.starts_with('!') {
            let name = name(tag);
            names.insert(name.clone());
            let is_void = tag.ends_with('/') || name == "meta";
            if matches!(&*name, "script" | "style") {
                let close = format!("</{name}>");
                rest = &rest[rest.find(&close).expect("it is closed") + close.len()..];
                continue;
            }
            if !is_void {
                open.push(name);
            }
        }
        rest = rest.trim_start_matches(|char| char != '<');
    }
    assert_eq!(open, [""; 0]);
    names
}

#[test]
fn a_page_says_what_happened_and_is_well_formed() {
    let page = page(&summed_up(story(10)));
    let names = elements(&page);
    for name in ["svg", "table", "dl", "h1", "section"] {
        assert!(names.contains(name), "{name}");
    }
    for words in [
        "qbulk transfer abc",
        "Everything is there, verified and durable.",
        "5.0 MiB",
        "12 files",
        "4.00 Mbit/s",
        "10.5 s",
        "The path. For ",
        "connection 3 was given up: slow: less goodput than its siblings",
        "<title>connection 3 given up",
        "class=\"reserve\"",
        "class=\"active\"",
        "class=\"cross\"",
        "id=\"rtt\"",
        "id=\"windows\"",
        "id=\"loss\"",
        "prefers-color-scheme: dark",
        "@media print",
    ] {
        assert!(page.contains(words), "{words}");
    }
    assert_eq!(page.matches("class=\"area c").count(), 8, "one area for each connection");
}

#[test]
fn a_page_asks_the_network_for_nothing() {
    let page = page(&summed_up(story(3)));
    for word in ["http://", "https://", "src=", "href=", "url(", "@import", "fetch(", "innerHTML"] {
        assert!(!page.contains(word), "{word}");
    }
    assert!(page.contains("default-src 'none'"));
}

#[test]
fn a_second_and_ten_hours_are_pages_of_the_same_kind() {
    for seconds in [1, 36_000] {
        let page = page(&summed_up(story(seconds)));
        elements(&page);
        assert!(page.len() < 1 << 20, "{seconds}: {}", page.len());
        assert!(!page.contains("NaN") && !page.contains("inf"), "{seconds}");
        let label = if seconds == 1 { ">1 s<" } else { ">8 h<" };
        assert!(page.contains(label) || page.contains(">10 h<"), "{seconds}: {label}");
    }
}

#[test]
fn what_comes_from_elsewhere_can_be_no_part_of_the_page() {
    let evil = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&\u{1b}[31m";
    let mut story = Story::new();
    story.note(&json!({"event": "begun", "transfer": evil, "time": evil}), 0.0);
    story.note(&json!({"event": "connected", "conn": 0}), 0.1);
    story.note(&json!({"event": "primed", "conn": 0, "end": evil}), 0.1);
    story.note(&json!({"event": "condemned", "conn": 0, "verdict": evil}), 0.2);
    story.note(&json!({"event": "interrupted", "reason": evil}), 0.3);
    story.note(&json!({"event": "waiting", "reason": evil}), 0.4);
    story.note(&json!({"event": "failed", "kind": evil, "path": evil, "reason": evil}), 0.5);
    story.note(&json!({"event": "summary", "transfer": evil, "failed": 1}), 0.6);
    let with_summary = page(&story);
    story.note(&json!({"event": "error", "message": evil}), 0.7);
    for page in [with_summary, page(&story)] {
        let names = elements(&page);
        assert!(!names.contains("img"), "{names:?}");
        assert_eq!(page.matches("<script").count(), 2);
        assert!(page.contains("&lt;img") && !page.contains('\u{1b}'));
    }
}

#[test]
fn of_a_transfer_that_has_no_end_or_nothing_in_it_there_is_a_page_as_well() {
    let running = page(&story(2));
    assert!(running.contains("There is no end of it in the events"));
    elements(&running);
    let mut nothing = Story::new();
    nothing.note(&json!({"event": "begun", "transfer": "a"}), 3.0);
    nothing.note(&json!({"event": "error", "message": "cannot connect"}), 3.0);
    let page = page(&nothing);
    elements(&page);
    assert!(page.contains("It failed: cannot connect") && page.contains("over too soon to tell"));
    assert!(!page.contains("NaN"));
}

#[test]
fn more_connections_than_fit_are_drawn_as_one() {
    let mut story = Story::new();
    story.note(&json!({"event": "begun", "transfer": "a"}), 0.0);
    for conn in 0..300 {
        story.note(&json!({"event": "connected", "conn": conn}), 0.0);
        let delivered = json!({"event": "connection", "conn": conn, "role": "active", "delivered_bytes": 1000 + conn});
        story.note(&delivered, 1.0);
    }
    let page = page(&story);
    elements(&page);
    assert_eq!(page.matches("class=\"area c").count(), SHOWN_MAX);
    assert!(page.contains("class=\"area rest\"") && page.contains("260 connections carried less"));
}
