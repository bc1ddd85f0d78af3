//! A user's host, a server on it, and what is on its disk.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use walkdir::WalkDir;

/// Nothing here takes nearly as long, on however slow a machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

const NOBODY: u32 = 65_534;

/// A user with folders of their own: configuration, a source, a server's root.
pub(crate) struct Host {
    pub(crate) dir: TempDir,
    binary: PathBuf,
    uid: Option<u32>,
}

/// Puts something there that can be run. A process of its own writes it: what another thread of this one is starting
/// holds all that is open here for a moment, and what is open to be written cannot be run.
pub(crate) fn put_executable(path: &Path, content: &[u8]) {
    let mut writer = Command::new("sh");
    writer.args(["-c", "cat >\"$0\" && chmod 755 \"$0\""]).arg(path);
    let mut writer = writer.stdin(Stdio::piped()).spawn().unwrap();
    // It ends when this is closed.
    writer.stdin.take().unwrap().write_all(content).unwrap();
    assert!(writer.wait().unwrap().success());
}

/// What a command that has ended said.
#[derive(Debug)]
pub(crate) struct Ran {
    /// -1 if it was killed.
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Host {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["src", "root", "outside"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        // Another build of it, to measure with.
        let built = std::env::var_os("QBULK_TEST_BINARY").map(PathBuf::from);
        let binary = built.unwrap_or_else(|| env!("CARGO_BIN_EXE_qbulk").into());
        Self { dir, binary, uid: None }
    }

    /// A user for whom permissions count, even where the tests are run by root.
    pub(crate) fn unprivileged() -> Self {
        let mut host = Self::new();
        if geteuid().is_root() {
            // The build may be in a folder that only root can enter.
            let binary = host.dir.path().join("qbulk");
            put_executable(&binary, &fs::read(&host.binary).unwrap());
            for path in [host.dir.path(), &host.src(""), &host.root(""), &binary] {
                chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
            }
            host.binary = binary;
            host.uid = Some(NOBODY);
        }
        host
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.dir.path().join("config")
    }

    pub(crate) fn src(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join("src").join(name)
    }

    pub(crate) fn root(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join("root").join(name)
    }

    /// Next to the root, where nothing may ever be written.
    pub(crate) fn outside(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join("outside").join(name)
    }

    pub(crate) fn qbulk(&self) -> Command {
        self.own(Command::new(&self.binary))
    }

    /// `qbulk` started by a shell that first runs `setup`.
    pub(crate) fn qbulk_after(&self, setup: &str) -> Command {
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("{setup}; exec \"$0\" \"$@\"")).arg(&self.binary);
        self.own(command)
    }

    fn own(&self, mut command: Command) -> Command {
        command.env("QBULK_CONFIG_DIR", self.config());
        command.env("QBULK_CACHE_DIR", self.dir.path().join("cache"));
        command.current_dir(self.dir.path());
        command.stdin(Stdio::null());
        if let Some(uid) = self.uid {
            command.uid(uid).gid(uid);
        }
        command
    }

    pub(crate) fn id(&self) -> String {
        let ran = run(self.qbulk().arg("id"));
        assert_eq!(ran.code, 0, "{ran:?}");
        ran.stdout.trim().into()
    }

    /// From where to where [`Host::moving`] goes.
    pub(crate) fn ends(&self, is_pull: bool) -> (PathBuf, PathBuf) {
        if is_pull {
            (self.root("from"), self.src("to"))
        } else {
            (self.src("from"), self.root("to"))
        }
    }

    /// A transfer of what is in one folder to another, either way, not started yet.
    pub(crate) fn moving(
        &self,
        serve: &Serve,
        is_pull: bool,
        options: &[impl AsRef<OsStr>],
    ) -> Command {
        let mut command = self.qbulk();
        command.arg(if is_pull { "pull" } else { "push" }).args(options);
        if is_pull {
            command.arg(serve.url("from/")).arg(self.src("to"));
        } else {
            command.arg(self.src("from/")).arg(serve.url("to"));
        }
        command
    }

