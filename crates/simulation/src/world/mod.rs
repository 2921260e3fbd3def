//! The world of one history: devices, network, server and users in one queue of moments.
//!
//! Everything happens at a virtual moment, one thing after the other, in the order that the seed gives.
//! Client, services and file operations are the real ones; clock, network, disk and database are not.

mod brief;
mod device;
mod network;
mod pace;
mod power;
mod settle;

pub use device::Device;
pub use settle::{Expected, Item};

use crate::chance::Chance;
use crate::disk::{Disk, RootIs, WALL_START_NS, lock};
use crate::history::{Act, DeviceEvent, History, Interruption, Knobs, ServerEvent, ShareRole, Step, UserOp};
use crate::server::{Linked, Server};
use crate::user::{Users, local_path};
use crate::wire::Answered;
use crate::workload::Workload;
use model::{BlockHash, CommitKey, CommitOutcome, ContentHash, DeviceId, NamespaceId, Role};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use sync_engine::io::{Command, Event, Hint, Job, JobId, Request, RequestError, RequestId};

/// The folder that the first account shares with the second.
pub const SHARED_FOLDER: &str = "team";
/// Moments after which a history that does not come to rest is given up.
const MOST_MOMENTS: u64 = 400_000;

/// A rule that was broken, and what was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation(pub String);

impl Violation {
    /// The invariant's number in the specification, or `other`.
    #[must_use]
    pub fn invariant(&self) -> &str {
        self.0.split(':').next().filter(|text| text.starts_with('I') && text.len() <= 3).unwrap_or("other")
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

pub(crate) type Checked<T> = Result<T, Violation>;

pub(crate) fn violation(text: impl Into<String>) -> Violation {
    Violation(text.into())
}

/// What happened, as a number that two runs of one seed must share, and on request as text.
#[derive(Debug, Default)]
pub struct Trace {
    hash: u64,
    lines: Option<Vec<String>>,
}

impl Trace {
    fn note(&mut self, now: u64, text: &str) {
        for byte in now.to_le_bytes().iter().chain(text.as_bytes()) {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{:>9.3} {text}", std::time::Duration::from_millis(now).as_secs_f64()));
        }
    }

    /// Only for the eye: how much it says does not change the hash.
    fn detail(&mut self, text: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            lines.push(format!("          {}", text()));
        }
    }
}

/// Something that will happen at a moment.
#[derive(Debug)]
enum Moment {
    NextStep,
    /// `life` counts the lives of a device's client: what belongs to an earlier one is void.
    Job {
        device: usize,
        life: u64,
        id: JobId,
        job: Job,
    },
    Feed {
        device: usize,
        life: u64,
        event: Event,
    },
    Depart {
        device: usize,
        life: u64,
        id: RequestId,
        request: Request,
    },
    Arrive {
        device: usize,
        travel: network::Travel,
    },
    Land {
        device: usize,
        back: network::Back,
        answer: Result<Answered, RequestError>,
    },
    Wake {
        device: usize,
        life: u64,
    },
    Connect {
        device: usize,
        life: u64,
    },
    Hints {
        device: usize,
        life: u64,
        hints: Vec<Hint>,
    },
    Start {
        device: usize,
    },
    /// The user links the device anew, with the folder as it is.
    Relink {
        device: usize,
    },
    Resurface {
        device: usize,
    },
    /// There is space on the disk again.
    Space {
        device: usize,
    },
    ServerUp,
}

/// Where the steps come from.
enum Source {
    Random(Box<Mutex<Workload>>),
    Fixed(std::collections::VecDeque<Step>),
    /// A script calls for each step.
    Script,
}

/// A world with its devices.
pub struct World {
    /// Milliseconds since the history began.
    pub now: u64,
    seed: u64,
    knobs: Knobs,
    queue: BTreeMap<(u64, u64), Moment>,
    moments: u64,
    next_number: u64,
    pub server: Server,
    pub devices: Vec<Device>,
    pub users: Arc<Mutex<Users>>,
    source: Arc<Mutex<Source>>,
    /// Interruptions of a fixed history, by device, job and call.
    interrupts: BTreeMap<(usize, u64), Vec<Interruption>>,
    recorded: Arc<Mutex<Recorded>>,
    trace: Trace,
    pub coverage: BTreeMap<&'static str, u64>,
    /// No faults any more: everything is to come to rest.
    calm: bool,
    /// The shared folder's namespace, and what its member may do.
    shared: Option<(NamespaceId, ShareRole)>,
    /// What a commit was answered first, by its device and key.
    outcomes: BTreeMap<(DeviceId, CommitKey), CommitOutcome>,
    /// The commits whose answer was lost on the way.
    unanswered: BTreeSet<(DeviceId, CommitKey)>,
    /// Blocks that were announced for a namespace by who may write there.
    announced: BTreeSet<(NamespaceId, BlockHash)>,
}

/// What a random history did, so that it can be replayed.
#[derive(Debug, Default)]
struct Recorded {
    steps: Vec<Step>,
    interrupts: Vec<Interruption>,
}

/// How a history went.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub violation: Option<Violation>,
    /// Two runs of one history have the same.
    pub trace_hash: u64,
    pub trace: Vec<String>,
    pub coverage: BTreeMap<&'static str, u64>,
    pub history: History,
    /// Virtual milliseconds.
    pub duration_ms: u64,
}

