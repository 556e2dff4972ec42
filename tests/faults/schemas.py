"""What earlier versions of the agent wrote: one small database of each, as SQL text."""

from __future__ import annotations

# Written down when the schema changed, never edited since.
EARLIER: dict[int, str] = {
    1: """
CREATE TABLE runs (
    run TEXT PRIMARY KEY, started REAL, hello BLOB, state TEXT, saved BLOB
) STRICT;
CREATE TABLE steps (
    run TEXT, step INTEGER, applied INTEGER, time_s REAL, metrics BLOB,
    PRIMARY KEY (run, step)
) STRICT, WITHOUT ROWID;
CREATE TABLE incidents (
    id TEXT PRIMARY KEY, run TEXT, number INTEGER, body BLOB
) STRICT;
CREATE INDEX incidents_by_run ON incidents (run, number);
CREATE TABLE commands (
    command TEXT PRIMARY KEY, run TEXT, issued REAL, body BLOB, incident TEXT,
    status TEXT, step INTEGER, result TEXT
) STRICT;
INSERT INTO runs VALUES ('run-a', 1700000000.0, :hello, 'running', :saved);
INSERT INTO steps VALUES ('run-a', 7, 7, 0.5, :metrics);
INSERT INTO incidents VALUES ('run-a.1', 'run-a', 1, :incident);
INSERT INTO commands VALUES ('c1', 'run-a', 1700000001.0, :command, 'run-a.1', 'pending', 0, '');
PRAGMA user_version = 1;
""",
}
