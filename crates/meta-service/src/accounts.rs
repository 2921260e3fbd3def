//! Accounts and devices.

use crate::failure::{Failure, bad_request, not_found, unlinked};
use crate::service::{MetaService, check_linked, identity};
use api::service::Identity;
use api::{ApiError, DeviceEntry, DevicesReply, ErrorCode, LinkReply, LinkRequest, Token, UnlinkRequest};
use metadata_store::{Account, Device, StoreError, TokenHash};
use model::{AccountId, DeviceId, NamespaceId, Role, Timestamp, limits};
use sha2::{Digest, Sha256};

/// How exact `last_seen` is: a device's visits within this time are written once.
const LAST_SEEN_STEP_MS: i64 = 60_000;
/// Devices that one account may have linked at a time.
const DEVICES_PER_ACCOUNT: usize = 1_000;

/// An account, as an administrator lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountSummary {
    pub account: AccountId,
    pub email: String,
    pub created: Timestamp,
    /// Linked devices.
    pub devices: usize,
}

/// What becomes of an account's devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Devices {
    Keep,
    End,
}

impl MetaService {
    /// Adds an account with an empty root namespace.
    ///
    /// # Errors
    /// `BadRequest` for an address or password that cannot be one, `AlreadyExists` for an address that
    /// is taken in any spelling of upper and lower case, `Unavailable`, `NoSpace`.
    pub fn add_user(&self, email: &str, password: &str) -> Result<AccountId, ApiError> {
        let email = check_email(email)?;
        check_password(password)?;
        let account = Account {
            account: AccountId(self.environment.random()),
            email: email.to_owned(),
            password_hash: self.passwords.hash(password, self.environment.random())?,
            root: NamespaceId(self.environment.random()),
            created: self.environment.now(),
        };
        self.write(|tx, _| {
            tx.insert_namespace(account.root)?;
            tx.insert_account(&account).map_err(|error| match error {
                StoreError::AlreadyExists { .. } => {
                    Failure::Api(ApiError::new(ErrorCode::AlreadyExists, format!("there is an account for {email}")))
                }
                other => Failure::Store(other),
            })?;
            Ok(tx.set_member(account.root, account.account, Role::Owner)?)
        })?;
        Ok(account.account)
    }

    /// Gives an account another password. Its devices stay linked, since they have tokens of their own, unless they are ended
    /// with it. How many were.
    ///
    /// # Errors
    /// `NotFound`, `BadRequest` for a password that cannot be one, `Unavailable`, `NoSpace`.
    pub fn set_password(&self, email: &str, password: &str, devices: Devices) -> Result<usize, ApiError> {
        check_password(password)?;
        let hash = self.passwords.hash(password, self.environment.random())?;
        self.write(|tx, news| {
            let account = tx.account_by_email(email.trim())?;
            let account = account.ok_or_else(|| not_found(format!("there is no account for {}", email.trim())))?;
            tx.set_password_hash(account.account, &hash)?;
            if devices == Devices::Keep {
                return Ok(0);
            }
            let devices = tx.devices(account.account)?;
            for device in &devices {
                tx.end_device(device.device)?;
                news.unlinked.insert(device.device);
            }
            Ok(devices.len())
        })
    }

    /// All accounts by e-mail address.
    ///
    /// # Errors
    /// `Unavailable`.
    pub fn list_users(&self) -> Result<Vec<AccountSummary>, ApiError> {
        self.snapshot(|reading| {
            let mut users = Vec::new();
            for Account { account, email, created, .. } in reading.accounts()? {
                users.push(AccountSummary { account, email, created, devices: reading.devices(account)?.len() });
            }
            Ok(users)
        })
    }

    /// `link`: makes a device of an installation that knows e-mail and password.
    ///
    /// # Errors
    /// `WrongCredentials` alike for an unknown address and a wrong password, `Busy`, `BadRequest`,
    /// `Unavailable`, `NoSpace`.
    pub fn link(&self, request: &LinkRequest) -> Result<LinkReply, ApiError> {
        let name = check_device_name(&request.device_name)?;
        let account = self.sign_in(request.email.trim(), &request.password)?;
        let token = Token(self.environment.random());
        let now = self.environment.now();
        let device = Device {
            device: DeviceId(self.environment.random()),
            account: account.account,
            name: name.to_owned(),
            linked: now,
            last_seen: now,
            active: true,
        };
        let server = self.write(|tx, _| {
            if tx.devices(account.account)?.len() >= DEVICES_PER_ACCOUNT {
                return Err(bad_request("this account has too many devices; unlink one first").into());
            }
            tx.insert_device(&device, &hash_token(&token))?;
            Ok(identity(tx)?)
        })?;
        let (account, root) = (account.account, account.root);
        Ok(LinkReply { token, account, device: device.device, instance: server.instance, epoch: server.epoch, root })
    }

