//! The settings that `syncline config` shows and changes: their names, and their values as text.

use crate::bandwidth::{Limits, MIN_BYTES_PER_SECOND};
use crate::transport::Thrift;
use serde::{Deserialize, Serialize};
use std::fmt;
use sync_engine::io::DeleteGuard;

/// What saves bytes or time, and may be left out: its name, and where it is kept.
type Saving = (&'static str, fn(&mut Thrift) -> &mut bool);

const DELETE_GUARD: &str = "delete-guard";
const UPLOAD_LIMIT: &str = "upload-limit";
const DOWNLOAD_LIMIT: &str = "download-limit";

const SAVINGS: [Saving; 14] = [
    ("deltas", |thrift| &mut thrift.delta),
    ("compression", |thrift| &mut thrift.compress),
    ("reuse", |thrift| &mut thrift.reuse),
    ("prefetch", |thrift| &mut thrift.prefetch),
    ("early-reading", |thrift| &mut thrift.early_reading),
    ("pacing", |thrift| &mut thrift.pacing),
    ("small-contents", |thrift| &mut thrift.small_contents),
    ("hash-once", |thrift| &mut thrift.hash_once),
    ("neighbours", |thrift| &mut thrift.neighbours),
    ("quiet", |thrift| &mut thrift.quiet),
    ("kept-blocks", |thrift| &mut thrift.kept_blocks),
    ("bundles", |thrift| &mut thrift.bundles),
    ("shifts", |thrift| &mut thrift.shifts),
    ("direct-writes", |thrift| &mut thrift.direct_writes),
];

/// The names of the settings, as `config` takes them.
pub fn keys() -> impl Iterator<Item = &'static str> {
    [DELETE_GUARD, UPLOAD_LIMIT, DOWNLOAD_LIMIT].into_iter().chain(savings())
}

/// The names of those that are `on` or `off`.
pub fn savings() -> impl Iterator<Item = &'static str> {
    SAVINGS.iter().map(|(key, _)| *key)
}

/// One setting with its new value. It travels as its name and the text of its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Written", try_from = "Written")]
pub enum Setting {
    DeleteGuard(DeleteGuard),
    /// Bytes per second; `None`: unlimited.
    UploadLimit(Option<u64>),
    DownloadLimit(Option<u64>),
    Saving(Switch, bool),
}

/// One of those that are on or off, by its place among them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Switch(usize);

impl Switch {
    fn named(key: &str) -> Option<Self> {
        savings().position(|known| known == key).map(Self)
    }

    const fn key(self) -> &'static str {
        SAVINGS[self.0].0
    }
}

impl fmt::Debug for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.key())
    }
}

/// A setting as text.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Written {
    key: String,
    value: String,
}

impl From<Setting> for Written {
    fn from(setting: Setting) -> Self {
        Self { key: setting.key().to_owned(), value: setting.text() }
    }
}

impl TryFrom<Written> for Setting {
    type Error = SettingError;

    fn try_from(written: Written) -> Result<Self, SettingError> {
        Self::parse(&written.key, &written.value)
    }
}

/// All settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    pub guard: DeleteGuard,
    pub bandwidth: Limits,
    pub thrift: Thrift,
}

/// A setting that cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    #[error("there is no setting `{key}`")]
    UnknownKey { key: String },
    #[error("`{value}` is no value for {key}")]
    BadValue { key: &'static str, value: String },
}

impl SettingError {
    /// What the user can do.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::UnknownKey { .. } => format!("the settings are {}", keys().collect::<Vec<_>>().join(", ")),
            Self::BadValue { key: DELETE_GUARD, .. } => {
                "it is `on`, `off`, or COUNT[,PERCENT]: hold a deletion of at least COUNT files that are more than \
                 PERCENT of all"
                    .into()
            }
            Self::BadValue { key: UPLOAD_LIMIT | DOWNLOAD_LIMIT, .. } => {
                format!("it is `off` or bytes per second such as 500K or 2M, at least {MIN_BYTES_PER_SECOND}")
            }
            Self::BadValue { .. } => "it is `on` or `off`".into(),
        }
    }
}

impl Setting {
    /// A setting from its name and the text of its value.
    ///
    /// # Errors
    /// [`SettingError`].
    pub fn parse(key: &str, value: &str) -> Result<Self, SettingError> {
        let bad = |key| SettingError::BadValue { key, value: value.to_owned() };
        match key {
            DELETE_GUARD => parse_guard(value).map(Self::DeleteGuard).ok_or_else(|| bad(DELETE_GUARD)),
            UPLOAD_LIMIT => parse_rate(value).map(Self::UploadLimit).ok_or_else(|| bad(UPLOAD_LIMIT)),
            DOWNLOAD_LIMIT => parse_rate(value).map(Self::DownloadLimit).ok_or_else(|| bad(DOWNLOAD_LIMIT)),
            _ => {
                let saving = Switch::named(key).ok_or_else(|| SettingError::UnknownKey { key: key.to_owned() })?;
                parse_switch(value).map(|on| Self::Saving(saving, on)).ok_or_else(|| bad(saving.key()))
            }
        }
    }

    /// Makes the setting, unless it is the guard, which the engine keeps.
    pub(crate) fn write_into(self, bandwidth: &mut Limits, thrift: &mut Thrift) {
        match self {
            Self::DeleteGuard(_) => {}
            Self::UploadLimit(rate) => bandwidth.upload = rate,
            Self::DownloadLimit(rate) => bandwidth.download = rate,
            Self::Saving(Switch(place), on) => *SAVINGS[place].1(thrift) = on,
        }
    }

