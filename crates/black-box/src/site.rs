//! A server and devices as real processes on this machine, in a temporary directory of their own.
//!
//! Every process is a child of this one and is ended by its id; the directory goes away with the [`Site`].

use crate::program::{Program, Ran};
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const EMAIL: &str = "alice@example.org";
const PASSWORD: &str = "correct horse battery staple";
/// How long a daemon may take until it answers, and how long one may take to end.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(15);
/// Rounds of flushes after which all must agree: out, back, and once more for what the first round made.
const FLUSH_ROUNDS: usize = 3;

/// Lines of a log that a failure tells.
const LAST_LINES: usize = 4;

/// A place for a server and devices.
#[derive(Debug)]
pub struct Site {
    program: Program,
    directory: TempDir,
    numbers: AtomicU64,
}

impl Site {
    /// A new place below the directory for temporary files, with a copy of the program.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(program: &Program) -> Result<Self> {
        let site = Self::with_shared_program(program)?;
        Ok(Self { program: program.copied_into(site.directory.path())?, ..site })
    }

    /// A new place for a program that is a copy already. A copy cannot be made while other threads start
    /// processes: these would hold it open for writing for a moment, and it could not be run.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn with_shared_program(program: &Program) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("syncline-black-box-").tempdir()?;
        Ok(Self { program: program.clone(), directory, numbers: AtomicU64::new(1) })
    }

    /// A path in the place that nothing else uses.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A number that this place gives out once.
    pub fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// Keeps the directory after the end, for a person who looks into a failure.
    pub fn keep(self) -> PathBuf {
        self.directory.keep()
    }

    /// A server that runs, with one account.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_server(&self) -> Result<Server> {
        let mut server = Server {
            program: self.program.clone(),
            data: self.path("server"),
            log: self.path("server.log"),
            address: "127.0.0.1:0".to_owned(),
            process: None,
        };
        server.start()?;
        add_account(&self.program, &["--data", text(&server.data)?])?;
        Ok(server)
    }

    /// The program that the place has a copy of.
    #[must_use]
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// A device that is linked by way of an address and does not run. Its delete guard is off: the histories
    /// delete at will.
    ///
    /// # Errors
    /// When it cannot be linked.
    pub fn link_device(&self, name: &str, address: &str) -> Result<Device> {
        self.link_device_of(&self.program, name, address)
    }

    /// The same, with all that it runs run by this program.
    ///
    /// # Errors
    /// When it cannot be linked.
    pub fn link_device_of(&self, program: &Program, name: &str, address: &str) -> Result<Device> {
        self.link_device_in(program, name, address, &self.path(&format!("{name}-home")), &self.path(name))
    }

    /// The same, with this home and this folder.
    fn link_device_in(
        &self,
        program: &Program,
        name: &str,
        address: &str,
        home: &Path,
        folder: &Path,
    ) -> Result<Device> {
        let device = Device {
            program: program.clone(),
            name: name.to_owned(),
            home: home.to_owned(),
            folder: folder.to_owned(),
            log: self.path(&format!("{name}.log")),
            process: None,
        };
        let arguments = [
            "--home",
            text(&device.home)?,
            "link",
            &format!("http://{address}"),
            "--email",
            EMAIL,
            "--password-stdin",
            "--folder",
            text(&device.folder)?,
            "--name",
            name,
        ];
        program.run_with_input(&arguments, &format!("{PASSWORD}\n"))?;
        Ok(device)
    }

    /// A device that runs.
    ///
    /// # Errors
    /// When it cannot be linked or does not start.
    pub fn start_device(&self, name: &str, address: &str) -> Result<Device> {
        self.start_device_in(name, address, &self.path(&format!("{name}-home")), &self.path(name))
    }

    /// A device that runs, with this home and this folder.
    ///
    /// # Errors
    /// When it cannot be linked or does not start.
    pub fn start_device_in(&self, name: &str, address: &str, home: &Path, folder: &Path) -> Result<Device> {
        let mut device = self.link_device_in(&self.program, name, address, home, folder)?;
        device.start()?;
        device.run(&["config", "set", "delete-guard", "off"])?;
        Ok(device)
    }
}

/// Makes the account that devices are linked to, on a server that these options name.
///
/// # Errors
/// When it cannot be made.
pub(crate) fn add_account(program: &Program, server: &[&str]) -> Result<()> {
    let arguments = [&["admin"], server, &["user", "add", EMAIL, "--password-stdin"]].concat();
    program.run_with_input(&arguments, &format!("{PASSWORD}\n")).map(drop)
}

/// A process that ends with its owner.
#[derive(Debug)]
pub struct Running(Child);

impl Running {
    pub(crate) fn new(child: Child) -> Self {
        Self(child)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn kill(mut self) -> Result<()> {
        self.0.kill().context("cannot kill")?;
        self.0.wait().context("cannot wait")?;
        Ok(())
    }

    /// Whether it is over, however it went.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.0.try_wait()?.is_some())
    }

