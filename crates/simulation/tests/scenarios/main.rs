//! Named scenarios through the whole system: the conflict table (SPEC, section 4), and what went wrong in
//! other systems (SCENARIOS).

mod conflicts;
mod incidents;
mod script;
