//! Full disks.

use super::volume::Volume;
use super::{Trial, is_equal, shown, told};
use crate::site::{Device, Server, flush_all, text};
use crate::tree::Tree;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;
use std::time::Duration;

const DISK_MEGABYTES: u64 = 64;
/// What an almost full disk has left: a block and a half, so that it becomes full in the middle of one.
const LEFT_BYTES: u64 = 6 << 20;
/// More than is left.
const LARGE_BYTES: usize = 14 << 20;
/// Of one block, of which there is room for one.
const SINGLE_BYTES: usize = 4_000_000;
const MEDIUM_BYTES: usize = 1 << 20;
const SMALL_BYTES: usize = 1000;
/// How long a flush may take where nothing stands in the way.
const FLUSH_LIMIT: Duration = Duration::from_secs(60);

/// Downloads fail, are told, show nothing half, and leave room for what is small enough; what users do there
/// reaches the others.
pub(super) fn a_folder_on_a_full_disk_keeps_all_and_catches_up(trial: &mut Trial<'_>) -> Result<()> {
    let server = trial.site.start_server()?;
    let a = trial.site.start_device("a", server.address())?;
    let disk = Volume::make(&trial.site.path("disk"), DISK_MEGABYTES)?;
    let mut b = trial.site.start_device_in("b", server.address(), &trial.site.path("b-home"), &disk.path("folder"))?;
    trial.save(&a, "grows", MEDIUM_BYTES)?;
    trial.save(&a, "shrinks", MEDIUM_BYTES)?;
    trial.save(&a, "stays", SMALL_BYTES)?;
    trial.save(&a, "goes", SMALL_BYTES)?;
    flush_all(&[&a, &b], FLUSH_LIMIT)?;

    disk.fill(LEFT_BYTES)?;
    let old = shown(&b, "grows");
    trial.save(&a, "large", LARGE_BYTES)?;
    trial.save(&a, "grows", LARGE_BYTES)?;
    trial.wait_for("word of the full disk", &b, || Ok(is_told_of(&b, "large")? && is_told_of(&b, "grows")?))?;
    trial.save(&a, "one", SINGLE_BYTES)?;
    trial.save(&a, "other", SINGLE_BYTES)?;
    trial.wait_for("one of two for which there is no room together", &b, || {
        let refused = if shown(&b, "one").is_some() { "other" } else { "one" };
        Ok((shown(&b, "one").is_some() || shown(&b, "other").is_some()) && is_told_of(&b, refused)?)
    })?;
    let small = trial.save(&a, "small", SMALL_BYTES)?;
    let shrunk = trial.save(&a, "shrinks", SMALL_BYTES)?;
    fs::remove_file(a.folder().join("goes"))?;
    trial.wait_for("what is small enough", &b, || {
        Ok(shown(&b, "small") == Some(small) && shown(&b, "shrinks") == Some(shrunk) && shown(&b, "goes").is_none())
    })?;
    ensure!(shown(&b, "grows") == old, "the old version of a file whose new one finds no room is gone");
    let mine = trial.save(&b, "of b", SMALL_BYTES)?;
    trial.rename(&b, "stays", "moved")?;
    trial.wait_for("what the user of the full disk did", &a, || {
        Ok(shown(&a, "of b") == Some(mine) && shown(&a, "moved").is_some() && shown(&a, "stays").is_none())
    })?;

    // There is no room at all, and the program starts anew.
    disk.fill(0)?;
    b.kill()?;
    b.start()?;
    trial.wait_for("word of the full disk after a start", &b, || {
        Ok(is_told_of(&b, "large")? && is_told_of(&b, "grows")?)
    })?;
    ensure!(
        ["large", "grows", "small", "moved"].iter().all(|name| shown(&a, name).is_some()),
        "the full disk took files"
    );
    disk.make_room()?;
    trial.wait_for("the rest, now that there is room", &b, || Ok(is_equal(&a, &b)))?;
    finish(trial, &server, &[&a, &b])
}

