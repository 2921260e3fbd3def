//! Scripted worlds: a few devices, a few acts, and what must come of them.

use simulation::disk::Habits;
use simulation::history::{
    Content, DeviceEvent, DeviceKnobs, Knobs, LocalKnobs, NetKnobs, ServerEvent, ServerKnobs, ShareRole, UserOp,
};
use simulation::world::World;
use sync_engine::io::Command;

/// The ending of a conflicted copy that the device makes.
pub(crate) fn copy(stem: &str, device: usize) -> String {
    format!("{stem} (conflicted copy dev{device} 2026-11-23)")
}

/// A world that does what a test says.
pub(crate) struct Script {
    pub(crate) world: World,
}

pub(crate) fn knobs(devices: usize) -> Knobs {
    let device = DeviceKnobs { account: 0, habits: Habits::default(), late_hints: 0, lost_hints: 0, guard: None };
    Knobs {
        devices: vec![device; devices],
        net: NetKnobs::default(),
        local: LocalKnobs::default(),
        server: ServerKnobs::default(),
        slowest_ms: 20,
        share: None,
        thrift: true,
    }
}

impl Script {
    /// Devices of one account, on ordinary disks.
    pub(crate) fn new(devices: usize) -> Self {
        Self::with(knobs(devices))
    }

    pub(crate) fn with(knobs: Knobs) -> Self {
        let mut script = Self { world: World::scripted(7, knobs).expect("a world") };
        script.settle();
        script
    }

    /// Device 0 owns the folder `team`, which device 1 of another account sees.
    pub(crate) fn shared(role: ShareRole) -> Self {
        let mut knobs = knobs(2);
        knobs.devices[1].account = 1;
        knobs.share = Some(role);
        Self::with(knobs)
    }

    pub(crate) fn on_disks(habits: &[Habits]) -> Self {
        let mut knobs = knobs(habits.len());
        for (device, habits) in knobs.devices.iter_mut().zip(habits) {
            device.habits = *habits;
        }
        Self::with(knobs)
    }

    fn act(&mut self, device: usize, op: UserOp) -> &mut Self {
        self.world.act_as_user(device, &op);
        let done = self.world.trace().last().is_some_and(|line| line.ends_with(": done"));
        assert!(done, "{op:?} failed: {:?}", self.world.trace().last());
        self
    }

    pub(crate) fn write(&mut self, device: usize, path: &str, text: &str) -> &mut Self {
        self.act(device, UserOp::Write { path: path.to_owned(), content: Content::of(text) })
    }

    pub(crate) fn save(&mut self, device: usize, path: &str, text: &str) -> &mut Self {
        self.act(device, UserOp::SaveAtomically { path: path.to_owned(), content: Content::of(text) })
    }

    pub(crate) fn begin(&mut self, device: usize, path: &str, text: &str) -> &mut Self {
        self.act(device, UserOp::BeginSlowWrite { path: path.to_owned(), content: Content::of(text) })
    }

    pub(crate) fn go_on(&mut self, device: usize, text: &str) -> &mut Self {
        self.act(device, UserOp::ContinueSlowWrite { content: Content::of(text) })
    }

    pub(crate) fn end(&mut self, device: usize) -> &mut Self {
        self.act(device, UserOp::EndSlowWrite)
    }

    pub(crate) fn delete(&mut self, device: usize, path: &str) -> &mut Self {
        self.act(device, UserOp::DeleteTree { path: path.to_owned() })
    }

    pub(crate) fn rename(&mut self, device: usize, from: &str, to: &str) -> &mut Self {
        self.act(device, UserOp::Rename { from: from.to_owned(), to: to.to_owned() })
    }

    pub(crate) fn mkdir(&mut self, device: usize, path: &str) -> &mut Self {
        self.act(device, UserOp::MakeDirectory { path: path.to_owned() })
    }

    pub(crate) fn link(&mut self, device: usize, path: &str, target: &str) -> &mut Self {
        self.act(device, UserOp::Symlink { path: path.to_owned(), target: target.to_owned() })
    }

    pub(crate) fn executable(&mut self, device: usize, path: &str) -> &mut Self {
        self.act(device, UserOp::SetExecutable { path: path.to_owned(), executable: true })
    }

