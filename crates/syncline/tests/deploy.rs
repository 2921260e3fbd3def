//! The files in `deploy` are accepted by the programs that they are for.

#[path = "support/cluster.rs"]
mod cluster;
mod support;

use cluster::{Cluster, More, Sizes, for_balancer, get, get_encrypted};
use metadata_store_mysql::private_server::PrivateServer;
use server::{Config, Overrides, ProcessRole};
use service_calls::ServiceTls;
use service_calls::private_authority::PrivateAuthority;
use std::fs;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The number of the signal.
const SIGTERM: i32 = 15;

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(name)
}

/// Runs a program's own check of a configuration.
#[track_caller]
fn check(program: &str, arguments: &[&str], path: &Path) {
    let output = Command::new(program).args(arguments).arg(path).output();
    let output = output.unwrap_or_else(|error| panic!("{program} is not installed: {error}"));
    assert!(output.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&output.stderr));
}

#[test]
fn haproxy_accepts_its_configurations() {
    let directory = tempfile::tempdir().expect("a directory");
    let certificate = directory.path().join("syncline.pem");
    let (key, pem) = (directory.path().join("key"), certificate.to_str().expect("UTF-8"));
    let subject = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", "-days", "1"];
    let made = Command::new("openssl").args(subject).arg("-keyout").arg(&key).args(["-out", pem]).output();
    assert!(made.expect("openssl is installed").status.success());
    let both = [fs::read(&certificate).expect("made"), fs::read(&key).expect("made")].concat();
    fs::write(&certificate, both).expect("written");
    let text = fs::read_to_string(deploy("haproxy.cfg")).expect("is there");
    assert!(text.contains("/etc/haproxy/syncline.pem"));
    let path = directory.path().join("haproxy.cfg");
    let socket = directory.path().join("admin.sock");
    let text = text
        .replace("/etc/haproxy/syncline.pem", pem)
        .replace("/run/haproxy/admin.sock", socket.to_str().expect("UTF-8"));
    fs::write(&path, text).expect("written");
    check("haproxy", &["-c", "-f"], &path);
    check("haproxy", &["-c", "-f"], &deploy("compose/haproxy.cfg"));
}

/// How many streams the balancer has ever passed on.
fn streams_begun(cluster: &Cluster) -> u64 {
    let table = cluster.balancer.tell("show stat");
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split(',').collect()).collect();
    let column = rows[0].iter().position(|name| *name == "stot").expect("is told");
    let row = rows.iter().find(|row| row[..].starts_with(&["notify-edges", "BACKEND"])).expect("is told");
    row[column].parse().expect("a number")
}

#[test]
fn devices_sync_through_tls_at_the_balancer_and_keep_their_streams_when_its_certificate_is_renewed() {
    let cluster =
        Cluster::start_with(&Sizes { meta: 1, hubs: 1, edges: 1 }, &More { encrypted: true, ..More::default() });
    let (a, b) = (cluster.running_device("a"), cluster.running_device("b"));
    let arrives = |from: &support::Device, to: &support::Device, name: &str| {
        from.write(name, name);
        support::eventually(name, || to.has(name));
    };
    arrives(&a, &b, "first");
    assert!(cluster.address.starts_with("https://"));
    let plain = get(&cluster.balancer.plain, "/sync/v1/server", "").expect("answers");
    assert!(plain.starts_with("HTTP/1.1 308") && plain.contains("location: https://"), "{plain}");

    support::eventually("both have their streams", || streams_begun(&cluster) >= 2);
    let before = streams_begun(&cluster);
    let other = PrivateAuthority::new(&cluster.path(""), "other");
    let address = cluster.balancer.encrypted.as_deref().expect("is encrypted");
    let known_by_other = || get_encrypted(address, "/healthz", &other.file()).is_some();
    assert!(!known_by_other());
    let trusted = cluster.path(support::TRUSTED);
    let both = [fs::read(&trusted), fs::read(other.file())].map(|file| file.expect("is there")).concat();
    fs::write(&trusted, both).expect("written");
    fs::write(&cluster.balancer.certificate, for_balancer(&other, "renewed")).expect("written");
    let renewed = renew(&cluster);
    assert!(renewed.status.success(), "{}", String::from_utf8_lossy(&renewed.stderr));
    assert!(known_by_other(), "whoever comes now sees the new one");
    arrives(&b, &a, "renewed");
    assert_eq!(streams_begun(&cluster), before, "nobody had to come again");

    let c = cluster.running_device("c");
    support::eventually("a device that links now has everything", || c.tree() == a.tree());
    let version = ["--silent", "--http2", "--output", "/dev/null", "--write-out", "%{http_version}", "--cacert"];
    let curl = Command::new("curl").args(version).arg(&trusted).arg(format!("{}/healthz", cluster.address)).output();
    assert_eq!(String::from_utf8_lossy(&curl.expect("curl is installed").stdout), "2");

    let broken = String::from_utf8(for_balancer(&other, "broken")).expect("is PEM").replace("PRIVATE KEY", "NOTHING");
    fs::write(&cluster.balancer.certificate, broken).expect("written");
    let refused = renew(&cluster);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("HAProxy does not take"));
    assert!(known_by_other(), "the one before stays");
}

