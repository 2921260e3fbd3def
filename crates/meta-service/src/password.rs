//! Passwords: argon2id, with a bound on how many are checked at once.

use crate::environment::PasswordCost;
use api::{ApiError, ErrorCode};
use argon2::password_hash::phc::{Output, ParamsString, PasswordHash, Salt};
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use std::sync::{Condvar, Mutex, PoisonError};

/// Passwords hashed at the same time: each takes 19 MiB and a core.
const CONCURRENT_HASHES: usize = 2;
/// Callers that wait for their turn; more are sent away, so that a flood cannot hold all threads.
const WAITING_HASHES: usize = 16;
/// What a caller who was sent away waits.
const RETRY_MS: u32 = 2_000;

/// Hashes and checks passwords.
pub(crate) struct Passwords {
    argon2: Argon2<'static>,
    /// What is checked when there is no account, so that both cases cost the same.
    nobody: String,
    turns: Mutex<Turns>,
    freed: Condvar,
}

#[derive(Default)]
struct Turns {
    running: usize,
    waiting: usize,
}

impl Passwords {
    pub(crate) fn new(cost: PasswordCost, salt: [u8; 16]) -> Result<Self, ApiError> {
        let params = match cost {
            PasswordCost::Standard => Params::new(19 * 1024, 2, 1, None),
            PasswordCost::Cheapest => Params::new(Params::MIN_M_COST, Params::MIN_T_COST, 1, None),
        };
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.map_err(|_| broken())?);
        let nobody = nobodys_hash(&argon2, salt).ok_or_else(broken)?;
        Ok(Self { argon2, nobody, turns: Mutex::default(), freed: Condvar::new() })
    }

    /// The stored form of a password.
    pub(crate) fn hash(&self, password: &str, salt: [u8; 16]) -> Result<String, ApiError> {
        let _turn = self.turn()?;
        hash(&self.argon2, password, salt)
    }

    /// Whether the password is the account's. Without an account the answer is no, at the same cost.
    pub(crate) fn verify(&self, password: &str, stored: Option<&str>) -> Result<bool, ApiError> {
        let _turn = self.turn()?;
        let expected = PasswordHash::new(stored.unwrap_or(&self.nobody)).map_err(|_| broken())?;
        let matches = self.argon2.verify_password(password.as_bytes(), &expected).is_ok();
        Ok(matches && stored.is_some())
    }

    fn turn(&self) -> Result<Turn<'_>, ApiError> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        if turns.waiting >= WAITING_HASHES {
            return Err(ApiError {
                retry_after_ms: Some(RETRY_MS),
                ..ApiError::new(ErrorCode::Busy, "too many sign-ins at once, try again")
            });
        }
        turns.waiting += 1;
        while turns.running >= CONCURRENT_HASHES {
            turns = self.freed.wait(turns).unwrap_or_else(PoisonError::into_inner);
        }
        turns.waiting -= 1;
        turns.running += 1;
        Ok(Turn { passwords: self })
    }
}

struct Turn<'p> {
    passwords: &'p Passwords,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.passwords.turns.lock().unwrap_or_else(PoisonError::into_inner).running -= 1;
        self.passwords.freed.notify_one();
    }
}

fn hash(argon2: &Argon2<'_>, password: &str, salt: [u8; 16]) -> Result<String, ApiError> {
    let hash: PasswordHash = argon2.hash_password_with_salt(password.as_bytes(), &salt).map_err(|_| broken())?;
    Ok(hash.to_string())
}

/// A hash that no password is known to have. To make it costs nothing, since a server makes it at each start.
fn nobodys_hash(argon2: &Argon2<'_>, salt: [u8; 16]) -> Option<String> {
    let hash = PasswordHash {
        algorithm: Algorithm::Argon2id.ident(),
        version: Some(Version::V0x13.into()),
        params: ParamsString::try_from(argon2.params().clone()).ok()?,
        salt: Some(Salt::new(&salt).ok()?),
        hash: Some(Output::new(&[0; Params::DEFAULT_OUTPUT_LEN]).ok()?),
    };
    Some(hash.to_string())
}

fn broken() -> ApiError {
    ApiError::new(ErrorCode::Unavailable, "the server could not check the password")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passwords() -> Passwords {
        Passwords::new(PasswordCost::Cheapest, [1; 16]).expect("legal parameters")
    }

    #[test]
    fn only_the_right_password_of_an_account_is_right() {
        let passwords = passwords();
        let stored = passwords.hash("correct horse", [2; 16]).expect("hashes");
        assert_eq!(passwords.verify("correct horse", Some(&stored)), Ok(true));
        for wrong in ["", "correct hors", "correct horse ", "Correct horse", "nobody's password"] {
            assert_eq!(passwords.verify(wrong, Some(&stored)), Ok(false), "{wrong:?}");
            assert_eq!(passwords.verify(wrong, None), Ok(false), "{wrong:?}");
        }
    }

    #[test]
    fn the_standard_cost_is_at_least_the_published_floor() {
        let passwords = Passwords::new(PasswordCost::Standard, [1; 16]).expect("legal parameters");
        let stored = passwords.hash("x", [3; 16]).expect("hashes");
        assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{stored}");
    }

    #[test]
    fn nobodys_password_costs_what_anybodys_does() {
        for cost in [PasswordCost::Cheapest, PasswordCost::Standard] {
            let passwords = Passwords::new(cost, [1; 16]).expect("legal parameters");
            let somebodys = passwords.hash("x", [1; 16]).expect("hashes");
            let before_the_hash =
                |text: &str| text.rsplit_once('$').map(|(before, hash)| (before.to_owned(), hash.len()));
            assert_eq!(before_the_hash(&passwords.nobody), before_the_hash(&somebodys));
        }
    }

    #[test]
    fn a_damaged_hash_opens_nothing() {
        assert!(passwords().verify("x", Some("")).is_err());
        assert!(passwords().verify("x", Some("$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ")) != Ok(true));
    }
}