    pub(crate) fn touch(&mut self, device: usize, path: &str, mtime_s: i64) -> &mut Self {
        self.act(device, UserOp::Touch { path: path.to_owned(), mtime_s })
    }

    pub(crate) fn offline(&mut self, device: usize) -> &mut Self {
        self.world.cut_off(device);
        self
    }

    pub(crate) fn online(&mut self, device: usize) -> &mut Self {
        self.world.reconnect(device);
        self
    }

    /// Starts the client of a device that was stopped.
    pub(crate) fn start(&mut self, device: usize) -> &mut Self {
        let result = self.world.start(device);
        self.hold(result);
        self
    }

    pub(crate) fn append(&mut self, device: usize, path: &str, text: &str) -> &mut Self {
        self.act(device, UserOp::Append { path: path.to_owned(), content: Content::of(text) })
    }

    /// A file that begins with the text and then has so many spaces.
    pub(crate) fn write_long(&mut self, device: usize, path: &str, text: &str, padding: u64) -> &mut Self {
        let padding = u32::try_from(padding).expect("fits");
        self.act(
            device,
            UserOp::Write { path: path.to_owned(), content: Content { text: text.to_owned(), padding, noise: 0 } },
        )
    }

    /// Device 0's account shares its folder `team` with the second account.
    pub(crate) fn share(&mut self, role: ShareRole) -> &mut Self {
        let result = self.world.share(role);
        self.hold(result);
        self
    }

    /// How often something happened in the world so far.
    pub(crate) fn times(&self, what: &str) -> u64 {
        self.world.coverage.get(what).copied().unwrap_or(0)
    }

    pub(crate) fn device(&mut self, device: usize, event: DeviceEvent) -> &mut Self {
        let result = self.world.device_event(device, &event);
        self.hold(result);
        self
    }

    pub(crate) fn server(&mut self, event: ServerEvent) -> &mut Self {
        let result = self.world.server_event(&event);
        self.hold(result);
        self
    }

    pub(crate) fn command(&mut self, device: usize, command: Command) -> &mut Self {
        let result = self.world.command(device, command);
        self.hold(result);
        self
    }

    /// Stops the client of a device; the next `settle` starts it.
    pub(crate) fn stop(&mut self, device: usize) -> &mut Self {
        self.world.stop(device);
        self
    }

    pub(crate) fn wait_ms(&mut self, ms: u64) -> &mut Self {
        let result = self.world.run_for(ms);
        self.hold(result);
        self
    }

    /// Lets the devices that are online come to rest; the others stay offline.
    pub(crate) fn settle_online(&mut self) -> &mut Self {
        let result = self.world.come_to_rest();
        self.hold(result);
        self
    }

    /// Brings everything up and online, lets it come to rest and checks all invariants.
    pub(crate) fn settle(&mut self) -> &mut Self {
        let result = self.world.quiesce();
        self.hold(result);
        self
    }

    fn hold(&self, result: Result<(), simulation::world::Violation>) {
        if let Err(violation) = result {
            let trace = self.world.trace();
            let last = &trace[trace.len().saturating_sub(120)..];
            panic!("{violation}\n{}", last.join("\n"));
        }
    }

    /// What the server and every device must show.
    pub(crate) fn expect<S: AsRef<str>>(&mut self, lines: &[S]) -> &mut Self {
        self.settle();
        for device in 0..self.world.devices.len() {
            self.expect_on(device, lines);
        }
        let there = self.world.server_tree(0).expect("a tree");
        assert_eq!(sorted(&self.world.describe(&there)), sorted(lines), "on the server");
        self
    }

    /// What one device must show.
    pub(crate) fn expect_on<S: AsRef<str>>(&mut self, device: usize, lines: &[S]) -> &mut Self {
        let here = self.world.disk_tree(device);
        assert_eq!(sorted(&self.world.describe(&here)), sorted(lines), "on device {device}");
        self
    }
}

fn sorted<S: AsRef<str>>(lines: &[S]) -> Vec<String> {
    let mut lines: Vec<String> = lines.iter().map(|line| line.as_ref().to_owned()).collect();
    lines.sort();
    lines
}
