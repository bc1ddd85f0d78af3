//! A file, a server and a network between them, and a push that is watched while it runs.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Signal, WaitId, WaitIdOptions, kill_process, waitid};
use serde_json::Value;

use crate::common::{
    Host, PATIENCE, Ran, Serve, eventually, free_address, hash, names, pid, random, unfinished,
};
use crate::relay::{Path, Relay};

pub(crate) const MIB: u64 = 1 << 20;

/// What is done to a file, in words and in deed.
pub(crate) type Deed = (&'static str, fn(&std::path::Path));

/// What changes a file, and not what is in it.
pub(crate) fn beside_the_content() -> [Deed; 3] {
    [
        ("permissions", |path| {
            fs::set_permissions(path, fs::Permissions::from_mode(0o640)).unwrap();
        }),
        ("a hard link", |path| fs::hard_link(path, path.with_extension("snapshot")).unwrap()),
        ("a copy in its place, with its time", |path| {
            let copy = path.with_extension("copy");
            fs::copy(path, &copy).unwrap();
            let modified = fs::metadata(path).unwrap().modified().unwrap();
            File::options().write(true).open(&copy).unwrap().set_modified(modified).unwrap();
            fs::rename(copy, path).unwrap();
        }),
    ]
}

/// Which end asks for the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Course {
    Push,
    Pull,
}

/// Makes of each a test of a push and one of a pull.
macro_rules! both_ways {
    ($($name:ident),* $(,)?) => {
        mod push {
            $(#[test]
            fn $name() {
                super::$name(crate::scene::Course::Push);
            })*
        }

        mod pull {
            $(#[test]
            fn $name() {
                super::$name(crate::scene::Course::Pull);
            })*
        }
    };
}
pub(crate) use both_ways;

pub(crate) struct Scene {
    pub(crate) course: Course,
    pub(crate) host: Host,
    pub(crate) serve: Serve,
    pub(crate) relay: Relay,
    /// What the server has open while nobody pushes.
    at_rest: usize,
}

impl Scene {
    /// A file of `mib` MiB, to be moved over `path`.
    pub(crate) fn of(course: Course, mib: u64, path: Path) -> Self {
        let host = Host::new();
        let source = match course {
            Course::Push => host.src("file"),
            Course::Pull => host.root("file"),
        };
        fs::write(source, random(mib, (mib * MIB) as usize)).unwrap();
        if course == Course::Pull {
            fs::create_dir(host.src("arrived")).unwrap();
        }
        let serve = Serve::at(&host, free_address());
        let relay = Relay::start(serve.address, path);
        let at_rest = serve.open_files();
        Self { course, host, serve, relay, at_rest }
    }

    /// The same, over a network on which each connection carries so much per second.
    pub(crate) fn slow(mib: u64, bytes_per_s: f64) -> Self {
        Self::slowly(Course::Push, mib, bytes_per_s)
    }

    /// The same, either way.
    pub(crate) fn slowly(course: Course, mib: u64, bytes_per_s: f64) -> Self {
        let delay = Duration::from_millis(2);
        Self::of(course, mib, Path { bytes_per_s, delay, ..Path::default() })
    }

    pub(crate) fn push(&self, args: &[&str]) -> Push {
        let mut command = match self.course {
            Course::Push => self.relay.pushing(&self.host, &[self.host.src("file").as_ref()]),
            Course::Pull => self.relay.pulling(&self.host, "file", &self.arrived("")),
        };
        Push::start(command.args(args))
    }

    /// The folder in which the file arrives, or what is in it.
    pub(crate) fn arrived(&self, name: &str) -> PathBuf {
        match self.course {
            Course::Push => self.host.root(name),
            Course::Pull => self.host.src("arrived").join(name),
        }
    }

    fn source(&self) -> PathBuf {
        match self.course {
            Course::Push => self.host.src("file"),
            Course::Pull => self.host.root("file"),
        }
    }

    /// Bytes that have got through to the receiver so far.
    pub(crate) fn delivered(&self) -> u64 {
        let [to_server, to_client] = self.relay.delivered();
        if self.course == Course::Push { to_server } else { to_client }
    }

    /// The network lets next to nothing through.
    pub(crate) fn hold(&self) {
        self.relay.pace(crate::relay::Lanes::All, 1.0);
    }