/// Nothing is synced while the client cannot note what it does, and a person is told.
pub(super) fn a_home_on_a_full_disk_keeps_all_and_catches_up(trial: &mut Trial<'_>) -> Result<()> {
    let server = trial.site.start_server()?;
    let a = trial.site.start_device("a", server.address())?;
    let disk = Volume::make(&trial.site.path("disk"), DISK_MEGABYTES)?;
    let mut b = trial.site.start_device_in("b", server.address(), &disk.path("home"), &trial.site.path("b"))?;
    for name in ["both", "mine", "theirs", "goes here", "goes there"] {
        trial.save(&a, name, SMALL_BYTES)?;
    }
    flush_all(&[&a, &b], FLUSH_LIMIT)?;

    disk.fill(0)?;
    let mut values = Vec::new();
    for round in 0..HOME_FILES {
        values.push((trial.save(&b, &format!("b {round}"), SMALL_BYTES)?, format!("b {round}")));
        values.push((trial.save(&a, &format!("a {round}"), SMALL_BYTES)?, format!("a {round}")));
    }
    values.push((trial.save(&b, "mine", MEDIUM_BYTES)?, "mine".to_owned()));
    values.push((trial.save(&a, "theirs", MEDIUM_BYTES)?, "theirs".to_owned()));
    fs::remove_file(b.folder().join("goes here"))?;
    fs::remove_file(a.folder().join("goes there"))?;
    trial.wait_for("word of the full disk", &b, || Ok(told(&b)?.contains("full")))?;
    b.kill()?;
    // With no room for anything it may refuse to start, and say why.
    let error = b.start().err().map(|error| format!("{error:#}"));
    ensure!(
        error.as_ref().is_none_or(|error| error.contains("full")),
        "it does not start, for another reason: {error:?}"
    );
    trial.check_shown(&b)?;
    disk.make_room()?;
    b.start()?;
    trial.wait_for("all, now that there is room", &b, || Ok(is_equal(&a, &b)))?;
    for (value, name) in values {
        ensure!(shown(&a, &name) == Some(value), "{name} is not what its user wrote");
    }
    ensure!(["goes here", "goes there"].iter().all(|name| shown(&a, name).is_none()), "what was deleted is back");
    finish(trial, &server, &[&a, &b])
}

/// Files while a home is full, of each side.
const HOME_FILES: usize = 20;

/// How often a server is started while its disk is full.
const FULL_STARTS: usize = 3;
/// Files of which a server whose disk is filled before each takes some.
const MOST_FILLERS: usize = 20;
/// What a pack begins with.
const PACK_HEADER_BYTES: u64 = 16;

