//! A memcached of one's own: on a free port of this machine, and gone when it is dropped. For tests and
//! benchmarks; no service of the system is used or touched.

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

/// How long the server may take to answer after its start, on a machine that is busy.
const START_POLLS: u32 = 600;
/// How often it is asked.
const POLL: Duration = Duration::from_millis(20);
/// The program, and the Debian package that has it.
const PROGRAM: &str = "memcached";

/// A running memcached of 64 MB.
pub struct PrivateServer {
    address: SocketAddr,
    process: Option<Child>,
}

impl PrivateServer {
    /// Starts a server.
    ///
    /// # Panics
    /// With a sentence that says why, if that is not possible.
    #[must_use]
    pub fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("an address");
        drop(listener);
        let mut server = Self { address, process: None };
        server.run();
        server
    }

    /// Its host and port.
    #[must_use]
    pub fn name(&self) -> String {
        self.address.to_string()
    }

    /// The URL of a cache on this server, which is patient: on a busy machine a server may be slow for no
    /// bad reason.
    #[must_use]
    pub fn url(&self) -> String {
        Self::url_of(&[self])
    }

    /// The URL of a cache on these servers.
    #[must_use]
    pub fn url_of(servers: &[&Self]) -> String {
        let names: Vec<String> = servers.iter().map(|server| server.name()).collect();
        format!("memcached://{}?patience_ms=5000", names.join(","))
    }

    /// Starts the server again, empty and on the same port.
    ///
    /// # Panics
    /// If it runs, or does not start.
    pub fn run(&mut self) {
        assert!(self.process.is_none(), "the server runs already");
        let mut command = Command::new(program());
        command.args(["-l", "127.0.0.1", "-U", "0", "-u", "nobody", "-m", "64", "-t", "1", "-p"]);
        command.arg(self.address.port().to_string());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.process = Some(command.spawn().expect("memcached starts"));
        for _ in 0..START_POLLS {
            // Another's server may have taken the port in between.
            if self.pid() == self.process.as_ref().map(Child::id) {
                return;
            }
            sleep(POLL);
        }
        panic!("memcached does not answer on {}; is another server there?", self.address);
    }

    /// Ends the server as a loss of power would.
    ///
    /// # Panics
    /// If it does not run.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("the server runs");
        process.kill().expect("it can be killed");
        process.wait().expect("it has ended");
    }

    /// Stops the server's processing without ending it: connections are made, and nothing is answered.
    ///
    /// # Panics
    /// If it does not run.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
        // A thread on another processor may answer once more before all of them stand still.
        waitpid(Some(self.running()), WaitOptions::UNTRACED).expect("it stops");
    }

    /// Lets a frozen server go on.
    ///
    /// # Panics
    /// If it does not run.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Lets the server forget everything.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn flush(&self) {
        let mut stream = TcpStream::connect(self.address).expect("it answers");
        stream.write_all(b"flush_all\r\n").expect("it listens");
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).expect("it answers");
        assert_eq!(&answer, b"OK\r\n");
    }

    /// The process that answers on the port.
    fn pid(&self) -> Option<u32> {
        let mut stream = TcpStream::connect(self.address).ok()?;
        stream.write_all(b"stats\r\n").ok()?;
        let line = BufReader::new(stream).lines().map_while(Result::ok).find(|line| line.starts_with("STAT pid "))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.running(), signal).expect("it can be signalled");
    }

    fn running(&self) -> Pid {
        let process = self.process.as_ref().expect("the server runs");
        i32::try_from(process.id()).ok().and_then(Pid::from_raw).expect("a process id")
    }
}

impl Drop for PrivateServer {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // A process that has ended already is what is wanted.
            let _ended = process.kill().and_then(|()| process.wait());
        }
    }
}

fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/bin".into(), "/usr/local/bin".into()]);
    let found = folders.map(|folder| folder.join(PROGRAM)).find(|file| file.is_file());
    found.unwrap_or_else(|| panic!("`{PROGRAM}` is not installed: the tests need the Debian package {PROGRAM}"))
}
