//! Hints that something changed in the synced folder.
//!
//! inotify watches every directory. It reports names, not states, may drop events, and tells nothing of
//! what happened before a watch was set: hence only hints, and a [`Hint::Rescan`] wherever something may
//! have been missed. What a program writes through a memory map gives no event; the engine's own scans
//! stand behind this.

mod pending;
mod session;
mod tree;

use std::collections::HashSet;
use std::io;
use std::mem::{Discriminant, discriminant};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::{Errno, read, write};
use sync_engine::io::{Hint, LocalPath};

use pending::Pending;
use session::{Going, NoSession, Session};

/// How often the watcher looks whether the root is still the folder that it watches. The kernel does not
/// say when a folder above the root is renamed or something is mounted over it.
const ROOT_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How often events are read at once; the kernel keeps fewer.
const CATCH_UP_ROUNDS: usize = 64;
/// How long that may take. Whoever waits goes on then, as if there had been nothing.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(2);

/// How to watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchOptions {
    /// How often a part that cannot be watched is scanned instead.
    pub rescan_interval: Duration,
    /// How many hints may wait; more become one [`Hint::Rescan`] of the root.
    pub queue_limit: usize,
}

impl Default for WatchOptions {
    fn default() -> Self {
        Self { rescan_interval: Duration::from_secs(300), queue_limit: 16_384 }
    }
}

/// Why a part of the folder is not watched. It is scanned from time to time instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WatchProblem {
    #[error("the system's limit of watched folders is reached at `{path}`")]
    TooManyFolders { path: LocalPath },
    #[error("the system's limit of programs that watch folders is reached")]
    TooManyPrograms,
    #[error("the folder `{path}` cannot be read")]
    Unreadable { path: LocalPath },
    #[error("the folder `{path}` cannot be watched (error {errno})")]
    Failed { path: LocalPath, errno: i32 },
}

impl WatchProblem {
    /// What a person can do about it.
    #[must_use]
    pub const fn advice(&self) -> &'static str {
        match self {
            Self::TooManyFolders { .. } => "raise the limit, for example: sysctl fs.inotify.max_user_watches=1048576",
            Self::TooManyPrograms => "raise the limit, for example: sysctl fs.inotify.max_user_instances=1024",
            Self::Unreadable { .. } => "allow this account to read and enter the folder",
            Self::Failed { .. } => "changes there are found more slowly until this is solved",
        }
    }

    fn of(path: &LocalPath, errno: Errno) -> Self {
        let path = path.clone();
        match errno {
            Errno::NOSPC => Self::TooManyFolders { path },
            Errno::ACCESS | Errno::PERM => Self::Unreadable { path },
            other => Self::Failed { path, errno: other.raw_os_error() },
        }
    }

    fn of_instance(errno: Errno) -> Self {
        if errno == Errno::MFILE { Self::TooManyPrograms } else { Self::of(&LocalPath::root(), errno) }
    }
}

/// Watches until it is dropped.
pub struct Watcher {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
    prompter: Prompter,
}

/// Makes the watcher tell at once what it has heard of.
#[derive(Clone)]
pub struct Prompter(Arc<Prompts>);

struct Prompts {
    wake: OwnedFd,
    waiting: Mutex<Vec<SyncSender<()>>>,
}

impl Prompter {
    /// Returns when the hints about all that was done so far have been handed on, or after a while.
    pub fn catch_up(&self) {
        let (sender, told) = sync_channel(1);
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        // Neither of both comes through when the watcher has ended; then there is nothing to wait for.
        if write(&self.0.wake, &1_u64.to_ne_bytes()).is_ok() {
            told.recv_timeout(CATCH_UP_LIMIT).ok();
        }
    }
}