    /// Who sends this token. Notes now and then that the device was seen.
    ///
    /// # Errors
    /// `Unlinked`, `Unavailable`.
    pub fn identify(&self, token: &Token) -> Result<Identity, ApiError> {
        let hash = hash_token(token);
        let device = self.snapshot(|reading| Ok(reading.device_by_token(&hash)?))?.ok_or_else(unlinked)?;
        let now = self.environment.now();
        if now.0.saturating_sub(device.last_seen.0) >= LAST_SEEN_STEP_MS {
            // A visit that cannot be noted (a full disk, say) must not keep the device from reading.
            let noted = self.write(|tx, _| Ok(tx.touch_device(device.device, now)?));
            if let Err(error) = noted {
                tracing::debug!(%error, device = %device.device, "the device's visit was not noted");
            }
        }
        Ok(Identity { account: device.account, device: device.device })
    }

    /// `devices`: the account's linked devices.
    ///
    /// # Errors
    /// `Unlinked`, `Unavailable`.
    pub fn devices(&self, who: Identity) -> Result<DevicesReply, ApiError> {
        let devices = self.snapshot(|reading| {
            check_linked(reading, who)?;
            Ok(reading.devices(who.account)?)
        })?;
        let entry = |device: Device| DeviceEntry {
            current: device.device == who.device,
            device: device.device,
            name: device.name,
            linked: device.linked,
            last_seen: device.last_seen,
        };
        Ok(DevicesReply { devices: devices.into_iter().map(entry).collect() })
    }

    /// `unlink`: ends a device of the caller's account. Its token is worth nothing from then on.
    ///
    /// # Errors
    /// `NotFound` for a device that is not this account's, `Unlinked`, `Unavailable`, `NoSpace`.
    pub fn unlink(&self, who: Identity, request: &UnlinkRequest) -> Result<(), ApiError> {
        let target = request.device.unwrap_or(who.device);
        self.write(|tx, news| {
            check_linked(tx, who)?;
            let ours = tx.device(target)?.is_some_and(|device| device.account == who.account);
            if !ours || !tx.end_device(target)? {
                return Err(not_found("this account has no such device").into());
            }
            news.unlinked.insert(target);
            Ok(())
        })
    }

    fn sign_in(&self, email: &str, password: &str) -> Result<Account, ApiError> {
        if email.len() > limits::EMAIL_BYTES || password.len() > limits::PASSWORD_BYTES {
            return Err(bad_request("the e-mail address or the password is too long"));
        }
        self.login_limit.admit(email, self.environment.now())?;
        let account = self.snapshot(|reading| Ok(reading.account_by_email(email)?))?;
        let stored = account.as_ref().map(|account| account.password_hash.as_str());
        let right = self.passwords.verify(password, stored)?;
        match account {
            Some(account) if right => {
                self.login_limit.succeeded(email);
                Ok(account)
            }
            Some(_) | None => {
                Err(ApiError::new(ErrorCode::WrongCredentials, "the e-mail address or the password is wrong"))
            }
        }
    }
}

/// What is stored of a token.
pub(crate) fn hash_token(token: &Token) -> TokenHash {
    Sha256::digest(token.0).into()
}

fn check_email(email: &str) -> Result<&str, ApiError> {
    let email = email.trim();
    let legal = email.len() <= limits::EMAIL_BYTES
        && !email.contains(|c: char| c.is_whitespace() || c.is_control())
        && email.split_once('@').is_some_and(|(user, host)| !user.is_empty() && !host.is_empty());
    legal.then_some(email).ok_or_else(|| bad_request(format!("`{}` is not an e-mail address", email.escape_debug())))
}

fn check_password(password: &str) -> Result<(), ApiError> {
    if password.is_empty() || password.len() > limits::PASSWORD_BYTES {
        return Err(bad_request(format!("a password has 1 to {} bytes", limits::PASSWORD_BYTES)));
    }
    Ok(())
}

fn check_device_name(name: &str) -> Result<&str, ApiError> {
    let name = name.trim();
    let legal = !name.is_empty()
        && name.chars().count() <= limits::DEVICE_NAME_CHARS
        && !name.contains(|c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'));
    legal.then_some(name).ok_or_else(|| {
        bad_request(format!("a device's name has 1 to {} printable characters", limits::DEVICE_NAME_CHARS))
    })
}
