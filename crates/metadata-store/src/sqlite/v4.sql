-- The keys begin with the block, so that one tree of each table answers both who names a block and whether a
-- given namespace or account does. Hashes lie all over a tree: each tree less is a page less to write for each block.
CREATE TABLE blocks_of_namespaces (
    hash       BLOB NOT NULL,
    namespace  BLOB NOT NULL,
    PRIMARY KEY (hash, namespace)
) WITHOUT ROWID;
INSERT INTO blocks_of_namespaces (hash, namespace) SELECT hash, namespace FROM namespace_blocks ORDER BY hash, namespace;
DROP TABLE namespace_blocks;
ALTER TABLE blocks_of_namespaces RENAME TO namespace_blocks;

CREATE TABLE blocks_of_accounts (
    hash     BLOB    NOT NULL,
    account  BLOB    NOT NULL,
    time     INTEGER NOT NULL,
    PRIMARY KEY (hash, account)
) WITHOUT ROWID;
INSERT INTO blocks_of_accounts (hash, account, time) SELECT hash, account, time FROM uploaded_blocks ORDER BY hash, account;
DROP TABLE uploaded_blocks;
ALTER TABLE blocks_of_accounts RENAME TO uploaded_blocks;
CREATE INDEX uploads_by_time ON uploaded_blocks (time);
