//! Random histories: their conditions, and what users, devices and the server do next.
//!
//! Arguments are chosen among what is there at that moment, biased to few names: a uniform choice hardly
//! ever lets two devices touch the same thing.

use crate::chance::Chance;
use crate::disk::{Disk, Habits, Naming, Thing};
use crate::history::{
    Act, Content, DeviceEvent, DeviceKnobs, Guard, Knobs, LocalKnobs, NetKnobs, ServerEvent, ServerKnobs, ShareRole,
    Step, UserOp,
};
use model::BLOCK_SIZE;
use std::collections::VecDeque;
use sync_engine::io::LocalPath;

/// Names that one file system or another could confuse.
const NAMES: [&str; 6] = ["a", "b", "A", "\u{e9}", "e\u{301}", "c.txt"];
/// A name that some file systems refuse.
const COLON: &str = "d:e";
/// What the last moment before a power failure is, in milliseconds: the watcher tells of most changes later.
const MOMENT_MS: u64 = 20;
/// The deepest folder of a generated path.
const DEPTH: usize = 4;

/// Decides what happens in a random history.
#[derive(Debug)]
pub struct Workload {
    chance: Chance,
    /// A stream of its own, so that faults do not depend on what users do.
    faults: Chance,
    /// Another one for faults that were added later, and their chance in 1,000 among all faults.
    rare: Chance,
    rare_rate: u32,
    rare_weights: [u32; 7],
    /// And one for the clean-up of blocks, with its chance in 1,000 before each step.
    cleaning: Chance,
    clean_up_rate: u32,
    /// And one for what a user does right before the power fails, with that failure when it has been decided.
    last_moment: Chance,
    failing: Option<Step>,
    /// And one for folders that are rearranged, with its chance in 1,000 before each operation, and what is left of it.
    rearranging: Chance,
    rearranging_rate: u32,
    rest: VecDeque<(usize, UserOp)>,
    values: u64,
    /// How often each kind of operation is chosen.
    weights: [u32; 15],
    /// How many of the names are used.
    names: usize,
    fault_weights: [u32; 16],
    /// Chance in 1,000 that a step is a fault and not a user's operation.
    fault_rate: u32,
    steps_left: u32,
    quiesce_every: u32,
    slowest_pause_ms: u64,
    colons: bool,
    large_files: bool,
    /// A stream of its own for how much contents have in common, and the chance in 1,000 that one has anything.
    resembling: Chance,
    resembling_rate: u32,
    /// How many of a hundred of these are so large that the beginning of their block is kept.
    large_percent: u64,
}

/// The conditions that a seed gives a history.
#[must_use]
pub fn knobs(seed: u64) -> Knobs {
    let mut chance = Chance::keyed(seed, &[1]);
    let share = match chance.below(5) {
        0 => Some(ShareRole::Editor),
        1 if chance.happens(500) => Some(ShareRole::Viewer),
        _ => None,
    };
    let count = chance.between(2, 4);
    let power = if chance.happens(250) { 15 } else { 0 };
    let devices = (0..count)
        .map(|n| DeviceKnobs {
            account: usize::from(share.is_some() && n % 2 == 1),
            habits: habits(&mut chance, power > 0),
            late_hints: sometimes(&mut chance, 300),
            lost_hints: sometimes(&mut chance, 200),
            guard: None,
        })
        .collect();
    let bad_net = chance.happens(600);
    let mut net = |most| if bad_net { sometimes(&mut chance, most) } else { 0 };
    let net = NetKnobs {
        lose_request: net(100),
        lose_reply: net(150),
        duplicate: net(150),
        proxy_page: net(50),
        truncate: net(100),
        lose_notification: net(300),
        damage: 0,
    };
    let local = LocalKnobs {
        interrupt: sometimes(&mut chance, 400),
        error: sometimes(&mut chance, 60),
        kill: sometimes(&mut chance, 25),
        power,
    };
    let slowest_ms = [20, 200, 2000, 8000][chance.index(4)];
    let mut knobs = Knobs { devices, net, local, server: ServerKnobs::default(), slowest_ms, share, thrift: true };
    // A stream of its own: what was added later leaves the other conditions of a seed as they were.
    let mut chance = Chance::keyed(seed, &[31]);
    if chance.happens(300) {
        knobs.server.store_error = u32::try_from(chance.below(120)).unwrap_or(0);
    }
    if chance.happens(200) {
        let guard = Guard { count: chance.between(1, 3), percent: [10, 30, 50][chance.index(3)] };
        knobs.devices.iter_mut().for_each(|device| device.guard = Some(guard));
    }
    let mut chance = Chance::keyed(seed, &[35]);
    if bad_net {
        knobs.net.damage = sometimes(&mut chance, 60);
    }
    // Servers that lose something loosen the other checks.
    if chance.happens(80) {
        knobs.server.strike = u32::try_from(chance.between(200, 900)).unwrap_or(0);
    }
    if breaks_off(seed) {
        knobs.net.truncate = u32::try_from(chance.between(100, 400)).unwrap_or(0);
    }
    knobs
}

