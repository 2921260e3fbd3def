//! From a parcel back to its blocks.

use crate::compression::inflate;
use crate::frame::Form;
use api::BlockHeader;
use bytes::Bytes;
use delta::{Script, ScriptError};

/// A parcel that cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParcelError {
    #[error("a parcel of blocks is framed wrongly")]
    Frame,
    #[error("a parcel of blocks is not what its compression says")]
    Compressed,
    #[error(transparent)]
    Script(#[from] ScriptError),
}

/// What was in a parcel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// The bytes of each block.
    Blocks(Vec<Bytes>),
    /// One block as a script, which needs bases.
    Script(Bytes),
}

/// Opens a parcel whose frame was checked against `headers`, those of its blocks.
///
/// # Errors
/// [`ParcelError`]; never more memory than the headers promise.
pub fn open(form: Form, headers: &[BlockHeader], bytes: Bytes) -> Result<Opened, ParcelError> {
    let plain: usize = headers.iter().map(|header| header.len as usize).sum();
    match form {
        Form::Plain if bytes.len() == plain => Ok(Opened::Blocks(cut(headers, bytes))),
        Form::Plain => Err(ParcelError::Frame),
        Form::Zstd => Ok(Opened::Blocks(cut(headers, inflate(&bytes, plain)?.into()))),
        Form::Delta => {
            Script::parse(&bytes, plain)?;
            Ok(Opened::Script(bytes))
        }
    }
}

fn cut(headers: &[BlockHeader], mut bytes: Bytes) -> Vec<Bytes> {
    headers.iter().map(|header| bytes.split_to((header.len as usize).min(bytes.len()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Compressors, Frame};
    use model::BlockHash;
    use proptest::prelude::*;

    fn headers(blocks: &[Vec<u8>]) -> Vec<BlockHeader> {
        let header = |bytes: &Vec<u8>| BlockHeader { hash: BlockHash::of(bytes), len: bytes.len() as u32 };
        blocks.iter().map(header).collect()
    }

    proptest! {
        #[test]
        fn blocks_come_out_as_they_went_in(
            blocks in proptest::collection::vec(proptest::collection::vec(0_u8..3, 1..2_000), 1..20),
        ) {
            let (headers, plain) = (headers(&blocks), blocks.concat());
            let expected = Opened::Blocks(blocks.into_iter().map(Bytes::from).collect());
            if let Some(compressed) = Compressors::default().compress(crate::Effort::Quick, &[&plain]) {
                prop_assert_eq!(open(Form::Zstd, &headers, compressed.into()), Ok(expected.clone()));
            }
            prop_assert_eq!(open(Form::Plain, &headers, plain.into()), Ok(expected));
        }

        #[test]
        fn hostile_parcels_are_an_error_or_what_was_promised(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            len in 1_u32..300,
        ) {
            let header = BlockHeader { hash: BlockHash([7; 32]), len };
            let Some(frame) = bytes.first_chunk::<{ Frame::BYTES }>() else { return Ok(()) };
            let Ok((frame, _)) = Frame::parse(*frame, &[header]) else { return Ok(()) };
            let rest = Bytes::copy_from_slice(&bytes[Frame::BYTES..]);
            if let Ok(Opened::Blocks(blocks)) = open(frame.form, &[header], rest) {
                prop_assert!(blocks.iter().all(|block| block.len() == len as usize));
            }
        }
    }
}