    /// The network lets everything through at once, so that what is left takes no time.
    pub(crate) fn hurry(&self) {
        self.relay.pace(crate::relay::Lanes::All, 1e9);
    }

    /// That the push has done it in one go, in spite of all; that the file is whole, and that there is
    /// nothing else: neither files in the root, nor what the server has open.
    #[track_caller]
    pub(crate) fn assert_undisturbed(&self, ran: &Ran) {
        self.assert_arrived(ran);
        let count = |name: &str| ran.events().iter().filter(|event| event["event"] == name).count();
        assert_eq!((count("begun"), count("interrupted")), (1, 0), "{ran:?}");
        assert_eq!(ran.summary()["interruptions"], 0);
    }

    #[track_caller]
    pub(crate) fn assert_arrived(&self, ran: &Ran) {
        assert_eq!(ran.code, 0, "{ran:?}");
        assert_eq!(hash(&self.source()), hash(&self.arrived("file")));
        let since = Instant::now();
        eventually("the server lets go of everything", || self.serve.open_files() <= self.at_rest);
        eventually("nothing is unfinished", || unfinished(&self.arrived("")).is_empty());
        assert_eq!(names(&self.arrived("")), ["file"], "{ran:?}");
        assert!(since.elapsed() < PATIENCE / 10, "{:?}: {ran:?}", since.elapsed());
    }
}

/// A push under way.
pub(crate) struct Push {
    pub(crate) child: Child,
    confirmed: Arc<AtomicU64>,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<String>>,
}

impl Push {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let confirmed = Arc::<AtomicU64>::default();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let watched = Arc::clone(&confirmed);
        let stdout = thread::spawn(move || {
            let (mut all, mut start) = (String::new(), 0);
            while lines.read_line(&mut all).unwrap() > 0 {
                let event: Value = serde_json::from_str(&all[start..]).unwrap_or_default();
                if let Some(bytes) = event["confirmed_bytes"].as_u64() {
                    watched.store(bytes, Relaxed);
                }
                start = all.len();
            }
            all
        });
        let mut errors = child.stderr.take().unwrap();
        let stderr = thread::spawn(move || {
            let mut all = String::new();
            errors.read_to_string(&mut all).unwrap();
            all
        });
        Self { child, confirmed, stdout: Some(stdout), stderr: Some(stderr) }
    }

    /// What it has told of as confirmed, in bytes.
    pub(crate) fn confirmed(&self) -> u64 {
        self.confirmed.load(Relaxed)
    }

    /// Waits until so much is confirmed.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, bytes: u64) {
        eventually(&format!("{bytes} bytes are confirmed"), || {
            self.assert_runs();
            self.confirmed() >= bytes
        });
    }

    /// Waits until it gets on again. Returns how long that took.
    #[track_caller]
    pub(crate) fn wait_for_more(&mut self) -> Duration {
        let (since, before) = (Instant::now(), self.confirmed());
        self.wait_for(before + 1);
        eprintln!("goes on after {:?}", since.elapsed());
        since.elapsed()
    }

    #[track_caller]
    pub(crate) fn assert_runs(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            let ran = self.output(status.code().unwrap_or(-1));
            panic!("the push has ended: {ran:?}");
        }
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Ran {
        let since = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if since.elapsed() > PATIENCE {
                self.child.kill().unwrap();
                panic!("the push does not end: {:?}", self.output(-1));
            }
            thread::sleep(Duration::from_millis(5));
        };
        self.output(status.code().unwrap_or(-1))
    }

    fn output(&mut self, code: i32) -> Ran {
        let [stdout, stderr] =
            [&mut self.stdout, &mut self.stderr].map(|all| all.take().unwrap().join().unwrap());
        Ran { code, stdout, stderr }
    }
}

impl Drop for Push {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A process that does not run until this is dropped.
pub(crate) struct Frozen(rustix::process::Pid);

impl Frozen {
    pub(crate) fn new(child: &Child) -> Self {
        kill_process(pid(child), Signal::STOP).unwrap();
        // On a busy machine it goes on for a while.
        waitid(WaitId::Pid(pid(child)), WaitIdOptions::STOPPED).unwrap();
        Self(pid(child))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        kill_process(self.0, Signal::CONT).ok();
    }
}
