//! Disks of some megabytes: ext4 in a file, mounted where only this campaign and what it starts see it. They can be
//! filled to the last byte, and their power can fail.
//!
//! When the power fails, what was written back stays and nothing else: the file system is told to shut down without
//! writing anything more, as its own tests do it, and mounted again it replays its journal. What a disk's own cache
//! would lose beyond that is ext4's affair, which tells the disk when to write it.

use crate::program::{find, run};
use crate::site::text;
use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::UNIX_EPOCH;

/// What is needed, and which Debian package has it.
const PROGRAMS: [(&str, &str); 4] =
    [("mkfs.ext4", "e2fsprogs"), ("mount", "mount"), ("umount", "mount"), ("perl", "perl-base")];
/// ext4 gives an emptied file, and one that a rename replaces, to the disk at once unless it is told not to. No other
/// file system owes anybody that.
const OPTIONS: &str = "loop,noauto_da_alloc";
/// `EXT4_IOC_SHUTDOWN`, with a file system and how.
const SHUT_DOWN: &str = "open(my $disk, '<', $ARGV[0]) or die $!; my $how = pack('L', $ARGV[1]);
ioctl($disk, 0x8004587d, $how) or die $!;";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Where the kernel tells, among other things, when it began to run.
const STATISTICS: &str = "/proc/stat";
/// The file that takes the rest of the space.
const BALLAST: &str = "ballast";
/// What an attempt to make a disk needs.
const TRIAL_MEGABYTES: u64 = 4;

/// How much of what was not synced the power failure takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// Everything: the journal was not written for a while.
    Recent,
    /// What was done is there, and the bytes are not: the journal had just been written, and names files whose
    /// bytes still were in memory. These are empty.
    Bytes,
}

/// Runs something where what is mounted is not seen from outside, and goes away with it however it ends.
pub(super) fn in_own_mounts<T: Send>(what: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let in_thread = || {
        unshare(CloneFlags::CLONE_NEWNS).context("no mount namespace")?;
        run("mount", &["--make-rprivate", "/"])?;
        what()
    };
    // Only this thread, and what it starts, goes there.
    thread::scope(|scope| scope.spawn(in_thread).join()).unwrap_or_else(|_| bail!("the campaign panicked"))
}

/// Whether this machine lets this process have such disks; if not, why.
pub(super) fn is_permitted() -> std::result::Result<(), String> {
    if let Some((program, package)) = PROGRAMS.iter().find(|(program, _)| find(program).is_none()) {
        return Err(format!("`{program}` cannot be run; the Debian package {package} has it"));
    }
    let tried = in_own_mounts(|| {
        let directory = tempfile::tempdir()?;
        Boot::first(&directory.path().join("boot"))?;
        let volume = Volume::make(&directory.path().join("disk"), TRIAL_MEGABYTES)?;
        volume.lose_power(Loss::Recent)?;
        volume.power_up()
    });
    tried.map_err(|error| format!("no disks: {error:#}"))
}

/// A disk that is mounted.
#[derive(Debug)]
pub(super) struct Volume {
    image: PathBuf,
    place: PathBuf,
}

impl Volume {
    /// An empty disk at a place.
    pub(super) fn make(place: &Path, megabytes: u64) -> Result<Self> {
        let image = place.with_extension("image");
        File::create(&image)?.set_len(megabytes << 20)?;
        let words = ["-q", "-F", "-m", "0", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0"];
        run("mkfs.ext4", &[&words[..], &[text(&image)?]].concat())?;
        fs::create_dir_all(place)?;
        let volume = Self { image, place: place.to_owned() };
        volume.mount()?;
        fs::remove_dir(volume.path("lost+found"))?;
        Ok(volume)
    }

    /// A path on it.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.place.join(name)
    }

    /// Takes all of its space but so many bytes.
    pub(super) fn fill(&self, but: u64) -> Result<()> {
        self.sync()?;
        let ballast = OpenOptions::new().create(true).append(true).open(self.path(BALLAST))?;
        let mut piece = u64::MAX;
        loop {
            let wanted = self.free()?.saturating_sub(but).min(piece);
            if wanted == 0 {
                break;
            }
            match fallocate(&ballast, FallocateFlags::empty(), ballast.metadata()?.len(), wanted) {
                Ok(()) => {}
                // What is there is also needed to note where it is.
                Err(Errno::NOSPC) => piece = wanted / 2,
                Err(error) => return Err(error).context("cannot fill a disk"),
            }
        }
        self.sync()
    }

    /// Gives the space back.
    pub(super) fn make_room(&self) -> Result<()> {
        fs::remove_file(self.path(BALLAST)).context("cannot make room")
    }

    /// Bytes that can still be written.
    pub(super) fn free(&self) -> Result<u64> {
        let state = statvfs(&self.place).context("a disk does not tell its space")?;
        Ok(state.f_bavail * state.f_frsize)
    }

    /// From now on nothing reaches it. Who works on it gets errors, and is to be killed before the power is back.
    pub(super) fn lose_power(&self, loss: Loss) -> Result<()> {
        let how = match loss {
            Loss::Bytes => "1",
            Loss::Recent => "2",
        };
        run("perl", &["-e", SHUT_DOWN, text(&self.place)?, how])
    }

    /// Mounts what the power failure left.
    pub(super) fn power_up(&self) -> Result<()> {
        run("umount", &[text(&self.place)?])?;
        self.mount()
    }

    fn mount(&self) -> Result<()> {
        run("mount", &["-o", OPTIONS, text(&self.image)?, text(&self.place)?])
    }

    fn sync(&self) -> Result<()> {
        Ok(rustix::fs::syncfs(File::open(&self.place)?)?)
    }
}

impl Drop for Volume {
    /// The directory that it is in can be removed then. Whoever still has a file open on it keeps it alive.
    fn drop(&mut self) {
        if let Ok(place) = text(&self.place) {
            run("umount", &["--lazy", place]).ok();
        }
    }
}

/// Which run of the operating system the processes see that are started from now on.
#[derive(Debug)]
pub(super) struct Boot {
    file: PathBuf,
    number: u32,
}

impl Boot {
    pub(super) fn first(file: &Path) -> Result<Self> {
        let mut boot = Self { file: file.to_owned(), number: 0 };
        boot.next()?;
        run("mount", &["--bind", text(file)?, BOOT_ID])?;
        run("mount", &["--bind", text(&boot.statistics())?, STATISTICS])?;
        Ok(boot)
    }

    fn statistics(&self) -> PathBuf {
        self.file.with_extension("statistics")
    }

    /// The machine was started again.
    pub(super) fn next(&mut self) -> Result<()> {
        self.number += 1;
        fs::write(&self.file, format!("{:08x}-0000-4000-8000-000000000000\n", self.number))?;
        let now = fs::metadata(&self.file)?.modified()?.duration_since(UNIX_EPOCH)?.as_secs();
        Ok(fs::write(self.statistics(), format!("btime {now}\n"))?)
    }
}

impl Drop for Boot {
    fn drop(&mut self) {
        for place in [BOOT_ID, STATISTICS] {
            run("umount", &[place]).ok();
        }
    }
}
