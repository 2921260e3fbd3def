-- The keys begin with the block, so that one tree of each table answers both who names a block and whether a
-- given namespace or account does. Hashes lie all over a tree: each tree less is a page less to write for each block.
ALTER TABLE namespace_blocks RENAME TO namespace_blocks_3;
CREATE TABLE namespace_blocks (
    hash       BLOB NOT NULL,
    namespace  BLOB NOT NULL,
    PRIMARY KEY (hash, namespace)
) WITHOUT ROWID;
INSERT INTO namespace_blocks (hash, namespace) SELECT hash, namespace FROM namespace_blocks_3 ORDER BY hash, namespace;
DROP TABLE namespace_blocks_3;

ALTER TABLE uploaded_blocks RENAME TO uploaded_blocks_3;
CREATE TABLE uploaded_blocks (
    hash     BLOB    NOT NULL,
    account  BLOB    NOT NULL,
    time     INTEGER NOT NULL,
    PRIMARY KEY (hash, account)
) WITHOUT ROWID;
INSERT INTO uploaded_blocks (hash, account, time)
    SELECT hash, account, time FROM uploaded_blocks_3 ORDER BY hash, account;
DROP TABLE uploaded_blocks_3;
CREATE INDEX uploads_by_time ON uploaded_blocks (time);
