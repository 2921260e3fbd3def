-- For the clean-up of blocks: who names a block, whatever namespace or account it is asked of.
ALTER TABLE namespace_blocks ADD KEY namespaces_of_block (hash);
ALTER TABLE uploaded_blocks ADD KEY uploads_of_block (hash);

-- Blocks of the store that nobody named when the clean-up looked. condemned is set when their removal began.
CREATE TABLE IF NOT EXISTS unused_blocks (
    hash       BINARY(32) NOT NULL PRIMARY KEY,
    since      BIGINT     NOT NULL,
    condemned  BIGINT,
    KEY unused_by_time (since, hash)
) ENGINE = InnoDB;