impl Watcher {
    /// Watches the folder. Every change after this returns leads to a hint, in a few milliseconds; what
    /// was changed before is found by a scan. A missing folder is waited for. Both functions are called
    /// on the watcher's thread and may wait: the hints of the meantime are kept or become a rescan. They
    /// must return when the receiver is gone.
    ///
    /// # Errors
    /// When the system gives no thread or descriptor.
    pub fn start(
        root: &Path,
        options: WatchOptions,
        sink: impl Fn(Vec<Hint>) + Send + 'static,
        problem: impl Fn(WatchProblem) + Send + 'static,
    ) -> io::Result<Self> {
        let new_eventfd = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let stop = Arc::new(new_eventfd()?);
        let prompter = Prompter(Arc::new(Prompts { wake: new_eventfd()?, waiting: Mutex::default() }));
        let mut watching = Watching::new(root, options, prompter.clone(), Box::new(sink), Box::new(problem));
        watching.begin();
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new().name("watcher".to_owned()).spawn(move || watching.run(&stopped))?;
        Ok(Self { stop, thread: Some(thread), prompter })
    }

    /// For whoever must not go on before the hints of the past are heard.
    #[must_use]
    pub fn prompter(&self) -> Prompter {
        self.prompter.clone()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if write(&*self.stop, &1_u64.to_ne_bytes()).is_err() {
            return;
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the watcher had failed");
        }
    }
}

/// How far the folder is watched.
enum State {
    /// As far as it can be.
    Watched(Session),
    /// Looked for at every root check.
    RootMissing,
    /// Not at all; tried again at every rescan.
    Unwatched,
}

/// The watcher's thread.
struct Watching {
    root: PathBuf,
    options: WatchOptions,
    state: State,
    pending: Pending,
    prompter: Prompter,
    sink: Box<dyn Fn(Vec<Hint>) + Send>,
    problem: Box<dyn Fn(WatchProblem) + Send>,
    /// Kinds of problems that were reported; emptied when there are none any more.
    reported: HashSet<Discriminant<WatchProblem>>,
    next_root_check: Instant,
    next_rescan: Instant,
}

impl Watching {
    fn new(
        root: &Path,
        options: WatchOptions,
        prompter: Prompter,
        sink: Box<dyn Fn(Vec<Hint>) + Send>,
        problem: Box<dyn Fn(WatchProblem) + Send>,
    ) -> Self {
        let now = Instant::now();
        Self {
            root: root.to_owned(),
            options,
            state: State::RootMissing,
            pending: Pending::new(options.queue_limit),
            prompter,
            sink,
            problem,
            reported: HashSet::new(),
            next_root_check: now + ROOT_CHECK_INTERVAL,
            next_rescan: now + options.rescan_interval,
        }
    }

