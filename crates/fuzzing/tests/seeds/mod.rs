//! What a fuzzer begins with: for every target something right and something wrong.

use api::codec::{encode, encode_head};
use api::{
    Bases, BlockHeader, BlocksHead, BlocksRequest, ChangesReply, ChangesRequest, ChangesetHead, ErrorCode, HashStart,
    HistoryRequest, LinkRequest, MissingReply, MissingRequest, NamespaceChanges, NewsBundle, Notification, SentCommit,
    SentHead, SentOperation, ServerReply, ShareRequest, Shift, Stretch, SumsReply, SumsRequest, Token,
};
use client::Config;
use client::control::protocol::{Command, Failure, Reply, Request, VERSION, WirePath};
use delta::Writer;
use metadata_store::format::to_bytes;
use model::{
    AccountId, BlockHash, Blocklist, Body, Change, Commit, CommitKey, CommitOutcome, Cursor, DeviceId, Epoch,
    InstanceId, JournalEntry, Mtime, Name, NamespaceId, NodeId, Operation, Position, Reason, Rejection, Role,
    Timestamp,
};
use parcels::{Compressors, Form, Frame};

type Seed = (&'static str, String, Vec<u8>);

pub(crate) fn all() -> Vec<Seed> {
    let mut seeds = Vec::new();
    let mut add = |target: &'static str, inputs: Vec<(&str, Vec<u8>)>| {
        seeds.extend(inputs.into_iter().map(|(name, bytes)| (target, name.to_owned(), bytes)));
    };
    add("messages", messages());
    add("block_stream", block_stream());
    add("parcels", parcels());
    add("news_bundles", news_bundles());
    add("delta_scripts", delta_scripts());
    add("stored_values", stored_values());
    add("cache_answers", cache_answers());
    add("hostile_journal", hostile_journal());
    add("names", names());
    add("events", events());
    add("control_lines", control_lines());
    add("client_config", client_config());
    add("server_config", server_config());
    add("settings", settings());
    add("client_database", client_database());
    add("block_packs", block_file());
    add("block_index", block_file());
    seeds
}

fn name(text: &str) -> Name {
    Name::parse(text).expect("legal")
}

fn file() -> Body {
    let blocks = Blocklist(vec![BlockHash([7; 32])]);
    Body::File { blocks, size: 5, executable: true, mtime: Mtime(-1) }
}

fn commit() -> SentCommit {
    let (node, parent) = (NodeId([2; 16]), NodeId([3; 16]));
    let commit = Commit {
        namespace: NamespaceId([3; 16]),
        epoch: Epoch(1),
        key: CommitKey([4; 16]),
        seen: Position(9),
        operations: vec![
            Operation::Create { node, parent, name: name("a"), body: file() },
            Operation::Edit { node, base_content: Position(1), body: Body::Symlink { target: "b".into() } },
            Operation::Move { node, base_location: Position(300), parent, name: name("\u{e9}") },
            Operation::Delete { node, base_content: Position(1), base_location: Position(2) },
            Operation::Edit { node, base_content: Position(1), body: file() },
        ],
    };
    SentCommit::amending(commit, |_, _| Some(Blocklist(vec![BlockHash([6; 32]), BlockHash([7; 32])])), |_| true)
}

fn changes() -> ChangesReply {
    let entry = |position, change| JournalEntry {
        position: Position(position),
        node: NodeId([2; 16]),
        change,
        device: Some(DeviceId([5; 16])),
        time: Timestamp(1_700_000_000_000),
    };
    let entries = vec![
        entry(1, Change::Create { parent: NodeId([3; 16]), name: name("a"), body: file() }),
        entry(2, Change::Edit { body: Body::Mount }),
        entry(3, Change::Delete),
    ];
    let namespace = NamespaceId([3; 16]);
    ChangesReply {
        namespaces: vec![NamespaceChanges { namespace, role: Some(Role::Editor), entries, head: Position(3) }],
    }
}

