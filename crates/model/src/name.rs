//! Names: one component of a path, in the form in which it travels and is stored.

use crate::limits;
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use unicode_normalization::{UnicodeNormalization, is_nfc};

/// The folder in which a client keeps what is its own inside a synced folder. It is never synced.
pub const RESERVED_NAME: &str = ".syncline";

/// One legal component of a path, in Unicode NFC, in the user's spelling of upper and lower case.
///
/// `Name::parse` is the only door: a `Name` that exists keeps every rule of [`NameError`].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

/// What two names must not share within one folder: the name case-folded and normalised.
///
/// Built as NFC, then full Unicode case folding, then NFC again (folding may undo the normal form), so
/// that trees fit case-insensitive and normalising file systems.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct NameKey(Box<str>);

/// Why a text cannot be a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum NameError {
    #[error("the name is empty")]
    Empty,
    #[error("`.` and `..` are not names")]
    Dots,
    #[error("the name contains `/`")]
    Slash,
    #[error("the name contains the control character U+{0:04X}")]
    Control(u32),
    #[error("the name contains U+{0:04X}, which reverses how text is shown and is used to disguise names")]
    Bidi(u32),
    #[error("the name is longer than {max} bytes", max = limits::NAME_BYTES)]
    TooManyBytes,
    #[error("the name is longer than {max} UTF-16 units", max = limits::NAME_UTF16)]
    TooManyUnits,
    #[error("the name is not valid UTF-8")]
    NotUtf8,
    #[error("`{RESERVED_NAME}` is reserved for Syncline's own files")]
    Reserved,
}

impl Name {
    /// Normalises to NFC, then validates; never the reverse, since normalising can make a bad name.
    ///
    /// # Errors
    /// [`NameError`] says which rule the text breaks.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        // A bound before the work: NFC of a text is never shorter than a third of it in bytes.
        if text.len() > 3 * limits::NAME_BYTES {
            return Err(NameError::TooManyBytes);
        }
        let name: Arc<str> = if is_nfc(text) { text.into() } else { text.nfc().collect::<String>().into() };
        check(&name)?;
        if &*NameKey::of(&name).0 == RESERVED_NAME {
            return Err(NameError::Reserved);
        }
        Ok(Self(name))
    }

    /// The name again whose text this is: for a text that was taken from a name and kept in memory since.
    #[must_use]
    pub fn of_checked(text: &str) -> Self {
        debug_assert!(Self::parse(text).is_ok_and(|name| name.as_str() == text), "{text:?} was no name");
        Self(text.into())
    }

    /// Like [`Name::parse`], from what a file system gave.
    ///
    /// # Errors
    /// [`NameError::NotUtf8`] besides those of [`Name::parse`].
    pub fn parse_bytes(bytes: &[u8]) -> Result<Self, NameError> {
        Self::parse(std::str::from_utf8(bytes).map_err(|_| NameError::NotUtf8)?)
    }

    /// The name's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key that must be unique among a folder's live children.
    #[must_use]
    pub fn key(&self) -> NameKey {
        NameKey::of(&self.0)
    }

    /// The name without its extension, and the extension with its dot (empty if there is none). A name
    /// that begins with its only dot has no extension.
    #[must_use]
    pub fn split_extension(&self) -> (&str, &str) {
        match self.0.rfind('.') {
            Some(dot) if dot > 0 => self.0.split_at(dot),
            _ => (&self.0, ""),
        }
    }

    /// Why Windows could not hold this name, if it could not. Such names sync; a Windows client shows
    /// them as held back.
    #[must_use]
    pub fn windows_problem(&self) -> Option<&'static str> {
        if self.0.contains(['<', '>', ':', '"', '|', '?', '*', '\\']) {
            return Some("contains a character that Windows does not allow");
        }
        if self.0.ends_with(['.', ' ']) {
            return Some("ends with a dot or a space");
        }
        let stem = self.0.split('.').next().unwrap_or_default().trim_end().to_ascii_uppercase();
        let numbered = |prefix: &str| {
            stem.strip_prefix(prefix).is_some_and(|n| n.len() == 1 && n.bytes().all(|b| b.is_ascii_digit()))
        };
        let device = matches!(stem.as_str(), "CON" | "PRN" | "AUX" | "NUL") || numbered("COM") || numbered("LPT");
        device.then_some("is the name of a Windows device")
    }
}

