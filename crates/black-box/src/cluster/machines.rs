//! The machines and what runs on them, from the files of `deploy`.

use super::Options;
use super::ceph::{self, Ceph};
use super::network::{Cut, Network};
use super::part::Part;
use super::plan::{
    self, CACHE_PORT, CLIENT_PORT, DATABASE_PORT, Host, Plan, SERVICE_PORT, SHARED_ADDRESS, STORAGE_PORT, Tier,
};
use super::probe;
use super::trouble::{Blow, Scenario};
use crate::program::{Program, find, run};
use crate::site::{Device, LOOK_AGAIN, PATIENCE, Site, add_account, end_of, signal, text};
use anyhow::{Context, Result, anyhow, bail};
use block_store_s3::private_server::PrivateServer;
use rand::rngs::ChaCha8Rng;
use rand::seq::IndexedRandom;
use rustix::process::Signal;
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const PASSWORD: &str = "a secret of the tests";
const SECRET: &str = "a-secret-of-the-tests";
/// Of a thousand requests to the object storage.
const STORAGE_FAULTS: u32 = 50;
/// The first server of a database cluster is told what there is to be.
const DATABASE: &str = "CREATE DATABASE IF NOT EXISTS syncline;
CREATE USER IF NOT EXISTS syncline IDENTIFIED BY 'a secret of the tests';
GRANT ALL ON syncline.* TO syncline;
CREATE USER IF NOT EXISTS balancer;
";
const GALERA: &str = "/usr/lib/galera/libgalera_smm.so";
/// What a node is asked, and answers only if it belongs to the majority and has caught up.
const CLUSTER_SIZE: &str = "SELECT size.VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS size, \
     information_schema.GLOBAL_STATUS status, information_schema.GLOBAL_STATUS state \
     WHERE size.VARIABLE_NAME = 'wsrep_cluster_size' AND status.VARIABLE_NAME = 'wsrep_cluster_status' \
     AND status.VARIABLE_VALUE = 'Primary' AND state.VARIABLE_NAME = 'wsrep_local_state_comment' \
     AND state.VARIABLE_VALUE = 'Synced'";
/// What the files with the process ids of the two processes of keepalived end in.
const KEEPER_FILES: [&str; 2] = ["keepalived.pid", "vrrp.pid"];
const CACHE_TIME_OUT: Duration = Duration::from_secs(2);

/// All machines but the devices' own programs.
pub(super) struct Machines {
    plan: Plan,
    directory: PathBuf,
    /// By tier, in the order of the plan. Of a balancer the one that balances.
    parts: Vec<(Tier, Part)>,
    /// Those that move the shared address.
    keepers: Vec<Part>,
    /// What is behind the gateways, if these are of a Ceph.
    ceph: Option<Ceph>,
    network: Network,
}

/// What was begun and must be ended.
#[derive(Debug)]
pub(super) enum Trouble {
    Ended(Vec<usize>),
    Frozen(usize),
    /// A balancer, by its number among them.
    Hung(usize),
    CutOff(String, Cut),
    DeviceEnded(usize),
    StorageFaults,
    Nothing,
}

impl Machines {
    pub(super) fn start(site: &Site, options: &Options) -> Result<Self> {
        let directory = site.path("machines");
        fs::create_dir(&directory)?;
        let root = directory.parent().context("a place has a directory")?;
        // The database's user must get to its files.
        fs::set_permissions(root, fs::Permissions::from_mode(0o755))?;
        let plan = Plan::new(options.shape());
        let hosts: Vec<(String, String)> =
            plan.hosts.iter().map(|host| (host.name.clone(), host.interface())).collect();
        let hosts = hosts.iter().map(|(name, interface)| (name.as_str(), interface.as_str()));
        let network = Network::make(hosts, (!options.keep).then_some(root))?;
        let mut machines = Self { plan, directory, parts: Vec::new(), keepers: Vec::new(), ceph: None, network };
        machines.start_databases(options)?;
        machines.start_storage(options)?;
        machines.start_caches()?;
        machines.start_balancers(options)?;
        machines.start_services(site.program(), options)?;
        machines.wait_until_ready()?;
        Ok(machines)
    }

