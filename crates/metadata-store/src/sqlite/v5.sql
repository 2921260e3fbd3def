-- A node's id is used in one namespace only, but for what was left behind where a folder was shared.
CREATE INDEX nodes_by_id ON nodes (node);
