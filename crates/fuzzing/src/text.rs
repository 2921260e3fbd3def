//! Names, paths, addresses, configuration, and protocols made of lines.

use crate::Verdict;
use api::{Coming, Notification, Token};
use client::control::protocol::{Reply, Request, WirePath};
use client::events::{Item, Parser};
use client::settings::Setting;
use client::transport::ServerUrl;
use client::{Home, LocalPath};
use model::conflict::conflicted_name;
use model::{BlockHash, Name, NodeId, limits};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// One component of a path, a path, and ids.
pub fn names(bytes: &[u8]) -> Verdict {
    path(bytes);
    ids(bytes);
    let Ok(name) = Name::parse_bytes(bytes) else { return Verdict::Refused };
    legal(&name);
    let copies =
        [1, 2, 10_000].map(|attempt| conflicted_name(&name, "conflicted copy", "laptop", "2026-11-23", attempt));
    copies.iter().for_each(legal);
    let keys: BTreeSet<_> = copies.iter().map(Name::key).collect();
    assert_eq!(keys.len(), copies.len(), "every attempt is another name: {copies:?}");
    Verdict::Understood
}

/// A name keeps every rule for names, and its key is that of all its spellings.
fn legal(name: &Name) {
    let text = name.as_str();
    assert_eq!(Name::parse(text).as_ref(), Ok(name), "a name is in its normal form");
    assert!(text.len() <= limits::NAME_BYTES && !text.contains(['/', '\0']) && !matches!(text, "" | "." | ".."));
    let (stem, extension) = name.split_extension();
    assert_eq!(format!("{stem}{extension}"), text);
    assert!(name.windows_problem().is_none_or(|problem| !problem.is_empty()));
    if let Ok(folded) = Name::parse(name.key().as_str()) {
        assert_eq!(folded.key(), name.key(), "folding twice is folding once");
    }
}

/// What is taken for a path stays inside the folder.
fn path(bytes: &[u8]) {
    let Some(path) = LocalPath::from_bytes(bytes) else { return };
    assert!(path.components().all(|part| !matches!(part, b"" | b"." | b"..") && !part.contains(&b'/')));
    let mut at = path.clone();
    let mut parts = 0;
    while let Some((folder, name)) = at.split() {
        assert_eq!(folder.join(name), at);
        at = folder;
        parts += 1;
    }
    assert_eq!(parts, path.components().count());
    let WirePath::Text(text) = WirePath::from(&path) else { return };
    assert_eq!(WirePath::Text(text).parse().ok(), Some(path));
}

fn ids(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(id) = text.parse::<NodeId>() {
        assert_eq!(id.to_string().parse(), Ok(id));
    }
    if let Ok(hash) = text.parse::<BlockHash>() {
        assert_eq!(hash.to_string().parse(), Ok(hash));
    }
    if let Some(token) = Token::from_hex(text) {
        assert!(Token::from_hex(&token.to_hex()) == Some(token));
    }
    if let Some(token) = Token::from_bearer(text) {
        assert!(text == token.to_bearer() || Token::from_hex(text) == Some(token));
    }
    if let Ok(notification) = text.parse::<Notification>() {
        assert_eq!(notification.to_string().parse(), Ok(notification));
    }
    if let Ok(coming) = text.parse::<Coming>() {
        assert_eq!(coming.to_string().parse(), Ok(coming));
    }
}

/// A stream of notifications; the first byte says where it is cut.
pub fn events(bytes: &[u8]) -> Verdict {
    let Some((cut, stream)) = bytes.split_first() else { return Verdict::Refused };
    let whole = Parser::default().push(stream);
    let (head, tail) = stream.split_at(usize::from(*cut).min(stream.len()));
    let mut parser = Parser::default();
    let pieces = parser.push(head).and_then(|items| Ok([items, parser.push(tail)?].concat()));
    assert_eq!(whole, pieces, "where the bytes are cut makes no difference");
    Verdict::of(whole.is_ok_and(|items: Vec<Item>| !items.is_empty()))
}

/// Either end of the control socket.
pub fn control_lines(bytes: &[u8]) -> Verdict {
    let request = serde_json::from_slice::<Request>(bytes);
    if let Ok(request) = &request {
        let line = serde_json::to_vec(request).expect("what was read can be written");
        assert!(!line.contains(&b'\n'), "a request is one line");
        assert_eq!(serde_json::from_slice::<Request>(&line).expect("what was written can be read"), *request);
    }
    let reply = serde_json::from_slice::<Reply>(bytes);
    if let Ok(reply) = &reply {
        let line = serde_json::to_vec(reply).expect("what was read can be written");
        assert!(!line.contains(&b'\n'), "a reply is one line");
    }
    if let Ok(path) = serde_json::from_slice::<WirePath>(bytes)
        && let Ok(path) = path.parse()
    {
        assert_eq!(WirePath::from(&path).parse().ok(), Some(path));
    }
    Verdict::of(request.is_ok() || reply.is_ok())
}

/// A device's `config.toml`, and the token beside it.
pub fn client_config(bytes: &[u8]) -> Verdict {
    let directory = tempfile::tempdir().expect("a directory");
    let home = Home::at(directory.path());
    fs::write(directory.path().join("token"), bytes).expect("writes");
    if let Ok(token) = home.load_token() {
        assert!(Token::from_hex(&token.to_hex()) == Some(token));
    }
    fs::write(directory.path().join("config.toml"), bytes).expect("writes");
    let Ok(config) = home.load_config() else { return Verdict::Refused };
    home.save_config(&config).expect("what was read can be written");
    assert_eq!(home.load_config().expect("what was written can be read"), config);
    Verdict::Understood
}

/// A server's configuration file.
pub fn server_config(bytes: &[u8]) -> Verdict {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("server.toml");
    fs::write(&file, bytes).expect("writes");
    Verdict::of(server_loads(&file))
}

fn server_loads(file: &Path) -> bool {
    match server::Config::load(Some(file), server::Overrides::default()) {
        Ok(config) => {
            assert!(config.data_dir.is_absolute(), "a relative directory is one beside the file");
            true
        }
        Err(error) => {
            assert!(!error.hint().is_empty());
            false
        }
    }
}

/// `syncline config set KEY VALUE`, and a server's address: the first line and the rest.
pub fn settings(bytes: &[u8]) -> Verdict {
    let text = String::from_utf8_lossy(bytes);
    let (key, value) = text.split_once('\n').unwrap_or((&text, ""));
    let address = key.parse::<ServerUrl>();
    if let Ok(address) = &address {
        assert_eq!(address.to_string().parse::<ServerUrl>().as_ref().map(ToString::to_string), Ok(address.to_string()));
    }
    match Setting::parse(key, value) {
        Ok(setting) => {
            assert_eq!(Setting::parse(setting.key(), &setting.text()), Ok(setting), "a setting reads as it is shown");
            Verdict::Understood
        }
        Err(error) => {
            assert!(!error.hint().is_empty());
            Verdict::of(address.is_ok())
        }
    }
}
