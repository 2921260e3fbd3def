//! A server of several processes on this machine, behind HAProxy with the configuration of `deploy`.

#![allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]

use crate::support::{ALICE, Device, PASSWORD, Running, TRUSTED, eventually, program, run_with_input, text};
use metadata_store_mysql::private_server::PrivateServer;
use service_calls::private_authority::{PrivateAuthority, Validity};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tempfile::TempDir;

const SECRET: &str = "a-secret-of-the-tests";
/// Ports at which processes of tests listen: below those that the kernel gives to calls.
const FIRST_PORT: u32 = 12_000;
const PORTS: u32 = 20_000;
/// How far apart the ports of test processes begin.
const PORTS_FOR_ONE: u32 = 40;

/// One process of the server.
pub struct Part {
    pub listen: String,
    pub service: String,
    arguments: Vec<String>,
    log: PathBuf,
    pub running: Running,
    /// Whose certificate it has, if its service address is encrypted.
    authority: Option<PathBuf>,
}

/// The processes, by name: `meta1`, `block1`, `hub1`, `edge1` and so on.
pub struct Cluster {
    pub parts: BTreeMap<String, Part>,
    /// What devices link to.
    pub address: String,
    pub balancer: Balancer,
    // Dropped in this order, the folder last.
    pub database: PrivateServer,
    directory: TempDir,
}

/// HAProxy before them.
pub struct Balancer {
    /// Without TLS.
    pub plain: String,
    /// With TLS, if there is an authority for it.
    pub encrypted: Option<String>,
    pub certificate: PathBuf,
    /// Where it takes commands.
    pub socket: PathBuf,
    _running: Running,
}

/// How many processes of each role.
pub struct Sizes {
    pub meta: usize,
    pub hubs: usize,
    pub edges: usize,
}

/// What else is on the command lines.
#[derive(Default)]
pub struct More {
    pub for_meta: Vec<String>,
    pub for_block: Vec<String>,
    pub for_all: Vec<String>,
    /// Block services beside the first one, which takes a bucket for the blocks.
    pub more_blocks: usize,
    /// Calls of devices are encrypted, and so are those between services, where callers show certificates.
    pub encrypted: bool,
}

impl Cluster {
    pub fn start(sizes: &Sizes) -> Self {
        Self::start_with(sizes, &More::default())
    }

    /// As [`Cluster::start`], with more on the command lines.
    pub fn start_with(sizes: &Sizes, more: &More) -> Self {
        let More { for_meta, for_block, for_all, more_blocks, encrypted } = more;
        let directory = TempDir::new().expect("a temporary directory");
        let authority = encrypted.then(|| PrivateAuthority::new(directory.path(), "services"));
        let database = PrivateServer::start();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("secret"), SECRET).expect("written");
        fs::write(path("password"), PrivateServer::PASSWORD).expect("written");
        let metas: Vec<_> = (0..sizes.meta).map(|_| (free_address(), free_address())).collect();
        let hubs: Vec<_> = (0..sizes.hubs).map(|_| (String::new(), free_address())).collect();
        let list =
            |of: &[(String, String)]| of.iter().map(|(_, service)| service.as_str()).collect::<Vec<_>>().join(",");
        let (meta_list, hub_list) = (list(&metas), list(&hubs));
        let metadata = [
            "--metadata".to_owned(),
            database.url(PrivateServer::DATABASE),
            "--metadata-password-file".to_owned(),
            text(&path("password")).to_owned(),
        ];
        let data = |name: &str| ["--data".to_owned(), text(&path(name)).to_owned()];
        let mut plan = Vec::new();
        for (number, addresses) in metas.into_iter().enumerate() {
            let more = [&data("meta")[..], &metadata[..], &["--hubs".to_owned(), hub_list.clone()], for_meta].concat();
            plan.push((format!("meta{}", number + 1), "meta", addresses, more));
        }
        for (number, addresses) in hubs.into_iter().enumerate() {
            plan.push((format!("hub{}", number + 1), "notify-hub", addresses, Vec::new()));
        }
        for number in 1..=1 + more_blocks {
            let name = format!("block{number}");
            let more = [&data(&name)[..], &["--meta".to_owned(), meta_list.clone()], for_block].concat();
            plan.push((name, "block", (free_address(), free_address()), more));
        }
        for number in 0..sizes.edges {
            let more = ["--meta", &meta_list, "--hubs", &hub_list].map(str::to_owned).to_vec();
            plan.push((format!("edge{}", number + 1), "notify-edge", (free_address(), free_address()), more));
        }
        let admin = [&["admin".to_owned()][..], &data("meta")[..], &metadata[..]].concat();
        let admin = [&admin[..], &["user", "add", ALICE, "--password-stdin"].map(str::to_owned)].concat();
        run_with_input(&admin.iter().map(String::as_str).collect::<Vec<_>>(), &format!("{PASSWORD}\n")).ok();
        let mut parts = BTreeMap::new();
        for (name, role, (listen, service), more) in plan {
            let mut arguments: Vec<String> =
                ["server", "--log-format", "json", "--role", role].map(str::to_owned).to_vec();
            arguments.extend(["--service-listen".to_owned(), service.clone()]);
            arguments.extend(["--service-secret-file".to_owned(), text(&path("secret")).to_owned()]);
            if !listen.is_empty() {
                arguments.extend(["--listen".to_owned(), listen.clone()]);
            }
            if let Some(authority) = &authority {
                let files = authority.sign(&name, &["127.0.0.1", "localhost"], Validity::Now);
                let option = |name: &str, file: &Path| [format!("--service-{name}-file"), text(file).to_owned()];
                arguments.extend(option("certificate", &files.certificate));
                arguments.extend(option("key", &files.key));
                arguments.extend(option("ca", &authority.file()));
            }
            arguments.extend(more);
            arguments.extend_from_slice(for_all);
            let log = path(&format!("{name}.log"));
            let running = spawn(&arguments, &log);
            let authority = authority.as_ref().map(PrivateAuthority::file);
            parts.insert(name, Part { listen, service, arguments, log, running, authority });
        }
        for part in parts.values_mut() {
            part.wait_until_ready();
        }
        let balancer = Balancer::start(&parts, directory.path(), authority.as_ref());
        let address = match &balancer.encrypted {
            Some(address) => format!("https://{address}"),
            None => format!("http://{}", balancer.plain),
        };
        Self { parts, address, balancer, database, directory }
    }

    /// A path that nothing is at yet, unless a device of this name is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn part(&mut self, name: &str) -> &mut Part {
        self.parts.get_mut(name).expect("there is such a process")
    }

    /// A device of Alice's that is linked and runs.
    pub fn running_device(&self, name: &str) -> Device {
        let device = Device { home: self.path(&format!("{name}-home")), folder: self.path(name) };
        device.link(&self.address, ALICE, PASSWORD).ok();
        device.run(&["start"]).ok();
        device
    }
}

