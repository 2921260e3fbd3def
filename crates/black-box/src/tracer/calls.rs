//! Which system calls there are, what each does, and which faults the kernel could give there.

use anyhow::{Result, bail};
use nix::libc::{self, user_regs_struct};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::str::FromStr;

/// `op` of a stop before a call, from linux/ptrace.h.
pub(super) const ENTRY: u8 = 1;
/// `FICLONE`, from linux/fs.h.
const FICLONE: u64 = 0x4004_9409;
/// How the folders of points begin.
pub const POINT: &str = "point-";
/// No name of interest is longer.
const NAME_BYTES: usize = 256;
/// Standard output and error: what a program says is not its state.
const STANDARD_FILES: u64 = 3;

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The process is killed instead of the call. Between two calls that change nothing it makes no
    /// difference when, so only those that change something are struck.
    Kill,
    /// The disk fails, where something is changed.
    Eio,
    /// The disk fails, where something is read.
    EioReading,
    Enospc,
    Emfile,
    Eacces,
    Eintr,
    ConnectionReset,
}

/// All faults, with the names by which a tracer is told.
const FAULTS: [(Fault, &str, i32); 8] = [
    (Fault::Kill, "kill", 0),
    (Fault::Eio, "eio", libc::EIO),
    (Fault::EioReading, "eio-reading", libc::EIO),
    (Fault::Enospc, "enospc", libc::ENOSPC),
    (Fault::Emfile, "emfile", libc::EMFILE),
    (Fault::Eacces, "eacces", libc::EACCES),
    (Fault::Eintr, "eintr", libc::EINTR),
    (Fault::ConnectionReset, "connection-reset", libc::ECONNRESET),
];

impl Fault {
    fn row(self) -> &'static (Self, &'static str, i32) {
        FAULTS.iter().find(|(fault, _, _)| *fault == self).unwrap_or(&FAULTS[0])
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Whether the kernel could give it there.
    fn can_strike(self, deed: Deed) -> bool {
        use Deed::{
            Accept, Attributes, Extend, Link, List, Look, OpenToCreate, OpenToRead, ReadFile, ReadSocket, Remove,
            Rename, Sync, Watch, WriteFile, WriteSocket,
        };
        match self {
            Self::Kill => matches!(
                deed,
                WriteFile | WriteSocket | Sync | OpenToCreate | Rename | Link | Remove | Extend | Attributes
            ),
            Self::Eio => {
                matches!(deed, WriteFile | Sync | OpenToCreate | Rename | Link | Remove | Extend | Attributes)
            }
            Self::EioReading => matches!(deed, ReadFile | OpenToRead | List | Look),
            Self::Enospc => matches!(deed, WriteFile | Sync | OpenToCreate | Rename | Link | Extend | Watch),
            Self::Emfile => matches!(deed, OpenToRead | OpenToCreate | Accept),
            Self::Eacces => {
                matches!(deed, OpenToRead | OpenToCreate | Rename | Link | Remove | Attributes | Look | Watch)
            }
            Self::Eintr => matches!(
                deed,
                ReadFile | WriteFile | Sync | OpenToRead | OpenToCreate | Extend | ReadSocket | WriteSocket | Accept
            ),
            Self::ConnectionReset => matches!(deed, ReadSocket | WriteSocket),
        }
    }
}

impl FromStr for Fault {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        match FAULTS.iter().find(|(_, known, _)| *known == name) {
            Some((fault, _, _)) => Ok(*fault),
            None => bail!("there is no fault `{name}`"),
        }
    }
}

/// What a call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    ReadFile,
    WriteFile,
    ReadSocket,
    WriteSocket,
    Sync,
    OpenToRead,
    OpenToCreate,
    Rename,
    Link,
    Remove,
    /// Gives a file another length or other blocks.
    Extend,
    Attributes,
    List,
    Look,
    Watch,
    Accept,
}

impl Deed {
    /// Whether the call has a name in its second argument.
    fn has_name(self) -> bool {
        matches!(
            self,
            Self::OpenToRead | Self::OpenToCreate | Self::Look | Self::Rename | Self::Link | Self::Remove | Self::Watch
        )
    }
}

/// How a call's deed is known.
#[derive(Clone, Copy)]
enum Shape {
    Always(Deed),
    /// By its descriptor: a file or a socket.
    Reads,
    Writes,
    /// By the flags in this argument.
    Opens(usize),
    /// By the flags at the address in this argument.
    OpensBy(usize),
    /// By the request.
    Controls,
}

