//! The scripts of blocks that follow each other, as one script.
//!
//! It makes the blocks one behind the other, and copies from one base: all bases one behind the other, each of which
//! has room for a whole block, whatever it holds. What has only moved is one copy then, however many blocks it fills.

use crate::script::{Instruction, Script, ScriptError, Writer};

/// One script for blocks that follow each other. `room`: bytes for each base.
///
/// # Errors
/// [`ScriptError::OutsideBase`] for a copy that the room for a base does not hold.
pub fn join(scripts: &[Script<'_>], room: usize) -> Result<Vec<u8>, ScriptError> {
    let mut writer = Writer::default();
    for instruction in scripts.iter().flat_map(Script::instructions) {
        match *instruction {
            Instruction::Insert(bytes) => writer.insert(bytes),
            Instruction::Copy { base, offset, len } => {
                if offset.checked_add(len).is_none_or(|end| end > room) {
                    return Err(ScriptError::OutsideBase);
                }
                writer.copy(0, base * room + offset, len);
            }
        }
    }
    Ok(writer.finish())
}

/// The scripts of the blocks, of these lengths, that a joined script makes.
///
/// # Errors
/// [`ScriptError`]. No more than a script for each block comes of it, and an instruction for each of the joined script,
/// each block and each base that one reaches into.
pub fn split(joined: &[u8], lens: &[usize], room: usize) -> Result<Vec<Vec<u8>>, ScriptError> {
    let joined = Script::parse(joined, lens.iter().sum())?;
    let (mut scripts, mut writer) = (Vec::with_capacity(lens.len()), Writer::default());
    let mut lens = lens.iter().copied();
    let mut left = lens.next().unwrap_or_default();
    for instruction in joined.instructions() {
        let mut done = 0;
        while done < instruction.len() {
            if left == 0 {
                scripts.push(std::mem::take(&mut writer).finish());
                left = lens.next().ok_or(ScriptError::WrongLength)?;
            }
            let mut piece = left.min(instruction.len() - done);
            match *instruction {
                Instruction::Insert(bytes) => writer.insert(&bytes[done..done + piece]),
                Instruction::Copy { base: 0, offset, .. } => {
                    let at = offset + done;
                    piece = piece.min(room - at % room);
                    writer.copy(at / room, at % room, piece);
                }
                Instruction::Copy { .. } => return Err(ScriptError::NoSuchBase),
            }
            (done, left) = (done + piece, left - piece);
        }
    }
    scripts.push(writer.finish());
    Ok(scripts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ROOM: usize = 10;

    fn made(scripts: &[Vec<u8>], lens: &[usize], bases: &[&[u8]]) -> Vec<Vec<u8>> {
        let make = |(script, len): (&Vec<u8>, &usize)| {
            Script::parse(script, *len).expect("a script").apply(|number| bases.get(number).copied()).expect("makes")
        };
        scripts.iter().zip(lens).map(make).collect()
    }

    #[test]
    fn bytes_that_moved_through_many_blocks_are_one_copy() {
        let bases: [&[u8]; 3] = [b"0123456789", b"abcdefghij", b"klm"];
        let mut writer = Writer::default();
        writer.insert(b"x");
        writer.copy(0, 0, 23);
        let joined = writer.finish();
        assert_eq!(joined.len(), 2 + 3);
        let lens = [10, 10, 4];
        let scripts = split(&joined, &lens, ROOM).expect("splits");
        assert_eq!(made(&scripts, &lens, &bases).concat(), b"x0123456789abcdefghijklm");
        let parsed: Vec<_> = scripts.iter().zip(lens).map(|(one, len)| Script::parse(one, len).expect("one")).collect();
        assert_eq!(parsed.iter().map(Script::bases).collect::<Vec<_>>(), [vec![0], vec![0, 1], vec![1, 2]]);
        assert_eq!(join(&parsed, ROOM), Ok(joined));
    }

    #[test]
    fn a_joined_script_that_is_none_is_refused() {
        let mut writer = Writer::default();
        writer.copy(1, 0, 5);
        assert_eq!(split(&writer.finish(), &[5], ROOM), Err(ScriptError::NoSuchBase));
        let mut writer = Writer::default();
        writer.insert(b"12345");
        let five = writer.finish();
        assert_eq!(split(&five, &[2, 2], ROOM), Err(ScriptError::WrongLength));
        assert_eq!(split(&five, &[2, 4], ROOM), Err(ScriptError::WrongLength));
        let mut writer = Writer::default();
        writer.copy(0, 8, 3);
        let script = writer.finish();
        let beyond = [Script::parse(&script, 3).expect("a script")];
        assert_eq!(join(&beyond, ROOM), Err(ScriptError::OutsideBase));
    }

    proptest! {
        #[test]
        fn joined_scripts_make_what_they_made_alone(
            blocks in proptest::collection::vec(proptest::collection::vec((0_usize..3, 0_usize..10, 1_usize..8), 1..5), 1..6),
        ) {
            let bases: [&[u8]; 3] = [b"0123456789", b"abcdefghij", b"klmnopqrst"];
            let mut scripts = Vec::new();
            let mut lens = Vec::new();
            for block in blocks {
                let (mut writer, mut len) = (Writer::default(), 0);
                for (base, offset, count) in block {
                    if base == 2 {
                        writer.insert(&bases[2][..count]);
                        len += count;
                    } else {
                        let count = count.min(ROOM - offset);
                        writer.copy(base, offset, count);
                        len += count;
                    }
                }
                scripts.push(writer.finish());
                lens.push(len);
            }
            let parsed: Vec<_> =
                scripts.iter().zip(&lens).map(|(script, len)| Script::parse(script, *len).expect("a script")).collect();
            let joined = join(&parsed, ROOM).expect("joins");
            let again = split(&joined, &lens, ROOM).expect("splits");
            prop_assert_eq!(made(&again, &lens, &bases), made(&scripts, &lens, &bases));
        }

        #[test]
        fn hostile_bytes_split_into_scripts_of_the_right_lengths_or_nothing(
            bytes in proptest::collection::vec(any::<u8>(), 0..60),
            lens in proptest::collection::vec(1_usize..20, 0..5),
        ) {
            if let Ok(scripts) = split(&bytes, &lens, ROOM) {
                prop_assert_eq!(scripts.len(), lens.len().max(1));
                for (script, len) in scripts.iter().zip(&lens) {
                    prop_assert!(Script::parse(script, *len).is_ok());
                }
            }
        }
    }
}
