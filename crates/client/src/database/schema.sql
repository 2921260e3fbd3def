-- A node in the three trees. A tree in which the node is not has NULL in all of its columns.
-- `*_kind`: 0 directory, 1 file, 2 symlink, 3 mount. Unsigned numbers (device, inode, size, positions)
-- are stored as the signed number with the same bits. A local file without `local_hash` waits to be read.
CREATE TABLE nodes (
    node BLOB PRIMARY KEY NOT NULL,

    local_parent BLOB,
    local_name TEXT,
    local_kind INTEGER,
    local_hash BLOB,
    local_size INTEGER,
    local_executable INTEGER,
    local_mtime INTEGER,
    local_target TEXT,
    print_device INTEGER,
    print_inode INTEGER,
    print_birth INTEGER,
    print_size INTEGER,
    print_mtime INTEGER,
    print_ctime INTEGER,
    print_executable INTEGER,
    disk_name BLOB,

    synced_parent BLOB,
    synced_name TEXT,
    synced_kind INTEGER,
    synced_hash BLOB,
    synced_size INTEGER,
    synced_executable INTEGER,
    synced_mtime INTEGER,
    synced_target TEXT,

    remote_parent BLOB,
    remote_name TEXT,
    remote_kind INTEGER,
    remote_hash BLOB,
    remote_size INTEGER,
    remote_executable INTEGER,
    remote_mtime INTEGER,
    remote_target TEXT,
    remote_content_rev INTEGER,
    remote_location_rev INTEGER
) STRICT, WITHOUT ROWID;

-- The block hashes of a content, 32 bytes each, concatenated. `remote`: the server's journal names it.
CREATE TABLE blocklists (
    content_hash BLOB PRIMARY KEY NOT NULL,
    blocks BLOB NOT NULL,
    remote INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Whose database this is, and the engine's state apart from the nodes: one row. The first byte of
-- `value` is the version of its form.
CREATE TABLE state (
    id INTEGER PRIMARY KEY NOT NULL CHECK (id = 1),
    device BLOB NOT NULL,
    value BLOB NOT NULL
) STRICT;

-- The newest activities, for people.
CREATE TABLE activity (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    time INTEGER NOT NULL,
    kind TEXT NOT NULL,
    path TEXT NOT NULL,
    detail TEXT
) STRICT;