/// The calls that programs of this project make, and their neighbours.
const CALLS: &[(i64, &str, Shape)] = &[
    (libc::SYS_read, "read", Shape::Reads),
    (libc::SYS_readv, "readv", Shape::Reads),
    (libc::SYS_pread64, "pread64", Shape::Reads),
    (libc::SYS_preadv, "preadv", Shape::Reads),
    (libc::SYS_recvfrom, "recvfrom", Shape::Always(Deed::ReadSocket)),
    (libc::SYS_recvmsg, "recvmsg", Shape::Always(Deed::ReadSocket)),
    (libc::SYS_write, "write", Shape::Writes),
    (libc::SYS_writev, "writev", Shape::Writes),
    (libc::SYS_pwrite64, "pwrite64", Shape::Writes),
    (libc::SYS_pwritev, "pwritev", Shape::Writes),
    (libc::SYS_sendto, "sendto", Shape::Always(Deed::WriteSocket)),
    (libc::SYS_sendmsg, "sendmsg", Shape::Always(Deed::WriteSocket)),
    (libc::SYS_fsync, "fsync", Shape::Always(Deed::Sync)),
    (libc::SYS_fdatasync, "fdatasync", Shape::Always(Deed::Sync)),
    (libc::SYS_syncfs, "syncfs", Shape::Always(Deed::Sync)),
    (libc::SYS_open, "open", Shape::Opens(1)),
    (libc::SYS_openat, "openat", Shape::Opens(2)),
    (libc::SYS_openat2, "openat2", Shape::OpensBy(2)),
    (libc::SYS_rename, "rename", Shape::Always(Deed::Rename)),
    (libc::SYS_renameat, "renameat", Shape::Always(Deed::Rename)),
    (libc::SYS_renameat2, "renameat2", Shape::Always(Deed::Rename)),
    (libc::SYS_link, "link", Shape::Always(Deed::Link)),
    (libc::SYS_linkat, "linkat", Shape::Always(Deed::Link)),
    (libc::SYS_symlink, "symlink", Shape::Always(Deed::Link)),
    (libc::SYS_symlinkat, "symlinkat", Shape::Always(Deed::Link)),
    (libc::SYS_mkdir, "mkdir", Shape::Always(Deed::Link)),
    (libc::SYS_mkdirat, "mkdirat", Shape::Always(Deed::Link)),
    (libc::SYS_unlink, "unlink", Shape::Always(Deed::Remove)),
    (libc::SYS_unlinkat, "unlinkat", Shape::Always(Deed::Remove)),
    (libc::SYS_rmdir, "rmdir", Shape::Always(Deed::Remove)),
    (libc::SYS_truncate, "truncate", Shape::Always(Deed::Extend)),
    (libc::SYS_ftruncate, "ftruncate", Shape::Always(Deed::Extend)),
    (libc::SYS_fallocate, "fallocate", Shape::Always(Deed::Extend)),
    (libc::SYS_copy_file_range, "copy_file_range", Shape::Always(Deed::Extend)),
    (libc::SYS_ioctl, "ioctl", Shape::Controls),
    (libc::SYS_utimensat, "utimensat", Shape::Always(Deed::Attributes)),
    (libc::SYS_chmod, "chmod", Shape::Always(Deed::Attributes)),
    (libc::SYS_fchmod, "fchmod", Shape::Always(Deed::Attributes)),
    (libc::SYS_fchmodat, "fchmodat", Shape::Always(Deed::Attributes)),
    (libc::SYS_fchown, "fchown", Shape::Always(Deed::Attributes)),
    (libc::SYS_getdents64, "getdents64", Shape::Always(Deed::List)),
    (libc::SYS_stat, "stat", Shape::Always(Deed::Look)),
    (libc::SYS_lstat, "lstat", Shape::Always(Deed::Look)),
    (libc::SYS_fstat, "fstat", Shape::Always(Deed::Look)),
    (libc::SYS_newfstatat, "newfstatat", Shape::Always(Deed::Look)),
    (libc::SYS_statx, "statx", Shape::Always(Deed::Look)),
    (libc::SYS_inotify_add_watch, "inotify_add_watch", Shape::Always(Deed::Watch)),
    (libc::SYS_accept4, "accept4", Shape::Always(Deed::Accept)),
    (libc::SYS_socket, "socket", Shape::Always(Deed::Accept)),
];

