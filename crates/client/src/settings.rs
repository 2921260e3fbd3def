//! The settings that `syncline config` shows and changes: their names, and their values as text.

use crate::bandwidth::{Limits, MIN_BYTES_PER_SECOND};
use crate::home::Config;
use crate::transport::Thrift;
use serde::{Deserialize, Serialize};
use sync_engine::io::DeleteGuard;

/// One setting with its new value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "key", content = "value")]
pub enum Setting {
    DeleteGuard(DeleteGuard),
    /// Bytes per second; `None`: unlimited.
    UploadLimit(Option<u64>),
    DownloadLimit(Option<u64>),
    Deltas(bool),
    Compression(bool),
    Reuse(bool),
    Prefetch(bool),
    EarlyReading(bool),
    Pacing(bool),
    SmallContents(bool),
    HashOnce(bool),
    Neighbours(bool),
    Quiet(bool),
    KeptBlocks(bool),
    Bundles(bool),
    Shifts(bool),
    DirectWrites(bool),
}

/// All settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    pub guard: DeleteGuard,
    pub bandwidth: Limits,
    pub thrift: Thrift,
}

/// The names of the settings, as `config` takes them.
pub const KEYS: [&str; 17] = [
    "delete-guard",
    "upload-limit",
    "download-limit",
    "deltas",
    "compression",
    "reuse",
    "prefetch",
    "early-reading",
    "pacing",
    "small-contents",
    "hash-once",
    "neighbours",
    "quiet",
    "kept-blocks",
    "bundles",
    "shifts",
    "direct-writes",
];

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
            Self::UnknownKey { .. } => format!("the settings are {}", KEYS.join(", ")),
            Self::BadValue { key: "delete-guard", .. } => {
                "it is `on`, `off`, or COUNT[,PERCENT]: hold a deletion of at least COUNT files that are more than \
                 PERCENT of all"
                    .into()
            }
            Self::BadValue { key: "upload-limit" | "download-limit", .. } => {
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
            "delete-guard" => parse_guard(value).map(Self::DeleteGuard).ok_or_else(|| bad(KEYS[0])),
            "upload-limit" => parse_rate(value).map(Self::UploadLimit).ok_or_else(|| bad(KEYS[1])),
            "download-limit" => parse_rate(value).map(Self::DownloadLimit).ok_or_else(|| bad(KEYS[2])),
            "deltas" => parse_switch(value).map(Self::Deltas).ok_or_else(|| bad(KEYS[3])),
            "compression" => parse_switch(value).map(Self::Compression).ok_or_else(|| bad(KEYS[4])),
            "reuse" => parse_switch(value).map(Self::Reuse).ok_or_else(|| bad(KEYS[5])),
            "prefetch" => parse_switch(value).map(Self::Prefetch).ok_or_else(|| bad(KEYS[6])),
            "early-reading" => parse_switch(value).map(Self::EarlyReading).ok_or_else(|| bad(KEYS[7])),
            "pacing" => parse_switch(value).map(Self::Pacing).ok_or_else(|| bad(KEYS[8])),
            "small-contents" => parse_switch(value).map(Self::SmallContents).ok_or_else(|| bad(KEYS[9])),
            "hash-once" => parse_switch(value).map(Self::HashOnce).ok_or_else(|| bad(KEYS[10])),
            "neighbours" => parse_switch(value).map(Self::Neighbours).ok_or_else(|| bad(KEYS[11])),
            "quiet" => parse_switch(value).map(Self::Quiet).ok_or_else(|| bad(KEYS[12])),
            "kept-blocks" => parse_switch(value).map(Self::KeptBlocks).ok_or_else(|| bad(KEYS[13])),
            "bundles" => parse_switch(value).map(Self::Bundles).ok_or_else(|| bad(KEYS[14])),
            "shifts" => parse_switch(value).map(Self::Shifts).ok_or_else(|| bad(KEYS[15])),
            "direct-writes" => parse_switch(value).map(Self::DirectWrites).ok_or_else(|| bad(KEYS[16])),
            _ => Err(SettingError::UnknownKey { key: key.to_owned() }),
        }
    }

    /// Makes the setting, unless it is the guard, which the engine keeps.
    pub(crate) const fn write_into(self, config: &mut Config) {
        let (bandwidth, thrift) = (&mut config.bandwidth, &mut config.thrift);
        match self {
            Self::DeleteGuard(_) => {}
            Self::UploadLimit(rate) => bandwidth.upload = rate,
            Self::DownloadLimit(rate) => bandwidth.download = rate,
            Self::Deltas(on) => thrift.delta = on,
            Self::Compression(on) => thrift.compress = on,
            Self::Reuse(on) => thrift.reuse = on,
            Self::Prefetch(on) => thrift.prefetch = on,
            Self::EarlyReading(on) => thrift.early_reading = on,
            Self::Pacing(on) => thrift.pacing = on,
            Self::SmallContents(on) => thrift.small_contents = on,
            Self::HashOnce(on) => thrift.hash_once = on,
            Self::Neighbours(on) => thrift.neighbours = on,
            Self::Quiet(on) => thrift.quiet = on,
            Self::KeptBlocks(on) => thrift.kept_blocks = on,
            Self::Bundles(on) => thrift.bundles = on,
            Self::Shifts(on) => thrift.shifts = on,
            Self::DirectWrites(on) => thrift.direct_writes = on,
        }
    }
}

impl Settings {
    /// Names and values as text, in the order of [`KEYS`].
    #[must_use]
    pub fn texts(&self) -> [(&'static str, String); 17] {
        let switch = |on: bool| if on { "on" } else { "off" }.to_owned();
        let rate = |rate: Option<u64>| rate.map_or_else(|| "off".to_owned(), |rate| rate.to_string());
        let [
            guard,
            upload,
            download,
            deltas,
            compression,
            reuse,
            prefetch,
            early_reading,
            pacing,
            small_contents,
            hash_once,
            neighbours,
            quiet,
            kept_blocks,
            bundles,
            shifts,
            direct_writes,
        ] = KEYS;
        [
            (guard, guard_text(self.guard)),
            (upload, rate(self.bandwidth.upload)),
            (download, rate(self.bandwidth.download)),
            (deltas, switch(self.thrift.delta)),
            (compression, switch(self.thrift.compress)),
            (reuse, switch(self.thrift.reuse)),
            (prefetch, switch(self.thrift.prefetch)),
            (early_reading, switch(self.thrift.early_reading)),
            (pacing, switch(self.thrift.pacing)),
            (small_contents, switch(self.thrift.small_contents)),
            (hash_once, switch(self.thrift.hash_once)),
            (neighbours, switch(self.thrift.neighbours)),
            (quiet, switch(self.thrift.quiet)),
            (kept_blocks, switch(self.thrift.kept_blocks)),
            (bundles, switch(self.thrift.bundles)),
            (shifts, switch(self.thrift.shifts)),
            (direct_writes, switch(self.thrift.direct_writes)),
        ]
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
        for (key, value) in &settings.texts()[3..] {
            assert_eq!(value, "on", "{key}");
            let error = Setting::parse(key, "maybe").expect_err("refused");
            assert_eq!(error.hint(), "it is `on` or `off`", "{key}");
            assert_ne!(Setting::parse(key, "on"), Setting::parse(key, "off"), "{key}");
        }
    }

    #[test]
    fn an_unknown_setting_is_answered_with_the_known_ones() {
        let error = Setting::parse("colour", "blue").expect_err("refused");
        assert!(error.hint().contains("delete-guard"));
    }
}
