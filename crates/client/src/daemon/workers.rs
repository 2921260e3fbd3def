//! Work on the local disk: a thread for scans and changes, some for hashing, and the watcher.

use super::Input;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use local_files::disk::Disk;
use local_files::hashed::HashedFiles;
use local_files::jobs::run_job_noting;
use local_files::watcher::{Prompter, WatchOptions, WatchProblem, Watcher};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use sync_engine::io::{Event, Job, JobId};

/// Threads that hash, at most: more would only wait for the same disk.
const HASHERS_MAX: usize = 4;
/// Contents that were hashed and are not sent stay in memory until one of the threads had nothing to do for so long.
const CONTENTS_KEPT: Duration = Duration::from_secs(30);

/// A job on its way to a thread.
type Order = (JobId, Job);

/// The threads. Their queues hold no more than the engine has under way, which it bounds itself. They
/// end with their queue, after the job in hand.
pub(super) struct Workers {
    /// Scans and changes on disk, one after the other.
    changes: Sender<Order>,
    hashes: Sender<Order>,
    /// Whether blocks are copied from local files.
    reuse: bool,
}

impl Workers {
    /// What was read of a file is told after all that the watcher heard while it was read.
    pub(super) fn start(
        disk: &Arc<Disk>,
        hashed: &Arc<HashedFiles>,
        watcher: &Watcher,
        reuse: bool,
        events: &Sender<Input>,
    ) -> io::Result<Self> {
        let (changes, change_queue) = unbounded();
        let (hashes, hash_queue) = unbounded();
        let worker = |queue| Worker {
            disk: Arc::clone(disk),
            hashed: Arc::clone(hashed),
            queue,
            prompter: watcher.prompter(),
            events: events.clone(),
        };
        spawn("syncline-disk", worker(change_queue))?;
        let hashers = thread::available_parallelism().map_or(1, |n| n.get().min(HASHERS_MAX));
        for _ in 0..hashers {
            spawn("syncline-hash", worker(hash_queue.clone()))?;
        }
        Ok(Self { changes, hashes, reuse })
    }

    /// From now on blocks are copied from local files, or not.
    pub(super) const fn set_reuse(&mut self, reuse: bool) {
        self.reuse = reuse;
    }

    pub(super) fn submit(&self, id: JobId, mut job: Job) {
        if let (Job::Probe { reuse, .. }, false) = (&mut job, self.reuse) {
            reuse.clear();
        }
        let queue = match &job {
            Job::Hash(_) | Job::Probe { .. } => &self.hashes,
            Job::Scan(_)
            | Job::Prepare(_)
            | Job::Apply(_)
            | Job::Settle
            | Job::MarkExcluded(_)
            | Job::CleanTemps { .. } => &self.changes,
        };
        if queue.send((id, job)).is_err() {
            tracing::error!(?id, "the threads for local work have ended");
        }
    }
}

struct Worker {
    disk: Arc<Disk>,
    hashed: Arc<HashedFiles>,
    queue: Receiver<Order>,
    prompter: Prompter,
    events: Sender<Input>,
}

fn spawn(name: &str, worker: Worker) -> io::Result<()> {
    thread::Builder::new().name(name.into()).spawn(move || worker.work()).map(drop)
}

impl Worker {
    /// Who has nothing to do for a while needs no memory either.
    fn next(&self) -> Option<Order> {
        match self.queue.recv_timeout(CONTENTS_KEPT) {
            Ok(order) => Some(order),
            Err(RecvTimeoutError::Timeout) => {
                self.hashed.forget_contents();
                self.queue.recv().ok()
            }
            Err(RecvTimeoutError::Disconnected) => None,
        }
    }

    fn work(self) {
        while let Some((id, job)) = self.next() {
            let result = catch_unwind(AssertUnwindSafe(|| run_job_noting(&*self.disk, &job, &self.hashed)));
            if matches!(job, Job::Hash(_)) {
                self.prompter.catch_up();
            }
            let input = match result {
                Ok(result) => Input::Event(Event::JobDone(id, result)),
                Err(_) => Input::Bug("work on the local disk failed".into()),
            };
            if self.events.send(input).is_err() {
                return;
            }
        }
    }
}

/// Watches the synced folder. Its hints wait when the loop is behind; the watcher bounds them itself.
pub(super) fn watch(disk: &Disk, events: &Sender<Input>) -> io::Result<Watcher> {
    let (hints, problems) = (events.clone(), events.clone());
    // Neither is needed when the loop has ended.
    let sink = move |batch| drop(hints.send(Input::Event(Event::Hints(batch))));
    let problem = move |problem: WatchProblem| {
        tracing::warn!(%problem, advice = problem.advice(), "a part of the folder is not watched");
        drop(problems.send(Input::Warning(format!("{problem}: {}", problem.advice()))));
    };
    Watcher::start(disk.path(), WatchOptions::default(), sink, problem)
}
