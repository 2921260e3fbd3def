//! What a user may see of one file: the model of Hughes, Pierce, Arts and Norell, "Mysteries of Dropbox"
//! (2016), with the three trees of Syncline.
//!
//! A synchronizer's own steps are invisible. The model therefore follows *every* state that some order of
//! conjectured steps could have led to, and each observation discards the states that do not explain it.
//! When none is left, nothing that a synchronizer is allowed to do explains what was seen.
//!
//! The steps of device *i*, whose disk holds `held`, which last agreed with version `agreed` of the
//! server's, and which has read of version `read`:
//!
//! - LEARN: `read` becomes the server's newest version
//! - UP, when the user changed something and `read` is the newest: with `agreed` the newest too, `held`
//!   becomes the next version; else both have changed. A deletion gives way; over a deletion, `held`
//!   becomes the next version; otherwise the held value becomes a conflicted copy and its place is empty
//! - DOWN, when the user changed nothing since: `held` becomes the version that was read

use std::collections::BTreeSet;
use std::fmt;

/// A content that was written once, or no file.
pub(super) type Value = Option<u32>;

/// States that are followed at once, at most; beyond it a history is given up as too vague.
const STATES: usize = 20_000;

/// A device in one conjectured state.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Device {
    held: Value,
    /// Whether the user changed something that no UP has told.
    changed: bool,
    agreed: usize,
    read: usize,
}

/// One conjectured state of all.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    versions: Vec<Value>,
    devices: Vec<Device>,
    conflicts: BTreeSet<u32>,
}

impl State {
    fn newest(&self) -> usize {
        self.versions.len() - 1
    }

    /// All states that one step of one device leads to.
    fn next(&self) -> Vec<Self> {
        let mut next = Vec::new();
        for device in 0..self.devices.len() {
            next.extend(self.learn(device));
            next.extend(self.up(device));
            next.extend(self.down(device));
        }
        next
    }

    fn learn(&self, device: usize) -> Option<Self> {
        let newest = self.newest();
        (self.devices[device].read < newest).then(|| self.with(device, |device| device.read = newest))
    }

    fn up(&self, number: usize) -> Option<Self> {
        let (device, newest) = (&self.devices[number], self.newest());
        if !device.changed || device.read < newest {
            return None;
        }
        let theirs = self.versions[newest];
        Some(match (device.held, theirs) {
            (mine, _) if device.agreed == newest => self.committed(number, mine),
            (Some(mine), None) => self.committed(number, Some(mine)),
            (None, _) => self.with(number, |device| device.changed = false),
            (Some(mine), Some(_)) => {
                let mut state = self.with(number, |device| {
                    device.changed = false;
                    device.held = None;
                });
                state.conflicts.insert(mine);
                state
            }
        })
    }

    fn committed(&self, number: usize, value: Value) -> Self {
        let mut state = self.clone();
        state.versions.push(value);
        let newest = state.newest();
        let device = &mut state.devices[number];
        (device.changed, device.agreed, device.read) = (false, newest, newest);
        state
    }

    fn down(&self, number: usize) -> Option<Self> {
        let device = &self.devices[number];
        let value = self.versions[device.read];
        let is_due = !device.changed && (device.agreed < device.read || device.held != value);
        is_due.then(|| {
            self.with(number, |device| {
                device.held = value;
                device.agreed = device.read;
            })
        })
    }

    fn with(&self, number: usize, change: impl FnOnce(&mut Device)) -> Self {
        let mut state = self.clone();
        change(&mut state.devices[number]);
        state
    }

    fn is_at_rest(&self) -> bool {
        let newest = self.newest();
        self.devices
            .iter()
            .all(|device| !device.changed && device.agreed == newest && device.held == self.versions[newest])
    }
}

/// Why a history has no explanation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mystery {
    /// No order of steps leads to what was seen.
    Unexplained,
    /// Too many orders are possible to follow them all; nothing is known.
    TooVague,
}

impl fmt::Display for Mystery {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Unexplained => "nothing that a synchronizer may do explains it",
            Self::TooVague => "there are too many explanations to follow",
        })
    }
}

/// All that could be the case with one file.
#[derive(Debug, Clone)]
pub(super) struct Model {
    states: BTreeSet<State>,
}

impl Model {
    /// A file that does not exist yet, on so many devices.
    pub(super) fn new(devices: usize) -> Self {
        let device = Device { held: None, changed: false, agreed: 0, read: 0 };
        let state = State { versions: vec![None], devices: vec![device; devices], conflicts: BTreeSet::new() };
        Self { states: BTreeSet::from([state]) }
    }

    /// A user looked at the file.
    pub(super) fn read(&mut self, device: usize, seen: Value) -> Result<(), Mystery> {
        self.observe(|state| state.devices[device].held == seen)
    }

