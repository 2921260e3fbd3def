//! Makes one system call of a running process fail, by ptrace.
//!
//! strace can do this too, but counts the calls of each thread alone: what a pool of threads does is then
//! never struck at each of its calls. Here the n-th call of the *process* is struck, whichever thread makes
//! it. The tracer is a process of its own (`black-box trace`), since a tracer waits for whatever its tracee
//! does, and would take from its parent the news that a child has ended.
//!
//! It writes `attached` when it sees every call, `struck CALL` when a fault was injected, and ends when
//! its input ends or the traced process does, with `counted N`.

mod calls;

pub use calls::{Fault, POINT};

use anyhow::{Context, Result, bail};
use calls::Call;
use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// What to do to which call.
#[derive(Debug, Clone)]
pub struct Injection {
    pub fault: Fault,
    /// Which of the calls that the fault can strike, the first one being 1.
    pub number: u64,
    /// Strike all that follow, too.
    pub sticky: bool,
    /// The folder of this point: what is done in others does not count.
    pub folder: String,
}

/// The first words of what a tracer says.
pub const ATTACHED: &str = "attached";
pub const STRUCK: &str = "struck ";
pub const COUNTED: &str = "counted ";

/// No more rounds are needed to find the threads that threads begin meanwhile.
const ATTACH_ROUNDS: usize = 100;
/// A signal that nobody handles: it wakes the tracer, which keeps it from the tracee.
const WAKE_UP: Signal = Signal::SIGWINCH;

/// Whether a process can be traced here.
///
/// # Errors
/// On other processors: the registers are known for this one.
pub fn check() -> Result<()> {
    if cfg!(target_arch = "x86_64") { Ok(()) } else { bail!("processes can be traced on x86_64 only") }
}

/// Traces a process until the input or the process ends.
///
/// # Errors
/// When it cannot be traced.
pub fn run(pid: u32, injection: Injection) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(pid)?);
    let mut tracer = Tracer::attach(pid, injection)?;
    let ended = Arc::clone(&tracer.ended);
    thread::spawn(move || {
        let mut rest = Vec::new();
        // Whether the input ends or breaks: nobody wants to know any more.
        std::io::stdin().read_to_end(&mut rest).ok();
        ended.store(true, Ordering::SeqCst);
        // It may be dead, which the tracer notices by itself.
        kill(pid, WAKE_UP).ok();
    });
    tracer.run()?;
    println!("{COUNTED}{}", tracer.counted);
    Ok(())
}

struct Tracer {
    pid: Pid,
    injection: Injection,
    threads: BTreeSet<Pid>,
    /// Threads that have not stopped yet since they were seized.
    unseen: BTreeSet<Pid>,
    counted: u64,
    /// The last call of each thread that the fault could strike, and how often in a row it was made.
    last: BTreeMap<Pid, (Call, u32)>,
    told: bool,
    ended: Arc<AtomicBool>,
    is_detaching: bool,
}