    /// Its name.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::DeleteGuard(_) => DELETE_GUARD,
            Self::UploadLimit(_) => UPLOAD_LIMIT,
            Self::DownloadLimit(_) => DOWNLOAD_LIMIT,
            Self::Saving(saving, _) => saving.key(),
        }
    }

    /// Its value.
    #[must_use]
    pub fn text(self) -> String {
        match self {
            Self::DeleteGuard(guard) => guard_text(guard),
            Self::UploadLimit(rate) | Self::DownloadLimit(rate) => {
                rate.map_or_else(|| "off".to_owned(), |rate| rate.to_string())
            }
            Self::Saving(_, on) => if on { "on" } else { "off" }.to_owned(),
        }
    }
}

impl Settings {
    /// Each with its value, in the order of [`keys`].
    pub fn all(mut self) -> impl Iterator<Item = Setting> {
        let first = [
            Setting::DeleteGuard(self.guard),
            Setting::UploadLimit(self.bandwidth.upload),
            Setting::DownloadLimit(self.bandwidth.download),
        ];
        let savings =
            (0..SAVINGS.len()).map(move |place| Setting::Saving(Switch(place), *SAVINGS[place].1(&mut self.thrift)));
        first.into_iter().chain(savings)
    }
}

fn guard_text(guard: DeleteGuard) -> String {
    match guard {
        DeleteGuard::Off => "off".into(),
        DeleteGuard::On { count, percent } => format!("{count},{percent}"),
    }
}

fn parse_switch(text: &str) -> Option<bool> {
    match text {
        "on" => Some(true),
        "off" => Some(false),
        _ => None,
    }
}

fn parse_guard(text: &str) -> Option<DeleteGuard> {
    match text {
        "off" => return Some(DeleteGuard::Off),
        "on" => return Some(DeleteGuard::default()),
        _ => {}
    }
    let (count, percent) = match text.split_once(',') {
        Some((count, percent)) => (count, percent.trim().trim_end_matches('%').parse().ok()?),
        None => (text, 0),
    };
    let count = count.trim().parse().ok()?;
    (percent <= 100).then_some(DeleteGuard::On { count, percent })
}

/// `off`, or bytes per second with an optional K, M or G (of 1,000).
#[must_use]
pub fn parse_rate(text: &str) -> Option<Option<u64>> {
    if matches!(text, "off" | "unlimited" | "0") {
        return Some(None);
    }
    let (digits, unit) = match text.char_indices().last()? {
        (at, 'k' | 'K') => (&text[..at], 1_000),
        (at, 'm' | 'M') => (&text[..at], 1_000_000),
        (at, 'g' | 'G') => (&text[..at], 1_000_000_000),
        _ => (text, 1),
    };
    let rate = digits.parse::<u64>().ok()?.checked_mul(unit)?;
    (rate >= MIN_BYTES_PER_SECOND).then_some(Some(rate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guard_reads_as_it_is_written() {
        let on = |count, percent| DeleteGuard::On { count, percent };
        for (text, guard) in [
            ("off", DeleteGuard::Off),
            ("on", on(100, 50)),
            ("10", on(10, 0)),
            ("10,25", on(10, 25)),
            ("10, 25%", on(10, 25)),
        ] {
            assert_eq!(Setting::parse("delete-guard", text), Ok(Setting::DeleteGuard(guard)), "{text}");
            assert_eq!(parse_guard(&guard_text(guard)), Some(guard));
        }
        for text in ["", "yes", "-1", "1,101", "1,2,3"] {
            assert!(Setting::parse("delete-guard", text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates_have_units_and_a_least_value() {
        for (text, rate) in [("off", None), ("2M", Some(2_000_000)), ("500k", Some(500_000)), ("4096", Some(4096))] {
            assert_eq!(parse_rate(text), Some(rate), "{text}");
        }
        for text in ["", "M", "-5", "1", "1.5M", "99999999999G", "5é"] {
            assert_eq!(parse_rate(text), None, "{text}");
        }
    }

    #[test]
    fn what_saves_bytes_or_time_is_on_or_off() {
        let settings = Settings { guard: DeleteGuard::Off, bandwidth: Limits::default(), thrift: Thrift::default() };
        assert!(settings.all().map(Setting::key).eq(keys()));
        for setting in settings.all().skip(3) {
            let key = setting.key();
            assert_eq!(setting.text(), "on", "{key}");
            let error = Setting::parse(key, "maybe").expect_err("refused");
            assert_eq!(error.hint(), "it is `on` or `off`", "{key}");
            let mut changed = settings;
            Setting::parse(key, "off").expect("a value").write_into(&mut changed.bandwidth, &mut changed.thrift);
            let off: Vec<&str> = changed.all().filter(|setting| setting.text() == "off").map(Setting::key).collect();
            assert_eq!(off, [DELETE_GUARD, UPLOAD_LIMIT, DOWNLOAD_LIMIT, key], "this one and no other");
        }
    }

    #[test]
    fn a_setting_travels_as_its_name_and_the_text_of_its_value() {
        let setting = Setting::parse("quiet", "off").expect("a setting");
        let written = serde_json::to_value(setting).expect("writes");
        assert_eq!(written, serde_json::json!({ "key": "quiet", "value": "off" }));
        assert_eq!(serde_json::from_value::<Setting>(written).expect("reads"), setting);
        let unknown = serde_json::json!({ "key": "colour", "value": "blue" });
        assert!(serde_json::from_value::<Setting>(unknown).is_err());
    }

    #[test]
    fn an_unknown_setting_is_answered_with_the_known_ones() {
        let error = Setting::parse("colour", "blue").expect_err("refused");
        assert!(error.hint().contains("delete-guard"));
    }
}
