//! Networks that go bad under way.

use std::fs;
use std::time::Duration;

use serde_json::Value;

use crate::common::{Host, Serve, hash, random, run};
use crate::relay::{Path, Relay};

#[test]
fn a_connection_that_is_cut_off_is_noticed_and_its_stripes_taken_over() {
    let host = Host::new();
    let serve = Serve::start(&host);
    let (bytes_per_s, delay) = (4e6, Duration::from_millis(5));
    let relay = Relay::start(serve.address, Path { bytes_per_s, delay, ..Path::default() });
    fs::write(host.src("file"), random(1, 64 << 20)).unwrap();
    relay.cut_one_at(24 << 20);
    let ran = run(&mut relay.pushing(&host, &[host.src("file").as_ref()]));
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(hash(&host.src("file")), hash(&host.root("file")));

    let (events, port) = (ran.events(), format!(":{}", relay.cut_port()));
    let is_cut =
        |event: &&Value| event["local"].as_str().is_some_and(|local| local.ends_with(&port));
    let cut = &events.iter().find(is_cut).expect("one connection was cut off")["conn"];
    let is_end = |event: &&Value| event["event"] == "condemned" && event["conn"] == *cut;
    let end = events.iter().find(is_end).unwrap_or_else(|| panic!("{cut} goes on: {ran:?}"));
    assert_eq!(end["verdict"], "silent");
    assert!(end["stripes"].as_u64() >= Some(1), "{end}");
    let summary = ran.summary();
    assert!(summary["takeovers"].as_u64() >= Some(1), "{summary}");
    assert!(summary["stripes_again"].as_u64() >= Some(1), "{summary}");
    assert!(summary["connections_opened"].as_u64() >= Some(11), "replaced: {summary}");
}

#[test]
fn a_network_that_loses_reorders_doubles_and_damages_changes_no_byte() {
    let host = Host::new();
    let serve = Serve::start(&host);
    for seed in [1, 2] {
        let path = Path {
            delay: Duration::from_millis(2),
            lost: 0.01,
            late: 0.01,
            doubled: 0.1,
            damaged: 0.005,
            seed,
            ..Path::default()
        };
        let relay = Relay::start(serve.address, path);
        let tree = host.src(format!("tree-{seed}"));
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join("large"), random(seed, 12 << 20)).unwrap();
        for number in 0..200 {
            fs::write(tree.join(number.to_string()), random(number, 999)).unwrap();
        }
        let ran = run(&mut relay.pushing(&host, &[tree.as_ref()]));
        assert_eq!(ran.code, 0, "seed {seed}: {ran:?}");
        let arrived = host.root(tree.file_name().unwrap());
        assert_eq!(crate::common::tree(&tree), crate::common::tree(&arrived), "seed {seed}");
    }
}
