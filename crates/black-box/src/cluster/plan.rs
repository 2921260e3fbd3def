//! Which hosts there are, and what the files of `deploy` say when these are meant. Pure.

use std::fmt;

/// What devices are linked to; one of the balancers has it.
pub(super) const SHARED_ADDRESS: &str = "192.0.2.10";
/// Where devices find the edges, meta and block services behind the balancers.
pub(super) const CLIENT_PORT: u16 = 80;
/// Where services listen for others.
pub(super) const SERVICE_PORT: u16 = 8430;
pub(super) const DATABASE_PORT: u16 = 3306;
pub(super) const STORAGE_PORT: u16 = 7480;
pub(super) const CACHE_PORT: u16 = 11211;
/// What the network's addresses begin with.
const NETWORK: &str = "192.0.2.";
const PREFIX_LENGTH: &str = "/24";
/// What the names of the balancers begin with.
pub(super) const BALANCER: &str = "lb";
/// Connections of one balancer: what a process may open here, and more than is needed.
const BALANCER_CONNECTIONS: u16 = 4000;

/// Hosts that do the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tier {
    Balancer,
    Meta,
    Block,
    Hub,
    Edge,
    Database,
    Storage,
    /// What is behind the gateways of a Ceph.
    Ceph,
    Cache,
    Client,
}

impl Tier {
    pub(super) const ALL: [Self; 10] = [
        Self::Balancer,
        Self::Meta,
        Self::Block,
        Self::Hub,
        Self::Edge,
        Self::Database,
        Self::Storage,
        Self::Ceph,
        Self::Cache,
        Self::Client,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Balancer => "balancer",
            Self::Meta => "meta",
            Self::Block => "block",
            Self::Hub => "hub",
            Self::Edge => "edge",
            Self::Database => "database",
            Self::Storage => "storage",
            Self::Ceph => "ceph",
            Self::Cache => "cache",
            Self::Client => "client",
        }
    }

    /// What its hosts' addresses begin with, behind the network.
    const fn decade(self) -> usize {
        match self {
            Self::Balancer => 10,
            Self::Meta => 20,
            Self::Block => 30,
            Self::Hub => 40,
            Self::Edge => 50,
            Self::Database => 60,
            Self::Storage => 70,
            Self::Ceph => 100,
            Self::Cache => 80,
            Self::Client => 90,
        }
    }

    /// The role of its processes, for a tier of Syncline's own.
    pub(super) const fn role(self) -> Option<&'static str> {
        match self {
            Self::Meta => Some("meta"),
            Self::Block => Some("block"),
            Self::Hub => Some("notify-hub"),
            Self::Edge => Some("notify-edge"),
            Self::Balancer | Self::Database | Self::Storage | Self::Ceph | Self::Cache | Self::Client => None,
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) tier: Tier,
    /// Its tier and a number from 1 on.
    pub(super) name: String,
    pub(super) address: String,
}

impl Host {
    /// Its address with the length of the network's part.
    pub(super) fn interface(&self) -> String {
        format!("{}{PREFIX_LENGTH}", self.address)
    }
}

/// What there is a choice about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    /// One, or three of a Galera cluster.
    pub(super) databases: usize,
    /// Gateways of a Ceph; with none of them there is one S3 server that fails as it is told to.
    pub(super) gateways: usize,
    pub(super) clients: usize,
}

/// All machines.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) hosts: Vec<Host>,
}

impl Plan {
    /// As many hosts of each tier as the files of `deploy` name, but for what there is a choice about.
    pub(super) fn new(shape: Shape) -> Self {
        let count = |tier| match tier {
            Tier::Balancer | Tier::Cache => 2,
            Tier::Meta | Tier::Block | Tier::Hub | Tier::Edge => 3,
            Tier::Database => shape.databases,
            Tier::Storage => shape.gateways.max(1),
            Tier::Ceph => shape.gateways.min(1),
            Tier::Client => shape.clients,
        };
        let host = |tier: Tier, number: usize| Host {
            tier,
            name: format!("{tier}{number}"),
            address: format!("{NETWORK}{}", tier.decade() + number),
        };
        let hosts = Tier::ALL.into_iter().flat_map(|tier| (1..=count(tier)).map(move |number| host(tier, number)));
        Self { hosts: hosts.collect() }
    }

