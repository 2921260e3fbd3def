-- Small blocks that lie together in one object of the block store.
CREATE TABLE IF NOT EXISTS packed_blocks (
    hash      BINARY(32) NOT NULL PRIMARY KEY,
    pack      BINARY(16) NOT NULL,
    `offset`  BIGINT     NOT NULL,
    length    BIGINT     NOT NULL,
    KEY blocks_of_pack (pack, `offset`, length)
) ENGINE = InnoDB;

-- ended is set when no place was left in the pack; from then on none may come.
CREATE TABLE IF NOT EXISTS packs (
    pack   BINARY(16) NOT NULL PRIMARY KEY,
    ended  BIGINT,
    KEY packs_by_end (ended)
) ENGINE = InnoDB;
