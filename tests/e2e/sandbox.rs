//! A system that refuses some of its calls, as old kernels, odd file systems and sandboxes do.

use std::ffi::OsString;
use std::process::{Command, Stdio};

/// Starts a command that is refused some system calls. There is nothing to start it with where this is
/// empty.
pub(crate) struct Sandbox(Option<Vec<OsString>>);

/// Sets a filter (seccomp) by which each call in the first argument fails with its error number, then
/// becomes the command that follows.
const STARTER: &str = r"
import ctypes, os, struct, sys
step = lambda code, jt, jf, value: struct.pack('HBBI', code, jt, jf, value)
program = step(0x20, 0, 0, 0)
for rule in sys.argv[1].split(','):
    number, error = map(int, rule.split('='))
    program += step(0x15, 0, 1, number) + step(0x06, 0, 0, 0x50000 | error)
program += step(0x06, 0, 0, 0x7fff0000)
buffer = ctypes.create_string_buffer(program)
class Filter(ctypes.Structure):
    _fields_ = [('len', ctypes.c_ushort), ('steps', ctypes.c_void_p)]
filter = Filter(len(program) // 8, ctypes.cast(buffer, ctypes.c_void_p))
prctl = ctypes.CDLL(None).prctl
if prctl(38, 1, 0, 0, 0) or prctl(22, 2, ctypes.byref(filter), 0, 0):
    sys.exit(99)
os.execv(sys.argv[2], sys.argv[2:])
";

/// The numbers of the calls that tests refuse, on the processors for which they are known.
fn number(call: &str) -> Option<u32> {
    let (x86_64, aarch64) = match call {
        "flock" => (73, 32),
        "fchmod" => (91, 52),
        "utimensat" => (280, 88),
        "fallocate" => (285, 47),
        "syncfs" => (306, 267),
        "openat2" => (437, 437),
        "faccessat2" => (439, 439),
        "fstatfs" => (138, 44),
        "lseek" => (8, 62),
        _ => return None,
    };
    if cfg!(target_arch = "x86_64") {
        Some(x86_64)
    } else if cfg!(target_arch = "aarch64") {
        Some(aarch64)
    } else {
        None
    }
}

impl Sandbox {
    /// Each call fails with its error.
    pub(crate) fn new(rules: &[(&str, i32)]) -> Self {
        let rule = |(call, error): &(&str, i32)| Some(format!("{}={error}", number(call)?));
        let rules = rules.iter().map(rule).collect::<Option<Vec<_>>>();
        let start = rules
            .map(|rules| ["python3", "-c", STARTER, &rules.join(",")].map(OsString::from).to_vec());
        Self(start.filter(|start| Self::wrapped(start, &Command::new("/bin/true")).is_some()))
    }

    /// Whether commands can be started so here; if not, `test` says that it is skipped.
    pub(crate) fn is_there(&self, test: &str) -> bool {
        if self.0.is_none() {
            eprintln!("{test}: skipped: no filter for system calls can be set here");
        }
        self.0.is_some()
    }

    /// `command`, with its arguments and environment, in the sandbox.
    pub(crate) fn around(&self, command: &Command) -> Command {
        let start = self.0.as_ref().expect("it was asked whether it is there");
        let mut wrapped = Command::new(&start[0]);
        wrapped.args(&start[1..]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => wrapped.env(name, value),
                None => wrapped.env_remove(name),
            };
        }
        if let Some(dir) = command.get_current_dir() {
            wrapped.current_dir(dir);
        }
        wrapped.stdin(Stdio::null());
        wrapped
    }

    fn wrapped(start: &[OsString], command: &Command) -> Option<()> {
        let mut command = Self(Some(start.to_vec())).around(command);
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status().ok()?;
        status.success().then_some(())
    }
}