    /// A push with `--json`, not started yet.
    pub(crate) fn pushing(&self, args: &[&OsStr], url: &str) -> Command {
        let mut command = self.qbulk();
        command.args(["push", "--json"]).args(args).arg(url);
        command
    }

    /// Compares with `--json`.
    pub(crate) fn verify(&self, args: &[&OsStr]) -> Ran {
        run(self.qbulk().args(["verify", "--json"]).args(args))
    }

    /// Pushes with `--json`.
    pub(crate) fn push(&self, source: impl AsRef<OsStr>, url: &str) -> Ran {
        run(&mut self.pushing(&[source.as_ref()], url))
    }
}

/// A free UDP port that the system gives to nobody who does not ask for it: it can be left for a while
/// and opened again.
pub(crate) fn free_address() -> SocketAddr {
    loop {
        let address = SocketAddr::from(([127, 0, 0, 1], rand::random_range(10_000..32_000)));
        if UdpSocket::bind(address).is_ok() {
            return address;
        }
    }
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Ran {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    finish(child)
}

/// Waits for the end of a command whose output is piped.
pub(crate) fn finish(mut child: Child) -> Ran {
    let pid = pid(&child);
    let (done, waiting) = channel::<()>();
    let watchdog = thread::spawn(move || {
        if waiting.recv_timeout(PATIENCE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            kill_process(pid, Signal::KILL).unwrap();
        }
    });
    child.stdin.take();
    let output = child.wait_with_output().unwrap();
    drop(done);
    watchdog.join().unwrap();
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

pub(crate) fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}

impl Ran {
    pub(crate) fn events(&self) -> Vec<Value> {
        let parse =
            |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        self.stdout.lines().map(parse).collect()
    }

    /// What a verification found: paths, and how they differ or why they were not compared.
    pub(crate) fn findings(&self) -> BTreeMap<String, String> {
        let finding = |event: Value| {
            let text = |name: &str| event[name].as_str().unwrap().to_owned();
            match event["event"].as_str().unwrap() {
                "difference" => {
                    let differs = event["differs"].as_array().unwrap();
                    let words: Vec<_> = differs.iter().map(|word| word.as_str().unwrap()).collect();
                    Some((text("path"), words.join("+")))
                }
                "not_compared" => Some((text("path"), text("reason"))),
                _ => None,
            }
        };
        self.events().into_iter().filter_map(finding).collect()
    }

    /// The summary of a push, which must be the last that it says.
    pub(crate) fn summary(&self) -> Value {
        let last = self.events().pop().unwrap_or_else(|| panic!("no summary: {self:?}"));
        assert_eq!(last["event"], "summary", "{self:?}");
        last
    }

    /// That it failed with `code` and a message that has `words`.
    #[track_caller]
    pub(crate) fn assert_failed(&self, code: i32, words: &str) {
        assert_eq!(self.code, code, "{self:?}");
        let said = format!("{}{}", self.stdout, self.stderr);
        assert!(said.contains(words), "no {words:?} in {self:?}");
    }
}

/// A `qbulk serve`, killed when it is dropped.
pub(crate) struct Serve {
    pub(crate) child: Child,
    pub(crate) address: SocketAddr,
    /// What it says that it serves.
    pub(crate) roots: Value,
    events: Receiver<Value>,
    stderr: PathBuf,
}

impl Serve {
    pub(crate) fn start(host: &Host) -> Self {
        Self::with(host, &[])
    }

    pub(crate) fn with(host: &Host, args: &[&str]) -> Self {
        let mut command = host.qbulk();
        command.args(Self::arguments(host)).args(["--listen", "127.0.0.1:0"]).args(args);
        Self::spawn(host, command)
    }

    /// Starts it at an address, as after a restart.
    pub(crate) fn at(host: &Host, address: SocketAddr) -> Self {
        let mut command = host.qbulk();
        command.args(Self::arguments(host)).args(["--listen", &address.to_string()]);
        Self::spawn(host, command)
    }

    pub(crate) fn arguments(host: &Host) -> Vec<OsString> {
        let root = host.root("").into_os_string();
        vec!["serve".into(), "--json".into(), "--root".into(), root]
    }

    pub(crate) fn spawn(host: &Host, mut command: Command) -> Self {
        let stderr = host.dir.path().join("serve.stderr");
        command.stdout(Stdio::piped()).stderr(File::create(&stderr).unwrap());
        let mut child = command.spawn().unwrap();
        let (sender, events) = channel();
        let stdout = child.stdout.take().unwrap();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let event = serde_json::from_str(&line);
                if sender.send(event.unwrap_or_else(|_| panic!("not JSON: {line}"))).is_err() {
                    return;
                }
            }
        });
        let address = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut serve = Self { child, address, roots: Value::Null, events, stderr };
        let mut listening = serve.event("listening");
        serve.address = listening["address"].as_str().unwrap().parse().unwrap();
        serve.roots = listening["roots"].take();
        serve
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("qbulk://{}/{path}", self.address)
    }

    /// How many files and sockets it has open.
    pub(crate) fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// Waits for the next event.
    pub(crate) fn next(&self) -> Value {
        let event = self.events.recv_timeout(PATIENCE);
        event.unwrap_or_else(|error| {
            panic!("no event ({error}); {:?}", fs::read_to_string(&self.stderr))
        })
    }

    /// Waits for an event; those before it are passed over.
    pub(crate) fn event(&self, name: &str) -> Value {
        loop {
            let event = self.next();
            if event["event"] == name {
                return event;
            }
            assert_ne!(event["event"], "error", "{event}");
        }
    }

    /// Ends it as an administrator does, and returns its exit code.
    pub(crate) fn stop(mut self) -> Option<i32> {
        kill_process(pid(&self.child), Signal::TERM).unwrap();
        let code = self.child.wait().unwrap().code();
        let stderr = fs::read_to_string(&self.stderr).unwrap();
        assert!(!stderr.contains("panicked"), "{stderr}");
        code
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// What is at a path, as far as a transfer keeps it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Node {
    File { mode: u32, mtime: (i64, i64), bytes: u64, hash: String },
    Folder { mode: u32, mtime: (i64, i64) },
    Link { mtime: (i64, i64), target: PathBuf },
}

