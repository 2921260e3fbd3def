//! A MariaDB of one's own: started in a temporary directory, and gone when it is dropped. For tests and
//! benchmarks; no service of the system is used or touched. It listens on a socket there, so that any
//! number of them run beside each other; one that a test needs on the network takes a free port.

use crate::MysqlOptions;
use mysql::prelude::Queryable;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

/// How long the server may take to answer after its start, on a machine that is busy.
const START_POLLS: u32 = 1200;
/// How often it is asked.
const POLL: Duration = Duration::from_millis(50);
/// The programs, and the Debian package that has them.
const SERVER: &str = "mariadbd";
const INSTALLER: &str = "mariadb-install-db";
const PACKAGE: &str = "mariadb-server";
/// What makes a MariaDB a node of a cluster, in the Debian package `galera-4`.
const GALERA: &str = "/usr/lib/galera/libgalera_smm.so";

/// A running MariaDB with durable commits, one database and one user.
pub struct PrivateServer {
    folder: tempfile::TempDir,
    /// The port of one that listens on the network too.
    port: Option<u16>,
    settings: Vec<String>,
    process: Option<Child>,
}

impl PrivateServer {
    /// The user whose rights end at [`PrivateServer::DATABASE`].
    pub const USER: &str = "syncline";
    /// That user's password.
    pub const PASSWORD: &str = "a secret of the tests";
    /// The first database, which is empty.
    pub const DATABASE: &str = "syncline";

    /// Installs and starts a server.
    ///
    /// # Panics
    /// With a sentence that says why, if that is not possible.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// As [`PrivateServer::start`], with more options on its command line.
    ///
    /// # Panics
    /// As [`PrivateServer::start`].
    #[must_use]
    pub fn start_with(settings: &[&str]) -> Self {
        Self::make(None, settings)
    }

    /// As [`PrivateServer::start_with`], on 127.0.0.1 too.
    ///
    /// # Panics
    /// As [`PrivateServer::start`].
    #[must_use]
    pub fn start_on_network(settings: &[&str]) -> Self {
        Self::make(Some(free_port()), settings)
    }

    /// Installs and starts a Galera cluster of two servers; `None` where Galera is not installed.
    ///
    /// # Panics
    /// With a sentence that says why, if that is not possible.
    #[must_use]
    pub fn start_cluster() -> Option<[Self; 2]> {
        if !Path::new(GALERA).is_file() {
            return None;
        }
        let group = [free_port(), free_port()];
        let members = group.map(|port| format!("127.0.0.1:{port}")).join(",");
        let node = |number: usize| {
            let (own, other) = (group[number], [free_port(), free_port()]);
            [
                "--wsrep-on=ON".to_owned(),
                format!("--wsrep-provider={GALERA}"),
                format!("--wsrep-cluster-address=gcomm://{members}"),
                format!("--wsrep-node-address=127.0.0.1:{own}"),
                format!(
                    "--wsrep-provider-options=base_port={own};gmcast.listen_addr=tcp://127.0.0.1:{own};\
                     ist.recv_addr=127.0.0.1:{}",
                    other[0]
                ),
                format!("--wsrep-sst-receive-address=127.0.0.1:{}", other[1]),
                "--wsrep-sst-method=rsync".to_owned(),
                "--binlog-format=ROW".to_owned(),
                "--innodb-autoinc-lock-mode=2".to_owned(),
            ]
        };
        let mut first = Self::installed(None, [&node(0)[..], &["--wsrep-new-cluster".to_owned()]].concat());
        first.run();
        first.wait_for_cluster(1);
        first.make_user();
        let mut second = Self::installed(None, node(1).to_vec());
        second.run();
        second.wait_for_cluster(2);
        Some([first, second])
    }

    /// Waits until the server is one of so many that work together.
    fn wait_for_cluster(&self, nodes: usize) {
        let status = |name: &str| {
            let row = self.root().and_then(|mut root| root.query_first(format!("SHOW STATUS LIKE '{name}'")));
            row.ok().flatten().map(|(_, value): (String, String)| value)
        };
        for _ in 0..START_POLLS {
            let size = status("wsrep_cluster_size").and_then(|size| size.parse().ok());
            if size == Some(nodes) && status("wsrep_ready").is_some_and(|ready| ready == "ON") {
                return;
            }
            sleep(POLL);
        }
        panic!("MariaDB does not join its cluster; its log ends with:\n{}", self.log());
    }

    fn make(port: Option<u16>, settings: &[&str]) -> Self {
        let mut server = Self::installed(port, settings.iter().map(|setting| (*setting).to_owned()).collect());
        server.run();
        server.make_user();
        server
    }

    fn installed(port: Option<u16>, settings: Vec<String>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory for MariaDB");
        let server = Self { folder, port, settings, process: None };
        server.install();
        server
    }

    fn make_user(&self) {
        for statement in [
            format!("CREATE DATABASE {}", Self::DATABASE),
            format!("CREATE USER {} IDENTIFIED BY '{}'", Self::USER, Self::PASSWORD),
            format!("GRANT ALL ON `syncline%`.* TO {}", Self::USER),
        ] {
            self.as_root(&statement);
        }
    }

    /// Where the server's first database is.
    #[must_use]
    pub fn options(&self) -> MysqlOptions {
        self.options_of(Self::DATABASE)
    }

