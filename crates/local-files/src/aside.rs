//! Names for files that were moved aside.
//!
//! To remove or replace a file, it is first moved to a place where only Syncline looks, then compared
//! with what was expected there, and only then removed. A crash in between leaves it in the temporary
//! folder. Its name there says what may be thrown away under that name: the state that was to go, and
//! for a replacement the state of the new file, which lies there before the two are exchanged. Anything
//! else under the name is an edit that came in the last moment, and is given back.

use model::Mtime;
use sync_engine::io::{Fingerprint, LocalPath};

use crate::fs::{TEMP_DIRECTORY, own_path};

const PREFIX: &str = "aside";

/// A file's identity and state, as far as it survives a rename and a reboot: without change time and
/// device number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct State {
    inode: u64,
    birth: Option<i64>,
    size: u64,
    mtime: Mtime,
}

impl State {
    /// The part of a fingerprint that a rename leaves alone. It says nothing of a directory, whose size
    /// and mtime change with its entries.
    pub(crate) fn of(print: &Fingerprint) -> Self {
        Self { inode: print.inode, birth: print.birth, size: print.size, mtime: print.mtime }
    }
}

/// The name for a file aside: the states that may be thrown away, and a number against collisions.
pub(crate) fn path(disposable: &[State], number: u32) -> LocalPath {
    let mut name = PREFIX.to_owned();
    for state in disposable {
        let birth = state.birth.map_or_else(|| "x".to_owned(), |birth| format!("{birth:x}"));
        name += &format!("-{:x}_{birth}_{:x}_{:x}", state.inode, state.size, state.mtime.0);
    }
    name += &format!(".{number}");
    own_path(TEMP_DIRECTORY).join(name.as_bytes())
}

/// Whether a name in the temporary folder is that of a file aside.
pub(crate) fn is_aside(name: &[u8]) -> bool {
    name.starts_with(PREFIX.as_bytes())
}

/// The states that may be thrown away under this name; none for a name that this module did not make.
pub(crate) fn disposable(name: &[u8]) -> Vec<State> {
    parse(name).unwrap_or_default()
}

fn parse(name: &[u8]) -> Option<Vec<State>> {
    let text = std::str::from_utf8(name).ok()?.strip_prefix(PREFIX)?;
    let (states, _number) = text.split_once('.')?;
    states.split('-').skip(1).map(parse_state).collect()
}

fn parse_state(text: &str) -> Option<State> {
    let mut fields = text.split('_');
    let mut next = || fields.next();
    let inode = u64::from_str_radix(next()?, 16).ok()?;
    let birth = match next()? {
        "x" => None,
        hex => Some(signed(hex)?),
    };
    let size = u64::from_str_radix(next()?, 16).ok()?;
    let mtime = Mtime(signed(next()?)?);
    fields.next().is_none().then_some(State { inode, birth, size, mtime })
}

/// Reads what `{:x}` writes of a signed number: its two's complement.
fn signed(hex: &str) -> Option<i64> {
    u64::from_str_radix(hex, 16).ok().map(u64::cast_signed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(inode: u64, birth: Option<i64>, mtime: i64) -> State {
        State { inode, birth, size: u64::MAX, mtime: Mtime(mtime) }
    }

    #[test]
    fn a_name_tells_the_states_that_may_go_and_fits_any_file_system() {
        for states in [
            vec![state(1, None, 0)],
            vec![state(u64::MAX, Some(i64::MIN), i64::MIN), state(u64::MAX, Some(-1), i64::MAX)],
        ] {
            let path = path(&states, u32::MAX);
            let (_, name) = path.split().expect("not the root");
            assert!(name.len() <= 200, "{path}");
            assert!(is_aside(name));
            assert_eq!(disposable(name), states);
        }
    }

    #[test]
    fn a_name_of_another_making_allows_nothing_to_go() {
        for name in ["aside", "aside-", "aside-1_2.0", "aside-1_x_2_3_4.0", "aside-zz_x_1_1.0", "other-1_x_1_1.0"] {
            assert_eq!(disposable(name.as_bytes()), [], "{name}");
        }
    }
}