fn messages() -> Vec<(&'static str, Vec<u8>)> {
    let instance = InstanceId([1; 16]);
    let cursor = Cursor::from([(NamespaceId([3; 16]), Position(7))]);
    let rejected = CommitOutcome::Rejected(vec![
        Rejection { index: 0, reason: Reason::MissingBlocks(vec![BlockHash([7; 32])]) },
        Rejection { index: 1, reason: Reason::NameTaken },
    ]);
    vec![
        ("commit", encode(&commit())),
        ("changes", encode(&changes())),
        ("changes-request", encode(&ChangesRequest { instance, epoch: Epoch(2), cursor })),
        ("server", encode(&ServerReply { instance, epoch: Epoch(2), version: "0.1.0".into() })),
        ("rejected", encode(&rejected)),
        ("missing", encode(&MissingRequest { blocks: vec![BlockHash([7; 32]); 3] })),
        ("missing-reply", encode(&MissingReply { missing: vec![0, 2, u32::MAX] })),
        (
            "blocks",
            encode(&BlocksRequest {
                namespace: NamespaceId([3; 16]),
                blocks: vec![BlockHash([7; 32])],
                bases: vec![BlockHash([8; 32])],
            }),
        ),
        (
            "sums",
            encode(&SumsRequest {
                namespace: NamespaceId([3; 16]),
                chunk: 4096,
                stretches: vec![Stretch { block: BlockHash([7; 32]), offset: 5, len: 70_000 }],
            }),
        ),
        ("sums-reply", encode(&SumsReply { sums: vec![vec![1; 16], Vec::new()] })),
        ("error", encode(&api::ApiError::new(ErrorCode::Busy, "too many"))),
        (
            "share",
            encode(&ShareRequest {
                namespace: NamespaceId([3; 16]),
                node: NodeId([2; 16]),
                email: "bob@example.org".into(),
                role: Role::Viewer,
            }),
        ),
        ("history", encode(&HistoryRequest { namespace: NamespaceId([3; 16]), before: None, limit: 10 })),
        (
            "link",
            encode(&LinkRequest { email: "ann@example.org".into(), password: "pw".into(), device_name: "l".into() }),
        ),
        ("endless-length", vec![0xff; 12]),
        ("html", b"<html><body>502 Bad Gateway</body></html>".to_vec()),
    ]
}

/// Two new files, one of which follows without its name, and an edit.
fn news_bundles() -> Vec<(&'static str, Vec<u8>)> {
    let entry = |n: u8, content: &[u8]| {
        let blocks = Blocklist(vec![BlockHash::of(content)]);
        let body = Body::File { blocks, size: content.len() as u64, executable: false, mtime: Mtime(n.into()) };
        let change = match n {
            3 => Change::Edit { body },
            _ => Change::Create { parent: NodeId([3; 16]), name: name(&format!("a{n}")), body },
        };
        let position = Position(n.into());
        JournalEntry { position, node: NodeId([n; 16]), change, device: None, time: Timestamp(1) }
    };
    let entries = vec![entry(1, b"first"), entry(2, b"second"), entry(3, b"third")];
    let page =
        NamespaceChanges { namespace: NamespaceId([3; 16]), role: Some(Role::Owner), entries, head: Position(3) };
    let told = ChangesReply { namespaces: vec![page] };
    let framed = |bytes: &[u8]| {
        let frame = Frame { form: Form::Plain, blocks: 1, len: u32::try_from(bytes.len()).expect("short") };
        [frame.to_bytes().as_slice(), bytes].concat()
    };
    let head = encode(&NewsBundle::of(told.clone(), |entry, _| entry.position == Position(1)).0);
    let without = encode(&NewsBundle::of(told, |_, _| false).0);
    vec![
        ("one-follows", [head.clone(), framed(b"first")].concat()),
        ("none-follows", without.clone()),
        ("another-follows", [head.clone(), framed(b"fIrst")].concat()),
        ("torn", [head.clone(), framed(b"fir")].concat()),
        ("cut-off", head),
        ("too-much", [without, b"x".to_vec()].concat()),
    ]
}

