//! How new bytes are made of old ones, as it travels.
//!
//! A script is a row of instructions without a frame around it. Each begins with a number n in LEB128
//! whose lowest bit tells what follows:
//!
//! ```text
//! insert   len << 1         the bytes themselves
//! copy     len << 1 | 1     number of the base, offset in it (LEB128 each)
//! ```

/// Bytes of a number, at most: numbers are below 2^35.
const NUMBER_BYTES: usize = 5;

/// A script that cannot be meant for these bases and this length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScriptError {
    #[error("the script of the delta is malformed")]
    Malformed,
    #[error("the script of the delta names a base that it does not have")]
    NoSuchBase,
    #[error("the script of the delta reads outside its base")]
    OutsideBase,
    #[error("the script of the delta does not make as many bytes as it should")]
    WrongLength,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Instruction<'a> {
    Insert(&'a [u8]),
    Copy { base: usize, offset: usize, len: usize },
}

impl Instruction<'_> {
    /// Bytes that it makes.
    pub(crate) const fn len(&self) -> usize {
        match self {
            Self::Insert(bytes) => bytes.len(),
            Self::Copy { len, .. } => *len,
        }
    }
}

/// A script whose form was checked, and that makes a known number of bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script<'a> {
    instructions: Vec<Instruction<'a>>,
    len: usize,
}

impl<'a> Script<'a> {
    /// Reads a script that must make exactly `len` bytes.
    ///
    /// # Errors
    /// [`ScriptError`]. Reading costs no more memory than a small multiple of `bytes`.
    pub fn parse(mut bytes: &'a [u8], len: usize) -> Result<Self, ScriptError> {
        let mut instructions = Vec::new();
        let mut made = 0_usize;
        while !bytes.is_empty() {
            let word = number(&mut bytes)?;
            let count = word >> 1;
            if count == 0 || count > len - made {
                return Err(if count == 0 { ScriptError::Malformed } else { ScriptError::WrongLength });
            }
            made += count;
            instructions.push(if word & 1 == 1 {
                Instruction::Copy { base: number(&mut bytes)?, offset: number(&mut bytes)?, len: count }
            } else {
                let (inserted, rest) = bytes.split_at_checked(count).ok_or(ScriptError::Malformed)?;
                bytes = rest;
                Instruction::Insert(inserted)
            });
        }
        if made == len { Ok(Self { instructions, len }) } else { Err(ScriptError::WrongLength) }
    }

    pub(crate) fn instructions(&self) -> &[Instruction<'a>] {
        &self.instructions
    }

    /// The numbers of the bases that it copies from, rising.
    #[must_use]
    pub fn bases(&self) -> Vec<usize> {
        let copied = self.instructions.iter().filter_map(|instruction| match instruction {
            Instruction::Copy { base, .. } => Some(*base),
            Instruction::Insert(_) => None,
        });
        let mut bases: Vec<usize> = copied.collect();
        bases.sort_unstable();
        bases.dedup();
        bases
    }

    /// Makes the new bytes. `base` gives the bytes of a base by its number.
    ///
    /// # Errors
    /// [`ScriptError`].
    pub fn apply<'b>(&self, base: impl Fn(usize) -> Option<&'b [u8]>) -> Result<Vec<u8>, ScriptError> {
        let mut made = Vec::with_capacity(self.len);
        for instruction in &self.instructions {
            match *instruction {
                Instruction::Insert(bytes) => made.extend_from_slice(bytes),
                Instruction::Copy { base: number, offset, len } => {
                    let base = base(number).ok_or(ScriptError::NoSuchBase)?;
                    let copied = base.get(offset..).and_then(|tail| tail.get(..len)).ok_or(ScriptError::OutsideBase)?;
                    made.extend_from_slice(copied);
                }
            }
        }
        Ok(made)
    }

    /// The same script with other numbers for its bases.
    ///
    /// # Errors
    /// [`ScriptError::NoSuchBase`] for a base that has no new number.
    pub fn renumbered(&self, new: impl Fn(usize) -> Option<usize>) -> Result<Vec<u8>, ScriptError> {
        let mut writer = Writer::default();
        for instruction in &self.instructions {
            match *instruction {
                Instruction::Insert(bytes) => writer.insert(bytes),
                Instruction::Copy { base, offset, len } => {
                    writer.copy(new(base).ok_or(ScriptError::NoSuchBase)?, offset, len);
                }
            }
        }
        Ok(writer.finish())
    }
}

/// Writes a script. Neighbours that can be one instruction become one.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
    inserted: Vec<u8>,
    copied: Option<(usize, usize, usize)>,
}

