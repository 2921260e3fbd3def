-- Small blocks that lie together in one object of the block store.
CREATE TABLE packed_blocks (
    hash    BLOB    PRIMARY KEY,
    pack    BLOB    NOT NULL,
    offset  INTEGER NOT NULL,
    length  INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX blocks_of_pack ON packed_blocks (pack, offset, length);

-- ended is set when no place was left in the pack; from then on none may come.
CREATE TABLE packs (
    pack   BLOB    PRIMARY KEY,
    ended  INTEGER
) WITHOUT ROWID;
CREATE INDEX packs_by_end ON packs (ended) WHERE ended IS NOT NULL;
