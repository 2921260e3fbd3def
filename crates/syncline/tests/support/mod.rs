//! A server and devices as real processes on this machine. Every process that is started is stopped
//! again, by its id.

#![allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]

use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub const PASSWORD: &str = "correct horse battery staple";
pub const ALICE: &str = "alice@example.org";
pub const BOB: &str = "bob@example.org";
/// Seconds that a sync of a few files may take on a busy machine.
pub const FLUSH_SECONDS: &str = "60";
/// The file with the authorities that devices trust.
pub const TRUSTED: &str = "trusted.pem";
const PATIENCE: Duration = Duration::from_secs(60);

/// What a command said and how it ended.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The command was done.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }

    /// The command failed with this code, and its one `error:` line and its `hint:` say these words.
    #[track_caller]
    pub fn fails(self, code: i32, error: &str, hint: &str) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        let errors = self.stderr.lines().filter(|line| line.starts_with("error: ")).count();
        assert_eq!(errors, 1, "{self:?}");
        let hints: Vec<&str> = self.stderr.lines().filter(|line| line.starts_with("hint: ")).collect();
        assert!(self.stderr.contains(error), "no `{error}` in {self:?}");
        assert!(hints.iter().any(|line| line.contains(hint)), "no hint with `{hint}` in {self:?}");
        assert!(self.stdout.is_empty(), "errors are no data: {self:?}");
        self
    }

    /// The one object on standard output.
    #[track_caller]
    pub fn json(&self) -> Value {
        let value: Value = serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        assert!(value.is_object(), "{self:?}");
        value
    }
}