fn parcels() -> Vec<(&'static str, Vec<u8>)> {
    let framed = |form, blocks, body: &[u8]| {
        let frame = Frame { form, blocks, len: u32::try_from(body.len()).expect("short") };
        [frame.to_bytes().to_vec(), body.to_vec()].concat()
    };
    let compressed = Compressors::default().compress(parcels::Effort::Quick, &[[9; 305]]).expect("is worth it");
    vec![
        ("plain", framed(Form::Plain, 2, &[9; 305])),
        ("compressed", framed(Form::Zstd, 2, &compressed)),
        ("compressed-for-less", framed(Form::Zstd, 1, &compressed)),
        ("delta", framed(Form::Delta, 1, &delta_scripts()[0].1)),
        ("too-many", framed(Form::Plain, 3, &[9; 306])),
        ("torn", framed(Form::Zstd, 2, &compressed)[..12].to_vec()),
    ]
}

fn delta_scripts() -> Vec<(&'static str, Vec<u8>)> {
    let script = |copies: &[(usize, usize, usize)], inserted: &[u8]| {
        let mut writer = Writer::default();
        writer.insert(inserted);
        copies.iter().for_each(|(base, offset, len)| writer.copy(*base, *offset, *len));
        writer.finish()
    };
    vec![
        ("right", script(&[(0, 0, 200), (1, 1, 49), (0, 10, 41)], b"new bytes!")),
        ("outside", script(&[(0, 1, 200)], &[7; 100])),
        ("no-base", script(&[(2, 0, 290)], b"new bytes!")),
        ("too-long", script(&[(0, 0, 200), (0, 0, 200)], b"")),
        ("endless-number", vec![0xff; 12]),
    ]
}

/// Two files, and a folder.
fn bundle() -> SentHead {
    let headers = [3, 4].map(|len| BlockHeader { hash: BlockHash([7; 32]), len });
    let file = |n: u8, header: BlockHeader| {
        let blocks = Blocklist(vec![header.hash]);
        let body = Body::File { blocks, size: header.len.into(), executable: false, mtime: Mtime(n.into()) };
        let (node, parent) = (NodeId([n; 16]), NodeId([2; 16]));
        Operation::Create { node, parent, name: name(&format!("a{n}")), body }
    };
    let folder =
        Operation::Create { node: NodeId([2; 16]), parent: NodeId([3; 16]), name: name("d"), body: Body::Directory };
    let operations = [folder, file(4, headers[0]), file(5, headers[1])].map(SentOperation::Whole);
    let commit = SentCommit { operations: operations.into(), ..commit() };
    let head = SentHead::of(ChangesetHead { blocks: headers.into(), bases: None, commit: Some(commit) });
    assert!(matches!(head, SentHead::Bundle(_)));
    head
}

fn shift() -> SentHead {
    let bases = Bases { namespace: NamespaceId([1; 16]), blocks: vec![BlockHash([7; 32]); 2] };
    let mut script = Writer::default();
    script.insert(b"new bytes!");
    script.copy(0, 0, 290);
    let script = script.finish();
    SentHead::Shift(Shift { bases, size: 300, blocks: vec![HashStart([8; 4])], script })
}

fn block_stream() -> Vec<(&'static str, Vec<u8>)> {
    let header = |len| BlockHeader { hash: BlockHash([7; 32]), len };
    let head = |len| {
        let head = ChangesetHead { blocks: vec![header(len), header(5)], bases: None, commit: Some(commit()) };
        SentHead::Named(head)
    };
    let download = BlocksHead { blocks: vec![header(4)], unavailable: vec![BlockHash([8; 32])] };
    let nameless = SentHead::of(ChangesetHead { blocks: vec![header(3), header(4)], bases: None, commit: None });
    assert!(matches!(nameless, SentHead::Nameless(_)));
    vec![
        ("bundle", [encode_head(&bundle()), b"onetwo2".to_vec()].concat()),
        ("shift", encode_head(&shift())),
        ("nameless", [encode_head(&nameless), b"onetwo2".to_vec()].concat()),
        ("upload", [encode_head(&head(3)), b"onetwo23".to_vec()].concat()),
        ("download", [encode_head(&download), b"four".to_vec()].concat()),
        ("too-long-a-block", encode_head(&head(u32::MAX))),
        ("too-long-a-head", [0xff; 8].to_vec()),
        ("cut-off", encode_head(&download)[..9].to_vec()),
    ]
}

