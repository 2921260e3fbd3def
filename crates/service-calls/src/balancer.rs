//! Which instance of a service the next call goes to. Pure: time is an argument.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

/// How long what fails together with the first failure of an instance is the same failure; each further one doubles it.
const FIRST_EXILE: Duration = Duration::from_millis(500);
/// The longest such time.
const LONGEST_EXILE: Duration = Duration::from_secs(10);

/// The instances of one service and how they do.
#[derive(Debug, Default)]
pub(crate) struct Balancer {
    instances: Vec<Instance>,
    /// Where the search begins, so that equals take turns.
    turn: usize,
}

#[derive(Debug)]
struct Instance {
    address: SocketAddr,
    in_flight: u32,
    /// Failures since the last success.
    failures: u32,
    /// Until when further failures are the same one, on the clock that the caller has. When all are out, the one whose
    /// time ends first is tried first.
    out_until: Duration,
}

/// How a call ended, as far as the instance is to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It answered, whatever the answer was.
    Answered,
    /// It could not be reached, was silent for too long, or broke off.
    Failed,
    /// The caller lost interest; that says nothing.
    GivenUp,
}

impl Balancer {
    /// Takes over a new set of addresses. Those that stay keep what is known of them.
    pub(crate) fn update(&mut self, addresses: &BTreeSet<SocketAddr>) {
        self.instances.retain(|instance| addresses.contains(&instance.address));
        for &address in addresses {
            if !self.instances.iter().any(|instance| instance.address == address) {
                self.instances.push(Instance { address, in_flight: 0, failures: 0, out_until: Duration::ZERO });
            }
        }
    }