    pub(super) fn tier(&self, tier: Tier) -> impl Iterator<Item = &Host> {
        self.hosts.iter().filter(move |host| host.tier == tier)
    }

    /// The address behind a name of the files of `deploy`, such as `meta1.internal`.
    fn address(&self, name: &str) -> Option<&str> {
        let short = [("rgw", Tier::Storage), ("db", Tier::Database)];
        let long = |(prefix, tier)| name.strip_prefix(prefix).map(|number| format!("{tier}{number}"));
        let name = short.into_iter().find_map(long).unwrap_or_else(|| name.to_owned());
        self.hosts.iter().find(|host| host.name == name).map(|host| host.address.as_str())
    }

    fn with_addresses(&self, text: &str) -> String {
        let mut parts = text.split(".internal");
        let mut replaced = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let start = replaced.rfind(|c: char| !c.is_ascii_alphanumeric()).map_or(0, |at| at + 1);
            match self.address(&replaced[start..]).map(ToOwned::to_owned) {
                Some(address) => replaced.replace_range(start.., &address),
                None => replaced.push_str(".internal"),
            }
            replaced.push_str(part);
        }
        replaced
    }

    /// The balancers' settings: `deploy/haproxy.cfg` without what needs certificates or a system's places, and without
    /// servers that there are not. What it balances for the services themselves can be reached by them.
    pub(super) fn balancer(&self, template: &str) -> String {
        let mut lines = Vec::new();
        for line in template.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["bind", ":443", ..] | ["http-request", "redirect", ..] | ["stats", ..] => {}
                ["log", "/dev/log", ..] => lines.push("    log stdout format raw local0".to_owned()),
                ["maxconn", "40000"] => lines.push(format!("    maxconn {BALANCER_CONNECTIONS}")),
                ["bind", "127.0.0.1:3306"] => lines.push(format!("    bind :{DATABASE_PORT}")),
                ["bind", "127.0.0.1:7480"] => lines.push(format!("    bind :{STORAGE_PORT}")),
                ["server", name, ..] if self.address(name).is_none() => {}
                _ => lines.push(self.with_addresses(line)),
            }
        }
        lines.join("\n") + "\n"
    }

    /// The settings of keepalived on one of the balancers: `deploy/keepalived.conf`, changed where it says so. That
    /// a process has ended is told in the first network namespace alone, so here a file tells it, whose value is
    /// not 0 then.
    pub(super) fn keepalived(&self, template: &str, host: &Host, tracked: &str) -> String {
        let peers: Vec<&str> = self.tier(Tier::Balancer).map(|host| host.address.as_str()).collect();
        let is_first = peers.first() == Some(&host.address.as_str());
        let peer = peers.into_iter().find(|peer| *peer != host.address).unwrap_or_default();
        let mut lines = Vec::new();
        let mut is_peer = false;
        for line in template.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let line = match words.as_slice() {
                ["vrrp_track_process", name, "{"] => format!("vrrp_track_file {name} {{"),
                ["process", _] => format!("    file {tracked}"),
                ["quorum", _] => continue,
                ["track_process", "{"] => "    track_file {".to_owned(),
                ["priority", _] if !is_first => "    priority 100".to_owned(),
                ["unicast_src_ip", _] => format!("    unicast_src_ip {}", host.address),
                [address] if is_peer && address.contains('.') => format!("        {peer}"),
                _ => line.to_owned(),
            };
            is_peer = words.first() == Some(&"unicast_peer") || is_peer && words.first() != Some(&"}");
            lines.push(line);
        }
        lines.join("\n") + "\n"
    }

    /// The settings of all processes of a host: `deploy/syncline.toml`. What there are several of is reached by way of
    /// the balancers.
    pub(super) fn settings(&self, template: &str, host: &Host, data: &str) -> String {
        let databases: Vec<&Host> = self.tier(Tier::Database).collect();
        let database = if databases.len() > 1 { SHARED_ADDRESS } else { &databases[0].address };
        let mut lines = Vec::new();
        for line in template.lines() {
            let key = line.split(" = ").next().unwrap_or_default();
            lines.push(match key {
                // The one that the template leaves to who wants it.
                "# cache" => self.with_addresses(line.trim_start_matches("# ")),
                "data" => format!("data = \"{data}\""),
                "service_listen" => format!("service_listen = \"{}:{SERVICE_PORT}\"", host.address),
                "metadata" => format!("metadata = \"mysql://syncline@{database}/syncline?tls=off\""),
                "blocks" => {
                    format!("blocks = \"s3://blocks/cluster?endpoint=http://{}:{STORAGE_PORT}\"", self.storage())
                }
                _ => self.with_addresses(line),
            });
        }
        lines.join("\n") + "\n"
    }

    fn storage(&self) -> &str {
        if self.tier(Tier::Storage).count() > 1 { SHARED_ADDRESS } else { self.address("rgw1").unwrap_or_default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Shape = Shape { databases: 1, gateways: 0, clients: 3 };

    #[test]
    fn the_names_of_the_templates_become_addresses() {
        let plan = Plan::new(SMALL);
        let text =
            plan.with_addresses("server meta2 meta2.internal:8420, x.internal, [\"hub3.internal:1\"] db1.internal");
        assert_eq!(text, "server meta2 192.0.2.22:8420, x.internal, [\"192.0.2.43:1\"] 192.0.2.61");
    }

    #[test]
    fn the_templates_are_about_the_hosts_that_there_are() {
        let plan = Plan::new(SMALL);
        let balancer = plan.balancer(include_str!("../../../../deploy/haproxy.cfg"));
        assert!(!balancer.contains(".internal"), "{balancer}");
        assert!(balancer.contains("peer lb2 192.0.2.12:10000"), "{balancer}");
        for tier in [Tier::Meta, Tier::Block, Tier::Edge] {
            plan.tier(tier).for_each(|host| assert!(balancer.contains(&host.address), "{host:?}"));
        }
        let settings = plan.settings(include_str!("../../../../deploy/syncline.toml"), &plan.hosts[3], "/d");
        assert!(!settings.contains(".internal"), "{settings}");
        assert!(settings.contains("\ncache = \"memcached://192.0.2.81:11211,192.0.2.82:11211\""), "{settings}");
        assert!(settings.contains("data = \"/d\"") && settings.contains("blocks = \"s3://blocks/"), "{settings}");
    }

    #[test]
    fn gateways_of_a_ceph_are_behind_the_balancers() {
        let plan = Plan::new(Shape { gateways: 2, ..SMALL });
        let balancer = plan.balancer(include_str!("../../../../deploy/haproxy.cfg"));
        assert!(balancer.contains("server rgw1 192.0.2.71:7480") && balancer.contains("server rgw2 192.0.2.72:7480"));
        let settings = plan.settings(include_str!("../../../../deploy/syncline.toml"), &plan.hosts[3], "/d");
        assert!(settings.contains("endpoint=http://192.0.2.10:7480"), "{settings}");
    }

    #[test]
    fn the_second_balancer_is_the_firsts_mirror() {
        let plan = Plan::new(SMALL);
        let template = include_str!("../../../../deploy/keepalived.conf");
        let both = [0, 1].map(|number| plan.keepalived(template, &plan.hosts[number], "/t"));
        for (text, own, peer, priority) in [(&both[0], 11, 12, 128), (&both[1], 12, 11, 100)] {
            assert!(text.contains(&format!("unicast_src_ip 192.0.2.{own}\n")), "{text}");
            assert!(text.contains(&format!("unicast_peer {{\n        192.0.2.{peer}\n")), "{text}");
            assert!(text.contains(&format!("priority {priority}\n")), "{text}");
            assert!(text.contains("192.0.2.10/24") && text.contains("file /t"), "{text}");
        }
    }
}
