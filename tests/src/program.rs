//! The built `openwatch` program as a child process.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use openwatch_app::private::CHILD;
use rustix::process::{Pid, Signal, kill_process};

use crate::wait::{PATIENCE, eventually_within};

/// Path of the built program: OPENWATCH_BINARY, or the one in the target directory of this test.
///
/// # Panics
/// When it was not built.
#[must_use]
pub fn openwatch() -> PathBuf {
    if let Some(named) = std::env::var_os("OPENWATCH_BINARY") {
        return named.into();
    }
    let test = std::env::current_exe().expect("find the test's own program");
    // <target>/<profile>/deps/it-..., or <target>/<profile>/examples/...
    let beside =
        test.ancestors().skip(1).take(3).map(|dir| dir.join("openwatch")).find(|path| path.is_file());
    beside.unwrap_or_else(|| {
        panic!("openwatch is not built: run `cargo build --bin openwatch` (or `make test`)")
    })
}

/// How to start the program. Starts with an empty environment, apart from PATH and HOME.
#[derive(Debug, Clone)]
pub struct Program {
    binary: Option<PathBuf>,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    cwd: Option<PathBuf>,
}

impl Program {
    /// With these arguments.
    pub fn new<A: Into<OsString>>(args: impl IntoIterator<Item = A>) -> Self {
        let args = args.into_iter().map(Into::into).collect();
        Self { binary: None, args, env: Vec::new(), cwd: None }
    }

    /// Another program, run the same way: bound to the test, its output collected.
    pub fn other<A: Into<OsString>>(binary: impl Into<PathBuf>, args: impl IntoIterator<Item = A>) -> Self {
        Self { binary: Some(binary.into()), ..Self::new(args) }
    }

    /// With one more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// With more arguments.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// With this environment variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// In this directory.
    #[must_use]
    pub fn cwd(mut self, dir: impl Into<PathBuf>) -> Self {
        self.cwd = Some(dir.into());
        self
    }

    /// Starts it. It dies with the test process, however that ends.
    ///
    /// # Panics
    /// When the program cannot be started.
    #[must_use]
    pub fn spawn(&self) -> Running {
        let openwatch = openwatch();
        let binary = self.binary.as_ref().unwrap_or(&openwatch);
        let mut command = Command::new(&openwatch);
        // Through its own hidden entry, which binds it to the thread that starts it.
        command.arg(CHILD).arg(std::process::id().to_string()).arg(Signal::KILL.as_raw().to_string());
        command.args(["-", "--"]).arg(binary).args(&self.args);
        command
            .env_clear()
            .envs(["PATH", "HOME", "TMPDIR"].iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        // Servers fetched for this checkout are found beside the program; others by these names.
        for name in ["OPENWATCH_POSTGRES_BIN", "OPENWATCH_NATS_SERVER"] {
            command.envs(std::env::var_os(name).map(|value| (name, value)));
        }
        command.envs(self.env.iter().cloned());
        if let Some(cwd) = &self.cwd {
            command.current_dir(cwd);
        }
        // A group of its own, as in a terminal: a test can interrupt the group and not itself.
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            on_keeper_thread(command).unwrap_or_else(|error| panic!("run {}: {error}", binary.display()));
        let output = Output::default();
        output.collect(child.stdout.take(), |output| &output.stdout);
        output.collect(child.stderr.take(), |output| &output.stderr);
        Running { child, output, status: None }
    }

    /// Runs it to its end: exit code, stdout, stderr.
    ///
    /// # Panics
    /// When it does not end within [`PATIENCE`].
    pub async fn run(&self) -> (Option<i32>, String, String) {
        let mut running = self.spawn();
        let status = running.wait().await;
        (status.code(), running.stdout(), running.stderr())
    }
}

type Lines = Arc<Mutex<String>>;

#[derive(Debug, Default, Clone)]
struct Output {
    stdout: Lines,
    stderr: Lines,
    /// Readers that have not seen the end yet.
    open: Arc<Mutex<u32>>,
}

impl Output {
    fn collect(&self, from: Option<impl Read + Send + 'static>, which: fn(&Self) -> &Lines) {
        let Some(from) = from else { return };
        let output = self.clone();
        *output.open.lock().expect("no reader panics") += 1;
        std::thread::spawn(move || {
            let mut from = BufReader::new(from);
            let mut line = Vec::new();
            while matches!(from.read_until(b'\n', &mut line), Ok(read) if read > 0) {
                which(&output).lock().expect("no reader panics").push_str(&String::from_utf8_lossy(&line));
                line.clear();
            }
            *output.open.lock().expect("no reader panics") -= 1;
        });
    }
}

/// A running program. Killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    output: Output,
    status: Option<ExitStatus>,
}