impl Part {
    /// Ends it without a word of warning.
    pub fn kill(&mut self) {
        self.running.kill();
    }

    pub fn restart(&mut self) {
        self.running = spawn(&self.arguments, &self.log);
        self.wait_until_ready();
    }

    pub fn wait_until_ready(&mut self) {
        let what = format!("{} is ready", text(&self.log));
        eventually(&what, || {
            let ended = self.running.child.try_wait().expect("is watched");
            assert!(ended.is_none(), "it has ended, {ended:?}:\n{}", self.log());
            self.status("/readyz") == Some(200)
        });
    }

    /// The status of a page on its service address.
    pub fn status(&self, page: &str) -> Option<u16> {
        let answer = self.get(page)?;
        answer.split(' ').nth(1)?.parse().ok()
    }

    /// A page on its service address, head and all.
    pub fn get(&self, page: &str) -> Option<String> {
        match &self.authority {
            Some(authority) => get_encrypted(&self.service, page, authority),
            None => get(&self.service, page, ""),
        }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("there is a log")
    }
}

/// Asks for a page as a program of another make would.
pub fn get(address: &str, page: &str, headers: &str) -> Option<String> {
    ask(address, &format!("GET {page} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n"))
}

/// As [`get`], from whom an authority knows, without showing anything oneself.
pub fn get_encrypted(address: &str, page: &str, authority: &Path) -> Option<String> {
    let words = ["--silent", "--http1.1", "--include", "--max-time", "5", "--cacert", text(authority)];
    let output = Command::new("curl").args(words).arg(format!("https://{address}{page}")).output();
    let output = output.expect("the tests need the Debian package curl");
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Makes a call without a body.
pub fn post(address: &str, page: &str, headers: &str) -> Option<String> {
    let length = "content-length: 0\r\n";
    ask(address, &format!("POST {page} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{length}{headers}\r\n"))
}

fn ask(address: &str, request: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("is set");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

fn spawn(arguments: &[String], log: &Path) -> Running {
    let log = File::options().create(true).append(true).open(log).expect("a log");
    let mut command = program();
    command.env("SYNCLINE_LOG", "debug,hyper=info,reqwest=info").args(arguments);
    Running { child: command.stdout(Stdio::null()).stderr(log).spawn().expect("runs") }
}

impl Balancer {
    /// Starts it with the configuration that operators get, with other addresses.
    fn start(parts: &BTreeMap<String, Part>, directory: &Path, authority: Option<&PrivateAuthority>) -> Self {
        let plain = free_address();
        let encrypted = authority.map(|_| free_address().replace("127.0.0.1", "localhost"));
        let path = |name: &str| directory.join(name);
        let (settings, socket, certificate) = (path("haproxy.cfg"), path("admin.sock"), path("syncline.pem"));
        if let Some(authority) = authority {
            fs::write(&certificate, for_balancer(authority, "balancer")).expect("written");
            fs::copy(authority.file(), path(TRUSTED)).expect("copied");
        }
        let mut lines = Vec::new();
        for line in deploy("haproxy.cfg").lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match (words.as_slice(), &encrypted) {
                (["bind", ":80"], _) => lines.push(format!("    bind {plain}")),
                (["bind", ":443", ..], Some(address)) => {
                    lines.push(line.replace(":443", address).replace("/etc/haproxy/syncline.pem", text(&certificate)));
                }
                // Without certificates.
                (["bind", ":443", ..] | ["http-request", "redirect", ..], None) => {}
                // What needs a system's places.
                (["log", "/dev/log", ..], _) => {}
                (["stats", "socket", ..], _) => {
                    lines.push(line.replace("/run/haproxy/admin.sock", text(&socket)));
                }
                // As many as any machine allows.
                (["maxconn", "40000"], _) => lines.push("    maxconn 2000".to_owned()),
                (["bind", _], _) => lines.push(format!("    bind {}", free_address())),
                (["server", name, ..], _) => lines.extend(parts.get(*name).map(|part| {
                    let port = part.service.rsplit_once(':').expect("a port").1;
                    let check = part.authority.as_deref().map(encrypted_check).unwrap_or_default();
                    format!("    server {name} {} check port {port} {check}", part.listen)
                })),
                _ => lines.push(line.to_owned()),
            }
        }
        fs::write(&settings, lines.join("\n") + "\n").expect("written");
        let log = File::create(path("haproxy.log")).expect("a log");
        let child =
            Command::new("haproxy").args(["-db", "-f", text(&settings)]).stdout(Stdio::null()).stderr(log).spawn();
        let _running = Running { child: child.expect("HAProxy is installed and runs") };
        let balancer = Self { plain, encrypted, certificate, socket, _running };
        eventually("the balancer has found the processes", || {
            let answer = match (&balancer.encrypted, authority) {
                (Some(address), Some(authority)) => get_encrypted(address, "/healthz", &authority.file()),
                (None, _) | (_, None) => get(&balancer.plain, "/healthz", ""),
            };
            answer.is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
        });
        balancer
    }

    /// What it says to a command.
    pub fn tell(&self, command: &str) -> String {
        let mut socket = UnixStream::connect(&self.socket).expect("it listens");
        socket.write_all(format!("{command}\n").as_bytes()).expect("it reads");
        let mut said = String::new();
        socket.read_to_string(&mut said).expect("it answers");
        said
    }
}

/// A file of `deploy`.
fn deploy(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy");
    fs::read_to_string(folder.join(name)).expect("is there")
}

/// A certificate and its key in one, as HAProxy wants them.
pub fn for_balancer(authority: &PrivateAuthority, name: &str) -> Vec<u8> {
    let files = authority.sign(name, &["localhost"], Validity::Now);
    [files.certificate, files.key].map(|file| fs::read(file).expect("is made")).concat()
}

/// What the configuration says that stands behind a server's port where the services have certificates.
/// HAProxy knows hosts by name alone.
fn encrypted_check(authority: &Path) -> String {
    let template = deploy("haproxy.cfg");
    let words = template.lines().find_map(|line| line.trim().strip_prefix("# check-ssl ")).expect("is explained");
    let words = words.replace("/etc/haproxy/services-ca.pem", text(authority)).replace("NAME", "localhost");
    format!("check-ssl {words}")
}

/// An address at which a process can listen in a moment. Its port is below those that the kernel gives to calls, of
/// which one could take it meanwhile; each test process begins elsewhere.
pub fn free_address() -> String {
    static DRAWN: AtomicU32 = AtomicU32::new(0);
    let begin = std::process::id().wrapping_mul(PORTS_FOR_ONE);
    let port = |number: u32| FIRST_PORT + begin.wrapping_add(number) % PORTS;
    let address = || format!("127.0.0.1:{}", port(DRAWN.fetch_add(1, Ordering::Relaxed)));
    let mut addresses = std::iter::repeat_with(address).take(PORTS as usize);
    addresses.find(|address| TcpListener::bind(address).is_ok()).expect("a port is free")
}
