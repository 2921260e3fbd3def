//! Time and chance at the edge of the program: the only place of the client that asks the system.

use jiff::Zoned;
use rand::rngs::{ChaCha12Rng, SysRng};
use rand::{Rng, RngExt, SeedableRng, TryRng};
use std::time::Instant;

/// The system's generator of randomness gave nothing.
#[derive(Debug, thiserror::Error)]
#[error("the system gives no random numbers")]
pub struct NoRandomness(#[source] rand::rngs::SysError);

/// A clock that never goes back, counted from when it was made.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock that starts now.
    #[must_use]
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// Milliseconds since the start.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The moment at which [`Clock::now_ms`] will be `ms`.
    #[must_use]
    pub fn at(&self, ms: u64) -> Instant {
        self.start + std::time::Duration::from_millis(ms)
    }
}

/// Milliseconds since 1970-01-01 UTC, for people.
#[must_use]
pub fn wall_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// Today's date where the user is, `YYYY-MM-DD`.
#[must_use]
pub fn today() -> String {
    Zoned::now().date().to_string()
}

/// A generator for ids and jitter, seeded by the system.
#[derive(Debug)]
pub struct Chance {
    generator: ChaCha12Rng,
}

impl Chance {
    /// A freshly seeded generator.
    ///
    /// # Errors
    /// [`NoRandomness`].
    pub fn from_system() -> Result<Self, NoRandomness> {
        let mut seed = [0; 32];
        SysRng.try_fill_bytes(&mut seed).map_err(NoRandomness)?;
        Ok(Self { generator: ChaCha12Rng::from_seed(seed) })
    }

    /// The next 16 random bytes. A virtual machine that is put back to a snapshot goes on with the generator that it had
    /// then, and what is drawn must not be what was drawn the other time: the server would take another commit for one
    /// that it knows. So the system adds to it, which is told of such a thing by its host and mixes in what happens.
    pub fn bytes(&mut self) -> [u8; 16] {
        let (mut bytes, mut fresh) = ([0; 16], [0; 16]);
        self.generator.fill_bytes(&mut bytes);
        // It gave some when the generator was made; should it give none now, what the generator gives is random as well.
        if SysRng.try_fill_bytes(&mut fresh).is_ok() {
            bytes.iter_mut().zip(fresh).for_each(|(byte, fresh)| *byte ^= fresh);
        }
        bytes
    }

    /// A number that is uniform in 0 to 1.
    pub fn fraction(&mut self) -> f64 {
        self.generator.random::<f64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generator_that_was_put_back_gives_other_bytes_than_before() {
        let put_back = || Chance { generator: ChaCha12Rng::from_seed([7; 32]) }.bytes();
        assert_ne!(put_back(), put_back());
    }
}