impl NameKey {
    /// The key of the name with this text.
    #[must_use]
    pub fn of(name: &str) -> Self {
        if name.is_ascii() {
            return Self(name.to_ascii_lowercase().into());
        }
        let folded = caseless::default_case_fold_str(name);
        Self(if is_nfc(&folded) { folded.into() } else { folded.nfc().collect::<String>().into() })
    }

    /// Whether this is the key of the name with this text.
    #[must_use]
    pub fn is_of(&self, name: &str) -> bool {
        // Folding keeps what is ASCII in ASCII, and can make it of what is not.
        if name.is_ascii() { self.0.eq_ignore_ascii_case(name) } else { *self == Self::of(name) }
    }

    /// A short digest for indexes in memory. Two keys may share one, and another release may compute
    /// others.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }

    /// The key's text, as stored in the unique index.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check(name: &str) -> Result<(), NameError> {
    match name {
        "" => return Err(NameError::Empty),
        "." | ".." => return Err(NameError::Dots),
        _ => {}
    }
    for c in name.chars() {
        match c {
            '/' => return Err(NameError::Slash),
            '\0'..='\u{1f}' | '\u{7f}' => return Err(NameError::Control(c.into())),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => return Err(NameError::Bidi(c.into())),
            _ => {}
        }
    }
    if name.len() > limits::NAME_BYTES {
        return Err(NameError::TooManyBytes);
    }
    if name.encode_utf16().count() > limits::NAME_UTF16 {
        return Err(NameError::TooManyUnits);
    }
    Ok(())
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl Serialize for Name {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// Whatever a peer calls a name is checked when it is read, so hostile names end at the wire.
impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(text: &str) -> Name {
        Name::parse(text).expect("a legal name")
    }

    #[test]
    fn illegal_names_are_refused_with_the_rule_they_break() {
        for (text, error) in [
            ("", NameError::Empty),
            (".", NameError::Dots),
            ("..", NameError::Dots),
            ("a/b", NameError::Slash),
            ("a\0b", NameError::Control(0)),
            ("a\u{7f}", NameError::Control(0x7f)),
            ("gpj.\u{202e}exe", NameError::Bidi(0x202e)),
            (".Syncline", NameError::Reserved),
            (&"x".repeat(256), NameError::TooManyBytes),
            (&"é".repeat(128), NameError::TooManyBytes),
        ] {
            assert_eq!(Name::parse(text), Err(error), "{text:?}");
        }
        assert_eq!(Name::parse_bytes(b"\xff"), Err(NameError::NotUtf8));
        assert!(Name::parse(&"x".repeat(255)).is_ok());
    }

    #[test]
    fn spellings_that_one_file_system_could_confuse_share_a_key() {
        for (a, b) in [
            ("readme", "README"),
            ("e\u{301}", "\u{e9}"),
            ("E\u{301}", "\u{e9}"),
            ("straße", "STRASSE"),
            ("Σίσυφος", "ΣΊΣΥΦΟΣ"),
            ("\u{212a}elvin", "kelvin"),
        ] {
            assert_eq!(name(a).key(), name(b).key(), "{a:?} and {b:?}");
        }
        assert_ne!(name("ı").key(), name("i").key(), "the dotless i is another letter");
    }

    #[test]
    fn windows_problems_are_told_and_do_not_forbid_the_name() {
        for text in ["a:b", "nul.txt.jpg", "COM7", "end.", "end ", "lpt0.x", "a\\b"] {
            assert!(name(text).windows_problem().is_some(), "{text:?}");
        }
        for text in ["com10", "console", "nullable", "a.b"] {
            assert!(name(text).windows_problem().is_none(), "{text:?}");
        }
    }

    #[test]
    fn a_hostile_name_does_not_deserialize() {
        let bytes = postcard::to_stdvec("../../etc/passwd").expect("serializes");
        assert!(postcard::from_bytes::<Name>(&bytes).is_err());
    }

    proptest! {
        #[test]
        fn parsing_is_idempotent_and_keys_are_stable(text in "\\PC{0,40}") {
            if let Ok(name) = Name::parse(&text) {
                prop_assert_eq!(Name::parse(name.as_str()), Ok(name.clone()));
                let bytes = postcard::to_stdvec(&name).expect("serializes");
                prop_assert_eq!(postcard::from_bytes::<Name>(&bytes).ok(), Some(name.clone()));
                if let Ok(again) = Name::parse(name.key().as_str()) {
                    prop_assert_eq!(again.key(), name.key());
                }
            }
        }
    }
}