    /// What there is, in words.
    pub(super) fn told(&self) -> String {
        let count = |tier: &Tier| (self.plan.tier(*tier).count(), *tier);
        let told = |(count, tier): (usize, Tier)| format!("{count} {tier}");
        let counts = Tier::ALL.iter().map(count).filter(|(count, _)| *count > 0);
        counts.map(told).collect::<Vec<_>>().join(", ")
    }

    /// The words before a command on the host of a client.
    pub(super) fn on_client(&self, number: usize) -> [String; 4] {
        self.network.on(&format!("{}{}", Tier::Client, number + 1))
    }

    /// Runs a function where a client is.
    pub(super) fn seen_from_a_client<T: Send + 'static>(
        &self,
        look: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<Result<T>>> {
        self.network.seen_from(&format!("{}1", Tier::Client), look)
    }

    /// How many hosts the tier of a scenario has.
    pub(super) fn hosts_like(&self, scenario: Scenario) -> usize {
        match scenario {
            Scenario::Blow(_, tier) => self.count(tier),
            Scenario::StorageFaults | Scenario::FlushCaches => 1,
        }
    }

    /// How many hosts a tier has.
    pub(super) fn count(&self, tier: Tier) -> usize {
        self.plan.tier(tier).count()
    }

    /// Which host of the tier it meets, by its number from 0 on: of the balancers the one that has the address.
    pub(super) fn choose_victim(&self, scenario: Scenario, chance: &mut ChaCha8Rng) -> Result<usize> {
        let Scenario::Blow(_, tier) = scenario else { return Ok(0) };
        if tier == Tier::Balancer {
            let mut hosts = self.plan.tier(tier).map(|host| self.has_shared_address(host));
            return hosts.position(|has| matches!(has, Ok(true))).context("no balancer has the shared address");
        }
        let hosts: Vec<usize> = (0..self.plan.tier(tier).count()).collect();
        hosts.choose(chance).copied().with_context(|| format!("there is no {tier}"))
    }

    pub(super) fn begin(&mut self, scenario: Scenario, victim: usize, devices: &mut [Device]) -> Result<Trouble> {
        match scenario {
            Scenario::StorageFaults => {
                let seed = self.parts.len() as u64 + 1;
                self.part(Tier::Storage, 0)?.tell(&format!("faults {STORAGE_FAULTS} {seed}"))?;
                Ok(Trouble::StorageFaults)
            }
            Scenario::FlushCaches => self.flush_caches().map(|()| Trouble::Nothing),
            Scenario::Blow(Blow::Cut, tier) => self.cut(tier, victim, Cut::Pulled),
            Scenario::Blow(Blow::Lose, tier) => self.cut(tier, victim, Cut::Silent),
            Scenario::Blow(_, Tier::Client) => {
                devices.get_mut(victim).context("there is such a device")?.kill()?;
                Ok(Trouble::DeviceEnded(victim))
            }
            Scenario::Blow(Blow::Hang, tier) => {
                self.signal_keeper(victim, Signal::STOP)?;
                self.part(tier, victim)?.freeze()?;
                Ok(Trouble::Hung(victim))
            }
            Scenario::Blow(blow, tier) => self.strike(blow, tier, victim),
        }
    }

    pub(super) fn end(&mut self, trouble: Trouble, devices: &mut [Device]) -> Result<()> {
        match trouble {
            Trouble::Ended(numbers) => numbers.into_iter().try_for_each(|number| self.parts[number].1.start())?,
            Trouble::Frozen(number) => self.parts[number].1.thaw()?,
            Trouble::Hung(number) => {
                self.part(Tier::Balancer, number)?.thaw()?;
                self.signal_keeper(number, Signal::CONT)?;
            }
            Trouble::CutOff(host, how) => self.network.mend(&host, how)?,
            Trouble::DeviceEnded(number) => devices.get_mut(number).context("there is such a device")?.start()?,
            Trouble::StorageFaults => self.part(Tier::Storage, 0)?.tell("faults 0 1")?,
            Trouble::Nothing => {}
        }
        let databases: Vec<Host> = self.plan.tier(Tier::Database).cloned().collect();
        databases.iter().try_for_each(|host| self.wait_for_database(host))?;
        if databases.len() > 1 {
            self.wait_for_whole_database(&databases)?;
        }
        self.wait_until_ready()
    }

    /// An error if a process has ended that nobody ended.
    pub(super) fn check(&mut self) -> Result<()> {
        self.ceph.iter_mut().try_for_each(Ceph::check)?;
        self.parts.iter_mut().map(|(_, part)| part).chain(&mut self.keepers).try_for_each(Part::check)
    }