impl Running {
    /// Its process id.
    #[must_use]
    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line of stdout or stderr that contains `text`, and returns it.
    ///
    /// # Panics
    /// When it does not come within [`PATIENCE`], or the program ends before; shows the output then.
    pub async fn line(&mut self, text: &str) -> String {
        let since = std::time::Instant::now();
        loop {
            let ended = self.try_wait().is_some();
            let all = format!("{}{}", self.stdout(), self.stderr());
            if let Some(line) = all.lines().find(|line| line.contains(text)) {
                return line.to_owned();
            }
            let over = ended || since.elapsed() > PATIENCE;
            assert!(!over, "no line with {text:?} (ended: {ended:?}) in:\n{all}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Everything it has printed so far.
    ///
    /// # Panics
    /// Never in practice: a reader thread would have to panic.
    #[must_use]
    pub fn stdout(&self) -> String {
        self.output.stdout.lock().expect("no reader panics").clone()
    }

    /// Everything it has complained about so far.
    ///
    /// # Panics
    /// Never in practice: a reader thread would have to panic.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.output.stderr.lock().expect("no reader panics").clone()
    }

    /// Sends it a signal, unless it has ended.
    pub fn signal(&mut self, signal: Signal) {
        if self.try_wait().is_none() {
            // Not waited for yet, so the number is still its own.
            let _ = kill_process(Pid::from_child(&self.child), signal);
        }
    }

    /// Waits until it hears an interrupt, which is at once unless we ignore interrupts ourselves: a background job of a
    /// shell without job control does, and so do its children until they install a handler.
    ///
    /// # Panics
    /// When that does not come within [`PATIENCE`].
    pub async fn hears_interrupts(&mut self) {
        if !has_interrupt("self", "SigIgn") {
            return;
        }
        let pid = self.process_id().to_string();
        let since = std::time::Instant::now();
        while self.try_wait().is_none() && !has_interrupt(&pid, "SigCgt") {
            assert!(since.elapsed() < PATIENCE, "no handler for interrupts:\n{}", self.stderr());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// `kill -9`, and its end.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.status = self.child.wait().ok().or(self.status);
    }

    /// Asks it to end, and waits for it.
    ///
    /// # Panics
    /// When it does not end within [`PATIENCE`].
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait().await
    }

    /// Its exit status, when it has ended and all its output was read.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().ok().flatten();
        }
        // A grandchild may hold the pipe open; the program's own last words are then read anyway.
        self.status
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end within [`PATIENCE`]; shows the output then.
    pub async fn wait(&mut self) -> ExitStatus {
        let since = std::time::Instant::now();
        let status = loop {
            if let Some(status) = self.try_wait() {
                break status;
            }
            let (out, err) = (self.stdout(), self.stderr());
            assert!(since.elapsed() < PATIENCE, "did not end within {PATIENCE:?}:\n{out}{err}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let open = Arc::clone(&self.output.open);
        let read = || async { (*open.lock().expect("no reader panics") == 0).then_some(()) };
        eventually_within(PATIENCE, "the end of the program's output", read).await;
        status
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.try_wait().is_none() {
            self.kill();
        }
    }
}

/// Whether SIGINT is in a mask of `/proc/PID/status`.
fn has_interrupt(pid: &str, mask: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let bits = status.lines().find_map(|line| line.strip_prefix(mask)?.strip_prefix(':'));
    let bits = bits.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    bits.is_some_and(|bits| bits & (1 << (Signal::INT.as_raw() - 1)) != 0)
}

/// Starts the command on a thread that lives as long as the process: the kernel kills a bound child when the
/// *thread* that started it ends, and a test's threads come and go.
fn on_keeper_thread(mut command: Command) -> std::io::Result<Child> {
    type Job = Box<dyn FnOnce() + Send>;
    static KEEPER: OnceLock<Mutex<Sender<Job>>> = OnceLock::new();
    let keeper = KEEPER.get_or_init(|| {
        let (jobs, queue) = channel::<Job>();
        std::thread::spawn(move || queue.into_iter().for_each(|job| job()));
        Mutex::new(jobs)
    });
    let (reply, answer) = channel();
    let job = Box::new(move || {
        let _ = reply.send(command.spawn());
    });
    keeper
        .lock()
        .expect("the keeper's lock is never held over a panic")
        .send(job)
        .expect("the keeper never ends");
    answer.recv().expect("the keeper answers")
}