    fn run(mut self, stop: &OwnedFd) {
        loop {
            match self.wait(stop) {
                Ok(Woken::ToStop) => return,
                Ok(Woken::ByEvents) => self.read_events(),
                Ok(Woken::ByPrompt) => self.catch_up(),
                Ok(Woken::ByTime) | Err(Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "watching ended");
                    return;
                }
            }
            self.do_what_is_due(Instant::now());
        }
    }

    fn wait(&self, stop: &OwnedFd) -> Result<Woken, Errno> {
        let next = self.next_root_check.min(self.next_rescan);
        let next = self.pending.due().map_or(next, |due| due.min(next));
        let left = Timespec::try_from(next.saturating_duration_since(Instant::now())).map_err(|_| Errno::INVAL)?;
        let mut waiting = vec![PollFd::new(stop, PollFlags::IN), PollFd::new(&self.prompter.0.wake, PollFlags::IN)];
        // While hints wait for others, more events wake nobody: to wake this thread for each would cost the program
        // that causes them more than the change itself.
        if let (State::Watched(session), None) = (&self.state, self.pending.due()) {
            waiting.push(PollFd::from_borrowed_fd(session.inotify(), PollFlags::IN));
        }
        poll(&mut waiting, Some(&left))?;
        let ready = |index: usize| waiting.get(index).is_some_and(|fd| !fd.revents().is_empty());
        Ok(match (ready(0), ready(1), ready(2)) {
            (true, _, _) => Woken::ToStop,
            (false, true, _) => Woken::ByPrompt,
            (false, false, true) => Woken::ByEvents,
            (false, false, false) => Woken::ByTime,
        })
    }

    /// Hands on what there is by now. The burst goes on: its last event may be the first half of a move.
    fn catch_up(&mut self) {
        // Who asks from now on wakes the thread again.
        if let Err(error) = read(&self.prompter.0.wake, &mut [0; 8]) {
            tracing::debug!(%error, "the watcher was woken already");
        }
        let waiting = std::mem::take(&mut *self.prompter.0.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        self.read_all_events();
        let hints = self.pending.take_early();
        if !hints.is_empty() {
            (self.sink)(hints);
        }
        // One who does not wait any more does not mind.
        for told in waiting {
            told.send(()).ok();
        }
    }

    fn read_all_events(&mut self) {
        for _ in 0..CATCH_UP_ROUNDS {
            if !self.has_events() {
                break;
            }
            self.read_events();
        }
    }

    fn has_events(&self) -> bool {
        let State::Watched(session) = &self.state else { return false };
        let mut waiting = [PollFd::from_borrowed_fd(session.inotify(), PollFlags::IN)];
        poll(&mut waiting, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
    }

    fn do_what_is_due(&mut self, now: Instant) {
        if now >= self.next_root_check {
            self.next_root_check = now + ROOT_CHECK_INTERVAL;
            self.check_root();
        }
        if now >= self.next_rescan {
            self.next_rescan = now + self.options.rescan_interval;
            self.rescan_unwatched();
        }
        self.report_problems();
        if self.pending.due().is_some_and(|due| now >= due) {
            self.read_all_events();
            self.hand_on();
        }
    }

    fn read_events(&mut self) {
        let State::Watched(session) = &mut self.state else {
            return;
        };
        match session.read_events(&mut self.pending) {
            Ok(Going::On) => {}
            Ok(Going::Overflowed) => self.begin_again(),
            Ok(Going::RootGone) => self.lose_root(),
            Err(error) => {
                tracing::warn!(%error, "cannot read what changed; everything is scanned");
                self.begin_again();
            }
        }
    }

    fn hand_on(&mut self) {
        if let State::Watched(session) = &mut self.state {
            session.end_of_burst();
        }
        let hints = self.pending.take();
        if !hints.is_empty() {
            (self.sink)(hints);
        }
    }

    /// Starts to watch, if the root is there and the system allows it.
    fn begin(&mut self) {
        self.state = match Session::start(&self.root) {
            Ok(session) => State::Watched(session),
            Err(NoSession::RootMissing) => State::RootMissing,
            Err(NoSession::Problem(problem)) => {
                self.report(problem);
                State::Unwatched
            }
        };
        self.report_problems();
    }

    /// Watches anew when events were missed. The scan comes after the watches, so that nothing falls
    /// between.
    fn begin_again(&mut self) {
        self.begin();
        self.pending.rescan(LocalPath::root());
    }

    fn lose_root(&mut self) {
        self.state = State::RootMissing;
        self.pending.rescan(LocalPath::root());
    }

    fn check_root(&mut self) {
        match &self.state {
            State::Watched(session) if session.root_is_watched() => {}
            State::Watched(_) => self.lose_root(),
            State::RootMissing => {
                self.begin();
                if !matches!(self.state, State::RootMissing) {
                    self.pending.rescan(LocalPath::root());
                }
            }
            State::Unwatched => {}
        }
    }

    fn rescan_unwatched(&mut self) {
        match &mut self.state {
            State::Watched(session) => session.retry_unwatched(&mut self.pending),
            State::RootMissing => {}
            State::Unwatched => self.begin_again(),
        }
    }

    fn report_problems(&mut self) {
        let State::Watched(session) = &mut self.state else {
            return;
        };
        if session.is_complete() {
            self.reported.clear();
        }
        for problem in session.take_problems() {
            self.report(problem);
        }
    }

    /// Reports each kind of problem once until all are solved.
    fn report(&mut self, problem: WatchProblem) {
        if self.reported.insert(discriminant(&problem)) {
            (self.problem)(problem);
        }
    }
}

/// Why the watcher's thread goes on.
enum Woken {
    ToStop,
    ByPrompt,
    ByEvents,
    ByTime,
}