impl Writer {
    /// Adds bytes that no base has.
    pub fn insert(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.end_copy();
            self.inserted.extend_from_slice(bytes);
        }
    }

    /// Adds `len` bytes from a base.
    pub fn copy(&mut self, base: usize, offset: usize, len: usize) {
        match &mut self.copied {
            Some((last, from, so_far)) if *last == base && *from + *so_far == offset => *so_far += len,
            _ if len > 0 => {
                self.end_insert();
                self.end_copy();
                self.copied = Some((base, offset, len));
            }
            _ => {}
        }
    }

    /// The script.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.end_insert();
        self.end_copy();
        self.bytes
    }

    fn end_insert(&mut self) {
        if !self.inserted.is_empty() {
            write_number(&mut self.bytes, self.inserted.len() << 1);
            self.bytes.append(&mut self.inserted);
        }
    }

    fn end_copy(&mut self) {
        if let Some((base, offset, len)) = self.copied.take() {
            write_number(&mut self.bytes, len << 1 | 1);
            write_number(&mut self.bytes, base);
            write_number(&mut self.bytes, offset);
        }
    }
}

fn write_number(bytes: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn number(bytes: &mut &[u8]) -> Result<usize, ScriptError> {
    let mut value = 0;
    for at in 0..NUMBER_BYTES {
        let (first, rest) = bytes.split_first().ok_or(ScriptError::Malformed)?;
        *bytes = rest;
        value |= usize::from(first & 0x7f) << (7 * at);
        if first & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(ScriptError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BASE: &[u8] = b"the old bytes";

    fn apply(script: &[u8], len: usize) -> Result<Vec<u8>, ScriptError> {
        Script::parse(script, len)?.apply(|number| (number == 0).then_some(BASE))
    }

    #[test]
    fn a_script_copies_and_inserts() {
        let mut writer = Writer::default();
        writer.copy(0, 0, 4);
        writer.insert(b"n");
        writer.insert(b"ew");
        writer.copy(0, 7, 3);
        writer.copy(0, 10, 3);
        let script = writer.finish();
        assert_eq!(apply(&script, 13).as_deref(), Ok(b"the new bytes".as_slice()));
        // Golden: what travels.
        assert_eq!(script, [9, 0, 0, 6, b'n', b'e', b'w', 13, 0, 7]);
    }

    #[test]
    fn a_copy_from_outside_a_base_is_refused() {
        let copy = |base, offset, len| {
            let mut writer = Writer::default();
            writer.copy(base, offset, len);
            apply(&writer.finish(), len)
        };
        assert_eq!(copy(0, 10, 4), Err(ScriptError::OutsideBase));
        assert_eq!(copy(0, usize::MAX >> 30, 1), Err(ScriptError::OutsideBase));
        assert_eq!(copy(1, 0, 1), Err(ScriptError::NoSuchBase));
        assert!(copy(0, 9, 4).is_ok());
    }

    #[test]
    fn a_script_that_makes_more_or_less_than_declared_is_refused() {
        let mut writer = Writer::default();
        writer.copy(0, 0, 10);
        let script = writer.finish();
        assert_eq!(apply(&script, 9), Err(ScriptError::WrongLength));
        assert_eq!(apply(&script, 11), Err(ScriptError::WrongLength));
        assert_eq!(apply(&[], 1), Err(ScriptError::WrongLength));
        assert_eq!(apply(&[], 0), Ok(Vec::new()));
    }

    #[test]
    fn instructions_that_do_nothing_or_end_early_are_refused() {
        assert_eq!(apply(&[0], 5), Err(ScriptError::Malformed));
        assert_eq!(apply(&[1, 0, 0], 5), Err(ScriptError::Malformed));
        assert_eq!(apply(&[10, b'a'], 5), Err(ScriptError::Malformed));
        assert_eq!(apply(&[0xff, 0xff, 0xff, 0xff, 0xff, 0], 5), Err(ScriptError::Malformed));
    }

    #[test]
    fn a_renumbered_script_copies_from_the_same_bytes() {
        let mut writer = Writer::default();
        writer.copy(3, 4, 3);
        let script = writer.finish();
        let script = Script::parse(&script, 3).expect("is a script");
        assert_eq!(script.bases(), [3]);
        let renumbered = script.renumbered(|base| (base == 3).then_some(0)).expect("has its base");
        assert_eq!(apply(&renumbered, 3).as_deref(), Ok(b"old".as_slice()));
        assert_eq!(script.renumbered(|_| None), Err(ScriptError::NoSuchBase));
    }

    proptest! {
        #[test]
        fn hostile_scripts_make_what_was_declared_or_nothing(
            script in proptest::collection::vec(any::<u8>(), 0..60),
            len in 0_usize..40,
        ) {
            if let Ok(made) = apply(&script, len) {
                prop_assert_eq!(made.len(), len);
            }
        }
    }
}
