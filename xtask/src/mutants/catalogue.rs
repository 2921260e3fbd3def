//! The mutants, by the part of the program that they are in.
//!
//! A new one needs a name, a sentence, the shortest piece of its file that stands there once, what to put
//! in its place, and the suites that should notice. Prefer the mistake that somebody would make.

mod blocks;
mod caches;
mod commits;
mod disk;
mod engine;
mod observer;
mod planner;

use super::Mutant;

/// All of them.
pub(super) fn all() -> impl Iterator<Item = &'static Mutant> {
    [
        planner::MUTANTS,
        observer::MUTANTS,
        engine::MUTANTS,
        commits::MUTANTS,
        blocks::MUTANTS,
        caches::MUTANTS,
        disk::MUTANTS,
    ]
    .into_iter()
    .flatten()
}
