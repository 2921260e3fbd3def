//! What can happen to a cluster, by name.

use super::plan::{Shape, Tier};
use anyhow::{Result, bail};
use std::fmt;
use std::str::FromStr;

/// What happens to hosts or their processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Blow {
    /// One process ends without a word.
    Kill,
    /// One process does nothing any more, and is still there.
    Freeze,
    /// All processes of one host do nothing any more; its system goes on to take what is sent to it.
    Hang,
    /// One host's cable is pulled.
    Cut,
    /// Nothing reaches one host any more, and it does not see why.
    Lose,
    /// One process is replaced in order.
    Replace,
    /// All of a tier are stopped in order, then started.
    Restart,
    /// All of a tier end without a word, then are started.
    Crash,
}

impl Blow {
    const ALL: [Self; 8] =
        [Self::Kill, Self::Freeze, Self::Hang, Self::Cut, Self::Lose, Self::Replace, Self::Restart, Self::Crash];

    const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Freeze => "freeze",
            Self::Hang => "hang",
            Self::Cut => "cut",
            Self::Lose => "lose",
            Self::Replace => "replace",
            Self::Restart => "restart",
            Self::Crash => "crash",
        }
    }

    /// Whether it meets all hosts of a tier.
    pub(super) const fn is_for_all(self) -> bool {
        matches!(self, Self::Restart | Self::Crash)
    }
}

/// One kind of trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scenario {
    Blow(Blow, Tier),
    /// Some requests to the object storage fail, or are never answered.
    StorageFaults,
    /// The caches forget everything.
    FlushCaches,
}

const STORAGE_FAULTS: &str = "storage-faults";
const FLUSH_CACHES: &str = "flush-caches";

impl Scenario {
    /// All that there are.
    pub(super) fn all() -> Vec<Self> {
        let blows = Tier::ALL.into_iter().flat_map(|tier| Blow::ALL.map(|blow| Self::Blow(blow, tier)));
        blows.filter(|scenario| scenario.is_possible()).chain([Self::StorageFaults, Self::FlushCaches]).collect()
    }

    /// Devices are not servers: what is told them comes from their users. And what has one host has no second one
    /// that could take over while it is replaced.
    fn is_possible(self) -> bool {
        match self {
            Self::Blow(blow, Tier::Client) => matches!(blow, Blow::Kill | Blow::Cut | Blow::Lose),
            Self::Blow(blow, Tier::Storage) => !blow.is_for_all(),
            // There is one copy of everything in it.
            Self::Blow(_, Tier::Ceph) => false,
            // On all others there is one process.
            Self::Blow(Blow::Hang, tier) => tier == Tier::Balancer,
            Self::Blow(..) | Self::StorageFaults | Self::FlushCaches => true,
        }
    }

    /// Why it cannot be gone through where such things are; `None` if it can.
    pub(super) fn obstacle(self, shape: Shape) -> Option<&'static str> {
        match self {
            // Somebody must say which of them was the last.
            Self::Blow(blow, Tier::Database) if blow.is_for_all() && shape.databases > 1 => {
                Some("a database cluster that has stopped as a whole needs an operator")
            }
            Self::StorageFaults if shape.gateways > 0 => Some("a Ceph does not fail as it is told to"),
            Self::Blow(..) | Self::StorageFaults | Self::FlushCaches => None,
        }
    }

    /// Whether all others must come to rest while it lasts, when there are so many hosts in its tier.
    pub(super) fn is_survivable(self, hosts: usize) -> bool {
        match self {
            Self::Blow(blow, tier) => tier != Tier::Client && hosts > 1 && !blow.is_for_all(),
            Self::StorageFaults | Self::FlushCaches => true,
        }
    }

    /// Whether it is about what only a device asks for that reads much of a journal at once.
    pub(super) fn concerns_caches(self) -> bool {
        matches!(self, Self::FlushCaches | Self::Blow(_, Tier::Cache))
    }

    /// Whether it ends notification streams.
    pub(super) fn breaks_streams(self) -> bool {
        matches!(self, Self::Blow(_, Tier::Balancer | Tier::Edge))
    }

    /// Whether the shared address is expected to move.
    pub(super) fn moves_the_address(self) -> bool {
        matches!(self, Self::Blow(_, Tier::Balancer))
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blow(blow, tier) => write!(formatter, "{}-{tier}", blow.name()),
            Self::StorageFaults => formatter.write_str(STORAGE_FAULTS),
            Self::FlushCaches => formatter.write_str(FLUSH_CACHES),
        }
    }
}

impl FromStr for Scenario {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match Self::all().into_iter().find(|scenario| scenario.to_string() == text) {
            Some(scenario) => Ok(scenario),
            None => {
                let names: Vec<String> = Self::all().iter().map(ToString::to_string).collect();
                bail!("there is no scenario `{text}`; there are {}", names.join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_is_found_by_its_name() {
        for scenario in Scenario::all() {
            assert_eq!(scenario.to_string().parse::<Scenario>().expect("found"), scenario);
        }
        assert!("kill-everything".parse::<Scenario>().is_err());
    }
}