    /// A user put a value in place of what was seen there in the same step.
    pub(super) fn write(&mut self, device: usize, value: Value, instead_of: Value) -> Result<(), Mystery> {
        self.read(device, instead_of)?;
        self.change(device, value);
        Ok(())
    }

    /// A user put a value in place of whatever was there.
    pub(super) fn overwrite(&mut self, device: usize, value: Value) -> Result<(), Mystery> {
        self.observe(|_| true)?;
        self.change(device, value);
        Ok(())
    }

    /// All devices came to rest, with this value and these conflicted copies.
    pub(super) fn stabilize(&mut self, value: Value, conflicts: &BTreeSet<u32>) -> Result<(), Mystery> {
        self.observe(|state| {
            state.is_at_rest() && state.versions[state.newest()] == value && state.conflicts == *conflicts
        })?;
        self.forget_the_past();
        Ok(())
    }

    fn change(&mut self, device: usize, value: Value) {
        let states = std::mem::take(&mut self.states).into_iter();
        self.states = states
            .map(|state| {
                state.with(device, |device| {
                    // Who deletes nothing changes nothing.
                    device.changed |= device.held != value;
                    device.held = value;
                })
            })
            .collect();
    }

    fn observe(&mut self, is_seen: impl Fn(&State) -> bool) -> Result<(), Mystery> {
        let mut reached = std::mem::take(&mut self.states);
        let mut fresh: Vec<State> = reached.iter().cloned().collect();
        while let Some(state) = fresh.pop() {
            for next in state.next() {
                if !reached.contains(&next) {
                    reached.insert(next.clone());
                    fresh.push(next);
                }
            }
            if reached.len() > STATES {
                return Err(Mystery::TooVague);
            }
        }
        self.states = reached.into_iter().filter(is_seen).collect();
        if self.states.is_empty() { Err(Mystery::Unexplained) } else { Ok(()) }
    }

    /// At rest only the newest version matters, which keeps long histories cheap.
    fn forget_the_past(&mut self) {
        let states = std::mem::take(&mut self.states).into_iter();
        self.states = states
            .map(|mut state| {
                let newest = state.newest();
                state.versions = vec![state.versions[newest]];
                for device in &mut state.devices {
                    (device.agreed, device.read) = (0, 0);
                }
                state
            })
            .collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none() -> BTreeSet<u32> {
        BTreeSet::new()
    }

    #[test]
    fn a_write_reaches_the_other_device_early_or_late() {
        let mut model = Model::new(2);
        model.write(0, Some(1), None).expect("explained");
        for seen in [None, Some(1)] {
            model.read(1, seen).expect("explained");
        }
        assert_eq!(model.clone().read(1, None), Err(Mystery::Unexplained), "what was seen does not go away");
        model.stabilize(Some(1), &none()).expect("explained");
        assert_eq!(model.read(0, None), Err(Mystery::Unexplained));
    }

    #[test]
    fn concurrent_writes_leave_one_as_a_conflicted_copy() {
        let mut model = Model::new(2);
        model.write(0, Some(1), None).expect("explained");
        model.write(1, Some(2), None).expect("explained");
        assert!(model.clone().stabilize(Some(1), &BTreeSet::from([2])).is_ok());
        assert!(model.clone().stabilize(Some(2), &BTreeSet::from([1])).is_ok());
        assert_eq!(model.clone().stabilize(Some(2), &none()), Err(Mystery::Unexplained), "a lost value");
        assert_eq!(model.stabilize(Some(3), &BTreeSet::from([1, 2])), Err(Mystery::Unexplained), "an invention");
    }

    #[test]
    fn a_write_that_saw_the_other_one_ends_it() {
        let mut model = Model::new(2);
        model.write(0, Some(1), None).expect("explained");
        model.write(1, Some(2), Some(1)).expect("explained");
        assert!(model.clone().stabilize(Some(2), &none()).is_ok());
        assert_eq!(model.stabilize(Some(2), &BTreeSet::from([1])), Err(Mystery::Unexplained), "a needless copy");
    }

    #[test]
    fn an_edit_wins_over_a_deletion_at_the_same_time() {
        let mut model = Model::new(2);
        model.write(0, Some(1), None).expect("explained");
        model.stabilize(Some(1), &none()).expect("explained");
        model.write(0, Some(2), Some(1)).expect("explained");
        model.write(1, None, Some(1)).expect("explained");
        assert_eq!(model.clone().stabilize(None, &none()), Err(Mystery::Unexplained));
        assert!(model.stabilize(Some(2), &none()).is_ok());
    }

    #[test]
    fn a_value_that_was_ended_does_not_come_back() {
        let mut model = Model::new(2);
        model.write(0, Some(1), None).expect("explained");
        model.write(0, Some(2), Some(1)).expect("explained");
        model.stabilize(Some(2), &none()).expect("explained");
        assert_eq!(model.read(1, Some(1)), Err(Mystery::Unexplained));
    }
}
