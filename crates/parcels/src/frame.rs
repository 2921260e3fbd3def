//! The few bytes in front of a parcel.

use crate::ParcelError;
use api::BlockHeader;

/// How the bytes of a parcel are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The blocks themselves.
    Plain,
    /// The blocks, one behind the other, as one zstd frame.
    Zstd,
    /// A [`delta::Script`] for one block over the bases that the body names.
    Delta,
}

impl Form {
    /// As it travels.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Plain => 0,
            Self::Zstd => 1,
            Self::Delta => 2,
        }
    }

    /// The form that travels as `code`.
    #[must_use]
    pub const fn of_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Plain),
            1 => Some(Self::Zstd),
            2 => Some(Self::Delta),
            _ => None,
        }
    }
}

/// What stands before a parcel's bytes: the form (1 byte), the number of blocks (2 bytes) and the number
/// of bytes (3 bytes), little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    pub form: Form,
    pub blocks: u16,
    /// Bytes that follow, below 2^24.
    pub len: u32,
}

impl Frame {
    /// Bytes of a frame.
    pub const BYTES: usize = 6;

    /// As it travels.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let ([b0, b1], [l0, l1, l2, _]) = (self.blocks.to_le_bytes(), self.len.to_le_bytes());
        [self.form.code(), b0, b1, l0, l1, l2]
    }

    /// Reads a frame and checks it against the headers of the blocks that have not come yet: how many
    /// plain bytes the parcel holds. What is not plain must be smaller than that.
    ///
    /// # Errors
    /// [`ParcelError::Frame`].
    pub fn parse(bytes: [u8; Self::BYTES], outstanding: &[BlockHeader]) -> Result<(Self, u64), ParcelError> {
        let [form, b0, b1, l0, l1, l2] = bytes;
        let form = Form::of_code(form).ok_or(ParcelError::Frame)?;
        let frame = Self { form, blocks: u16::from_le_bytes([b0, b1]), len: u32::from_le_bytes([l0, l1, l2, 0]) };
        let blocks = outstanding.get(..frame.blocks.into()).filter(|blocks| !blocks.is_empty());
        let plain = blocks.ok_or(ParcelError::Frame)?.iter().map(|header| u64::from(header.len)).sum();
        let len = u64::from(frame.len);
        let right = match form {
            Form::Plain => len == plain,
            Form::Zstd => len < plain,
            Form::Delta => frame.blocks == 1 && len < plain,
        };
        if right { Ok((frame, plain)) } else { Err(ParcelError::Frame) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::BlockHash;

    fn headers(lens: &[u32]) -> Vec<BlockHeader> {
        lens.iter().map(|len| BlockHeader { hash: BlockHash([7; 32]), len: *len }).collect()
    }

    fn parse(frame: Frame, lens: &[u32]) -> Result<u64, ParcelError> {
        let (parsed, plain) = Frame::parse(frame.to_bytes(), &headers(lens))?;
        assert_eq!(parsed, frame);
        Ok(plain)
    }

    #[test]
    fn a_frame_is_six_bytes() {
        let frame = Frame { form: Form::Delta, blocks: 1, len: 0x01_0203 };
        assert_eq!(frame.to_bytes(), [2, 1, 0, 3, 2, 1]);
    }

    #[test]
    fn a_frame_promises_no_more_than_the_headers_allow() {
        let frame = |form, blocks, len| Frame { form, blocks, len };
        assert_eq!(parse(frame(Form::Plain, 2, 30), &[10, 20, 5]), Ok(30));
        assert_eq!(parse(frame(Form::Zstd, 2, 29), &[10, 20, 5]), Ok(30));
        assert_eq!(parse(frame(Form::Delta, 1, 9), &[10, 20, 5]), Ok(10));
        let refused = [
            frame(Form::Plain, 2, 29),
            frame(Form::Plain, 0, 0),
            frame(Form::Plain, 4, 35),
            frame(Form::Zstd, 2, 30),
            frame(Form::Delta, 1, 10),
            frame(Form::Delta, 2, 5),
        ];
        for frame in refused {
            assert_eq!(parse(frame, &[10, 20, 5]), Err(ParcelError::Frame), "{frame:?}");
        }
        assert_eq!(Frame::parse([3, 1, 0, 1, 0, 0], &headers(&[10])), Err(ParcelError::Frame));
    }
}
