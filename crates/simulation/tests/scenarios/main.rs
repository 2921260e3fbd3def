//! Named scenarios through the whole system: the conflict table, what went wrong in other systems, and what
//! their tests look at. docs/scenarios.md has the lists.

mod absence;
mod conflicts;
mod corpus;
mod incidents;
mod script;
