//! What the service takes from the world: the time, chance, and how hard passwords are to guess.

use model::Timestamp;
use std::sync::Arc;

/// Fills bytes with chance.
type Random = dyn Fn(&mut [u8]) + Send + Sync;

/// The world, passed in so that a simulation can replace it.
#[derive(Clone)]
pub struct Environment {
    now: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    random: Arc<Random>,
    pub(crate) password_cost: PasswordCost,
}

/// The work of checking one password with argon2id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PasswordCost {
    /// 19 MiB, two passes: OWASP's and ASVS's floor.
    Standard,
    /// As little as the algorithm allows. For tests and simulation only.
    Cheapest,
}

impl Environment {
    /// A world with this clock and this source of random bytes, which must be fit for secrets.
    #[must_use]
    pub fn new(
        now: impl Fn() -> Timestamp + Send + Sync + 'static,
        random: impl Fn(&mut [u8]) + Send + Sync + 'static,
    ) -> Self {
        Self { now: Arc::new(now), random: Arc::new(random), password_cost: PasswordCost::Standard }
    }

    /// The same world with another cost of passwords.
    #[must_use]
    pub fn with_password_cost(self, password_cost: PasswordCost) -> Self {
        Self { password_cost, ..self }
    }

    pub(crate) fn now(&self) -> Timestamp {
        (self.now)()
    }

    pub(crate) fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        (self.random)(&mut bytes);
        bytes
    }
}