    /// Whether it did what it was to do; `None` while it runs.
    pub(crate) fn has_succeeded(&mut self) -> Result<Option<bool>> {
        Ok(self.0.try_wait()?.map(|status| status.success()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may be gone already; then both fail, and that is fine.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// The server.
#[derive(Debug)]
pub struct Server {
    program: Program,
    data: PathBuf,
    log: PathBuf,
    address: String,
    process: Option<Running>,
}

impl Server {
    /// Where it listens, also after a restart.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its data directory.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The id of its process, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(|running| running.0.id())
    }

    /// Ends it without a word of warning.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().map_or(Ok(()), Running::kill)
    }

    /// Starts it where it was, if it does not run.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(&mut self) -> Result<()> {
        if let Some(process) = &mut self.process
            && !process.has_ended()?
        {
            return Ok(());
        }
        let mut child = self.command()?.stdout(Stdio::piped()).stderr(append(&self.log)?).spawn()?;
        let stdout = child.stdout.take().context("its output is piped")?;
        self.process = Some(Running(child));
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let listening: Value = serde_json::from_str(&line)
            .with_context(|| format!("the server did not come up; its log ends with: {}", end_of(&self.log)))?;
        let address = listening["address"].as_str().context("the server names its address")?;
        address.trim_start_matches("http://").clone_into(&mut self.address);
        Ok(())
    }
}

impl Server {
    fn command(&self) -> Result<Command> {
        let mut command = self.program.command();
        command.args(["server", "--data", text(&self.data)?, "--listen", &self.address, "--json"]);
        Ok(command)
    }

    /// Begins to start it, and holds it before its first step until it is traced.
    ///
    /// # Errors
    /// When it does not come so far.
    pub fn start_held(&mut self) -> Result<()> {
        self.process = Some(held(&self.command()?, append(&self.log)?)?);
        Ok(())
    }

    /// Whether it answers.
    #[must_use]
    pub fn is_up(&self) -> bool {
        std::net::TcpStream::connect(&self.address).is_ok()
    }
}

/// A device: a home, a folder and a daemon.
#[derive(Debug)]
pub struct Device {
    program: Program,
    name: String,
    home: PathBuf,
    folder: PathBuf,
    log: PathBuf,
    process: Option<Running>,
}

impl Device {
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The synced folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What its daemon said.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The id of its daemon, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(|running| running.0.id())
    }

    /// Starts its daemon, if it does not run, and waits until it answers.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(&mut self) -> Result<()> {
        if self.is_running()? {
            return Ok(());
        }
        let child = self.command()?.stdout(Stdio::null()).stderr(append(&self.log)?).spawn()?;
        self.process = Some(Running(child));
        let deadline = Instant::now() + PATIENCE;
        while !self.try_run(&["status"])?.is_ok() {
            if !self.is_running()? {
                bail!("the daemon of {} ended at once; its log ends with: {}", self.name, end_of(&self.log));
            }
            if Instant::now() > deadline {
                bail!("the daemon of {} does not answer; its log is {}", self.name, self.log.display());
            }
            thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    fn command(&self) -> Result<Command> {
        let mut command = self.program.command();
        command.args(["--home", text(&self.home)?, "start", "--foreground"]).env("SYNCLINE_LOG", "info");
        Ok(command)
    }

    /// Begins to start its daemon, and holds it before its first step until it is traced.
    ///
    /// # Errors
    /// When it does not come so far.
    pub fn start_held(&mut self) -> Result<()> {
        self.process = Some(held(&self.command()?, append(&self.log)?)?);
        Ok(())
    }

    /// Whether its daemon answers.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.try_run(&["status"]).is_ok_and(|ran| ran.is_ok())
    }