/// Runs the history that a seed gives.
#[must_use]
pub fn run_seed(seed: u64, traced: bool) -> Outcome {
    let knobs = crate::workload::knobs(seed);
    let source = Source::Random(Box::new(Mutex::new(Workload::new(seed))));
    World::play(seed, &knobs, source, Vec::new(), traced)
}

/// Runs a stored history again.
#[must_use]
pub fn replay(history: &History, traced: bool) -> Outcome {
    let source = Source::Fixed(history.steps.iter().cloned().collect());
    World::play(history.seed, &history.knobs, source, history.interrupts.clone(), traced)
}

impl World {
    fn play(seed: u64, knobs: &Knobs, source: Source, interrupts: Vec<Interruption>, traced: bool) -> Outcome {
        match Self::build(seed, knobs.clone(), source, interrupts, traced) {
            Ok(mut world) => {
                let result = world.prepare().and_then(|()| world.run());
                world.outcome(result.err())
            }
            Err(error) => Outcome {
                violation: Some(violation(error)),
                trace_hash: 0,
                trace: Vec::new(),
                coverage: BTreeMap::new(),
                history: History { seed, knobs: knobs.clone(), steps: Vec::new(), interrupts: Vec::new() },
                duration_ms: 0,
            },
        }
    }

    /// A world in which nothing happens but what a script says.
    ///
    /// # Errors
    /// When the server cannot be made.
    pub fn scripted(seed: u64, knobs: Knobs) -> Result<Self, String> {
        let mut world = Self::build(seed, knobs, Source::Script, Vec::new(), true)?;
        world.prepare().map_err(|violation| violation.0)?;
        Ok(world)
    }

    fn build(
        seed: u64,
        knobs: Knobs,
        source: Source,
        interrupts: Vec<Interruption>,
        traced: bool,
    ) -> Result<Self, String> {
        let mut server = Server::new(seed)?;
        server.set_clock(WALL_START_NS / 1_000_000);
        let users = Arc::new(Mutex::new(Users::new()));
        let mut devices = Vec::new();
        let accounts = knobs.devices.iter().map(|device| device.account).max().map_or(0, |most| most + 1);
        for account in 0..accounts {
            server.add_account(&email(account))?;
        }
        for (number, device) in knobs.devices.iter().enumerate() {
            let linked = server.link(&email(device.account), &format!("dev{number}"))?;
            let known = lock(&users).ghost.known.clone();
            let disk = Disk::new(device.habits, 0x100 + number as u64, known);
            devices.push(Device::new(number, linked, disk, Chance::keyed(seed, &[4, number as u64]), device.guard));
        }
        let mut by_job: BTreeMap<(usize, u64), Vec<Interruption>> = BTreeMap::new();
        for one in interrupts {
            by_job.entry((one.device, one.job)).or_default().push(one);
        }
        Ok(Self {
            now: 0,
            seed,
            knobs,
            queue: BTreeMap::new(),
            moments: 0,
            next_number: 0,
            server,
            devices,
            users,
            source: Arc::new(Mutex::new(source)),
            interrupts: by_job,
            recorded: Arc::default(),
            trace: Trace { hash: 0xcbf2_9ce4_8422_2325, lines: traced.then(Vec::new) },
            coverage: BTreeMap::new(),
            calm: false,
            shared: None,
            outcomes: BTreeMap::new(),
            unanswered: BTreeSet::new(),
            announced: BTreeSet::new(),
        })
    }