/// Everything below `dir`, itself included.
pub(crate) fn tree(dir: &Path) -> BTreeMap<PathBuf, Node> {
    let node = |path: &Path| {
        let metadata = fs::symlink_metadata(path).unwrap();
        let (mode, mtime) = (metadata.mode() & 0o7777, (metadata.mtime(), metadata.mtime_nsec()));
        if metadata.is_symlink() {
            Node::Link { mtime, target: fs::read_link(path).unwrap() }
        } else if metadata.is_dir() {
            Node::Folder { mode, mtime }
        } else {
            Node::File { mode, mtime, bytes: metadata.len(), hash: hash(path) }
        }
    };
    let below = WalkDir::new(dir).into_iter().map(|entry| entry.unwrap().into_path());
    below.map(|path| (path.strip_prefix(dir).unwrap().to_owned(), node(&path))).collect()
}

/// The names of all that is below `dir`.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let paths = tree(dir).into_keys().filter(|path| !path.as_os_str().is_empty());
    paths.map(|path| path.to_string_lossy().into_owned()).collect()
}

/// What transfers have under way below `dir`.
pub(crate) fn unfinished(dir: &Path) -> Vec<String> {
    let name = |path: &String| path.rsplit('/').next().unwrap_or_default().starts_with(".qbulk-");
    // Files may come and go meanwhile.
    let entries = WalkDir::new(dir).into_iter().filter_map(Result::ok);
    let paths = entries.map(|entry| entry.path().to_string_lossy().into_owned());
    paths.filter(name).collect()
}

pub(crate) fn hash(path: &Path) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path).unwrap()).unwrap();
    hasher.finalize().to_hex().to_string()
}

pub(crate) fn random(seed: u64, bytes: usize) -> Vec<u8> {
    let mut data = vec![0; bytes];
    SmallRng::seed_from_u64(seed).fill_bytes(&mut data);
    data
}

/// Waits until `is_so`.
#[track_caller]
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "{what}: not in {PATIENCE:?}");
        thread::sleep(Duration::from_millis(5));
    }
}
