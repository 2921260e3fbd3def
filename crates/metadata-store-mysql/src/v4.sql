-- A node's id is used in one namespace only, but for what was left behind where a folder was shared.
ALTER TABLE nodes ADD KEY nodes_by_id (node);
