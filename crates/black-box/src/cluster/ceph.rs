//! A Ceph of one monitor, one manager and one daemon that keeps objects in memory, with any number of object gateways.
//! Small, but the programs are those that a team runs.
//!
//! Nothing signs in inside: what is tried is how the block service gets on with the gateways.

use super::part::Part;
use crate::program::{find, run};
use crate::site::{LOOK_AGAIN, PATIENCE, text};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

/// Debian's.
const PACKAGES: &str = "the packages ceph-mon, ceph-mgr, ceph-osd, radosgw and ceph-common";
/// What requests are signed with.
const KEY_ID: &str = "ceph-of-the-tests";
const SECRET: &str = "a-secret-of-the-tests";
/// The bucket that there is.
const BUCKET: &str = "blocks";
/// The identifier of this Ceph; each is alone in its network.
const FSID: &str = "5f0c9c5e-6d1b-4c4a-8f0e-2b6a1d9f7c31";
/// What it can keep.
const MEMORY_BYTES: u64 = 2 << 30;
/// How long one of its tools may take to find the monitor.
const CONNECT_SECONDS: &str = "60";

/// The file with what requests are signed with.
pub(super) fn credentials() -> String {
    format!("aws_access_key_id = {KEY_ID}\naws_secret_access_key = {SECRET}\n")
}

/// A Ceph that runs for as long as this lives.
#[derive(Debug)]
pub(super) struct Ceph {
    folder: PathBuf,
    address: String,
    /// The words before each command: where it runs.
    by: Vec<String>,
    host: String,
    daemons: Vec<Part>,
}

impl Ceph {
    /// Starts one, without gateways, in a folder that there is not yet. `of_gateways` are their settings.
    pub(super) fn start(host: &str, address: &str, by: &[String], folder: &Path, of_gateways: &str) -> Result<Self> {
        fs::create_dir(folder)?;
        let (folder, address, host) = (folder.to_owned(), address.to_owned(), host.to_owned());
        let mut ceph = Self { folder, address, by: by.to_vec(), host, daemons: Vec::new() };
        for name in ["mon", "mgr", "osd"] {
            fs::create_dir(ceph.path(name))?;
        }
        fs::write(ceph.settings(), settings(&ceph.address, text(&ceph.folder)?) + of_gateways)?;
        let map = ceph.path("monmap");
        let monitors = format!("[v2:{0}:3300,v1:{0}:6789]", ceph.address);
        ceph.run("monmaptool", &["--create", "--fsid", FSID, "--addv", "a", &monitors, text(&map)?])?;
        ceph.run_tool("ceph-mon", &["--mkfs", "-i", "a", "--monmap", text(&map)?])?;
        ceph.begin("ceph-mon", "a")?;
        ceph.begin("ceph-mgr", "x")?;
        ceph.run_tool("ceph", &["--connect-timeout", CONNECT_SECONDS, "osd", "create"])?;
        ceph.run_tool("ceph-osd", &["-i", "0", "--mkfs"])?;
        ceph.begin("ceph-osd", "0")?;
        Ok(ceph)
    }

    /// A gateway on a host, to be started.
    pub(super) fn gateway(&self, host: &str, by: &[String], address: &str, port: u16) -> Result<Part> {
        let program = program("radosgw")?;
        let (settings, name) = (self.settings(), format!("client.{host}"));
        let front = format!("--rgw-frontends=beast endpoint={address}:{port}");
        let words = [text(&program)?, "-c", text(&settings)?, "-n", &name, &front, "-f"];
        Ok(Part::new(host, by, &words, self.path(&format!("{host}.log"))))
    }

    /// Makes the user and the bucket, as soon as a gateway answers.
    pub(super) fn make_bucket(&mut self, gateway: &str) -> Result<()> {
        let user = ["user", "create", "--uid=syncline", "--display-name=Syncline", "--max-buckets=1"];
        let (key, secret) = (format!("--access-key={KEY_ID}"), format!("--secret-key={SECRET}"));
        self.run_tool("radosgw-admin", &[&user[..], &[&key, &secret]].concat())?;
        let (who, where_) = (format!("{KEY_ID}:{SECRET}"), format!("http://{gateway}/{BUCKET}"));
        let signed = ["--aws-sigv4", "aws:amz:us-east-1:s3", "--user", &who];
        let unsigned_body = ["-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD"];
        let quiet = ["--silent", "--fail", "--max-time", "30", "-X", "PUT", &where_];
        let words = [&signed[..], &unsigned_body, &quiet].concat();
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = self.run("curl", &words) {
            self.check()?;
            if Instant::now() > deadline {
                return Err(error.context("no gateway makes a bucket"));
            }
            thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    /// An error if a daemon has ended by itself.
    pub(super) fn check(&mut self) -> Result<()> {
        self.daemons.iter_mut().try_for_each(Part::check)
    }

    fn begin(&mut self, name: &str, id: &str) -> Result<()> {
        let (program, settings) = (program(name)?, self.settings());
        let words = [text(&program)?, "-c", text(&settings)?, "-i", id, "-f"];
        let mut part = Part::new(&self.host, &self.by, &words, self.path(&format!("{name}.log")));
        part.start()?;
        self.daemons.push(part);
        Ok(())
    }

    /// Runs one of Ceph's programs that knows of the settings.
    fn run_tool(&self, name: &str, words: &[&str]) -> Result<()> {
        let settings = self.settings();
        self.run(name, &[&["-c", text(&settings)?], words].concat())
    }

    /// Runs a program where the Ceph is.
    fn run(&self, name: &str, words: &[&str]) -> Result<()> {
        let program = program(name)?;
        let by: Vec<&str> = self.by.iter().map(String::as_str).collect();
        let all = [&by[..], &[text(&program)?], words].concat();
        run(all[0], &all[1..])
    }

    fn settings(&self) -> PathBuf {
        self.path("ceph.conf")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

fn program(name: &str) -> Result<PathBuf> {
    find(name).with_context(|| format!("`{name}` is not installed; {PACKAGES} have it"))
}

/// One copy of everything, in memory, and nobody who signs in. A gateway demands a secret connection to the monitor
/// unless it is told not to, which needs somebody who signs in.
fn settings(address: &str, folder: &str) -> String {
    format!(
        "[global]
fsid = {FSID}
mon host = {address}:6789
public addr = {address}
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc
ms client mode = crc
mon allow pool size one = true
mon warn on pool no redundancy = false
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = {MEMORY_BYTES}
run dir = {folder}
admin socket = {folder}/$name.asok
log file = {folder}/$name.ceph.log
mon data = {folder}/mon
mgr data = {folder}/mgr
osd data = {folder}/osd
"
    )
}
