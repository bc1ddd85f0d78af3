//! Networks and hosts that are away for a while: the list of WDT's network tests, and more. Each ends
//! with the whole file, or with an error that says why.

use std::ffi::OsStr;
use std::fs;
use std::net::Ipv6Addr;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use crate::common::{Host, Ran, Serve, names, run, unfinished};
use crate::relay::{Lanes, MTU, Relay, Way};
use crate::scene::{Course, Frozen, MIB, Scene, both_ways};

/// It goes on within three seconds of the network's return; a busy machine may add to that.
const RETURN_TIME: Duration = Duration::from_secs(5);
/// What each connection carries per second where it is told how long something takes: the first stripe
/// of a new one is there in a fraction of that time.
const PACE: f64 = 1e6;

both_ways!(
    ports_that_are_dropped_before_the_transfer_are_done_without,
    ports_that_are_dropped_during_the_transfer_are_replaced,
    twenty_five_glitches_that_drop_or_reject_are_lived_through,
    what_is_lost_one_way_only_is_lived_through,
    a_network_that_is_gone_for_seconds_is_waited_for_in_the_same_transfer,
    hosts_that_stand_still_for_seconds_go_on_in_the_same_transfer,
    lanes_that_become_very_slow_hold_nobody_up,
    a_client_whose_address_changes_goes_on,
    a_network_that_comes_only_after_the_push_is_waited_for,
);

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn ports_that_are_dropped_before_the_transfer_are_done_without(course: Course) {
    let scene = Scene::slowly(course, 8, 4e5);
    // At first, when the server's key is still to be looked at, and then when it is known.
    for dropped in [2, 5] {
        scene.relay.cut_next(dropped);
        let ran = scene.push(&[]).finish();
        scene.assert_undisturbed(&ran);
    }
}

fn a_network_that_comes_only_after_the_push_is_waited_for(course: Course) {
    let scene = Scene::slowly(course, 4, 1e6);
    scene.relay.cut(Lanes::All, Way::Both);
    let mut push = scene.push(&[]);
    sleep(ms(1_500));
    push.assert_runs();
    scene.relay.heal();
    scene.assert_undisturbed(&push.finish());
}

#[test]
fn a_port_that_is_closed_is_told_at_once_by_every_command_whether_the_server_is_known_or_not() {
    let scene = Scene::slow(1, 1e9);
    let file = scene.host.src("file");
    let url = scene.relay.url("");
    let own = scene.host.id();
    let pinned: [&OsStr; 2] = ["--fingerprint".as_ref(), own.as_ref()];
    scene.relay.reject(Lanes::All);
    let ask: [&dyn Fn() -> Ran; 3] = [
        &|| run(&mut scene.host.pushing(&[file.as_ref()], &url)),
        &|| run(scene.host.pushing(&[file.as_ref()], &url).args(pinned)),
        &|| scene.host.verify(&[pinned[0], pinned[1], file.as_ref(), url.as_ref()]),
    ];
    for ask in ask {
        let since = Instant::now();
        let ran = ask();
        ran.assert_failed(3, "nobody listens there (connection refused); is `qbulk serve` running");
        // It would take ten seconds.
        assert!(since.elapsed() < Duration::from_secs(8), "{:?}", since.elapsed());
    }
}

#[test]
fn a_link_local_address_is_pushed_to_by_its_interface() {
    let Some((ip, interface)) = link_local() else {
        return eprintln!("skipped: no interface has a link-local address");
    };
    let host = Host::new();
    fs::write(host.src("file"), b"content").unwrap();
    let mut command = host.qbulk();
    command.args(Serve::arguments(&host)).args(["--listen", &format!("[{ip}%{interface}]:0")]);
    let serve = Serve::spawn(&host, command);
    let port = serve.address.port();
    for (number, zone) in [format!("%{interface}"), format!("%25{interface}")].iter().enumerate() {
        let url = format!("qbulk://[{ip}{zone}]:{port}/{number}");
        let bind = format!("{ip}%{interface}");
        let mut push = host.pushing(&[host.src("file").as_ref()], &url);
        let ran = run(push.args(["--accept-new", "--bind", &bind]));
        assert_eq!(ran.code, 0, "{ran:?}");
        assert_eq!(fs::read(host.root(number.to_string())).unwrap(), b"content");
    }
    let known = fs::read_to_string(host.config().join("known_hosts")).unwrap();
    assert!(known.contains(&format!("[{ip}%{interface}]:{port} ")), "{known}");
    let further = format!("[{ip}%{interface}]:{port}");
    let mut push = host.pushing(&[host.src("file").as_ref()], &format!("qbulk://{further}/more"));
    assert_eq!(run(push.args(["--server", &further])).code, 0);
    let missing = format!("qbulk://[{ip}%no-such-one]:{port}/");
    host.push(host.src("file"), &missing).assert_failed(3, "no network interface no-such-one");
    let bare = format!("qbulk://[{ip}]:{port}/");
    host.push(host.src("file"), &bare).assert_failed(2, "say which interface leads there");
}

