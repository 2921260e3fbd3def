//! A network of its own on this machine: a network namespace for each host, and one with the bridge between
//! them. Hosts can be cut off. Nothing of it can be seen from outside, and all of it goes away.

use crate::program::run;
use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

/// Ends what runs in the namespaces and removes them, when its standard input ends: also when who started
/// it was killed. Twice, since a process may just have started another. The first argument is a directory that goes
/// too, or nothing.
const UNDERTAKER: &str = "trap '' INT TERM HUP
read -r nothing
directory=$1; shift
for round in 1 2; do for name; do for pid in $(ip netns pids \"$name\" 2>/dev/null); do
    kill -9 \"$pid\" 2>/dev/null
done; done; done
for name; do ip netns del \"$name\" 2>/dev/null; done
[ -z \"$directory\" ] || rm -rf -- \"$directory\"";
/// The hosts' end of their cable.
const CARD: &str = "eth0";
const BRIDGE: &str = "bridge";
/// The namespace with the bridge.
const SWITCH: &str = "switch";

/// How a host loses its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// Its cable is pulled, and it sees that.
    Pulled,
    /// Nothing arrives any more, on either side, and nobody is told.
    Silent,
}

/// A network that ends with its owner.
#[derive(Debug)]
pub(super) struct Network {
    /// What the names of its namespaces begin with.
    prefix: String,
    undertaker: Option<Child>,
}

impl Network {
    /// Whether this machine lets this process have such a network; if not, why.
    pub(super) fn is_permitted() -> std::result::Result<(), String> {
        let missing = |program: &str| format!("`{program}` cannot be run; the Debian package iproute2 has it");
        let name = format!("syncline-try-{}", std::process::id());
        let made = Command::new("ip").args(["netns", "add", &name]).output().map_err(|_| missing("ip"))?;
        if !made.status.success() {
            return Err(format!("no network namespace: {}", String::from_utf8_lossy(&made.stderr).trim()));
        }
        let tried = run("ip", &["-n", &name, "link", "add", "one", "type", "veth", "peer", "name", "other"])
            .and_then(|()| run("ip", &["netns", "exec", &name, "true"]));
        run("ip", &["netns", "del", &name]).and(tried).map_err(|error| format!("no network namespace: {error:#}"))
    }

    /// A network of hosts, each a name and an IPv4 address with its length. `directory` goes with it, whatever
    /// becomes of this process.
    pub(super) fn make<'a>(hosts: impl Iterator<Item = (&'a str, &'a str)>, directory: Option<&Path>) -> Result<Self> {
        let hosts: Vec<(&str, &str)> = hosts.collect();
        let prefix = format!("syncline-{}-", std::process::id());
        let name = |host: &str| format!("{prefix}{host}");
        let names: Vec<String> = std::iter::once(SWITCH).chain(hosts.iter().map(|(host, _)| *host)).map(name).collect();
        let mut undertaker = Command::new("sh");
        undertaker.args(["-c", UNDERTAKER, "sh"]).arg(directory.unwrap_or(Path::new(""))).args(&names);
        // A signal to all that a terminal started must not take the one that cleans up after them.
        std::os::unix::process::CommandExt::process_group(&mut undertaker, 0);
        let undertaker = undertaker.stdin(Stdio::piped()).spawn().context("cannot run a shell")?;
        let network = Self { prefix, undertaker: Some(undertaker) };
        names.iter().try_for_each(|name| run("ip", &["netns", "add", name]))?;
        network.in_switch(&["link", "add", BRIDGE, "type", "bridge"])?;
        network.in_switch(&["link", "set", BRIDGE, "up"])?;
        for (host, address) in hosts {
            let namespace = network.namespace(host);
            let ends = ["link", "add", host, "type", "veth", "peer", "name", CARD, "netns", &namespace];
            network.in_switch(&ends)?;
            network.mend(host, Cut::Silent)?;
            network.mend(host, Cut::Pulled)?;
            for words in
                [&["addr", "add", address, "dev", CARD][..], &["link", "set", CARD, "up"], &["link", "set", "lo", "up"]]
            {
                run("ip", &[&["-n", &namespace], words].concat())?;
            }
        }
        Ok(network)
    }

    /// The words before a command that is to run on a host. They become it, and so their process id is its.
    pub(super) fn on(&self, host: &str) -> [String; 4] {
        ["ip".to_owned(), "netns".to_owned(), "exec".to_owned(), self.namespace(host)]
    }

    /// Cuts a host off.
    pub(super) fn cut(&self, host: &str, how: Cut) -> Result<()> {
        match how {
            Cut::Pulled => self.in_switch(&["link", "set", host, "down"]),
            Cut::Silent => self.in_switch(&["link", "set", host, "nomaster"]),
        }
    }

    /// Connects a host again.
    pub(super) fn mend(&self, host: &str, how: Cut) -> Result<()> {
        match how {
            Cut::Pulled => self.in_switch(&["link", "set", host, "up"]),
            Cut::Silent => self.in_switch(&["link", "set", host, "master", BRIDGE]),
        }
    }

    /// What a host sees: the result of a function that runs in its network. All of this process's threads but
    /// the one for this stay where they are.
    pub(super) fn seen_from<T: Send + 'static>(
        &self,
        host: &str,
        look: impl FnOnce() -> T + Send + 'static,
    ) -> Result<thread::JoinHandle<Result<T>>> {
        let path = format!("/run/netns/{}", self.namespace(host));
        let namespace = File::open(&path).with_context(|| format!("cannot open {path}"))?;
        let watcher = move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).context("cannot go to another network")?;
            Ok(look())
        };
        thread::Builder::new().name("watcher".to_owned()).spawn(watcher).context("cannot start a thread")
    }

    fn namespace(&self, host: &str) -> String {
        format!("{}{host}", self.prefix)
    }

    fn in_switch(&self, words: &[&str]) -> Result<()> {
        run("ip", &[&["-n", &self.namespace(SWITCH)], words].concat())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Some(mut undertaker) = self.undertaker.take() {
            drop(undertaker.stdin.take());
            undertaker.wait().ok();
        }
    }
}
