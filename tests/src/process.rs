//! Processes that end with their test.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

/// How long a process may take to end after it was asked to.
const PATIENCE: Duration = Duration::from_secs(20);

/// A process with its output in a file. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    ended: bool,
}

impl Process {
    /// Starts `command` with its output, appended, in `log`.
    ///
    /// # Panics
    /// Where it cannot be started.
    #[must_use]
    pub fn start(name: &str, command: &Command, log: &Path) -> Self {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .expect("a log can be made");
        let mut bound = bound_to_this_thread(command);
        let child = bound
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a log can be shared"))
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        Self {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
            ended: false,
        }
    }

    /// Returns everything the process has written.
    #[must_use]
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns how the process ended, if it did.
    ///
    /// # Panics
    /// Where the system does not know the process.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().expect("it is our child");
        self.ended |= status.is_some();
        status
    }

    /// Ends the process at once, as a power cut would (`kill -9`).
    ///
    /// # Panics
    /// Where it ended before.
    pub fn kill(&mut self) {
        assert!(
            self.ended().is_none(),
            "{} ended by itself:\n{}",
            self.name,
            self.output()
        );
        self.child.kill().expect("it is our child");
        self.child.wait().expect("it is our child");
        self.ended = true;
    }

    /// Asks the process to end and waits for it.
    ///
    /// # Panics
    /// Where it does not end.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait()
    }

    /// Waits for the process to end by itself.
    ///
    /// # Panics
    /// Where it does not end.
    pub fn wait(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "{} does not end:\n{}",
                self.name,
                self.output()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends a signal by its name.
    ///
    /// # Panics
    /// Where it cannot be sent.
    pub fn signal(&self, signal: &str) {
        run(Command::new("/bin/kill").args(["-s", signal, &self.pid().to_string()]));
    }

    /// Waits until `ask` answers, as long as the process lives.
    ///
    /// # Panics
    /// Where the process ends before, or nothing happens.
    pub fn until<T>(&mut self, what: &str, mut ask: impl FnMut(&str) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            let output = self.output();
            if let Some(answer) = ask(&output) {
                return answer;
            }
            let ended = self.ended();
            assert!(
                ended.is_none() && start.elapsed() < crate::wait::PATIENCE,
                "{}, waiting until it {what} ({ended:?}):\n{output}",
                self.name
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            use std::io::Write as _;
            let output = self.output();
            let tail: Vec<_> = output.lines().rev().take(60).collect();
            let tail: Vec<_> = tail.into_iter().rev().collect();
            let text = format!("--- last lines of {}\n{}\n", self.name, tail.join("\n"));
            let _ = std::io::stderr().write_all(text.as_bytes());
        }
    }
}

/// Returns the same command, to be killed by the system when the thread that starts it ends, so
/// that nothing is left behind where a test is interrupted.
fn bound_to_this_thread(command: &Command) -> Command {
    let setpriv = crate::program("/usr/bin/setpriv", "util-linux");
    let mut bound = Command::new(setpriv);
    bound
        .args(["--pdeathsig", "KILL", "--"])
        .arg(command.get_program())
        .args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => bound.env(key, value),
            None => bound.env_remove(key),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        bound.current_dir(folder);
    }
    bound
}

/// Runs a command to its end and returns its output.
///
/// # Panics
/// Where it cannot be started or fails; the text has everything it wrote.
pub fn run(command: &mut Command) -> String {
    let output = attempt(command);
    let text = both(&output);
    assert!(
        output.status.success(),
        "{command:?} failed, {}:\n{text}",
        output.status
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a command to its end, whatever that is.
///
/// # Panics
/// Where it cannot be started.
pub fn attempt(command: &mut Command) -> Output {
    command.stdin(Stdio::null());
    command
        .output()
        .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"))
}

/// Returns everything a command wrote.
#[must_use]
pub fn both(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    text
}

/// Returns a command of a program with arguments.
pub fn command<A: AsRef<OsStr>>(
    program: impl AsRef<OsStr>,
    args: impl IntoIterator<Item = A>,
) -> Command {
    let mut command = Command::new(program);
    command.args(args);
    command
}