fn stored_values() -> Vec<(&'static str, Vec<u8>)> {
    let change = Change::Move { parent: NodeId([3; 16]), name: name("a") };
    let accepted = CommitOutcome::Accepted { head: Position(3), time: Timestamp(-1) };
    vec![
        ("body", to_bytes("body", &file()).expect("encodes")),
        ("change", to_bytes("change", &change).expect("encodes")),
        ("outcome", to_bytes("outcome", &accepted).expect("encodes")),
        ("another-format", vec![2, 0]),
        ("no-format", Vec::new()),
    ]
}

/// What, node, parent, name. Node 0 is the root.
fn hostile_journal() -> Vec<(&'static str, Vec<u8>)> {
    const CREATE: u8 = 0;
    const MOVE: u8 = 1;
    const EDIT: u8 = 2;
    const DELETE: u8 = 3;
    const EMPTY_FILE: u8 = 8;
    const MOUNT: u8 = 24;
    vec![
        ("nothing", Vec::new()),
        ("plain", [[CREATE, 1, 0, 0], [CREATE | EMPTY_FILE, 2, 1, 1], [DELETE, 1, 0, 0]].concat()),
        ("cycle", [[CREATE, 1, 0, 0], [CREATE, 2, 0, 1], [MOVE, 1, 2, 0], [MOVE, 2, 1, 1]].concat()),
        ("own-child", [[CREATE, 1, 1, 0], [CREATE | EMPTY_FILE, 2, 1, 0]].concat()),
        ("orphan", [[CREATE, 1, 5, 0], [CREATE | EMPTY_FILE, 2, 1, 0], [DELETE, 5, 0, 0]].concat()),
        ("one-name-twice", [[CREATE, 1, 0, 0], [CREATE | EMPTY_FILE, 2, 0, 2], [CREATE, 3, 0, 0]].concat()),
        ("file-as-folder", [[CREATE | EMPTY_FILE, 1, 0, 0], [CREATE | EMPTY_FILE, 2, 1, 0]].concat()),
        ("root", [[CREATE, 0, 1, 0], [MOVE, 0, 1, 0], [DELETE, 0, 0, 0]].concat()),
        ("mounts", [[CREATE | MOUNT, 1, 0, 0], [CREATE, 2, 1, 0], [EDIT | MOUNT, 2, 0, 0]].concat()),
        ("unknown", [[EDIT, 1, 0, 0], [MOVE, 2, 3, 4], [DELETE, 5, 0, 0], [CREATE, 6, 0, 0]].concat()),
        ("kinds-change", [[CREATE, 1, 0, 0], [CREATE, 2, 1, 0], [EDIT | EMPTY_FILE, 1, 0, 0]].concat()),
    ]
}