/// A link-local address of this host, and the interface that has it.
fn link_local() -> Option<(Ipv6Addr, String)> {
    let all = fs::read_to_string("/proc/net/if_inet6").ok()?;
    all.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let bits = u128::from_str_radix(words.next()?, 16).ok()?;
        let ip = Ipv6Addr::from(bits);
        let interface = words.next_back()?;
        ip.is_unicast_link_local().then(|| (ip, interface.into()))
    })
}

fn ports_that_are_dropped_during_the_transfer_are_replaced(course: Course) {
    let scene = Scene::slowly(course, 16, 4e5);
    let mut push = scene.push(&[]);
    push.wait_for(4 * MIB);
    scene.relay.cut(Lanes::Half, Way::Both);
    push.wait_for(8 * MIB);
    scene.relay.reject(Lanes::Half);
    push.wait_for(10 * MIB);
    // Who receives more than it sends says how large datagrams may be as well.
    assert!((1..=MTU).contains(&scene.relay.largest()), "{}", scene.relay.largest());
    scene.hurry();
    let ran = push.finish();
    scene.assert_undisturbed(&ran);
    assert!(ran.summary()["takeovers"].as_u64() >= Some(1), "{ran:?}");
}

/// 25 glitches, each longer than it takes until a connection counts as silent, and some longer than it
/// takes until the network counts as gone.
fn glitch(course: Course, begin: impl Fn(&Relay, usize)) {
    const LENGTHS: [u64; 5] = [300, 400, 600, 900, 1_500];
    let scene = Scene::slowly(course, 64, 4e5);
    let mut push = scene.push(&[]);
    push.wait_for(MIB / 2);
    for number in 0..25 {
        begin(&scene.relay, number);
        sleep(ms(LENGTHS[number % LENGTHS.len()]));
        push.assert_runs();
        scene.relay.heal();
        if number % 5 == 4 {
            let time = push.wait_for_more();
            assert!(time < RETURN_TIME, "glitch {number}: {time:?}");
        } else {
            sleep(ms(150));
        }
    }
    scene.hurry();
    scene.assert_undisturbed(&push.finish());
}

fn some_or_all(number: usize) -> Lanes {
    if number % 3 == 1 { Lanes::Half } else { Lanes::All }
}

fn twenty_five_glitches_that_drop_or_reject_are_lived_through(course: Course) {
    // They mostly wait: both at a time.
    thread::scope(|scope| {
        scope.spawn(|| glitch(course, |relay, number| relay.cut(some_or_all(number), Way::Both)));
        scope.spawn(|| glitch(course, |relay, number| relay.reject(some_or_all(number))));
    });
}

fn what_is_lost_one_way_only_is_lived_through(course: Course) {
    let scene = Scene::slowly(course, 96, PACE);
    let mut push = scene.push(&[]);
    push.wait_for(MIB);
    for way in [Way::ToServer, Way::ToClient] {
        scene.relay.cut(Lanes::All, way);
        sleep(ms(2_000));
        scene.relay.heal();
        let time = push.wait_for_more();
        assert!(time < RETURN_TIME, "{way:?}: {time:?}");
        // For good, on some: others are opened instead.
        scene.relay.cut(Lanes::Half, way);
        push.wait_for_more();
    }
    scene.hurry();
    scene.assert_undisturbed(&push.finish());
}

fn a_network_that_is_gone_for_seconds_is_waited_for_in_the_same_transfer(course: Course) {
    let scene = Scene::slowly(course, 64, PACE);
    let mut push = scene.push(&[]);
    push.wait_for(2 * MIB);
    for seconds in [4, 8] {
        scene.relay.cut(Lanes::All, Way::Both);
        sleep(Duration::from_secs(seconds));
        push.assert_runs();
        scene.relay.heal();
        let time = push.wait_for_more();
        assert!(time < RETURN_TIME, "after {seconds} s: {time:?}");
    }
    scene.hurry();
    scene.assert_undisturbed(&push.finish());
}

#[test]
fn a_network_that_is_gone_until_the_server_has_forgotten_is_waited_for_all_the_same() {
    let mut scene = Scene::slow(64, PACE);
    let mut push = scene.push(&[]);
    push.wait_for(4 * MIB);
    scene.relay.cut(Lanes::All, Way::Both);
    scene.serve.child.kill().unwrap();
    scene.serve.child.wait().unwrap();
    scene.serve = Serve::at(&scene.host, scene.serve.address);
    sleep(ms(2_000));
    scene.relay.heal();
    let time = push.wait_for_more();
    assert!(time < RETURN_TIME, "{time:?}");
    scene.hurry();
    let ran = push.finish();
    scene.assert_arrived(&ran);
    let summary = ran.summary();
    assert_eq!(summary["interruptions"], 1, "{summary}");
    assert!(summary["kept_bytes"].as_u64() >= Some(2 * MIB), "{summary}");
}