/// Uploads are refused, which is told; what is there can be read; and what was acknowledged stays.
pub(super) fn a_server_on_a_full_disk_keeps_all_and_goes_on(trial: &mut Trial<'_>) -> Result<()> {
    let disk = Volume::make(&trial.site.path("server"), DISK_MEGABYTES)?;
    let mut server = trial.site.start_server()?;
    let a = trial.site.start_device("a", server.address())?;
    let mut b = trial.site.start_device("b", server.address())?;
    let mut c = trial.site.start_device("c", server.address())?;
    trial.save(&a, "before", MEDIUM_BYTES)?;
    flush_all(&[&a, &b, &c], FLUSH_LIMIT)?;
    b.stop()?;
    c.stop()?;
    let known = trial.save(&a, "unread", LARGE_BYTES)?;
    let edited = trial.save(&a, "before", SMALL_BYTES)?;
    a.flush(FLUSH_LIMIT)?;

    disk.fill(LEFT_BYTES)?;
    trial.save(&a, "large", LARGE_BYTES)?;
    trial.wait_for("word of the full server", &a, || is_told_of_server(&a))?;
    b.start()?;
    trial.wait_for("what can be read of a full server", &b, || {
        Ok(shown(&b, "unread") == Some(known) && shown(&b, "before") == Some(edited))
    })?;
    // The other device's small file finds room.
    let small = trial.save(&b, "small", SMALL_BYTES)?;
    trial.wait_for("a small file on a full server", &a, || Ok(shown(&a, "small") == Some(small)))?;

    // What the server gives back of an upload that it refused may be room for one more.
    let mut file = 0;
    while !is_told_of_server(&b)? {
        file += 1;
        ensure!(file <= MOST_FILLERS, "a server with a full disk refuses nothing");
        disk.fill(0)?;
        let (name, on_a) = (format!("too much {file}"), &a);
        let filler = trial.save(&b, &name, MEDIUM_BYTES)?;
        trial.wait_for("an answer of the full server", &b, || {
            Ok(is_told_of_server(&b)? || shown(on_a, &name) == Some(filler))
        })?;
    }
    // The end of a pack may have had room for it.
    let last = trial.save(&a, "unread", SMALL_BYTES)?;
    trial.wait_for("word of the full server", &a, || is_told_of_server(&a))?;
    // What it kept free for that is enough to start, and for what is there to be read.
    for _ in 0..FULL_STARTS {
        server.kill()?;
        server.start().context("it does not start on a full disk")?;
    }
    c.start()?;
    trial.wait_for("what can be read of a server that was started on a full disk", &c, || {
        Ok([Some(known), Some(last)].contains(&shown(&c, "unread")) && shown(&c, "small") == Some(small))
    })?;
    // An upload that the server's end met leaves one, which the next upload uses or removes.
    trial.wait_for("packs with nothing in them to go", &a, || Ok(empty_packs(server.data())? == 0))?;
    disk.make_room()?;
    server.kill()?;
    server.start()?;
    verify(trial, &server)?;
    trial.wait_for("all, now that there is room", &b, || Ok(is_equal(&a, &b)))?;
    finish(trial, &server, &[&a, &b, &c])
}

/// Packs that hold nothing but their headers.
fn empty_packs(data: &Path) -> Result<usize> {
    let packs = fs::read_dir(data.join("blocks/packs"))?;
    let lens = packs.map(|pack| Ok(pack?.metadata()?.len())).collect::<Result<Vec<_>>>()?;
    Ok(lens.into_iter().filter(|len| *len == PACK_HEADER_BYTES).count())
}

fn is_told_of(device: &Device, name: &str) -> Result<bool> {
    Ok(told(device)?.lines().any(|line| line.contains(&format!("{name}: the disk is full"))))
}

fn is_told_of_server(device: &Device) -> Result<bool> {
    Ok(told(device)?.contains("the server has no space left") || told(device)?.contains("the server's disk is full"))
}

/// Everything is in sync, the server's blocks are whole, and a new device gets the same.
fn finish(trial: &mut Trial<'_>, server: &Server, devices: &[&Device]) -> Result<()> {
    flush_all(devices, FLUSH_LIMIT)?;
    verify(trial, server)?;
    let late = trial.site.start_device("late", server.address())?;
    flush_all(&[&late], FLUSH_LIMIT)?;
    let tree = Tree::read(late.folder())?;
    for device in devices {
        let (problems, differences) =
            (device.problems()?, tree.differences("late", &Tree::read(device.folder())?, device.name()));
        ensure!(problems.is_empty(), "{} still has problems: {problems:?}", device.name());
        ensure!(differences.is_empty(), "at rest, but not equal:\n  {}", differences.join("\n  "));
        trial.check_shown(device)?;
    }
    Ok(())
}

/// Whether each block that a version names is there and whole.
fn verify(trial: &Trial<'_>, server: &Server) -> Result<()> {
    trial.site.program().run_with_input(&["admin", "--data", text(server.data())?, "verify"], "").map(drop)
}