    /// Whether its daemon is alive.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn is_running(&mut self) -> Result<bool> {
        if let Some(process) = &mut self.process
            && process.has_ended()?
        {
            self.process = None;
        }
        Ok(self.process.is_some())
    }

    /// Ends its daemon without a word of warning.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().map_or(Ok(()), Running::kill)
    }

    /// Ends its daemon in order.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        signal(process.0.id(), Signal::TERM)?;
        let deadline = Instant::now() + PATIENCE;
        while !process.has_ended()? {
            if Instant::now() > deadline {
                bail!("the daemon of {} does not stop", self.name);
            }
            thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    /// Runs a command for this device, whatever comes of it.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn try_run(&self, arguments: &[&str]) -> Result<Ran> {
        let mut command = self.program.command();
        command.current_dir("/").args(["--home", text(&self.home)?]).args(arguments);
        Ok(command.output().context("cannot run the program")?.into())
    }

    /// Runs a command for this device that must be done.
    ///
    /// # Errors
    /// When it was not.
    pub fn run(&self, arguments: &[&str]) -> Result<Ran> {
        let ran = self.try_run(arguments)?;
        if !ran.is_ok() {
            bail!("`syncline {}` of {} failed: {ran:?}", arguments.join(" "), self.name);
        }
        Ok(ran)
    }

    /// Waits until everything is in sync as far as this device knows.
    ///
    /// # Errors
    /// When it takes longer than that.
    pub fn flush(&self, limit: Duration) -> Result<()> {
        let flushed = self.run(&["flush", "--timeout", &format!("{:.1}", limit.as_secs_f64())]);
        flushed.map(drop).with_context(|| self.told_status())
    }

    /// The same, without waiting for its end.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn begin_flush(&self, limit: Duration) -> Result<Running> {
        let mut command = self.program.command();
        command.args(["--home", text(&self.home)?, "flush", "--timeout", &format!("{:.1}", limit.as_secs_f64())]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Ok(Running(child.context("cannot run the program")?))
    }

    /// What its status says, for a failure's report.
    fn told_status(&self) -> String {
        let status = self.try_run(&["status", "--json"]).map(|ran| ran.stdout).unwrap_or_default();
        format!("{} is not in sync: {}", self.name, status.trim())
    }

    /// The items that it could not sync.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub fn problems(&self) -> Result<Vec<String>> {
        let ran = self.run(&["status", "--json"])?;
        let status: Value = serde_json::from_str(&ran.stdout).context("`status --json` prints JSON")?;
        let problems = status["problem_list"].as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(problems.iter().map(ToString::to_string).collect())
    }
}

/// A process that stops itself before it becomes the program. Who traces it lets it go on.
fn held(command: &Command, log: File) -> Result<Running> {
    let mut shell = Command::new("sh");
    shell.args(["-c", "kill -STOP $$; exec \"$@\"", "sh"]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    let child = shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().context("cannot run a shell")?;
    let (stat, deadline) = (format!("/proc/{}/stat", child.id()), Instant::now() + PATIENCE);
    let running = Running(child);
    while !fs::read_to_string(&stat)?.contains(") T ") {
        if Instant::now() > deadline {
            bail!("a process did not stop itself");
        }
        thread::sleep(LOOK_AGAIN);
    }
    Ok(running)
}

/// Stops a process where it is. When this returns it does nothing more outside of the kernel.
///
/// # Errors
/// When there is none, or it does not stop.
pub(crate) fn freeze(pid: Option<u32>) -> Result<()> {
    let pid = pid.context("it runs")?;
    signal(pid, Signal::STOP)?;
    let deadline = Instant::now() + PATIENCE;
    let is_out = |thread: std::io::Result<fs::DirEntry>| -> Result<bool> {
        let stat = fs::read_to_string(thread?.path().join("stat")).unwrap_or_default();
        // One that waits for the disk stops on its way out of the kernel. One without a state has ended.
        Ok([") T ", ") D ", ") t "].iter().any(|state| stat.contains(state)) || stat.is_empty())
    };
    loop {
        let threads = fs::read_dir(format!("/proc/{pid}/task"))?.map(is_out).collect::<Result<Vec<bool>>>()?;
        if threads.into_iter().all(|is_out| is_out) {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("a process does not stop");
        }
        thread::sleep(LOOK_AGAIN);
    }
}

/// Lets a process go on that was started held.
///
/// # Errors
/// When there is none.
pub fn go_on(pid: u32) -> Result<()> {
    signal(pid, Signal::CONT)
}

pub(crate) fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("a process has an id")?;
    kill_process(pid, signal).context("cannot send a signal")
}

/// Lets all devices tell and hear everything. Each must run.
///
/// # Errors
/// When one is not in sync in time.
pub fn flush_all(devices: &[&Device], limit: Duration) -> Result<()> {
    for _ in 0..FLUSH_ROUNDS {
        devices.iter().try_for_each(|device| device.flush(limit))?;
    }
    Ok(())
}

/// Whether a program of this name can be run here.
#[must_use]
pub fn is_installed(program: &str, version_flag: &str) -> bool {
    let mut command = Command::new(program);
    command.arg(version_flag).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// The last words of a log.
pub(crate) fn end_of(log: &Path) -> String {
    // MariaDB writes what is no text.
    let bytes = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().rev().take(LAST_LINES).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
}

pub(crate) fn append(path: &Path) -> Result<File> {
    OpenOptions::new().create(true).append(true).open(path).with_context(|| format!("cannot open {}", path.display()))
}

pub(crate) fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}

/// Makes the directory that a file is to be in.
///
/// # Errors
/// When it cannot be made.
pub fn make_parent(path: &Path) -> Result<()> {
    path.parent().map_or(Ok(()), |parent| Ok(fs::create_dir_all(parent)?))
}