fn hosts_that_stand_still_for_seconds_go_on_in_the_same_transfer(course: Course) {
    let scene = Scene::slowly(course, 64, PACE);
    let mut push = scene.push(&[]);
    push.wait_for(2 * MIB);
    for is_server in [true, false] {
        let frozen = Frozen::new(if is_server { &scene.serve.child } else { &push.child });
        sleep(ms(4_000));
        drop(frozen);
        let time = push.wait_for_more();
        assert!(time < RETURN_TIME, "{is_server}: {time:?}");
    }
    scene.hurry();
    scene.assert_undisturbed(&push.finish());
}

/// Longer than connections last without a word: as when a lid is closed.
fn sleep_for_long(is_server: bool) {
    let scene = Scene::slow(32, PACE);
    let mut push = scene.push(&[]);
    push.wait_for(2 * MIB);
    let frozen = Frozen::new(if is_server { &scene.serve.child } else { &push.child });
    sleep(ms(17_000));
    drop(frozen);
    let time = push.wait_for_more();
    assert!(time < RETURN_TIME, "{is_server}: {time:?}");
    scene.hurry();
    scene.assert_arrived(&push.finish());
}

/// What is left is gone on with when the server wakes, and there is nothing else.
fn give_up_a_server_that_sleeps() {
    let scene = Scene::slow(16, 3e5);
    let mut push = scene.push(&["--retry-for", "1s"]);
    push.wait_for(4 * MIB);
    let (frozen, since) = (Frozen::new(&scene.serve.child), Instant::now());
    push.finish().assert_failed(3, "cannot reach 127.0.0.1");
    assert!(since.elapsed() < Duration::from_secs(60), "{:?}", since.elapsed());
    drop(frozen);
    let root = scene.host.root("");
    assert_eq!(names(&root).len(), unfinished(&root).len());
    scene.hurry();
    let ran = scene.push(&[]).finish();
    scene.assert_undisturbed(&ran);
    assert!(ran.summary()["kept_bytes"].as_u64() >= Some(2 * MIB), "{ran:?}");
}

#[test]
fn hosts_that_sleep_go_on_when_they_wake_or_are_given_up() {
    thread::scope(|scope| {
        scope.spawn(|| sleep_for_long(true));
        scope.spawn(|| sleep_for_long(false));
        scope.spawn(give_up_a_server_that_sleeps);
    });
}

#[test]
fn a_server_that_says_nothing_is_given_up() {
    let scene = Scene::slow(1, 1e6);
    let frozen = Frozen::new(&scene.serve.child);
    let since = Instant::now();
    let ran = scene.push(&["--connect-timeout", "2s"]).finish();
    ran.assert_failed(3, "cannot reach 127.0.0.1");
    assert!(since.elapsed() < Duration::from_secs(15), "{:?}", since.elapsed());
    drop(frozen);
    assert!(names(&scene.host.root("")).is_empty());
    // What it finds in its mail when it wakes does it no harm.
    scene.assert_undisturbed(&scene.push(&[]).finish());
}

#[test]
fn a_receiver_that_is_slow_is_waited_for() {
    let scene = Scene::slow(12, 4e5);
    let mut push = scene.push(&[]);
    push.wait_for(MIB);
    for _ in 0..20 {
        let frozen = Frozen::new(&scene.serve.child);
        sleep(ms(250));
        drop(frozen);
        sleep(ms(50));
    }
    scene.assert_undisturbed(&push.finish());
}

fn lanes_that_become_very_slow_hold_nobody_up(course: Course) {
    let scene = Scene::slowly(course, 24, 6e5);
    let mut push = scene.push(&[]);
    push.wait_for(2 * MIB);
    scene.relay.pace(Lanes::One, 1e3);
    push.wait_for(6 * MIB);
    scene.relay.pace(Lanes::Half, 1e4);
    scene.assert_undisturbed(&push.finish());
}

fn a_client_whose_address_changes_goes_on(course: Course) {
    let scene = Scene::slowly(course, 96, PACE);
    let mut push = scene.push(&[]);
    push.wait_for(2 * MIB);
    for lanes in [Lanes::One, Lanes::Half, Lanes::All, Lanes::All] {
        scene.relay.rebind(lanes);
        let time = push.wait_for_more();
        assert!(time < RETURN_TIME, "{lanes:?}: {time:?}");
        sleep(ms(300));
    }
    // While it is away as well, as by a change of networks.
    scene.relay.cut(Lanes::All, Way::Both);
    sleep(ms(1_500));
    scene.relay.rebind(Lanes::All);
    scene.relay.heal();
    let time = push.wait_for_more();
    assert!(time < RETURN_TIME, "{time:?}");
    scene.hurry();
    scene.assert_undisturbed(&push.finish());
}