/// The program, free of what the environment would add.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_syncline"));
    for name in ["SYNCLINE_HOME", "SYNCLINE_LOG", "XDG_DATA_HOME", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]
    {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// Runs the program to its end.
pub fn run(args: &[&str]) -> Ran {
    Ran::from(program().args(args).output().expect("runs"))
}

/// Runs the program to its end with something to read.
pub fn run_with_input(args: &[&str], input: &str) -> Ran {
    give(program().args(args), input)
}

fn give(command: &mut Command, input: &str) -> Ran {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("runs");
    // A program that does not want it may be gone.
    child.stdin.take().expect("piped").write_all(input.as_bytes()).ok();
    Ran::from(child.wait_with_output().expect("ends"))
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Waits until something holds.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A process that ends with its owner.
pub struct Running {
    pub child: Child,
}

impl Running {
    pub fn kill(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A server with the accounts of Alice and Bob.
pub struct Server {
    data: PathBuf,
    pub address: String,
    running: Running,
    directory: TempDir,
    /// What its command line says beside the data directory and the address.
    settings: Vec<String>,
}

impl Server {
    pub fn start() -> Self {
        Self::start_with(TempDir::new().expect("a temporary directory"), &[])
    }

    /// As [`Server::start`], in a directory, with more options.
    pub fn start_with(directory: TempDir, settings: &[&str]) -> Self {
        let data = directory.path().join("server");
        let settings: Vec<String> = settings.iter().map(|&word| word.to_owned()).collect();
        let (address, running) = serve(&data, "127.0.0.1:0", &settings);
        let server = Self { data, address, running, directory, settings };
        server.add_account(ALICE);
        server.add_account(BOB);
        server
    }

    fn add_account(&self, email: &str) {
        let args = ["admin", "--data", text(&self.data), "user", "add", email, "--password-stdin"];
        run_with_input(&args, &format!("{PASSWORD}\n")).ok();
    }

    pub fn data(&self) -> &str {
        text(&self.data)
    }

    /// Ends it without a word of warning.
    pub fn kill(&mut self) {
        self.running.kill();
    }

    /// Starts it again where it was.
    pub fn restart(&mut self) {
        self.kill();
        let listen = self.address.strip_prefix("http://").expect("an address").to_owned();
        (self.address, self.running) = serve(&self.data, &listen, &self.settings);
    }

    /// A path that nothing is at yet.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A device of Alice's that is linked and not started.
    pub fn device(&self, name: &str) -> Device {
        self.device_of(ALICE, name)
    }

    pub fn device_of(&self, email: &str, name: &str) -> Device {
        let device = Device { home: self.path(&format!("{name}-home")), folder: self.path(name) };
        device.link(&self.address, email, PASSWORD).ok();
        device
    }

    /// A device of Alice's that runs.
    pub fn running_device(&self, name: &str) -> Device {
        let device = self.device(name);
        device.run(&["start"]).ok();
        device
    }
}

fn serve(data: &Path, listen: &str, settings: &[String]) -> (String, Running) {
    let mut child = program()
        .args(["server", "--data", text(data), "--listen", listen, "--json"])
        .args(settings)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("runs");
    let stdout = child.stdout.take().expect("piped");
    let running = Running { child };
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).expect("a line");
    let listening: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
    (listening["address"].as_str().expect("an address").to_owned(), running)
}

/// Something at a server's address that answers every call with a page for people, until it is dropped.
pub struct WebPage {
    address: String,
    answered: Arc<AtomicUsize>,
    ended: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl WebPage {
    pub fn serve(address: &str, status: &'static str) -> Self {
        let address = address.strip_prefix("http://").expect("an address").to_owned();
        let listener = TcpListener::bind(&address).expect("the port is free");
        let (answered, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, stop) = (answered.clone(), ended.clone());
        let thread = thread::spawn(move || {
            for connection in listener.incoming() {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let page = format!(
                    "HTTP/1.1 {status}\r\ncontent-type: text/html\r\ncontent-length: 6\r\nconnection: close\r\n\r\n<html>"
                );
                // Whether the client waits for it is its own business.
                connection.and_then(|mut connection| connection.write_all(page.as_bytes())).ok();
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { address, answered, ended, thread: Some(thread) }
    }

    /// How many calls it has answered.
    pub fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }
}

impl Drop for WebPage {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        TcpStream::connect(&self.address).ok();
        self.thread.take().map(thread::JoinHandle::join);
    }
}

/// One device: a home and a folder. If there is a file [`TRUSTED`] beside the home, it takes the authorities in it
/// for those of its system.
pub struct Device {
    pub home: PathBuf,
    pub folder: PathBuf,
}

impl Device {
    pub fn link(&self, address: &str, email: &str, password: &str) -> Ran {
        let name = self.folder.file_name().expect("a name").to_str().expect("UTF-8");
        let args =
            ["link", address, "--email", email, "--password-stdin", "--folder", text(&self.folder), "--name", name];
        give(self.program().args(args), &format!("{password}\n"))
    }

    fn program(&self) -> Command {
        let mut command = program();
        let trusted = self.home.with_file_name(TRUSTED);
        if trusted.exists() {
            command.env("SSL_CERT_FILE", trusted);
        }
        command.args(["--home", text(&self.home)]);
        command
    }

    /// Runs a command for this device, inside its folder.
    pub fn run(&self, args: &[&str]) -> Ran {
        let mut command = self.program();
        if self.folder.is_dir() {
            command.current_dir(&self.folder);
        }
        Ran::from(command.args(args).output().expect("runs"))
    }

    /// Begins a command for this device.
    pub fn spawn(&self, args: &[&str]) -> Child {
        self.program().args(args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("runs")
    }

    /// The object that a command prints with `--json`.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        self.run(&[args, &["--json"]].concat()).ok().json()
    }

    #[track_caller]
    pub fn flush(&self) {
        self.run(&["flush", "--timeout", FLUSH_SECONDS]).ok();
    }

    #[track_caller]
    pub fn write(&self, path: &str, content: &str) {
        let path = self.folder.join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(path, content).expect("written");
    }

    #[track_caller]
    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.folder.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    pub fn has(&self, path: &str) -> bool {
        fs::symlink_metadata(self.folder.join(path)).is_ok()
    }

    /// Everything in the folder but Syncline's own: path, and content or kind, in order.
    pub fn tree(&self) -> Vec<(String, String)> {
        let mut entries = Vec::new();
        collect(&self.folder, "", &mut entries);
        entries.sort();
        entries
    }
}

fn collect(directory: &Path, prefix: &str, entries: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(directory).expect("readable").flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let kind = entry.file_type().expect("a kind");
        if name == ".syncline" {
        } else if kind.is_dir() {
            entries.push((name.clone(), "folder".into()));
            collect(&entry.path(), &format!("{name}/"), entries);
        } else if kind.is_symlink() {
            let target = fs::read_link(entry.path()).expect("a link");
            entries.push((name, format!("link to {}", target.display())));
        } else {
            entries.push((name, String::from_utf8_lossy(&fs::read(entry.path()).expect("readable")).into_owned()));
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // Most tests leave it running; to stop one that does not run fails, and that is fine.
        self.run(&["stop"]);
    }
}

/// Both devices have everything of the other.
#[track_caller]
pub fn flush_both(a: &Device, b: &Device) {
    // A second round carries back what the first one caused: conflicted copies, resurrected files.
    for device in [a, b, a, b] {
        device.flush();
    }
}