/// Whether a history is about large blocks of which only the beginnings arrive.
fn breaks_off(seed: u64) -> bool {
    Chance::keyed(seed, &[36]).happens(25)
}

/// Nothing at all in half of the runs, else anything up to `most`.
fn sometimes(chance: &mut Chance, most: u32) -> u32 {
    if chance.happens(500) { 0 } else { u32::try_from(chance.below(u64::from(most))).unwrap_or(0) }
}

fn habits(chance: &mut Chance, may_lose_power: bool) -> Habits {
    let naming = [Naming::Bytes, Naming::Bytes, Naming::Bytes, Naming::Insensitive, Naming::Decomposing];
    Habits {
        naming: naming[chance.index(naming.len())],
        grain_ns: [1, 4_000_000, 4_000_000, 1_000_000_000, 2_000_000_000][chance.index(5)],
        births: chance.happens(700),
        reuses_inodes: chance.happens(400),
        refuses_colons: chance.happens(200),
        may_lose_power,
    }
}

impl Workload {
    /// The workload of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut chance = Chance::keyed(seed, &[2]);
        let mut faults = Chance::keyed(seed, &[3]);
        let mut weights = [0; 15];
        weights.iter_mut().for_each(|weight| *weight = weight_of(&mut chance, 10));
        // Without files nothing happens.
        weights[0] = weights[0].max(5);
        weights[11] = weights[11].max(2);
        let mut fault_weights = [0; 16];
        fault_weights.iter_mut().for_each(|weight| *weight = weight_of(&mut faults, 6));
        // Servers are restored, and databases lost, in few histories: they loosen the other checks.
        for rare in [&[8, 9][..], &[10], &[12, 13], &[14]] {
            let weight = if faults.happens(850) { 0 } else { 3 };
            rare.iter().for_each(|index| fault_weights[*index] = weight);
        }
        let mut rare = Chance::keyed(seed, &[32]);
        let rare_rate = if rare.happens(400) { u32::try_from(rare.between(100, 600)).unwrap_or(0) } else { 0 };
        let mut rare_weights = [3, 2, 4, 2, 0, 0, 0];
        // These loosen other checks, as above.
        if rare.happens(250) {
            rare_weights[4] = 6;
        }
        if rare.happens(300) {
            (rare_weights[5], rare_weights[6]) = (3, 2);
        }
        let mut cleaning = Chance::keyed(seed, &[33]);
        let clean_up_rate =
            if cleaning.happens(500) { u32::try_from(cleaning.between(20, 400)).unwrap_or(0) } else { 0 };
        let mut resembling = Chance::keyed(seed, &[34]);
        let (large_percent, often, least) = if breaks_off(seed) { (60, 1000, 500) } else { (0, 300, 100) };
        let resembling_rate = if resembling.happens(often) { resembling.between(least, 900) } else { 0 };
        let resembling_rate = u32::try_from(resembling_rate).unwrap_or(0);
        let mut rearranging = Chance::keyed(seed, &[38]);
        Self {
            resembling,
            resembling_rate,
            large_percent,
            cleaning,
            clean_up_rate,
            rare,
            rare_rate,
            rare_weights,
            last_moment: Chance::keyed(seed, &[37]),
            rearranging_rate: if rearranging.happens(300) { 150 } else { 0 },
            rearranging,
            rest: VecDeque::new(),
            failing: None,
            values: 0,
            names: 1 + chance.index(NAMES.len()),
            fault_rate: sometimes(&mut faults, 250),
            steps_left: u32::try_from(chance.between(4, 60)).unwrap_or(4),
            quiesce_every: u32::try_from(chance.between(8, 40)).unwrap_or(8),
            slowest_pause_ms: [10, 300, 3000, 20_000][chance.index(4)],
            colons: chance.happens(150),
            large_files: chance.happens(5),
            weights,
            fault_weights,
            chance,
            faults,
        }
    }

    /// What somebody does in a file manager, in one go: a folder is wrapped under its own name, or takes the place of the one
    /// around it. The commit's tree is sound, and what leads to it passes through trees that are none.
    fn rearrange(&mut self, disk: &Disk) -> Vec<UserOp> {
        let tree = disk.tree();
        let folders: Vec<String> = tree
            .iter()
            .filter(|(_, thing)| matches!(thing, Thing::Directory))
            .map(|(path, _)| path.to_string())
            .collect();
        let Some(folder) = self.rearranging.pick(&folders).cloned() else { return Vec::new() };
        let (around, name) = folder.rsplit_once('/').unwrap_or(("", &folder));
        let beside = |name: &str| if around.is_empty() { name.to_owned() } else { format!("{around}/{name}") };
        let (wrapped, moved) =
            (beside("wrapped"), |from: &str, to: &str| UserOp::Rename { from: from.into(), to: to.into() });
        if self.rearranging.happens(500) && !around.is_empty() {
            let top = around.rsplit_once('/').map_or(String::new(), |(top, _)| format!("{top}/"));
            let lifted = format!("{top}lifted");
            let upper = around.rsplit_once('/').map_or(around, |(_, upper)| upper);
            return vec![
                moved(&folder, &lifted),
                moved(around, &format!("{lifted}/{name}")),
                moved(&lifted, &format!("{top}{upper}")),
            ];
        }
        let deep = format!("{folder}/{}", NAMES[self.rearranging.index(NAMES.len())]);
        let make = |path: &str| UserOp::MakeDirectory { path: path.into() };
        let inner = format!("{deep}/{}", NAMES[self.rearranging.index(NAMES.len())]);
        let mut steps = vec![moved(&folder, &wrapped), make(&folder), make(&deep)];
        if self.rearranging.happens(500) {
            steps.extend([make(&inner), moved(&wrapped, &format!("{inner}/old"))]);
        } else {
            steps.push(moved(&wrapped, &format!("{deep}/old")));
        }
        steps
    }

    /// The next step, given the disks; `None` when the history has been long enough.
    pub fn next_step(&mut self, disks: &[&Disk]) -> Option<Step> {
        if self.steps_left == 0 {
            return None;
        }
        if let Some(failing) = self.failing.take() {
            return Some(failing);
        }
        if let Some((device, op)) = self.rest.pop_front() {
            return Some(Step { after_ms: 0, act: Act::User { device, op } });
        }
        if let Some(event) = self.clean_up() {
            return Some(Step { after_ms: 0, act: Act::Server(event) });
        }
        self.steps_left -= 1;
        let after_ms = self.pause();
        if self.steps_left == 0 || self.steps_left.is_multiple_of(self.quiesce_every) {
            return Some(Step { after_ms, act: Act::Quiesce });
        }
        let act = if self.faults.happens(self.fault_rate) {
            let fault = self.fault(disks);
            if let Act::Device { device, event: DeviceEvent::PowerLoss { .. } } = fault
                && let Some(op) = self.save_in_the_last_moment(device, disks[device])
            {
                self.failing = Some(Step { after_ms: self.last_moment.below(MOMENT_MS), act: fault });
                Act::User { device, op }
            } else {
                fault
            }
        } else {
            let device = self.chance.index(disks.len());
            if self.rearranging.happens(self.rearranging_rate) {
                self.rest = self.rearrange(disks[device]).into_iter().map(|op| (device, op)).collect();
            }
            Act::User { device, op: self.operation(device, disks[device]) }
        };
        Some(Step { after_ms, act })
    }

    /// What the clean-up of blocks does before the next step. It has a stream of its own and takes no step
    /// away, so that the rest of a history is the same with and without it.
    fn clean_up(&mut self) -> Option<ServerEvent> {
        if !self.cleaning.happens(self.clean_up_rate) {
            return None;
        }
        Some(match self.cleaning.below(4) {
            0 => ServerEvent::CleanUpDay,
            1 => ServerEvent::CleanUpDuringUpload,
            _ => ServerEvent::CleanUp,
        })
    }

    /// A file is saved that may have been in sync for long, and nobody gets to see that.
    fn save_in_the_last_moment(&mut self, device: usize, disk: &Disk) -> Option<UserOp> {
        if !self.last_moment.happens(700) {
            return None;
        }
        let tree = disk.tree();
        let files: Vec<&LocalPath> =
            tree.iter().filter(|(_, thing)| matches!(thing, Thing::File { .. })).map(|(path, _)| path).collect();
        let path = self.last_moment.pick(&files)?.to_string();
        self.values += 1;
        let content = Content::of(&format!("v{:04}-{device}", self.values));
        let in_place = self.last_moment.happens(500);
        Some(if in_place { UserOp::Write { path, content } } else { UserOp::SaveAtomically { path, content } })
    }

    fn pause(&mut self) -> u64 {
        match self.chance.below(10) {
            0..4 => self.chance.below(20),
            4..8 => self.chance.below(self.slowest_pause_ms),
            8 => self.chance.below(5000),
            _ => self.chance.below(60_000),
        }
    }

    fn rare_fault(&mut self, disks: &[&Disk]) -> Act {
        let device = self.rare.index(disks.len());
        let event = match self.rare.weighted(&self.rare_weights) {
            0 => DeviceEvent::FillDisk { ms: self.rare.below(120_000) },
            1 => DeviceEvent::ConfirmDeletions,
            2 => DeviceEvent::UndoDeletions,
            3 => {
                let ms = [-86_400_000, -3000, 3000, 86_400_000][self.rare.index(4)];
                return Act::Server(ServerEvent::ClockJump { ms });
            }
            4 if self.rare.happens(400) => DeviceEvent::SaveDatabase,
            4 => DeviceEvent::RestoreBackup,
            5 => return Act::Server(ServerEvent::RemoveMember),
            _ => return Act::Server(ServerEvent::InviteMember),
        };
        Act::Device { device, event }
    }

    fn fault(&mut self, disks: &[&Disk]) -> Act {
        if self.rare.happens(self.rare_rate) {
            return self.rare_fault(disks);
        }
        let device = self.faults.index(disks.len());
        let down_ms = self.faults.below(20_000);
        let ms = self.faults.below(60_000);
        let path = self.existing(disks[device]);
        let event = match self.faults.weighted(&self.fault_weights) {
            0 => DeviceEvent::Pause,
            1 => DeviceEvent::Resume,
            2 => DeviceEvent::Kill { down_ms },
            3 if disks[device].habits.may_lose_power => DeviceEvent::PowerLoss { down_ms },
            4 => DeviceEvent::Unmount { ms },
            5 => DeviceEvent::EmptyRoot { ms },
            6 => DeviceEvent::ClockJump { ms: [-86_400_000, -3000, 3000, 86_400_000][self.faults.index(4)] },
            7 => DeviceEvent::Overflow,
            8 => DeviceEvent::SaveDatabase,
            9 => DeviceEvent::RollBackDatabase,
            10 => DeviceEvent::LoseDatabase,
            11 => return Act::Server(ServerEvent::Restart { down_ms }),
            12 => return Act::Server(ServerEvent::Save),
            13 => return Act::Server(ServerEvent::Restore),
            14 => return Act::Server(ServerEvent::Empty),
            _ => match self.faults.below(6) {
                0 => DeviceEvent::Exclude { path },
                1 => DeviceEvent::Include { path },
                _ => DeviceEvent::Partition { ms },
            },
        };
        Act::Device { device, event }
    }

    /// The next operation of a device's user.
    pub fn operation(&mut self, device: usize, disk: &Disk) -> UserOp {
        match self.chance.weighted(&self.weights) {
            0 => UserOp::Write { path: self.any(disk), content: self.content(device) },
            1 => UserOp::Write { path: self.existing(disk), content: self.content(device) },
            2 => UserOp::SaveAtomically { path: self.existing(disk), content: self.content(device) },
            3 => UserOp::BeginSlowWrite { path: self.any(disk), content: self.content(device) },
            4 if self.chance.happens(700) => UserOp::ContinueSlowWrite { content: self.content(device) },
            4 => UserOp::EndSlowWrite,
            // Where contents resemble each other, a stream of its own decides, and other histories stay what they are.
            5 if self.resembling_rate > 0 && self.resembling.happens(500) => {
                UserOp::Prepend { path: self.existing(disk), content: self.content(device) }
            }
            5 => UserOp::Append { path: self.existing(disk), content: self.content(device) },
            6 => UserOp::Truncate { path: self.existing(disk), len: self.chance.below(6) },
            7 => UserOp::Delete { path: self.existing(disk) },
            8 => UserOp::DeleteTree { path: self.existing(disk) },
            9 => UserOp::Rename { from: self.existing(disk), to: self.any(disk) },
            10 => self.move_folder(disk),
            11 => UserOp::MakeDirectory { path: self.any(disk) },
            12 => UserOp::Symlink { path: self.any(disk), target: NAMES[self.chance.index(3)].to_owned() },
            13 if self.chance.happens(300) => UserOp::Copy { from: self.existing(disk), to: self.any(disk) },
            13 => UserOp::SetExecutable { path: self.existing(disk), executable: self.chance.happens(600) },
            _ => UserOp::Touch { path: self.existing(disk), mtime_s: [0, -1, 1_000_000_000][self.chance.index(3)] },
        }
    }

    fn move_folder(&mut self, disk: &Disk) -> UserOp {
        let tree = disk.tree();
        let folders: Vec<&LocalPath> =
            tree.iter().filter(|(_, thing)| matches!(thing, Thing::Directory)).map(|(path, _)| path).collect();
        match (self.chance.pick(&folders), self.chance.pick(&folders)) {
            (Some(from), Some(into)) => {
                let from = from.to_string();
                UserOp::Rename { to: format!("{into}/{}", self.name()), from }
            }
            _ => UserOp::MakeDirectory { path: self.any(disk) },
        }
    }

    fn content(&mut self, device: usize) -> Content {
        self.values += 1;
        // All of one length: a change must not be told by the size alone.
        let text = format!("v{:04}-{device}", self.values);
        let padding = match self.chance.below(200) {
            0 if self.large_files => u32::try_from(BLOCK_SIZE).unwrap_or(0),
            1..20 => u32::try_from(self.chance.below(300)).unwrap_or(0),
            _ => 0,
        };
        Content { text, padding, noise: self.noise() }
    }

    /// Much of it for sums of chunks to be worth while, and seldom so much that the beginning of a block is kept.
    fn noise(&mut self) -> u32 {
        if !self.resembling.happens(self.resembling_rate) {
            return 0;
        }
        let len = match self.resembling.below(100) {
            number if number < self.large_percent => self.resembling.between(300_000, 1_000_000),
            80.. => self.resembling.below(2000),
            _ => self.resembling.between(17_000, 30_000),
        };
        u32::try_from(len).unwrap_or(0)
    }

    fn name(&mut self) -> &'static str {
        if self.colons && self.chance.happens(100) {
            return COLON;
        }
        NAMES[self.chance.index(self.names)]
    }

    /// Something that is there, or else a name.
    fn existing(&mut self, disk: &Disk) -> String {
        let tree = disk.tree();
        let paths: Vec<&LocalPath> = tree.keys().collect();
        match self.chance.pick(&paths) {
            Some(path) => path.to_string(),
            None => self.name().to_owned(),
        }
    }

    /// A name in a folder that is there, or something that is there.
    fn any(&mut self, disk: &Disk) -> String {
        if self.chance.happens(200) {
            return self.existing(disk);
        }
        let tree = disk.tree();
        let shallow = |path: &LocalPath| path.components().count() < DEPTH;
        let folders: Vec<&LocalPath> = tree
            .iter()
            .filter(|(path, thing)| matches!(thing, Thing::Directory) && shallow(path))
            .map(|(path, _)| path)
            .collect();
        match self.chance.pick(&folders) {
            Some(folder) if self.chance.happens(600) => format!("{folder}/{}", self.name()),
            _ => self.name().to_owned(),
        }
    }
}

/// A weight from 0 to `most`; 0 in a third of the runs.
fn weight_of(chance: &mut Chance, most: u64) -> u32 {
    if chance.happens(333) { 0 } else { u32::try_from(chance.between(1, most)).unwrap_or(1) }
}