fn names() -> Vec<(&'static str, Vec<u8>)> {
    let notification = Notification { namespace: NamespaceId([3; 16]), position: Position(12) };
    let texts = [
        ("plain", "report.txt"),
        ("umlaut", "e\u{301}t\u{e9}"),
        ("dotless-i", "\u{131}I\u{130}i"),
        ("sharp-s", "Stra\u{df}e \u{1e9e}"),
        ("sigma", "\u{3a3}\u{3c3}\u{3c2}"),
        ("kelvin", "\u{212a}k\u{212b}"),
        ("ypogegrammeni", "\u{345}\u{3b1}\u{301}\u{1f80}"),
        ("hangul", "\u{1100}\u{1161}\u{11a8}\u{ac01}"),
        ("windows", "nul.txt.jpg"),
        ("hidden", ".profile"),
        ("conflict", "a (conflicted copy laptop 2026-11-23 2).txt"),
        ("reserved", ".SyncLine"),
        ("dots", ".."),
        ("bidi", "cod\u{202e}gpj.exe"),
        ("path", "a/b c/\u{e9}"),
        ("climbing", "a/../../b"),
    ];
    let mut seeds: Vec<(&str, Vec<u8>)> = texts.map(|(name, text)| (name, text.as_bytes().to_vec())).into();
    seeds.push(("longest", "\u{fb03}".repeat(85).into_bytes()));
    seeds.push(("too-long", vec![b'x'; 256]));
    seeds.push(("not-utf-8", b"caf\xe9".to_vec()));
    seeds.push(("id", NodeId([0x5a; 16]).to_string().into_bytes()));
    seeds.push(("token", Token([0x5a; 32]).to_hex().into_bytes()));
    seeds.push(("notification", notification.to_string().into_bytes()));
    seeds
}

fn events() -> Vec<(&'static str, Vec<u8>)> {
    let stream = |cut: u8, text: &[u8]| [&[cut], text].concat();
    vec![
        ("notification", stream(9, b"data: 03030303030303030303030303030303 12\n\n")),
        ("comment-and-retry", stream(3, b": hello\r\nretry: 1500\r\n\r\nid: 1\rdata: a\rdata: b\r\r")),
        ("byte-order-mark", stream(2, b"\xef\xbb\xbfdata: a\n\n")),
        ("long-line", stream(0, &[b'x'; 5000])),
        ("html", stream(20, b"<html>\n<body>502 Bad Gateway</body>\n</html>\n")),
    ]
}

fn control_lines() -> Vec<(&'static str, Vec<u8>)> {
    let request = |command| serde_json::to_vec(&Request { version: VERSION, command }).expect("encodes");
    let path = || WirePath::Text("a/b".into());
    vec![
        ("status", request(Command::Status)),
        ("file-status", request(Command::FileStatus { paths: vec![path(), WirePath::Bytes(vec![0xe9])] })),
        ("restore", request(Command::Restore { path: path(), revision: Some(u64::MAX) })),
        ("share", request(Command::Share { folder: path(), email: "b@example.org".into(), role: Role::Viewer })),
        ("flush", request(Command::Flush { timeout_ms: None })),
        ("error", serde_json::to_vec(&Reply::Error(Failure::usage("no"))).expect("encodes")),
        ("ok", serde_json::to_vec(&Reply::Ok(serde_json::json!({"a": [1, null, "\n"]}))).expect("encodes")),
        ("unknown-command", br#"{"version":1,"command":"explode"}"#.to_vec()),
        ("deep", [vec![b'['; 300], vec![b']'; 300]].concat()),
    ]
}

fn client_config() -> Vec<(&'static str, Vec<u8>)> {
    let config = Config {
        version: Config::VERSION,
        server: "https://sync.example.org".into(),
        email: "ann@example.org".into(),
        account: AccountId([1; 16]),
        device: DeviceId([2; 16]),
        device_name: "laptop".into(),
        folder: "/home/ann/Syncline".into(),
        root_id: "09090909090909090909090909090909".parse().expect("an id"),
        instance: InstanceId([3; 16]),
        epoch: 1,
        namespace: NamespaceId([4; 16]),
        bandwidth: Default::default(),
        thrift: Default::default(),
    };
    vec![
        ("config", toml::to_string_pretty(&config).expect("encodes").into_bytes()),
        ("newer", b"version = 2\nsurprise = true\n".to_vec()),
        ("token", Token([0x5a; 32]).to_hex().into_bytes()),
        ("empty", Vec::new()),
        ("deep", [b"a = ".to_vec(), vec![b'['; 500]].concat()),
    ]
}

fn server_config() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("both", b"data = \"/var/lib/syncline\"\nlisten = \"[::]:8420\"\n".to_vec()),
        ("relative", b"data = \"here\"\n".to_vec()),
        ("unknown", b"dada = \"d\"\n".to_vec()),
        ("bad-address", b"data = \"d\"\nlisten = \"everywhere\"\n".to_vec()),
    ]
}