    /// Whether every block that a version names is there and whole.
    pub(super) fn verify(&self, program: &Program) -> Result<()> {
        let host = self.first(Tier::Meta)?;
        let settings = self.settings(host);
        let program = self.program_on(program, host);
        program.run_with_input(&["admin", "--config", text(&settings)?, "verify"], "").map(drop)
    }

    fn strike(&mut self, blow: Blow, tier: Tier, victim: usize) -> Result<Trouble> {
        let of_tier: Vec<usize> = (0..self.parts.len()).filter(|number| self.parts[*number].0 == tier).collect();
        let victim = *of_tier.get(victim).with_context(|| format!("there is such a {tier}"))?;
        let victims = if blow.is_for_all() { of_tier } else { vec![victim] };
        match blow {
            Blow::Freeze => {
                self.parts[victim].1.freeze()?;
                return Ok(Trouble::Frozen(victim));
            }
            Blow::Kill | Blow::Crash => victims.iter().try_for_each(|number| self.parts[*number].1.kill())?,
            Blow::Replace | Blow::Restart => {
                victims.iter().try_for_each(|number| self.parts[*number].1.begin_stop())?;
                victims.iter().try_for_each(|number| self.parts[*number].1.wait())?;
            }
            Blow::Cut | Blow::Lose | Blow::Hang => bail!("that happens to hosts, and not to processes"),
        }
        Ok(Trouble::Ended(victims))
    }

    fn cut(&mut self, tier: Tier, victim: usize, how: Cut) -> Result<Trouble> {
        let host = self.plan.tier(tier).nth(victim).with_context(|| format!("there is such a {tier}"))?;
        self.network.cut(&host.name, how)?;
        Ok(Trouble::CutOff(host.name.clone(), how))
    }

    fn flush_caches(&self) -> Result<()> {
        let caches: Vec<String> = self.plan.tier(Tier::Cache).map(|host| host.address.clone()).collect();
        let flush = move || {
            caches.iter().try_for_each(|address| {
                let mut stream = TcpStream::connect((address.as_str(), CACHE_PORT))?;
                stream.set_write_timeout(Some(CACHE_TIME_OUT))?;
                stream.write_all(b"flush_all\r\n")
            })
        };
        joined(self.seen_from_a_client(flush)?)?.context("cannot flush a cache")
    }

    /// Tells both processes of what moves the shared address on a balancer.
    fn signal_keeper(&self, number: usize, what: Signal) -> Result<()> {
        let host = self.plan.tier(Tier::Balancer).nth(number).context("there is such a balancer")?;
        for file in KEEPER_FILES {
            let file = self.path(&format!("{}.{file}", host.name));
            let pid = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            signal(pid.trim().parse().with_context(|| format!("{pid:?} is no process id"))?, what)?;
        }
        Ok(())
    }

    /// Who has the shared address, and what clients know of it: for whoever has to find out why nobody hears anything.
    pub(super) fn told_of_shared_address(&self) -> String {
        let balancers = self.plan.tier(Tier::Balancer);
        let has = |host: &Host| format!("{} has it: {:?}", host.name, self.has_shared_address(host).ok());
        let seen = |host: &Host| {
            let look = |words: &[&str]| {
                let by = self.network.on(&host.name);
                let output = Command::new(&by[0]).args(&by[1..]).args(words).output();
                output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
            };
            let way = look(&["ip", "neigh", "show", SHARED_ADDRESS]);
            format!("{}: {way}\n{}", host.name, look(&["ss", "-tno", "dst", SHARED_ADDRESS]))
        };
        balancers.map(has).chain(self.plan.tier(Tier::Client).map(seen)).collect::<Vec<_>>().join("\n")
    }

