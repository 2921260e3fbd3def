-- Identifiers are BINARY, text is VARBINARY (no collation may judge names), times are milliseconds since
-- 1970, positions are integers from 1. Bodies, changes and outcomes are in the format of
-- metadata_store::format. No foreign keys: they would lock rows of other namespaces, and a database that
-- is spread over machines has none.

CREATE TABLE IF NOT EXISTS server (
    id        TINYINT    NOT NULL PRIMARY KEY,
    instance  BINARY(16) NOT NULL,
    epoch     BIGINT     NOT NULL
) ENGINE = InnoDB;

CREATE TABLE IF NOT EXISTS namespaces (
    namespace   BINARY(16) NOT NULL PRIMARY KEY,
    head        BIGINT     NOT NULL,
    live_nodes  BIGINT     NOT NULL
) ENGINE = InnoDB;

CREATE TABLE IF NOT EXISTS accounts (
    account        BINARY(16)      NOT NULL PRIMARY KEY,
    email          VARBINARY(1024) NOT NULL,
    email_key      VARBINARY(1024) NOT NULL,
    password_hash  VARBINARY(1024) NOT NULL,
    root           BINARY(16)      NOT NULL,
    created        BIGINT          NOT NULL,
    UNIQUE KEY accounts_by_email (email_key)
) ENGINE = InnoDB;

-- token is NULL once the device was unlinked; the row stays because the journal names devices.
CREATE TABLE IF NOT EXISTS devices (
    device     BINARY(16)      NOT NULL PRIMARY KEY,
    account    BINARY(16)      NOT NULL,
    token      BINARY(32),
    name       VARBINARY(1024) NOT NULL,
    linked     BIGINT          NOT NULL,
    last_seen  BIGINT          NOT NULL,
    UNIQUE KEY devices_by_token (token),
    KEY devices_of_account (account, linked)
) ENGINE = InnoDB;

-- role: 0 viewer, 1 editor, 2 owner.
CREATE TABLE IF NOT EXISTS members (
    namespace  BINARY(16) NOT NULL,
    account    BINARY(16) NOT NULL,
    role       TINYINT    NOT NULL,
    PRIMARY KEY (namespace, account),
    KEY memberships (account, namespace)
) ENGINE = InnoDB;

-- kind: 0 directory, 1 file, 2 symlink, 3 mount. live is 1 while deleted is NULL, else NULL: a unique
-- key takes any number of NULLs, so that it binds the living only.
CREATE TABLE IF NOT EXISTS nodes (
    namespace     BINARY(16)      NOT NULL,
    node          BINARY(16)      NOT NULL,
    parent        BINARY(16)      NOT NULL,
    name          VARBINARY(255)  NOT NULL,
    name_key      VARBINARY(1024) NOT NULL,
    kind          TINYINT         NOT NULL,
    content_rev   BIGINT          NOT NULL,
    location_rev  BIGINT          NOT NULL,
    deleted       BIGINT,
    live          TINYINT,
    body          LONGBLOB        NOT NULL,
    PRIMARY KEY (namespace, node),
    UNIQUE KEY live_children (namespace, parent, live, name_key),
    KEY live_directories (namespace, parent, live, kind, node),
    KEY fallen_children (namespace, parent, deleted, node)
) ENGINE = InnoDB;

-- kind: 0 create, 1 edit, 2 move, 3 delete, 4 share. parent and name_key are set by kinds 0 and 2.
CREATE TABLE IF NOT EXISTS journal (
    namespace    BINARY(16) NOT NULL,
    position     BIGINT     NOT NULL,
    batch_first  BIGINT     NOT NULL,
    node         BINARY(16) NOT NULL,
    kind         TINYINT    NOT NULL,
    device       BINARY(16),
    time         BIGINT     NOT NULL,
    parent       BINARY(16),
    name_key     VARBINARY(1024),
    entry        LONGBLOB   NOT NULL,
    PRIMARY KEY (namespace, position),
    KEY journal_of_node (namespace, node, position),
    KEY arrivals (namespace, parent, name_key, position)
) ENGINE = InnoDB;

CREATE TABLE IF NOT EXISTS outcomes (
    namespace   BINARY(16) NOT NULL,
    device      BINARY(16) NOT NULL,
    commit_key  BINARY(16) NOT NULL,
    time        BIGINT     NOT NULL,
    outcome     LONGBLOB   NOT NULL,
    PRIMARY KEY (namespace, device, commit_key),
    KEY outcomes_of_device (device),
    KEY outcomes_by_time (time)
) ENGINE = InnoDB;

CREATE TABLE IF NOT EXISTS namespace_blocks (
    namespace  BINARY(16) NOT NULL,
    hash       BINARY(32) NOT NULL,
    PRIMARY KEY (namespace, hash)
) ENGINE = InnoDB;

CREATE TABLE IF NOT EXISTS uploaded_blocks (
    account  BINARY(16) NOT NULL,
    hash     BINARY(32) NOT NULL,
    time     BIGINT     NOT NULL,
    PRIMARY KEY (account, hash),
    KEY uploads_by_time (time)
) ENGINE = InnoDB;