fn settings() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("guard", b"delete-guard\n10, 25%".to_vec()),
        ("rate", b"upload-limit\n500K".to_vec()),
        ("off", b"download-limit\noff".to_vec()),
        ("switch", b"deltas\noff".to_vec()),
        ("address", b"https://sync.example.org:8443/prefix/".to_vec()),
        ("address-with-user", b"http://ann:pw@example.org".to_vec()),
        ("unknown", b"colour\nblue".to_vec()),
    ]
}

fn client_database() -> Vec<(&'static str, Vec<u8>)> {
    const FILE: u8 = 0;
    const EDITED: u8 = 1;
    const STATE: u8 = 2;
    const NODES: u8 = 3;
    const NULL: u8 = 0;
    let small = |number: u8| 1 + 8 * number;
    let id = |byte: u8| 3 + 8 * byte;
    let hash = |byte: u8| 4 + 8 * byte;
    let text = |letter: u8| [6 + 8, letter];
    let nulls = |count: usize| vec![NULL; count];
    let directory = |parent: u8| [vec![id(parent)], text(b'a').to_vec(), vec![small(0)], nulls(5)].concat();
    let print = || [vec![small(1), small(2), NULL, small(0), small(1), small(1), small(0)], nulls(1)].concat();
    let file = [vec![id(3)], text(b'f').to_vec(), vec![small(1), hash(5), small(4), small(1), small(9), NULL]].concat();
    let revisions = vec![small(3), small(4)];
    let seen = [vec![id(2)], directory(21), print(), directory(21), directory(21), revisions.clone()].concat();
    let only_remote = [vec![id(4)], nulls(16), nulls(8), file, revisions.clone()].concat();
    let inside_itself = [vec![id(6)], directory(6), print(), directory(6), directory(6), revisions].concat();
    let with = |part: u8, rest: &[u8]| [&[part], rest].concat();
    vec![
        ("no-database", with(FILE, b"SQLite format 3\0 and no more")),
        ("empty", with(FILE, b"")),
        ("unchanged", with(EDITED, &[])),
        ("cut", with(EDITED, &[0, 16, 0, 0])),
        ("another-version", with(EDITED, &[2, 0, 63, 9])),
        ("no-state", with(STATE, &[])),
        ("newer-state", with(STATE, &[2, 0, 0])),
        ("node", with(NODES, &[seen.clone(), only_remote].concat())),
        ("folder-in-itself", with(NODES, &inside_itself)),
        ("bad-kind", with(NODES, &[&seen[..4], &[small(9)], &seen[5..]].concat())),
    ]
}

fn block_file() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("empty", vec![0]),
        ("rubbish", [vec![0], b"SYNCPACK or SQLite format 3?".repeat(9)].concat()),
        ("unchanged", vec![1]),
        ("cut", vec![1, 0, 0, 70, 0]),
        ("cut-in-header", vec![1, 0, 0, 9, 0]),
        ("flipped", vec![1, 2, 0, 61, 0xff, 2, 0, 20, 1]),
        ("copied", vec![1, 1, 0, 16, 0, 2, 0, 110, 7]),
    ]
}

fn cache_answers() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("value", b"VA 5 c7\r\na\r\nbc\r\nVA 0 c8 W\r\n\r\nVA 0 c8 Z\r\n\r\n".to_vec()),
        ("too-long", b"VA 4294967296 c7\r\nabc\r\n".to_vec()),
        ("error", b"SERVER_ERROR out of memory storing object\r\n".to_vec()),
        ("cut", b"VA 5 c7\r\nab".to_vec()),
    ]
}