impl Tracer {
    fn attach(pid: Pid, injection: Injection) -> Result<Self> {
        let mut threads = BTreeSet::new();
        for _ in 0..ATTACH_ROUNDS {
            let known = threads.len();
            for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
                let thread: i32 = entry?.file_name().to_string_lossy().parse()?;
                let thread = Pid::from_raw(thread);
                if threads.contains(&thread) {
                    continue;
                }
                match ptrace::seize(thread, Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE) {
                    // It has ended, or was begun by a thread that is traced already.
                    Err(Errno::ESRCH | Errno::EPERM) => continue,
                    result => result.context("cannot seize a thread")?,
                }
                ptrace::interrupt(thread).context("cannot interrupt a thread")?;
                threads.insert(thread);
            }
            if threads.len() == known {
                break;
            }
        }
        if threads.is_empty() {
            bail!("the process has no thread that can be traced");
        }
        let (unseen, ended) = (threads.clone(), Arc::default());
        let (counted, last, told, is_detaching) = Default::default();
        Ok(Self { pid, injection, threads, unseen, counted, last, told, ended, is_detaching })
    }

    /// Returns when nothing is left to trace.
    fn run(&mut self) -> Result<()> {
        // A process that was killed is gone when there is nobody left to wait for: it may have had threads
        // that were not seen yet.
        while !self.is_detaching || !self.threads.is_empty() {
            match waitpid(None, Some(WaitPidFlag::__WALL)) {
                Ok(status) => self.handle(status)?,
                Err(Errno::EINTR) => {}
                Err(Errno::ECHILD) => return Ok(()),
                Err(error) => return Err(error).context("cannot wait for the process"),
            }
            if self.ended.load(Ordering::SeqCst) && !self.is_detaching {
                self.is_detaching = true;
                for thread in &self.threads {
                    // One that has ended meanwhile needs no more.
                    ptrace::interrupt(*thread).ok();
                }
            }
        }
        Ok(())
    }

    fn handle(&mut self, status: WaitStatus) -> Result<()> {
        match status {
            WaitStatus::Exited(thread, _) | WaitStatus::Signaled(thread, _, _) => {
                self.threads.remove(&thread);
                self.see(thread);
            }
            WaitStatus::Stopped(thread, signal) => {
                self.go_on(thread, (signal != WAKE_UP).then_some(signal))?;
            }
            WaitStatus::PtraceEvent(thread, _, _) => {
                self.threads.insert(thread);
                self.see(thread);
                self.go_on(thread, None)?;
            }
            WaitStatus::PtraceSyscall(thread) => {
                ignore_gone(self.at_call(thread))?;
                self.go_on(thread, None)?;
            }
            WaitStatus::Continued(_) | WaitStatus::StillAlive => {}
        }
        Ok(())
    }

    fn see(&mut self, thread: Pid) {
        if self.unseen.remove(&thread) && self.unseen.is_empty() {
            println!("{ATTACHED}");
        }
    }

    fn go_on(&mut self, thread: Pid, signal: Option<Signal>) -> Result<()> {
        if self.is_detaching {
            self.threads.remove(&thread);
            return ignore_gone(ptrace::detach(thread, signal));
        }
        ignore_gone(ptrace::syscall(thread, signal))
    }

    /// A thread stands before or behind a system call.
    fn at_call(&mut self, thread: Pid) -> nix::Result<()> {
        if ptrace::syscall_info(thread)?.op != calls::ENTRY || self.is_detaching {
            return Ok(());
        }
        let mut registers = ptrace::getregs(thread)?;
        let Some(call) = Call::of(self.pid, &registers, self.injection.fault) else { return Ok(()) };
        if call.is_elsewhere(&self.injection.folder) || self.is_third_turn(thread, &call) {
            return Ok(());
        }
        self.counted += 1;
        let Injection { fault, number, sticky, .. } = self.injection;
        if self.counted < number || self.counted > number && !sticky {
            return Ok(());
        }
        calls::replace(&mut registers, fault);
        ptrace::setregs(thread, registers)?;
        if fault == Fault::Kill {
            kill(self.pid, Signal::SIGKILL)?;
        }
        if !self.told {
            self.told = true;
            let name = fs::read_to_string(format!("/proc/{}/task/{thread}/comm", self.pid)).unwrap_or_default();
            println!("{STRUCK}{} in {}", call.told(), name.trim());
        }
        Ok(())
    }

    /// Whether it is one more turn of a loop that reads, of which the first two have counted.
    fn is_third_turn(&mut self, thread: Pid, call: &Call) -> bool {
        let same = self.last.get(&thread).is_some_and(|(last, _)| call.repeats(last));
        let turns = if same { self.last.get(&thread).map_or(1, |(_, turns)| turns + 1) } else { 1 };
        self.last.insert(thread, (call.clone(), turns));
        turns > 2
    }
}

/// A process may die at any moment, and its tracer hears of that later.
fn ignore_gone(result: nix::Result<()>) -> Result<()> {
    match result {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error).context("cannot trace the process"),
    }
}
