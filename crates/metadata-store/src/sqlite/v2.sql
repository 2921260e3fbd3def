-- For the clean-up of blocks: who names a block, whatever namespace or account it is asked of.
CREATE INDEX namespaces_of_block ON namespace_blocks (hash);
CREATE INDEX uploads_of_block ON uploaded_blocks (hash);

-- Blocks of the store that nobody named when the clean-up looked. condemned is set when their removal began.
CREATE TABLE unused_blocks (
    hash       BLOB    PRIMARY KEY,
    since      INTEGER NOT NULL,
    condemned  INTEGER
) WITHOUT ROWID;
CREATE INDEX unused_by_time ON unused_blocks (since, hash);
