//! Statements as text, with their values in them.

use mysql::Value;

const HEX: [u8; 16] = *b"0123456789ABCDEF";
const COMMIT: &str = "COMMIT";

/// Statements that go together.
#[derive(Debug, Default)]
pub(crate) struct Packet {
    text: String,
    /// What each statement is about.
    subjects: Vec<&'static str>,
    commits: bool,
}

impl Packet {
    pub(crate) fn add(&mut self, subject: &'static str, sql: &str) {
        if !self.text.is_empty() {
            self.text.push(';');
        }
        self.text.push_str(sql);
        self.subjects.push(subject);
    }

    /// Ends the transaction with the packet.
    pub(crate) fn add_commit(&mut self) {
        self.add("committing a transaction", COMMIT);
        self.commits = true;
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn len(&self) -> usize {
        self.text.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.subjects.is_empty()
    }

    pub(crate) fn commits(&self) -> bool {
        self.commits
    }

    /// What a statement is about; of more answers than there are statements, the last one.
    pub(crate) fn subject(&self, number: usize) -> &'static str {
        self.subjects.get(number).or(self.subjects.last()).copied().unwrap_or(COMMIT)
    }

    pub(crate) fn is_last(&self, number: usize) -> bool {
        number + 1 >= self.subjects.len()
    }
}

/// Adds values in parentheses. Bytes are hexadecimal, so that no value can be read as anything else.
pub(crate) fn add_row(text: &mut String, row: &[Value]) {
    text.reserve(2 * size(row) + 4 * row.len());
    for (column, value) in row.iter().enumerate() {
        text.push(if column == 0 { '(' } else { ',' });
        add_value(text, value);
    }
    text.push(')');
}

/// A value as SQL.
pub(crate) fn of_value(value: &Value) -> String {
    let mut text = String::new();
    add_value(&mut text, value);
    text
}

/// Values with commas between them.
pub(crate) fn of_list<'v>(values: impl IntoIterator<Item = &'v Value>) -> String {
    let mut text = String::new();
    for value in values {
        if !text.is_empty() {
            text.push(',');
        }
        add_value(&mut text, value);
    }
    text
}

/// Question marks for a prepared statement.
pub(crate) fn marks(count: usize) -> String {
    vec!["?"; count].join(", ")
}

/// The bytes that a row has.
pub(crate) fn size(row: &[Value]) -> usize {
    let of = |value: &Value| if let Value::Bytes(bytes) = value { bytes.len() } else { 8 };
    row.iter().map(of).sum()
}

fn add_value(text: &mut String, value: &Value) {
    match value {
        Value::Bytes(bytes) => {
            text.push_str("X'");
            for byte in bytes {
                text.push(char::from(HEX[usize::from(byte >> 4)]));
                text.push(char::from(HEX[usize::from(byte & 15)]));
            }
            text.push('\'');
        }
        Value::Int(number) => text.push_str(&number.to_string()),
        Value::UInt(number) => text.push_str(&number.to_string()),
        Value::NULL => text.push_str("NULL"),
        Value::Float(_) | Value::Double(_) | Value::Date(..) | Value::Time(..) => {
            unreachable!("no table has a column of this kind")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_of_a_row_can_be_read_as_sql() {
        let row = [Value::Bytes(b"a'\\\0".to_vec()), Value::Bytes(vec![]), Value::Int(-5), Value::NULL];
        let mut text = String::new();
        add_row(&mut text, &row);
        assert_eq!(text, "(X'61275C00',X'',-5,NULL)");
    }

    #[test]
    fn the_last_statement_of_a_packet_that_commits_is_its_commit() {
        let mut packet = Packet::default();
        packet.add("one", "SELECT 1");
        packet.add("two", "SELECT 2");
        assert!(!packet.commits() && packet.is_last(1) && !packet.is_last(0));
        packet.add_commit();
        assert_eq!(packet.text(), "SELECT 1;SELECT 2;COMMIT");
        assert!(packet.commits() && packet.is_last(2) && !packet.is_last(1));
        assert_eq!((packet.subject(1), packet.subject(2)), ("two", "committing a transaction"));
    }
}