fn renew(cluster: &Cluster) -> Output {
    let mut script = Command::new("sh");
    script.arg(deploy("renew-certificate.sh")).args([&cluster.balancer.certificate, &cluster.balancer.socket]);
    script.output().expect("there is a shell")
}

/// A node that others have given up lets the check in and does nothing for it; `cargo xtask cluster --galera` has such.
#[test]
fn the_balancer_passes_on_to_a_database_that_lets_its_check_in_and_to_no_other() {
    let database = PrivateServer::start_on_network(&[]);
    let url = database.url(PrivateServer::DATABASE);
    let address = url.split(['@', '/']).nth(3).expect("has a host and a port");
    let balanced = cluster::free_address();
    let text = fs::read_to_string(deploy("haproxy.cfg")).expect("is there");
    let listen = text.split("\nlisten metadata").nth(1).and_then(|rest| rest.split("\n\n").next()).expect("is there");
    let listen = listen.replace("127.0.0.1:3306", &balanced).replace("db1.internal:3306", address);
    // There is one balancer here.
    let listen = listen.replace(" peers balancers", "");
    let lines = listen.lines().filter(|line| !line.contains(".internal") && !line.contains("tcplog"));
    let lines: String = lines.map(|line| format!("{line}\n")).collect();
    let before = "global\n maxconn 100\ndefaults\n timeout connect 2s\n timeout client 9s\n timeout server 9s\n";
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("haproxy.cfg");
    fs::write(&path, format!("{before}listen metadata{lines}")).expect("written");
    let balancer = Command::new("haproxy").args(["-db", "-f"]).arg(&path).stderr(Stdio::null()).spawn();
    let _balancer = support::Running { child: balancer.expect("HAProxy is installed") };
    let greets = || {
        let mut first = [0];
        let connected = TcpStream::connect(&balanced).and_then(|mut stream| stream.read(&mut first));
        connected.is_ok_and(|len| len == 1)
    };
    support::eventually("a database that does not know the check counts as none", || {
        TcpStream::connect(&balanced).is_ok() && !greets()
    });
    database.as_root("CREATE USER balancer");
    support::eventually("it is taken", greets);
}