    /// Every instance.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.instances.iter().map(|instance| instance.address).collect()
    }

    /// Whether the last that was heard of any instance was good.
    pub(crate) fn any_works(&self) -> bool {
        self.instances.iter().any(|instance| instance.failures == 0)
    }

    /// Whether the last that was heard of this instance was bad.
    pub(crate) fn is_out(&self, address: SocketAddr) -> bool {
        self.instances.iter().any(|instance| instance.address == address && instance.failures > 0)
    }

    /// Begins a call: to the instance with the fewest calls in flight among those that work. One that failed is not
    /// found out about by a call, which would wait for it for as long as its work may take: somebody asks it all the
    /// time ([`Balancer::report`]). When all are out, to the one whose exile ends first: to try is better than to fail.
    /// Not to `avoid`, where the last try failed, if there is another.
    pub(crate) fn begin(&mut self, avoid: Option<SocketAddr>) -> Option<SocketAddr> {
        let count = self.instances.len();
        let rank = |&index: &usize| {
            let instance = &self.instances[index];
            let works = instance.failures == 0;
            let order = if works { u128::from(instance.in_flight) } else { instance.out_until.as_nanos() };
            (Some(instance.address) == avoid, !works, order, (index + count - self.turn) % count)
        };
        let chosen = (0..count).min_by_key(rank)?;
        self.turn = (chosen + 1) % count;
        self.instances[chosen].in_flight += 1;
        Some(self.instances[chosen].address)
    }

    /// Ends a call that [`Balancer::begin`] began.
    pub(crate) fn end(&mut self, address: SocketAddr, ended: Ended, now: Duration) {
        if let Some(instance) = self.find(address) {
            instance.in_flight = instance.in_flight.saturating_sub(1);
        }
        self.report(address, ended, now);
    }

    /// Notes what was heard of an instance besides calls.
    pub(crate) fn report(&mut self, address: SocketAddr, ended: Ended, now: Duration) {
        let Some(instance) = self.find(address) else { return };
        match ended {
            Ended::Answered => instance.failures = 0,
            Ended::GivenUp => {}
            // Calls that fail together are one failure.
            Ended::Failed if now < instance.out_until => {}
            Ended::Failed => {
                let exile = FIRST_EXILE.saturating_mul(1 << instance.failures.min(8)).min(LONGEST_EXILE);
                instance.failures += 1;
                instance.out_until = now + exile;
            }
        }
    }

    fn find(&mut self, address: SocketAddr) -> Option<&mut Instance> {
        self.instances.iter_mut().find(|instance| instance.address == address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: Duration = Duration::ZERO;

    fn address(number: u8) -> SocketAddr {
        ([10, 0, 0, number], 1).into()
    }

    fn balancer(count: u8) -> Balancer {
        let mut balancer = Balancer::default();
        balancer.update(&(1..=count).map(address).collect());
        balancer
    }

    fn begin(balancer: &mut Balancer) -> SocketAddr {
        balancer.begin(None).expect("there is one")
    }

    #[test]
    fn the_instance_with_the_least_to_do_is_next_and_equals_take_turns() {
        let mut three = balancer(3);
        let first: BTreeSet<_> = (0..3).map(|_| begin(&mut three)).collect();
        assert_eq!(first.len(), 3);
        three.end(address(2), Ended::Answered, START);
        assert_eq!(begin(&mut three), address(2));
        let mut idle = balancer(2);
        let one = begin(&mut idle);
        idle.end(one, Ended::Answered, START);
        assert_ne!(begin(&mut idle), one);
    }

    #[test]
    fn one_that_failed_gets_no_call_until_it_is_heard_to_work() {
        let mut two = balancer(2);
        let (bad, good) = (begin(&mut two), begin(&mut two));
        two.end(bad, Ended::Failed, START);
        for _ in 0..5 {
            assert_eq!(begin(&mut two), good);
        }
        two.report(bad, Ended::Answered, LONGEST_EXILE);
        assert_eq!(begin(&mut two), bad);
    }

    #[test]
    fn each_failure_in_a_row_doubles_the_exile_up_to_its_limit() {
        let mut one = balancer(1);
        let mut now = START;
        let mut exiles = Vec::new();
        for _ in 0..8 {
            one.report(address(1), Ended::Failed, now);
            one.report(address(1), Ended::Failed, now);
            let until = one.instances[0].out_until;
            exiles.push(until - now);
            now = until;
        }
        assert_eq!(exiles[..3], [FIRST_EXILE, FIRST_EXILE * 2, FIRST_EXILE * 4]);
        assert_eq!(exiles[7], LONGEST_EXILE);
    }

    #[test]
    fn when_all_are_out_one_is_tried_nevertheless() {
        let mut two = balancer(2);
        two.report(address(1), Ended::Failed, START);
        two.report(address(2), Ended::Failed, FIRST_EXILE / 10);
        assert!(!two.any_works());
        assert_eq!(begin(&mut two), address(1), "its exile ends first");
        assert_eq!(balancer(0).begin(None), None);
    }

    #[test]
    fn a_second_try_goes_elsewhere_if_there_is_an_elsewhere() {
        assert_eq!(balancer(2).begin(Some(address(1))), Some(address(2)));
        assert_eq!(balancer(1).begin(Some(address(1))), Some(address(1)));
        let mut two = balancer(2);
        two.report(address(2), Ended::Failed, START);
        assert_eq!(two.begin(Some(address(1))), Some(address(2)));
    }

    #[test]
    fn a_new_set_keeps_what_is_known_of_those_that_stay() {
        let mut two = balancer(2);
        two.report(address(2), Ended::Failed, START);
        two.update(&[address(2), address(3)].into());
        assert!(two.is_out(address(2)) && !two.is_out(address(3)));
        assert_eq!(two.addresses().len(), 2);
        two.end(address(1), Ended::Failed, START);
    }

    proptest! {
        #[test]
        fn whatever_happens_a_call_finds_an_instance_and_counts_stay_right(
            count in 1..4_u8,
            steps in proptest::collection::vec((0..4_u8, 0..2000_u64), 0..200),
        ) {
            let mut balancer = balancer(count);
            let (mut now, mut open) = (START, Vec::new());
            for (what, millis) in steps {
                now += Duration::from_millis(millis);
                match (what, open.pop()) {
                    (0 | 1, last) => {
                        open.extend(last);
                        open.push(balancer.begin(None).expect("there is one"));
                    }
                    (2, Some(address)) => balancer.end(address, Ended::Failed, now),
                    (_, Some(address)) => balancer.end(address, Ended::Answered, now),
                    (_, None) => {}
                }
                let counted: u32 = balancer.instances.iter().map(|instance| instance.in_flight).sum();
                prop_assert_eq!(counted as usize, open.len());
            }
        }
    }
}
