//! The simulated disk must answer as a real one does, operation by operation and error by error.

use local_files::contract;
use local_files::fs::Fs;
use simulation::disk::{Disk, Habits, Naming, SimFs};
use std::sync::{Arc, Mutex};

#[test]
fn a_simulated_disk_of_any_habits_keeps_the_contract() {
    for naming in [Naming::Bytes, Naming::Insensitive, Naming::Decomposing] {
        for reuses_inodes in [false, true] {
            for grain_ns in [1, 2_000_000_000] {
                let habits = Habits { naming, reuses_inodes, grain_ns, may_lose_power: true, ..Habits::default() };
                contract::check(|| {
                    let disk = Arc::new(Mutex::new(Disk::new(habits, 1, Arc::default())));
                    let fs: Arc<dyn Fs> = Arc::new(SimFs::new(disk));
                    (fs, ())
                });
            }
        }
    }
}