/// A call that is about to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Call {
    name: &'static str,
    deed: Deed,
    /// The path that it is about: what its first argument is open on, if that is a descriptor, and the
    /// name in its second.
    on: String,
}

impl Call {
    /// The call that a thread is about to make, if the fault could strike it.
    pub(super) fn of(pid: Pid, registers: &user_regs_struct, fault: Fault) -> Option<Self> {
        let number = i64::try_from(registers.orig_rax).ok()?;
        let (_, name, shape) = CALLS.iter().find(|(known, _, _)| *known == number)?;
        let argument = |at: usize| [registers.rdi, registers.rsi, registers.rdx, registers.r10].get(at).copied();
        let on = || open_file(pid, registers.rdi);
        let deed = match shape {
            Shape::Always(deed) => *deed,
            Shape::Reads => by_file(registers.rdi, on().as_deref(), Deed::ReadFile, Deed::ReadSocket)?,
            Shape::Writes => by_file(registers.rdi, on().as_deref(), Deed::WriteFile, Deed::WriteSocket)?,
            Shape::Opens(at) => by_flags(argument(*at)?),
            Shape::OpensBy(at) => by_flags(word(pid, argument(*at)?)?),
            Shape::Controls => (registers.rsi == FICLONE).then_some(Deed::Extend)?,
        };
        if !fault.can_strike(deed) {
            return None;
        }
        let mut on = on().unwrap_or_default();
        if deed.has_name() {
            on = format!("{on}/{}", text(pid, registers.rsi));
        }
        Some(Self { name, deed, on })
    }

    /// Whether it does again what another one did, and changes nothing: the next turn of a loop.
    pub(super) fn repeats(&self, other: &Self) -> bool {
        matches!(self.deed, Deed::ReadFile | Deed::ReadSocket | Deed::List) && self == other
    }

    /// Whether it is about the folder of another point. A scan reads those, too, and all alike.
    pub(super) fn is_elsewhere(&self, folder: &str) -> bool {
        self.on.contains(POINT) && !self.on.contains(folder)
    }

    pub(super) fn told(&self) -> String {
        format!("{} on {}", self.name, self.on)
    }
}

/// Makes a call do nothing and return the fault's error: no call has the number -1, and for it the kernel
/// leaves the result as it is.
pub(super) fn replace(registers: &mut user_regs_struct, fault: Fault) {
    registers.orig_rax = u64::MAX;
    registers.rax = (-i64::from(fault.row().2)).cast_unsigned();
}

fn open_file(pid: Pid, descriptor: u64) -> Option<String> {
    let target = fs::read_link(format!("/proc/{pid}/fd/{descriptor}")).ok()?;
    Some(target.to_string_lossy().into_owned())
}

fn by_file(descriptor: u64, on: Option<&str>, file: Deed, socket: Deed) -> Option<Deed> {
    let on = on.filter(|_| descriptor >= STANDARD_FILES)?;
    if on.starts_with('/') && !on.starts_with("/proc/") && !on.starts_with("/sys/") {
        return Some(file);
    }
    on.starts_with("socket:").then_some(socket)
}

fn by_flags(flags: u64) -> Deed {
    let creating = u64::from((libc::O_CREAT | libc::O_TRUNC | (libc::O_TMPFILE & !libc::O_DIRECTORY)).cast_unsigned());
    if flags & creating == 0 { Deed::OpenToRead } else { Deed::OpenToCreate }
}

/// A name in the process, as far as it is of interest; empty if there is none.
fn text(pid: Pid, address: u64) -> String {
    let mut bytes = [0; NAME_BYTES];
    let read = File::open(format!("/proc/{pid}/mem")).and_then(|memory| memory.read_at(&mut bytes, address));
    let known = &bytes[..read.unwrap_or(0)];
    let end = known.iter().position(|byte| *byte == 0).unwrap_or(0);
    String::from_utf8_lossy(&known[..end]).into_owned()
}

/// Eight bytes of the process.
fn word(pid: Pid, address: u64) -> Option<u64> {
    let mut bytes = [0; 8];
    File::open(format!("/proc/{pid}/mem")).ok()?.read_exact_at(&mut bytes, address).ok()?;
    Some(u64::from_ne_bytes(bytes))
}