    /// Starts the devices and lets the first account share its folder, if it is to.
    fn prepare(&mut self) -> Checked<()> {
        for device in 0..self.devices.len() {
            self.start(device)?;
        }
        if let Some(role) = self.knobs.share {
            self.calm = true;
            self.act_as_user(0, &UserOp::MakeDirectory { path: SHARED_FOLDER.to_owned() });
            self.come_to_rest()?;
            self.share(role)?;
            self.come_to_rest()?;
            self.calm = false;
        }
        if self.knobs.server.strike > 0 {
            // There is something to restore, and it knows nothing of what is to come.
            self.server.save().map_err(violation)?;
        }
        Ok(())
    }

    /// The first account shares its folder with the second.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn share(&mut self, role: ShareRole) -> Checked<()> {
        let owner: Linked = self.devices[0].linked.clone();
        let fold = self.server.journals.fold(owner.root);
        let node = fold.nodes().iter().find(|(_, node)| node.name.as_str() == SHARED_FOLDER).map(|(id, _)| *id);
        let node = node.ok_or_else(|| violation("I5: the folder to share never reached the server"))?;
        let may = match role {
            ShareRole::Editor => Role::Editor,
            ShareRole::Viewer => Role::Viewer,
        };
        let shared = self.server.share(&owner, node, &email(1), may).map_err(|error| violation(error.to_string()))?;
        self.shared = Some((shared, role));
        self.after_server()?;
        let mut users = lock(&self.users);
        users.shared_folder = local_path(SHARED_FOLDER).ok();
        if role == ShareRole::Viewer {
            let guests = self.knobs.devices.iter().enumerate().filter(|(_, device)| device.account == 1);
            users.viewers = guests.map(|(number, _)| number).collect();
        }
        Ok(())
    }

    fn run(&mut self) -> Checked<()> {
        self.at(0, Moment::NextStep);
        let mut quiesced = false;
        while let Some(moment) = self.next_moment()? {
            if let Moment::NextStep = moment {
                let Some(step) = self.take_step() else { break };
                quiesced = step.act == Act::Quiesce;
                self.perform_step(step)?;
            } else {
                self.happen(moment)?;
            }
        }
        if quiesced { Ok(()) } else { self.quiesce() }
    }

    /// The next step of the history; it is scheduled when the one before is done.
    fn take_step(&mut self) -> Option<Step> {
        match &mut *lock(&self.source) {
            Source::Random(workload) => {
                let disks: Vec<MutexGuard<'_, Disk>> = self.devices.iter().map(|device| lock(&device.disk)).collect();
                let disks: Vec<&Disk> = disks.iter().map(|disk| &**disk).collect();
                let step = lock(workload).next_step(&disks)?;
                lock(&self.recorded).steps.push(step.clone());
                Some(step)
            }
            Source::Fixed(steps) => steps.pop_front(),
            Source::Script => None,
        }
    }

    fn perform_step(&mut self, step: Step) -> Checked<()> {
        self.run_for(step.after_ms)?;
        match step.act {
            Act::User { device, op } => self.act_as_user(device, &op),
            Act::Device { device, event } => self.device_event(device, &event)?,
            Act::Server(event) => self.server_event(&event)?,
            Act::Quiesce => self.quiesce()?,
        }
        self.at(0, Moment::NextStep);
        Ok(())
    }

    /// Lets time pass.
    ///
    /// # Errors
    /// The rule that is broken meanwhile.
    pub fn run_for(&mut self, ms: u64) -> Checked<()> {
        let end = self.now + ms;
        while self.queue.first_key_value().is_some_and(|((at, _), _)| *at <= end) {
            if let Some(moment) = self.next_moment()? {
                self.happen(moment)?;
            }
        }
        self.set_now(end);
        Ok(())
    }

    fn at(&mut self, after_ms: u64, moment: Moment) {
        self.next_number += 1;
        self.queue.insert((self.now + after_ms, self.next_number), moment);
    }

    fn next_moment(&mut self) -> Checked<Option<Moment>> {
        let Some(((at, _), moment)) = self.queue.pop_first() else { return Ok(None) };
        self.moments += 1;
        if self.moments > MOST_MOMENTS {
            return Err(violation("I17: the history does not come to an end"));
        }
        self.set_now(at);
        Ok(Some(moment))
    }

    fn set_now(&mut self, now: u64) {
        self.now = self.now.max(now);
        let wall_ms = WALL_START_NS / 1_000_000 + i64::try_from(self.now).unwrap_or(i64::MAX);
        self.server.set_clock(wall_ms);
        for device in &self.devices {
            let ms = wall_ms + device.clock_offset_ms;
            lock(&device.disk).set_now_ns(ms.saturating_mul(1_000_000));
        }
    }

    /// A stream of chance for one decision, none for a script.
    fn chance(&self, names: &[u64]) -> Chance {
        Chance::keyed(self.seed ^ 0xfa17, names)
    }

    fn delay(&self, chance: &mut Chance) -> u64 {
        match chance.below(10) {
            0..6 => chance.below(self.knobs.slowest_ms.min(20)),
            _ => chance.below(self.knobs.slowest_ms),
        }
    }

    pub(crate) fn cover(&mut self, what: &'static str) {
        *self.coverage.entry(what).or_default() += 1;
    }

    fn happen(&mut self, moment: Moment) -> Checked<()> {
        match moment {
            Moment::NextStep => Ok(()),
            Moment::Job { device, life, id, job } if self.alive(device, life) => self.run_job(device, id, &job),
            Moment::Feed { device, life, event } if self.alive(device, life) => self.feed(device, event),
            Moment::Depart { device, life, id, request } if self.alive(device, life) => {
                self.depart(device, id, request)
            }
            Moment::Arrive { device, travel } => self.arrive(device, travel),
            Moment::Land { device, back, answer } if self.alive(device, back.life) => self.land(device, back, answer),
            Moment::Wake { device, life } if self.alive(device, life) => self.wake(device),
            Moment::Connect { device, life } if self.alive(device, life) => self.connect(device),
            Moment::Hints { device, life, hints } if self.alive(device, life) => self.feed(device, Event::Hints(hints)),
            Moment::Start { device } => self.start(device),
            Moment::Relink { device } => self.relink(device),
            Moment::Resurface { device } => {
                self.mount(device, RootIs::Mounted);
                Ok(())
            }
            Moment::Space { device } => {
                lock(&self.devices[device].disk).full = false;
                Ok(())
            }
            Moment::ServerUp => {
                self.server.up = true;
                Ok(())
            }
            // It belonged to a client that has died since.
            Moment::Job { .. }
            | Moment::Feed { .. }
            | Moment::Depart { .. }
            | Moment::Land { .. }
            | Moment::Wake { .. }
            | Moment::Connect { .. }
            | Moment::Hints { .. } => Ok(()),
        }
    }

    /// A user acts on a device.
    pub fn act_as_user(&mut self, device: usize, op: &UserOp) {
        if self.devices.get(device).is_none_or(|device| lock(&device.disk).root != RootIs::Mounted) {
            return;
        }
        if protects_share(&lock(&self.users), op) {
            return;
        }
        let result = lock(&self.users).act(device, &mut lock(&self.devices[device].disk), op);
        let verdict = match &result {
            Ok(()) => "done".to_owned(),
            Err(error) => error.to_string(),
        };
        self.trace.note(self.now, &format!("user {device}: {op:?}: {verdict}"));
        self.watch(device);
    }

    /// Lets something happen to a device.
    ///
    /// # Errors
    /// The rule that is broken at once.
    pub fn device_event(&mut self, device: usize, event: &DeviceEvent) -> Checked<()> {
        if device >= self.devices.len() {
            return Ok(());
        }
        self.trace.note(self.now, &format!("device {device}: {event:?}"));
        match event {
            DeviceEvent::Pause => self.command(device, Command::Pause)?,
            DeviceEvent::Resume => self.command(device, Command::Resume)?,
            DeviceEvent::Exclude { path } => self.exclude(device, path)?,
            DeviceEvent::Include { path } => {
                if let Ok(path) = local_path(path) {
                    self.command(device, Command::Include(path))?;
                }
            }
            DeviceEvent::Kill { down_ms } => self.kill(device, *down_ms),
            DeviceEvent::PowerLoss { down_ms } => self.lose_power(device, *down_ms)?,
            DeviceEvent::Partition { ms } => {
                self.cover("device cut off");
                let until = self.now + ms;
                self.partition(device, until);
            }
            DeviceEvent::Unmount { ms } => self.hide_root(device, RootIs::Missing, *ms),
            DeviceEvent::EmptyRoot { ms } => self.hide_root(device, RootIs::Empty, *ms),
            DeviceEvent::ClockJump { ms } => {
                self.cover("clock jumped");
                self.devices[device].clock_offset_ms += ms;
                lock(&self.devices[device].disk).clock_jumped(ms.saturating_mul(1_000_000));
            }
            DeviceEvent::SaveDatabase => self.save(device),
            DeviceEvent::RollBackDatabase => self.roll_back_database(device),
            DeviceEvent::LoseDatabase => self.lose_database(device),
            DeviceEvent::RestoreBackup => self.restore_backup(device)?,
            DeviceEvent::FillDisk { ms } => self.fill_disk(device, *ms),
            DeviceEvent::ConfirmDeletions => self.command(device, Command::ConfirmDeletions)?,
            DeviceEvent::UndoDeletions => self.undo_deletions(device)?,
            DeviceEvent::Overflow => {
                let life = self.devices[device].life;
                lock(&self.devices[device].disk).take_hints();
                let hints = vec![Hint::Rescan { directory: sync_engine::io::LocalPath::root() }];
                self.at(0, Moment::Hints { device, life, hints });
            }
        }
        self.set_now(self.now);
        Ok(())
    }

    /// The person wants back what was deleted and not told yet. It is then as if it had not been deleted.
    fn undo_deletions(&mut self, device: usize) -> Checked<()> {
        lock(&self.users).ghost.detached(device, &[]);
        if self.holds_deletions(device) {
            self.cover("deletions undone");
        }
        self.command(device, Command::UndoDeletions)
    }

    /// What is excluded leaves this device; the user's values stay with the others.
    fn exclude(&mut self, device: usize, path: &str) -> Checked<()> {
        let Ok(path) = local_path(path) else { return Ok(()) };
        let contents = lock(&self.devices[device].disk).contents_meant(&path);
        lock(&self.users).ghost.detached(device, &contents);
        self.command(device, Command::Exclude(path))
    }

    fn hide_root(&mut self, device: usize, root: RootIs, ms: u64) {
        if !self.calm {
            self.mount(device, root);
            self.at(ms, Moment::Resurface { device });
        }
    }

    fn fill_disk(&mut self, device: usize, ms: u64) {
        if !self.calm {
            lock(&self.devices[device].disk).full = true;
            self.cover("disk full");
            self.at(ms, Moment::Space { device });
        }
    }

    fn mount(&mut self, device: usize, root: RootIs) {
        lock(&self.devices[device].disk).root = root;
        let life = self.devices[device].life;
        let hints = vec![Hint::Rescan { directory: sync_engine::io::LocalPath::root() }];
        self.at(5, Moment::Hints { device, life, hints });
    }

    /// Lets something happen to the server.
    ///
    /// # Errors
    /// The rule that is broken at once.
    pub fn server_event(&mut self, event: &ServerEvent) -> Checked<()> {
        self.trace.note(self.now, &format!("server: {event:?}"));
        let failed = |error: String| violation(error);
        match event {
            ServerEvent::Restart { down_ms } => {
                self.server.restart().map_err(failed)?;
                self.cover("server restarted");
                self.server.up = false;
                self.at(*down_ms, Moment::ServerUp);
            }
            ServerEvent::Save => self.server.save().map_err(failed)?,
            ServerEvent::Restore => {
                if self.server.restore().map_err(failed)? {
                    self.cover("server restored");
                    self.forgive();
                    self.relink_strangers();
                }
            }
            ServerEvent::ClockJump { ms } => {
                self.cover("server clock jumped");
                self.server.clock_offset_ms += ms;
            }
            ServerEvent::RemoveMember => self.remove_member()?,
            ServerEvent::InviteMember => {
                if let Some((_, role)) = self.shared {
                    self.share(role)?;
                }
            }
            ServerEvent::CleanUpDay => self.server.pass_a_day(),
            ServerEvent::CleanUpDuringUpload => self.server.clean_up_during_upload(),
            ServerEvent::CleanUp => self.clean_up(self.knobs.server.store_error)?,
            // Members of a share come from journals that are lost too; such histories stay without.
            ServerEvent::Empty if self.knobs.share.is_some() => {}
            ServerEvent::Empty => {
                self.server.empty().map_err(failed)?;
                self.cover("server emptied");
                self.forgive();
                self.relink_strangers();
            }
        }
        if matches!(event, ServerEvent::Restart { .. } | ServerEvent::Restore | ServerEvent::Empty) {
            self.drop_streams();
        }
        self.set_now(self.now);
        self.after_server()
    }

    /// Lets people link the devices again that the server does not know any more, after a while.
    fn relink_strangers(&mut self) {
        for device in 0..self.devices.len() {
            if !self.server.knows(&self.devices[device].linked) {
                let mut chance = self.chance(&[14, device as u64, self.now]);
                self.at(chance.below(60_000), Moment::Relink { device });
            }
        }
    }

    /// Runs the clean-up of blocks, and checks that it took none that a journal names.
    pub(super) fn clean_up(&mut self, store_error: u32) -> Checked<()> {
        match self.server.clean_up(store_error) {
            Ok(report) => {
                if report.removed > 0 {
                    self.cover("unused blocks removed");
                }
            }
            Err(_) => self.cover("clean-up broken off"),
        }
        self.server.check_blocks().map_err(violation)
    }

    /// What the member did to the shared folder's files and had not told yet stays with the member, so
    /// that what it superseded may be there again. Nothing that lives may be lost.
    fn remove_member(&mut self) -> Checked<()> {
        let Some((shared, _)) = self.shared else { return Ok(()) };
        let owner: Linked = self.devices[0].linked.clone();
        if self.server.remove_member(&owner, shared, &email(1)).is_ok() {
            lock(&self.users).ghost.lenient = true;
            self.cover("member removed");
        }
        Ok(())
    }

    /// The server forgot commits: what was superseded in them may be back, and what was moved in them
    /// may be in both places. Nothing that lives may be lost all the same.
    fn forgive(&mut self) {
        // What only the server had, since its device keeps it off its disk, went with the server.
        let kept: Vec<BTreeSet<ContentHash>> = (0..self.devices.len()).map(|number| self.contents_on(number)).collect();
        let mut users = lock(&self.users);
        let is_kept = |content: &ContentHash| {
            let keeps = |number: usize| kept[number].contains(content) && !users.ghost.is_detached(number, content);
            (0..kept.len()).any(keeps)
        };
        let gone: Vec<ContentHash> = users.ghost.live().filter(|content| !is_kept(content)).collect();
        gone.into_iter().for_each(|content| users.ghost.release(content));
        users.ghost.lenient = true;
        drop(users);
        self.outcomes.clear();
        self.unanswered.clear();
    }

    /// How the history went, with all that was recorded.
    fn outcome(self, violation: Option<Violation>) -> Outcome {
        let mut coverage = self.coverage;
        for (what, times) in &lock(&self.users).ghost.met {
            *coverage.entry(what).or_default() += times;
        }
        let recorded = std::mem::take(&mut *lock(&self.recorded));
        let (steps, interrupts) = match &*lock(&self.source) {
            Source::Random(_) => (recorded.steps, recorded.interrupts),
            Source::Fixed(_) | Source::Script => (Vec::new(), Vec::new()),
        };
        Outcome {
            violation,
            trace_hash: self.trace.hash,
            trace: self.trace.lines.unwrap_or_default(),
            coverage,
            history: History { seed: self.seed, knobs: self.knobs, steps, interrupts },
            duration_ms: self.now,
        }
    }

    /// The lines of the trace so far.
    #[must_use]
    pub fn trace(&self) -> &[String] {
        self.trace.lines.as_deref().unwrap_or_default()
    }
}

/// The mount of the shared folder is not moved or deleted: what that means is a matter of its own.
fn protects_share(users: &Users, op: &UserOp) -> bool {
    let Some(shared) = &users.shared_folder else { return false };
    let is_share = |path: &String| path.as_bytes() == shared.as_bytes();
    match op {
        UserOp::Delete { path } | UserOp::DeleteTree { path } => is_share(path),
        UserOp::Rename { from, to } => is_share(from) || is_share(to),
        _ => false,
    }
}

pub(crate) fn email(account: usize) -> String {
    format!("user{account}@example.org")
}