    /// Where a database of the server is.
    ///
    /// # Panics
    /// Never: the URL is well formed.
    #[must_use]
    pub fn options_of(&self, database: &str) -> MysqlOptions {
        MysqlOptions::from_url(&self.url(database)).expect("a valid URL")
    }

    /// The URL of a database of the server.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        match self.port {
            Some(port) => format!("mysql://{}@127.0.0.1:{port}/{database}", Self::USER),
            None => format!("mysql://{}@localhost/{database}?socket={}", Self::USER, self.socket().display()),
        }
    }

    /// Makes an empty database, and tells where it is. Its name begins with `syncline`.
    ///
    /// # Panics
    /// If the server refuses.
    #[must_use]
    pub fn new_database(&self, name: &str) -> MysqlOptions {
        self.as_root(&format!("CREATE DATABASE {name}"));
        self.options_of(name)
    }

    /// A connection with all rights, to ask for what no other way gives.
    ///
    /// # Panics
    /// If the server does not answer.
    #[must_use]
    pub fn connect(&self) -> mysql::Conn {
        self.root().expect("the server answers")
    }

    /// Runs a statement with all rights.
    ///
    /// # Panics
    /// If the server refuses.
    pub fn as_root(&self, statement: &str) {
        self.root().and_then(|mut root| root.query_drop(statement)).expect("the statement runs");
    }

    /// The first column of the first row of a query.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn ask<T: mysql::prelude::FromValue>(&self, query: &str) -> T {
        let mut root = self.connect();
        root.query_first::<(T,), _>(query).expect("the query runs").expect("a row").0
    }

    /// Ends the server as a loss of power would, as far as a process can tell.
    ///
    /// # Panics
    /// If it does not run.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("the server runs");
        process.kill().expect("it can be killed");
        process.wait().expect("it has ended");
    }

    /// Starts the server again, with the same data on the same port.
    ///
    /// # Panics
    /// If it runs, or does not start.
    pub fn run(&mut self) {
        assert!(self.process.is_none(), "the server runs already");
        let path = self.path();
        let mut command = self.command(SERVER);
        command
            .arg(format!("--socket={}", self.socket().display()))
            .arg(format!("--pid-file={}", path.join("pid").display()))
            .args(["--innodb-flush-log-at-trx-commit=1", "--innodb-buffer-pool-size=128M"])
            .args(["--max-connections=500", "--skip-name-resolve"])
            .args(&self.settings);
        match self.port {
            Some(port) => command.arg(format!("--port={port}")).arg("--bind-address=127.0.0.1"),
            None => command.arg("--skip-networking"),
        };
        let log = File::options().create(true).append(true).open(path.join("log")).expect("a log");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.process = Some(command.spawn().expect("mariadbd starts"));
        for _ in 0..START_POLLS {
            if self.root().is_ok() {
                return;
            }
            sleep(POLL);
        }
        panic!("MariaDB does not answer; its log ends with:\n{}", self.log());
    }

    /// Stops the server's processing without ending it: it answers nothing, and refuses nothing.
    ///
    /// # Panics
    /// If it does not run.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets a frozen server go on.
    ///
    /// # Panics
    /// If it does not run.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn install(&self) {
        std::fs::create_dir(self.temporary()).expect("a folder for temporary tables");
        // The server's user must get into the directory, which is its owner's alone.
        for folder in [self.path(), &self.temporary()] {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
            std::fs::set_permissions(folder, mode).expect("opens the folder");
        }
        let mut command = self.command(INSTALLER);
        command.args(["--auth-root-authentication-method=normal", "--skip-test-db"]);
        let output = command.stdin(Stdio::null()).output().expect("the installer starts");
        assert!(
            output.status.success(),
            "{INSTALLER} failed:\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// A program of MariaDB's on this server's data. A server that starts removes the temporary tables that it
    /// finds, so it must not find another's.
    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(program(name));
        command.arg("--no-defaults").env("TMPDIR", self.temporary());
        as_user(&mut command);
        command.arg(format!("--datadir={}", self.path().join("data").display()));
        command
    }

    fn temporary(&self) -> PathBuf {
        self.path().join("tmp")
    }

    fn root(&self) -> Result<mysql::Conn, mysql::Error> {
        let options = mysql::OptsBuilder::new()
            .socket(Some(self.socket().display().to_string()))
            .user(Some("root"))
            .read_timeout(Some(Duration::from_secs(60)));
        mysql::Conn::new(options)
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("the server runs");
        let pid = i32::try_from(process.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("it can be signalled");
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn socket(&self) -> PathBuf {
        self.path().join("socket")
    }

    fn log(&self) -> String {
        let log = std::fs::read_to_string(self.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
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

/// The program's path. Debian keeps servers where a user's search path does not look.
fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/bin".into()]);
    let found = folders.map(|folder| folder.join(name)).find(|file| file.is_file());
    found.unwrap_or_else(|| panic!("`{name}` is not installed: the tests need the Debian package {PACKAGE}"))
}

/// MariaDB refuses to run as root; its package brings a user for it.
fn as_user(command: &mut Command) {
    if rustix::process::geteuid().is_root() {
        command.arg("--user=mysql");
    }
}

/// A port that nobody listens on now.
fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("an address").port()
}
