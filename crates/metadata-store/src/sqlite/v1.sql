-- Identifiers are blobs, times are milliseconds since 1970, positions are integers from 1.
-- `body`, `change` and `outcome` are in the format of metadata_store::format.

CREATE TABLE server (
    id        INTEGER PRIMARY KEY CHECK (id = 1),
    instance  BLOB    NOT NULL,
    epoch     INTEGER NOT NULL
);

CREATE TABLE namespaces (
    namespace   BLOB    PRIMARY KEY,
    head        INTEGER NOT NULL,
    live_nodes  INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE accounts (
    account        BLOB    PRIMARY KEY,
    email          TEXT    NOT NULL,
    email_key      TEXT    NOT NULL UNIQUE,
    password_hash  TEXT    NOT NULL,
    root           BLOB    NOT NULL REFERENCES namespaces,
    created        INTEGER NOT NULL
) WITHOUT ROWID;

-- token is NULL once the device was unlinked; the row stays because the journal names devices.
CREATE TABLE devices (
    device     BLOB    PRIMARY KEY,
    account    BLOB    NOT NULL REFERENCES accounts,
    token      BLOB    UNIQUE,
    name       TEXT    NOT NULL,
    linked     INTEGER NOT NULL,
    last_seen  INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX devices_of_account ON devices (account, linked);

-- role: 0 viewer, 1 editor, 2 owner.
CREATE TABLE members (
    namespace  BLOB    NOT NULL REFERENCES namespaces,
    account    BLOB    NOT NULL REFERENCES accounts,
    role       INTEGER NOT NULL,
    PRIMARY KEY (namespace, account)
) WITHOUT ROWID;
CREATE INDEX memberships ON members (account, namespace);

-- kind: 0 directory, 1 file, 2 symlink, 3 mount. deleted is NULL while the node lives.
CREATE TABLE nodes (
    namespace     BLOB    NOT NULL REFERENCES namespaces,
    node          BLOB    NOT NULL,
    parent        BLOB    NOT NULL,
    name          TEXT    NOT NULL,
    name_key      TEXT    NOT NULL,
    kind          INTEGER NOT NULL,
    content_rev   INTEGER NOT NULL,
    location_rev  INTEGER NOT NULL,
    deleted       INTEGER,
    body          BLOB    NOT NULL,
    PRIMARY KEY (namespace, node)
) WITHOUT ROWID;
CREATE UNIQUE INDEX live_children ON nodes (namespace, parent, name_key) WHERE deleted IS NULL;
CREATE INDEX live_directories ON nodes (namespace, parent) WHERE deleted IS NULL AND kind = 0;
CREATE INDEX fallen_children ON nodes (namespace, parent, deleted) WHERE deleted IS NOT NULL;

-- kind: 0 create, 1 edit, 2 move, 3 delete, 4 share. parent and name_key are set by kinds 0 and 2.
CREATE TABLE journal (
    namespace    BLOB    NOT NULL REFERENCES namespaces,
    position     INTEGER NOT NULL,
    batch_first  INTEGER NOT NULL,
    node         BLOB    NOT NULL,
    kind         INTEGER NOT NULL,
    device       BLOB,
    time         INTEGER NOT NULL,
    parent       BLOB,
    name_key     TEXT,
    change       BLOB    NOT NULL,
    PRIMARY KEY (namespace, position)
) WITHOUT ROWID;
CREATE INDEX journal_of_node ON journal (namespace, node, position);
CREATE INDEX arrivals ON journal (namespace, parent, name_key, position) WHERE parent IS NOT NULL;

CREATE TABLE outcomes (
    device   BLOB    NOT NULL,
    key      BLOB    NOT NULL,
    time     INTEGER NOT NULL,
    outcome  BLOB    NOT NULL,
    PRIMARY KEY (device, key)
) WITHOUT ROWID;
CREATE INDEX outcomes_by_time ON outcomes (time);

CREATE TABLE namespace_blocks (
    namespace  BLOB NOT NULL,
    hash       BLOB NOT NULL,
    PRIMARY KEY (namespace, hash)
) WITHOUT ROWID;

CREATE TABLE uploaded_blocks (
    account  BLOB    NOT NULL,
    hash     BLOB    NOT NULL,
    time     INTEGER NOT NULL,
    PRIMARY KEY (account, hash)
) WITHOUT ROWID;
CREATE INDEX uploads_by_time ON uploaded_blocks (time);
