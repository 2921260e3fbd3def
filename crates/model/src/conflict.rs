//! The names of conflicted copies.

use crate::limits;
use crate::name::Name;

/// `stem (LABEL DEVICE DATE).ext`, or with ` N` behind the date for the `attempt`-th try (from 2 on)
/// when that name is taken. The stem is shortened where the name would grow too long; a name that is
/// itself a conflicted copy gets no second suffix but a higher number.
///
/// `label` is `conflicted copy` or what else explains the file; `date` is `YYYY-MM-DD`.
#[must_use]
pub fn conflicted_name(name: &Name, label: &str, device: &str, date: &str, attempt: u32) -> Name {
    let (stem, extension) = name.split_extension();
    // An extension as long as half a name is none: shortening the stem alone must suffice.
    let (stem, extension) =
        if extension.len() > limits::NAME_BYTES / 4 { (name.as_str(), "") } else { (stem, extension) };
    let stem = strip_suffix(stem, label);
    let device: String =
        device.chars().filter(|c| !matches!(c, '/' | '(' | ')')).take(limits::DEVICE_NAME_CHARS / 2).collect();
    let number = if attempt > 1 { format!(" {attempt}") } else { String::new() };
    let suffix = format!(" ({label} {device} {date}{number})");
    let room = limits::NAME_BYTES.saturating_sub(suffix.len() + extension.len());
    let kept = &stem[..floor_char_boundary(stem, room)];
    Name::parse(&format!("{kept}{suffix}{extension}")).unwrap_or_else(|_| name.clone())
}

/// The stem without the suffix that an earlier conflict of the same kind gave it.
fn strip_suffix<'a>(stem: &'a str, label: &str) -> &'a str {
    let opening = format!(" ({label} ");
    match stem.rfind(&opening) {
        Some(at) if stem.ends_with(')') && !stem[at + opening.len()..stem.len() - 1].contains(['(', ')']) => {
            &stem[..at]
        }
        _ => stem,
    }
}

fn floor_char_boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy_of(text: &str, attempt: u32) -> String {
        let name = Name::parse(text).expect("legal");
        conflicted_name(&name, "conflicted copy", "laptop", "2026-11-23", attempt).to_string()
    }

    #[test]
    fn a_conflicted_copy_says_whose_and_when() {
        assert_eq!(copy_of("report.odt", 1), "report (conflicted copy laptop 2026-11-23).odt");
        assert_eq!(copy_of(".bashrc", 1), ".bashrc (conflicted copy laptop 2026-11-23)");
        assert_eq!(copy_of("report.odt", 3), "report (conflicted copy laptop 2026-11-23 3).odt");
    }

    #[test]
    fn a_conflict_of_a_conflicted_copy_does_not_pile_up_suffixes() {
        assert_eq!(
            copy_of("report (conflicted copy phone 2026-11-01).odt", 1),
            "report (conflicted copy laptop 2026-11-23).odt"
        );
    }

    #[test]
    fn a_long_name_is_shortened_at_a_character() {
        let name = copy_of(&format!("{}.txt", "é".repeat(125)), 1);
        assert!(name.len() <= limits::NAME_BYTES);
        assert!(name.ends_with("(conflicted copy laptop 2026-11-23).txt"));
    }
}