/// Where its configuration has a script, keepalived 2.2 ends its check by terminating its process group, itself
/// included, whatever it has found. What it finds it says.
#[test]
fn keepalived_accepts_its_configuration() {
    let directory = tempfile::tempdir().expect("a directory");
    let found_in = |text: &str| {
        let path = directory.path().join("keepalived.conf");
        fs::write(&path, text).expect("written");
        let output = Command::new("keepalived").args(["-t", "-f"]).arg(&path).process_group(0).output();
        let output = output.expect("keepalived is installed");
        let ended = output.status.success() || output.status.signal() == Some(SIGTERM);
        (ended, String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let text = fs::read_to_string(deploy("keepalived.conf")).expect("is there");
    assert_eq!(found_in(&text), (true, String::new()));
    let (_, said) = found_in(&text.replace("nopreempt", "no_such_word"));
    assert!(said.contains("no_such_word"), "{said}");
}

#[test]
fn memcached_starts_with_its_settings() {
    let text = fs::read_to_string(deploy("memcached.conf")).expect("is there");
    let port = TcpListener::bind(("127.0.0.1", 0)).and_then(|free| free.local_addr()).expect("a free port").port();
    let text = text.replace("11211", &port.to_string()).replace("-u memcache", "-u nobody");
    let settings = text.lines().filter(|line| !line.starts_with('#')).flat_map(str::split_whitespace);
    let mut server = Command::new("memcached").args(settings).spawn().expect("memcached is installed");
    support::eventually("memcached answers", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    assert!(server.try_wait().expect("is watched").is_none());
    server.kill().expect("ends");
    server.wait().expect("has ended");
}

#[test]
fn the_script_for_certificates_makes_such_as_every_service_accepts() {
    let directory = tempfile::tempdir().expect("a directory");
    let folder = directory.path().join("certificates");
    let make = |hosts: &[&str]| {
        let output = Command::new("sh").arg(deploy("certificates.sh")).arg(&folder).args(hosts).output();
        let output = output.expect("there is a shell");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    make(&["meta1.internal", "10.0.0.7"]);
    let authority = fs::read(folder.join("ca.pem")).expect("is made");
    make(&["hub1.internal", "fd00::7"]);
    assert_eq!(fs::read(folder.join("ca.pem")).expect("is there"), authority, "there is one authority");
    let settings = fs::read_to_string(deploy("syncline.toml")).expect("is there");
    let lines = settings.lines().filter_map(|line| line.strip_prefix("# service_"));
    let lines: String = lines.map(|line| format!("service_{line}\n")).collect();
    assert_eq!(lines.lines().count(), 3, "{lines}");
    for host in ["meta1.internal", "10.0.0.7", "hub1.internal", "fd00::7"] {
        let path = folder.join("syncline.toml");
        fs::write(&path, lines.replace("HOST", host)).expect("written");
        let overrides = Overrides {
            role: ProcessRole::NotifyEdge,
            meta: vec!["m:1".into()],
            hubs: vec!["h:1".into()],
            ..Overrides::default()
        };
        let config = Config::load(Some(&path), overrides).expect("is valid");
        ServiceTls::open(&config.services.tls.expect("is named")).unwrap_or_else(|error| panic!("{host}: {error:?}"));
    }
}

#[test]
fn every_role_starts_from_the_settings() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("syncline.toml");
    for secret in ["service-secret", "database-password"] {
        fs::write(directory.path().join(secret), "a-text-that-is-long-enough\n").expect("written");
    }
    let credentials = "aws_access_key_id = one\naws_secret_access_key = another\n";
    fs::write(directory.path().join("bucket-credentials"), credentials).expect("written");
    for name in ["syncline.toml", "compose/syncline.toml"] {
        let text = fs::read_to_string(deploy(name)).expect("is there");
        let text = text
            .replace("/run/secrets/service", "service-secret")
            .replace("/run/secrets/database", "database-password");
        fs::write(&path, text).expect("written");
        let roles = [ProcessRole::Meta, ProcessRole::Block, ProcessRole::NotifyHub, ProcessRole::NotifyEdge];
        for role in roles {
            let overrides = Overrides { role, ..Overrides::default() };
            let config =
                Config::load(Some(&path), overrides).unwrap_or_else(|error| panic!("{name} {role:?}: {error}"));
            assert_eq!((config.services.hubs.is_empty(), config.services.secret.is_some()), (false, true));
        }
    }
}
