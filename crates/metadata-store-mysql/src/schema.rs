//! The tables, and how a database grows from one format to the next while servers work on it.

use crate::cells::Cells;
use crate::fault::Fault;
use mysql::prelude::Queryable;
use mysql::{Conn, Error, Row};

/// Step `i` takes a database from format `i` to `i + 1`. Steps are only ever added. Each statement is
/// committed by itself, so a step may be interrupted anywhere and is then run again from its beginning.
pub(crate) const STEPS: &[Step] = &[
    Step { sql: include_str!("v1.sql"), serves: 1 },
    // A program of format 1 does not tell the clean-up which blocks it is about to store.
    Step { sql: include_str!("v2.sql"), serves: 2 },
    // A program of format 2 knows no packs, and whether it may read a bucket that has some is said there.
    Step { sql: include_str!("v3.sql"), serves: 2 },
    Step { sql: include_str!("v4.sql"), serves: 2 },
];

/// How long a server waits for another one that migrates.
const LOCK_SECONDS: i64 = 3600;

/// One step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    pub(crate) sql: &'static str,
    /// The oldest format whose programs can still work on the database afterwards: a step that adds
    /// serves those before it, one that takes something away does not.
    pub(crate) serves: i64,
}

/// Why the tables are not those that this program needs.
#[derive(Debug)]
pub(crate) enum SchemaError {
    /// Programs of format `known` cannot work on it any more.
    Newer {
        found: i64,
        known: i64,
    },
    /// This user may not migrate it, or it is read-only.
    NotAllowed {
        found: i64,
        known: i64,
        source: Error,
    },
    /// Another server has been migrating for too long.
    Locked,
    Failed(Error),
}

impl From<Error> for SchemaError {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// What a database says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Found {
    format: i64,
    serves: i64,
}

/// Whether the database has the newest format, or a newer one that still serves this program.
pub(crate) fn is_current(connection: &mut Conn, steps: &[Step]) -> Result<bool, SchemaError> {
    accept(look(connection)?, newest(steps))
}

fn newest(steps: &[Step]) -> i64 {
    i64::try_from(steps.len()).unwrap_or(i64::MAX)
}

/// Brings a database that is not current to the newest format.
pub(crate) fn migrate(connection: &mut Conn, steps: &[Step]) -> Result<(), SchemaError> {
    let known = newest(steps);
    lock(connection)?;
    // Another server may have done it while this one waited.
    let found = look(connection)?;
    let migrated = match accept(found, known) {
        Ok(true) => Ok(()),
        Ok(false) => run(connection, steps, found.format).map_err(|error| not_allowed(error, found.format, known)),
        Err(error) => Err(error),
    };
    connection.query_drop("DO RELEASE_LOCK(CONCAT('syncline ', LEFT(DATABASE(), 50)))")?;
    migrated
}

/// Whether a program that knows formats up to `known` can use the database as it is.
fn accept(found: Found, known: i64) -> Result<bool, SchemaError> {
    if found.serves > known {
        return Err(SchemaError::Newer { found: found.format, known });
    }
    Ok(found.format >= known)
}

fn look(connection: &mut Conn) -> Result<Found, SchemaError> {
    let sql = "SELECT MAX(version), MAX(serves) FROM schema_versions HAVING MAX(version) IS NOT NULL";
    match connection.query_first::<Row, _>(sql) {
        Ok(None) => Ok(Found { format: 0, serves: 0 }),
        Ok(Some(row)) => {
            let cells = Cells::new("the schema's version", row);
            let damaged = |_| SchemaError::Failed(Error::server_disconnected());
            Ok(Found { format: cells.integer(0).map_err(damaged)?, serves: cells.integer(1).map_err(damaged)? })
        }
        Err(Error::MySqlError(answer)) if answer.code == NO_SUCH_TABLE => Ok(Found { format: 0, serves: 0 }),
        Err(error) => Err(error.into()),
    }
}

/// A lock of the session's, which goes with it however the program ends. It is no row lock, since changes
/// of tables end transactions.
fn lock(connection: &mut Conn) -> Result<(), SchemaError> {
    let sql = format!("SELECT GET_LOCK(CONCAT('syncline ', LEFT(DATABASE(), 50)), {LOCK_SECONDS})");
    let got: Option<Option<i64>> = connection.query_first(sql)?;
    if got.flatten() == Some(1) { Ok(()) } else { Err(SchemaError::Locked) }
}

fn run(connection: &mut Conn, steps: &[Step], found: i64) -> Result<(), Error> {
    connection.query_drop(
        "CREATE TABLE IF NOT EXISTS schema_versions (
             version  BIGINT    NOT NULL PRIMARY KEY,
             serves   BIGINT    NOT NULL,
             applied  TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP
         ) ENGINE = InnoDB",
    )?;
    for (step, version) in steps.iter().zip(1_i64..).skip(usize::try_from(found).unwrap_or(0)) {
        for statement in statements(step.sql) {
            match connection.query_drop(&statement) {
                Err(Error::MySqlError(answer)) if DONE_ALREADY.contains(&answer.code) => {}
                other => other?,
            }
        }
        let sql =
            "INSERT INTO schema_versions (version, serves) VALUES (?, ?) ON DUPLICATE KEY UPDATE version = version";
        connection.exec_drop(sql, (version, step.serves))?;
    }
    Ok(())
}

/// A script's statements, without the lines that are comments.
fn statements(script: &str) -> Vec<String> {
    let code: Vec<&str> = script.lines().filter(|line| !line.trim_start().starts_with("--")).collect();
    code.join("\n").split(';').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

fn not_allowed(error: Error, found: i64, known: i64) -> SchemaError {
    let denied = matches!(&error, Error::MySqlError(answer) if DENIED.contains(&answer.code));
    if denied || Fault::of(&error) == Fault::ReadOnly {
        return SchemaError::NotAllowed { found, known, source: error };
    }
    SchemaError::Failed(error)
}

const NO_SUCH_TABLE: u16 = 1146;
/// The table, column or key is there already, or gone already: an earlier run got that far.
const DONE_ALREADY: &[u16] = &[1050, 1060, 1061, 1091];
/// No right to the database, the table or the command.
const DENIED: &[u16] = &[1044, 1142, 1227];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_cut_into_statements() {
        assert_eq!(
            statements("-- a; b\nCREATE x;\n\n  -- c\nCREATE y (\n  z\n);\n"),
            ["CREATE x", "CREATE y (\n  z\n)"]
        );
    }

    #[test]
    fn a_newer_database_is_used_as_long_as_it_serves_this_program() {
        assert!(matches!(accept(Found { format: 3, serves: 2 }, 2), Ok(true)));
        assert!(matches!(accept(Found { format: 3, serves: 3 }, 2), Err(SchemaError::Newer { found: 3, known: 2 })));
        assert!(matches!(accept(Found { format: 1, serves: 1 }, 2), Ok(false)));
    }
}
