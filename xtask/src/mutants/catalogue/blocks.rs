//! Mistakes in how blocks are taken, kept and handed out.

use crate::mutants::Mutant;
use crate::mutants::suites::Suite::{BlockService, BlockStore, BlockStoreS3, CleanUp, Client, MetaService, Simulation};

const BLOCK: &str = "crates/block-store/src/block.rs";
const DISK: &str = "crates/block-store/src/disk/mod.rs";
const WRITER: &str = "crates/block-store/src/disk/writer.rs";
const PACK: &str = "crates/block-store/src/disk/pack.rs";
const RECOVERY: &str = "crates/block-store/src/disk/recovery.rs";
const BUNDLE: &str = "crates/api/src/bundle.rs";
const SERVICE: &str = "crates/block-service/src/service.rs";
const SHIFT: &str = "crates/block-service/src/shift.rs";
const BASES: &str = "crates/block-service/src/bases.rs";
const DOWNLOAD: &str = "crates/client/src/transport/blocks.rs";
const S3_PACK: &str = "crates/block-store-s3/src/pack.rs";
const COMPACTION: &str = "crates/block-store-s3/src/compaction.rs";
const UNUSED: &str = "crates/meta-service/src/unused.rs";

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "late-words-end-removals",
        about: "a clean-up that was slow lifts the removal that another one is in the middle of",
        file: UNUSED,
        old: "mark.condemned == Some(condemned.time)",
        new: "mark.condemned.is_some()",
        suites: &[CleanUp],
    },
    Mutant {
        name: "uploads-are-not-hashed",
        about: "a block is kept under whatever name its sender gives it",
        file: BLOCK,
        old: "if self.hash == expected { Ok(self) } else { Err(BlockError::WrongHash { expected }) }",
        new: "if true { Ok(Self { hash: expected, ..self }) } else { Err(BlockError::WrongHash { expected }) }",
        suites: &[BlockStore, BlockService],
    },
    Mutant {
        name: "bundles-unchecked",
        about: "blocks that were not named are taken for those that were meant",
        file: BUNDLE,
        old: "if content_of(blocks) != content {",
        new: "if false && content_of(blocks) != content {",
        suites: &[BlockService],
    },
    Mutant {
        name: "reads-are-not-hashed",
        about: "what lies on disk is handed out unchecked",
        file: DISK,
        old: "packs.read(entry.place)?.filter(|bytes| BlockHash::of(bytes) == *hash)",
        new: "packs.read(entry.place)?",
        suites: &[BlockStore],
    },
    Mutant {
        name: "recovery-does-not-sync",
        about: "what a killed server had not synced counts as durable for the next one",
        file: RECOVERY,
        old: "if len > from {",
        new: "if false && len > from {",
        suites: &[BlockStore],
    },
    Mutant {
        name: "bad-sectors-are-no-damage",
        about: "a block that the disk cannot read is not asked for again",
        file: PACK,
        old: "if Errno::from_io_error(&error) == Some(Errno::IO) =>",
        new: "if Errno::from_io_error(&error).is_none() =>",
        suites: &[BlockStore],
    },
    Mutant {
        name: "blocks-are-not-synced",
        about: "a block is acknowledged before the disk has it",
        file: WRITER,
        old: "            self.file.sync_data()?;\n            Ok((places, end))",
        new: "            Ok((places, end))",
        suites: &[BlockStore],
    },
    Mutant {
        name: "failed-packs-go-on",
        about: "after a write or sync that failed, blocks are appended to the same pack",
        file: WRITER,
        old: "let (places, end) = written.inspect_err(|_| self.leave_pack())?;",
        new: "let (places, end) = written?;",
        suites: &[BlockStore],
    },
    Mutant {
        name: "index-is-believed",
        about: "an index that is ahead of its packs is used",
        file: RECOVERY,
        old: "if len < indexed {",
        new: "if false && len < indexed {",
        suites: &[BlockStore],
    },
    Mutant {
        name: "removals-are-not-recorded",
        about: "a rebuilt index brings removed blocks back",
        file: WRITER,
        old: "                out.small(&record)?;",
        new: "                let _ = record;",
        suites: &[BlockStore],
    },
    Mutant {
        name: "records-without-place",
        about: "a record's checksum does not say where it lies, so that a copy inside a user's file counts",
        file: PACK,
        old: "let covered = [&header[..40], &pack.to_le_bytes(), &offset.to_le_bytes()].concat();",
        new: "let _ = (pack, offset);\n    let covered = header[..40].to_vec();",
        suites: &[BlockStore],
    },
    Mutant {
        name: "broken-uploads-commit",
        about: "an upload that lacks blocks is committed",
        file: SERVICE,
        old: "if !upload.outstanding().is_empty() {",
        new: "if false {",
        suites: &[BlockService],
    },
    Mutant {
        name: "blocks-for-anybody",
        about: "a block is handed out although the meta service said no",
        file: SERVICE,
        old: "wanted.filter(|(_, allowed)| *allowed)",
        new: "wanted.filter(|_| true)",
        suites: &[BlockService],
    },
    Mutant {
        name: "bases-for-anybody",
        about: "an upload may copy from blocks that its sender may not read",
        file: BASES,
        old: ".map(|(hash, counts)| counts.then_some(*hash))",
        new: ".map(|(hash, _)| Some(*hash))",
        suites: &[BlockService],
    },
    Mutant {
        name: "sums-for-anybody",
        about: "sums are told of blocks that the caller may not read",
        file: BASES,
        old: "if readable { self.base(&stretch.block)? } else { None }",
        new: "if readable || true { self.base(&stretch.block)? } else { None }",
        suites: &[BlockService],
    },
    Mutant {
        name: "packs-are-dropped-full",
        about: "a pack is removed although a block lies in it",
        file: WRITER,
        old: "is_empty = !changes.has_blocks(number)?;",
        new: "is_empty = true;",
        suites: &[BlockStore],
    },
    Mutant {
        name: "s3-bytes-are-believed",
        about: "what comes from the bucket is not compared with its name",
        file: "crates/block-store-s3/src/store.rs",
        old: "Some(bytes) if BlockHash::of(&bytes) == hash => return Ok(Found::Whole(bytes)),",
        new: "Some(bytes) if !bytes.is_empty() => return Ok(Found::Whole(bytes)),",
        suites: &[BlockStoreS3],
    },
    Mutant {
        name: "packed-bytes-are-believed",
        about: "what comes out of a pack is not compared with its name",
        file: S3_PACK,
        old: "(block, found.filter(|bytes| BlockHash::of(bytes) == block.hash))",
        new: "(block, found)",
        suites: &[BlockStoreS3],
    },
    Mutant {
        name: "places-are-noted-before-their-pack",
        about: "a pack that could not be written has places all the same",
        file: "crates/block-store-s3/src/store.rs",
        old: "        self.bucket.wait(|requests| async move {\n            let put = |(path, bytes)| {",
        new: "        for pack in &packs {\n            self.note(pack.id, &pack.blocks, InsteadOf::Anything)?;\n        }\n        \
              self.bucket.wait(|requests| async move {\n            let put = |(path, bytes)| {",
        suites: &[BlockStoreS3],
    },
    Mutant {
        name: "compaction-moves-whatever-is-there",
        about: "a block that was removed or uploaded anew meanwhile gets a place of the compaction's",
        file: COMPACTION,
        old: "instead_of: InsteadOf::Pack(leaving.from),",
        new: "instead_of: InsteadOf::Anything,",
        suites: &[BlockStoreS3],
    },
    Mutant {
        name: "packs-go-with-blocks-in-them",
        about: "compaction removes a pack in which a place is left",
        file: COMPACTION,
        old: "if ended { self.remove_pack(lying) } else { Ok(0) }",
        new: "if ended || lying.bytes > 0 { self.remove_pack(lying) } else { Ok(0) }",
        suites: &[BlockStoreS3],
    },
    Mutant {
        name: "unknown-packs-are-garbage",
        about: "a pack that the index does not know is removed, though the index may be an older copy",
        file: COMPACTION,
        old: "PackState::Unknown => drop(self.adopt(lying)?),",
        new: "PackState::Unknown => done.freed_bytes += self.remove_pack(lying)?,",
        suites: &[BlockStoreS3],
    },
    Mutant {
        name: "damage-on-the-way-is-damage",
        about: "bytes that came wrong in another way each time are taken for what lies in a pack, which then goes",
        file: "crates/block-store-s3/src/leaving.rs",
        old: "seen.windows(2).any(|two| two[0] != two[1])",
        new: "seen.is_empty()",
        suites: &[BlockStoreS3],
    },
    Mutant {
        name: "gathered-objects-go-unread",
        about: "the whole copy of a block goes although its pack has other bytes",
        file: "crates/block-store-s3/src/gathering.rs",
        old: "matches!(found, Found::Whole(_))",
        new: "!matches!(found, Found::Absent)",
        suites: &[BlockStoreS3],
    },
    Mutant {
        name: "ended-packs-take-places",
        about: "a note that comes late puts a block into a pack that is being removed",
        file: "crates/meta-service/src/packs.rs",
        old: "if tx.lock_pack(pack)?.is_some() {\n                return Err(ended().into());",
        new: "if tx.lock_pack(pack)?.is_some() && blocks.is_empty() {\n                return Err(ended().into());",
        suites: &[MetaService],
    },
    Mutant {
        name: "uploads-keep-marks",
        about: "who stores a block does not tell the clean-up",
        file: SERVICE,
        old: "self.meta.renew(&blocks.iter().map(Block::hash).collect::<Vec<_>>())?;",
        new: "",
        suites: &[CleanUp, Simulation],
    },
    Mutant {
        name: "removal-is-overtaken",
        about: "a block can be stored while it is being removed",
        file: UNUSED,
        old: "if marked.iter().flatten().any(|block| block.condemned.is_some()) {",
        new: "if false {",
        suites: &[CleanUp],
    },
    Mutant {
        name: "marked-is-condemned",
        about: "the clean-up does not look again who names a block when the grace has passed",
        file: UNUSED,
        old: "() if in_use => Verdict::Spare,",
        new: "() if in_use && block.condemned.is_some() => Verdict::Spare,",
        suites: &[CleanUp, Simulation],
    },
    Mutant {
        name: "no-grace",
        about: "a block goes as soon as nobody names it",
        file: UNUSED,
        old: "block.since >= before(now, limits::UNUSED_BLOCK_GRACE) => Verdict::Wait,",
        new: "block.since > now => Verdict::Wait,",
        suites: &[CleanUp],
    },
    // Of these three the simulation is asked, though the cheaper suites would notice two as well: they show that blocks travel
    // there as they do in the program.
    Mutant {
        name: "damage-on-the-way-is-written",
        about: "blocks that came plain or compressed are written as they came",
        file: DOWNLOAD,
        old: "position(|(header, hash)| header.hash != *hash)",
        new: "position(|(header, _)| form == Form::Delta && header.len == 0)",
        suites: &[Simulation],
    },
    Mutant {
        name: "made-blocks-are-not-hashed",
        about: "what a delta makes of an edited file counts as the block",
        file: DOWNLOAD,
        old: "made.filter(|made| BlockHash::of(made) == header.hash)",
        new: "made.filter(|made| made.len() == header.len as usize)",
        suites: &[Client],
    },
    Mutant {
        name: "beginnings-count-as-blocks",
        about: "what came of a block before its upload broke off is noted under the block's name",
        file: SERVICE,
        old: "self.store(upload, &[block])",
        new: "let next = upload.outstanding().first().copied();\n        self.store(upload, &[block])?;\n        if let (Some(next), Some(last)) = (next, upload.stored.last_mut()) {\n            *last = StoredBlock { hash: next.hash, len: next.len };\n        }\n        Ok(())",
        suites: &[Simulation],
    },
    Mutant {
        name: "moved-blocks-are-believed",
        about: "whatever comes of a block that was taken for moved counts as the one that was meant",
        file: SHIFT,
        old: "Ok(block) if blocks[number].start.is_of(&block.hash()) => {",
        new: "Ok(block) => {",
        suites: &[BlockService],
    },
];