    fn has_shared_address(&self, host: &Host) -> Result<bool> {
        let by = self.network.on(&host.name);
        let output = Command::new(&by[0]).args(&by[1..]).args(["ip", "-o", "-4", "addr", "show"]).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).contains(&format!(" {SHARED_ADDRESS}/")))
    }

    /// Waits until every service says that it can work, and the shared address answers.
    fn wait_until_ready(&mut self) -> Result<()> {
        let services = self.plan.hosts.iter().filter(|host| host.tier.role().is_some());
        let services = services.map(|host| Ok((host.name.clone(), socket(&host.address, SERVICE_PORT)?)));
        let services: Vec<(String, SocketAddr)> = services.collect::<Result<_>>()?;
        let shared = socket(SHARED_ADDRESS, CLIENT_PORT)?;
        let waiting = self.seen_from_a_client(move || {
            let deadline = Instant::now() + PATIENCE;
            loop {
                let missing = services.iter().find(|(_, address)| !probe::is_ready(*address));
                let missing = missing.map(|(name, _)| name.clone());
                let missing = missing.or_else(|| (!probe::is_answered(shared)).then(|| SHARED_ADDRESS.to_owned()));
                if missing.is_none() || Instant::now() > deadline {
                    return missing;
                }
                thread::sleep(LOOK_AGAIN);
            }
        })?;
        match joined(waiting)? {
            None => Ok(()),
            Some(missing) => {
                self.check()?;
                bail!("{missing} is not ready; its log ends with: {}", end_of(&self.log(&missing)));
            }
        }
    }

    fn start_databases(&mut self, options: &Options) -> Result<()> {
        let settings = self.path("mariadb.cnf");
        fs::copy(options.deploy.join("mariadb.cnf"), &settings)?;
        let first = self.path("database.sql");
        fs::write(&first, DATABASE)?;
        let hosts: Vec<Host> = self.plan.tier(Tier::Database).cloned().collect();
        let members: Vec<&str> = hosts.iter().map(|host| host.address.as_str()).collect();
        let members = members.join(",");
        for (number, host) in hosts.iter().enumerate() {
            let folder = self.path(&host.name);
            for made in [&folder, &folder.join("tmp")] {
                fs::create_dir(made)?;
                fs::set_permissions(made, fs::Permissions::from_mode(0o777))?;
            }
            let (data, temporary) = (folder.join("data"), folder.join("tmp"));
            let (data, temporary) = (text(&data)?, text(&temporary)?);
            if number == 0 || options.galera {
                let installer = find("mariadb-install-db").context("`mariadb-install-db` is not installed")?;
                let place = format!("--datadir={data}");
                let how = ["--user=mysql", "--auth-root-authentication-method=normal", "--skip-test-db", &place];
                run(text(&installer)?, &[&["--no-defaults"], &how[..]].concat())?;
            }
            let mut words = vec![
                text(&find("mariadbd").context("`mariadbd` is not installed")?)?.to_owned(),
                format!("--defaults-file={}", settings.display()),
                "--user=mysql".to_owned(),
                format!("--datadir={data}"),
                format!("--tmpdir={temporary}"),
                format!("--socket={}", folder.join("socket").display()),
                format!("--pid-file={}", folder.join("pid").display()),
                "--skip-name-resolve".to_owned(),
                "--innodb-buffer-pool-size=128M".to_owned(),
                "--innodb-log-file-size=64M".to_owned(),
            ];
            if number == 0 {
                words.push(format!("--init-file={}", first.display()));
            }
            if options.galera {
                words.extend(galera(&members, host));
            }
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let mut part = self.new_part(host, &words);
            if options.galera && number == 0 {
                part.words_mut().push("--wsrep-new-cluster".to_owned());
                part.start()?;
                part.words_mut().pop();
            } else {
                part.start()?;
            }
            self.parts.push((Tier::Database, part));
            self.wait_for_database(host)?;
        }
        Ok(())
    }

    /// Waits until a database takes statements.
    fn wait_for_database(&mut self, host: &Host) -> Result<()> {
        let socket = self.path(&host.name).join("socket");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let ask = ["--no-defaults", "--user=root", "--socket", text(&socket)?, "-e", "SHOW TABLES FROM mysql"];
            if run("mariadb", &ask).is_ok() {
                return Ok(());
            }
            self.check()?;
            if Instant::now() > deadline {
                bail!("{} does not answer; its log ends with: {}", host.name, end_of(&self.log(&host.name)));
            }
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// Waits until every node of a database cluster says that it has all of them. Two nodes of three that are away at
    /// once are one too many: each must be back before the next goes. That it answers does not tell: a node that was
    /// frozen is asked before it has noticed that the others have given it up.
    fn wait_for_whole_database(&mut self, hosts: &[Host]) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let sizes = hosts.iter().map(|host| self.cluster_size(host)).collect::<Result<Vec<_>>>()?;
            if sizes.iter().all(|size| *size == Some(hosts.len())) {
                return Ok(());
            }
            self.check()?;
            if Instant::now() > deadline {
                bail!("the nodes of the database say that there are {sizes:?} of them");
            }
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// How many nodes one of them knows, if it is in step with them.
    fn cluster_size(&self, host: &Host) -> Result<Option<usize>> {
        let socket = self.path(&host.name).join("socket");
        let ask =
            ["--no-defaults", "--user=root", "--socket", text(&socket)?, "--skip-column-names", "-e", CLUSTER_SIZE];
        let output = Command::new("mariadb").args(ask).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().parse().ok())
    }

    /// Waits until a database greets by way of the balancers.
    fn wait_for_balanced_database(&self) -> Result<()> {
        let address = socket(SHARED_ADDRESS, DATABASE_PORT)?;
        let greeted = self.seen_from_a_client(move || {
            let deadline = Instant::now() + PATIENCE;
            while !probe::greets(address) {
                if Instant::now() > deadline {
                    return false;
                }
                thread::sleep(LOOK_AGAIN);
            }
            true
        })?;
        if !joined(greeted)? {
            bail!("no database answers behind the balancers");
        }
        Ok(())
    }

    fn start_storage(&mut self, options: &Options) -> Result<()> {
        let ceph = self.plan.tier(Tier::Ceph).next().cloned();
        if let Some(host) = ceph {
            return self.start_ceph(&host, &fs::read_to_string(options.deploy.join("ceph.conf"))?);
        }
        for host in self.plan.tier(Tier::Storage).cloned().collect::<Vec<_>>() {
            let folder = self.path(&host.name);
            fs::create_dir(&folder)?;
            let address = format!("{}:{STORAGE_PORT}", host.address);
            let part = self.new_part(&host, &[text(&options.storage)?, "s3", &address, text(&folder)?]);
            self.begin_part(Tier::Storage, part)?;
        }
        Ok(())
    }

    fn start_ceph(&mut self, host: &Host, of_gateways: &str) -> Result<()> {
        let (by, folder) = (self.network.on(&host.name), self.path(&host.name));
        let mut ceph = Ceph::start(&host.name, &host.address, &by, &folder, of_gateways)?;
        for gateway in self.plan.tier(Tier::Storage).cloned().collect::<Vec<_>>() {
            let by = self.network.on(&gateway.name);
            self.begin_part(Tier::Storage, ceph.gateway(&gateway.name, &by, &gateway.address, STORAGE_PORT)?)?;
        }
        ceph.make_bucket(&format!("{}:{STORAGE_PORT}", self.first(Tier::Storage)?.address))?;
        self.ceph = Some(ceph);
        Ok(())
    }

    fn start_caches(&mut self) -> Result<()> {
        let program = find("memcached").context("`memcached` is not installed")?;
        for host in self.plan.tier(Tier::Cache).cloned().collect::<Vec<_>>() {
            let (program, port) = (text(&program)?, CACHE_PORT.to_string());
            let words = [program, "-l", &host.address, "-p", &port, "-U", "0", "-u", "nobody", "-m", "64"];
            let part = self.new_part(&host, &words);
            self.begin_part(Tier::Cache, part)?;
        }
        Ok(())
    }

    fn start_services(&mut self, program: &Program, options: &Options) -> Result<()> {
        let template = fs::read_to_string(options.deploy.join("syncline.toml"))?;
        let of_bucket = if self.ceph.is_some() { ceph::credentials() } else { PrivateServer::credentials_text() };
        for (name, content) in
            [("service-secret", SECRET), ("database-password", PASSWORD), ("bucket-credentials", &of_bucket)]
        {
            fs::write(self.path(name), content)?;
        }
        let hosts: Vec<Host> = self.plan.hosts.iter().filter(|host| host.tier.role().is_some()).cloned().collect();
        for host in &hosts {
            let data = self.path(&format!("{}-data", host.name));
            fs::write(self.settings(host), self.plan.settings(&template, host, text(&data)?))?;
        }
        if options.galera {
            self.wait_for_balanced_database()?;
        }
        let first = self.first(Tier::Meta)?;
        add_account(&self.program_on(program, first), &["--config", text(&self.settings(first))?])?;
        for host in hosts {
            let Some(role) = host.tier.role() else { continue };
            let settings = self.settings(&host);
            let words = [text(program.path())?, "server", "--config", text(&settings)?, "--role", role];
            let part = self.new_part(&host, &words);
            self.begin_part(host.tier, part)?;
        }
        Ok(())
    }

    fn start_balancers(&mut self, options: &Options) -> Result<()> {
        let balancer = self.plan.balancer(&fs::read_to_string(options.deploy.join("haproxy.cfg"))?);
        let keeper = fs::read_to_string(options.deploy.join("keepalived.conf"))?;
        let [haproxy, keepalived] = ["haproxy", "keepalived"].map(find);
        let (haproxy, keepalived) = (haproxy.context("no haproxy")?, keepalived.context("no keepalived")?);
        let settings = self.path("haproxy.cfg");
        fs::write(&settings, balancer)?;
        for host in self.plan.tier(Tier::Balancer).cloned().collect::<Vec<_>>() {
            let path = |ending: &str| self.path(&format!("{}.{ending}", host.name));
            let tracked = path("ended");
            let name = host.name.replace(Tier::Balancer.name(), plan::BALANCER);
            let part = self.new_part(&host, &[text(&haproxy)?, "-db", "-L", &name, "-f", text(&settings)?]);
            let part = part.watched_by(tracked.clone());
            let keeper_settings = path("keepalived.conf");
            fs::write(&keeper_settings, self.plan.keepalived(&keeper, &host, text(&tracked)?))?;
            let [pid, child_pid] = KEEPER_FILES.map(path);
            let words = ["-n", "-l", "-D", "-f", text(&keeper_settings)?, "-p", text(&pid)?, "-r", text(&child_pid)?];
            let log = path("keepalived.log");
            let by = self.network.on(&host.name);
            let mut keeper = Part::new(&host.name, &by, &[&[text(&keepalived)?], &words[..]].concat(), log);
            self.begin_part(Tier::Balancer, part)?;
            let deadline = Instant::now() + PATIENCE;
            while fs::read_to_string(&tracked).unwrap_or_default().is_empty() && Instant::now() < deadline {
                thread::sleep(LOOK_AGAIN);
            }
            keeper.start()?;
            self.keepers.push(keeper);
        }
        Ok(())
    }

    fn begin_part(&mut self, tier: Tier, mut part: Part) -> Result<()> {
        part.start()?;
        self.parts.push((tier, part));
        Ok(())
    }

    fn new_part(&self, host: &Host, words: &[&str]) -> Part {
        Part::new(&host.name, &self.network.on(&host.name), words, self.log(&host.name))
    }

    fn part(&mut self, tier: Tier, number: usize) -> Result<&mut Part> {
        let mut of_tier = self.parts.iter_mut().filter(|(of, _)| *of == tier);
        of_tier.nth(number).map(|(_, part)| part).with_context(|| format!("there is such a {tier}"))
    }

    fn first(&self, tier: Tier) -> Result<&Host> {
        self.plan.tier(tier).next().with_context(|| format!("there is a {tier}"))
    }

    fn program_on(&self, program: &Program, host: &Host) -> Program {
        let by = self.network.on(&host.name);
        program.run_by(&by.each_ref().map(String::as_str))
    }

    fn settings(&self, host: &Host) -> PathBuf {
        self.path(&format!("{}.toml", host.name))
    }

    fn log(&self, host: &str) -> PathBuf {
        self.path(&format!("{host}.log"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

/// What makes a MariaDB a node of a cluster. The time-outs stay as they are, 5 s until a silent node is suspected:
/// with one second two nodes on a busy machine took each other for dead when the third had gone, and then nobody
/// had a majority.
fn galera(members: &str, host: &Host) -> Vec<String> {
    vec![
        "--wsrep-on=ON".to_owned(),
        format!("--wsrep-provider={GALERA}"),
        format!("--wsrep-cluster-address=gcomm://{members}"),
        format!("--wsrep-node-address={}", host.address),
        format!("--wsrep-node-name={}", host.name),
        "--wsrep-sst-method=rsync".to_owned(),
        "--binlog-format=ROW".to_owned(),
        "--innodb-autoinc-lock-mode=2".to_owned(),
    ]
}

fn socket(address: &str, port: u16) -> Result<SocketAddr> {
    format!("{address}:{port}").parse().with_context(|| format!("{address} is an address"))
}

fn joined<T>(thread: JoinHandle<Result<T>>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a watcher broke"))?
}
