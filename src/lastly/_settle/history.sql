-- name: schema
-- What became of owners whose journals are closed. Migrations only add; an older lastly goes on reading.
CREATE TABLE IF NOT EXISTS owners (
    journal  TEXT PRIMARY KEY,  -- <host>-<boot>/<pid>.<start>.<random>.j: never used twice
    host     TEXT NOT NULL,
    boot     TEXT NOT NULL,
    pid      INTEGER NOT NULL,
    start    INTEGER NOT NULL,
    uid      INTEGER NOT NULL,
    argv0    TEXT NOT NULL,
    exe      TEXT NOT NULL,
    began    REAL,              -- unix time of its first record
    ended    REAL,              -- unix time at which it was seen to die, if it was seen
    died     TEXT NOT NULL,     -- "killed by SIGKILL", "exited with status 3", or empty: the kernel did not tell
    settled  REAL NOT NULL,     -- unix time of this entry
    header   TEXT NOT NULL      -- JSON
);
CREATE TABLE IF NOT EXISTS cleanups (
    journal  TEXT NOT NULL REFERENCES owners (journal) ON DELETE CASCADE,
    id       INTEGER NOT NULL,  -- its number in that journal
    action   TEXT NOT NULL,
    args     TEXT NOT NULL,     -- JSON
    kwargs   TEXT NOT NULL,     -- JSON
    scope    TEXT NOT NULL,
    remote   INTEGER NOT NULL,
    state    TEXT NOT NULL,     -- done, released, void or abandoned
    attempts INTEGER NOT NULL,
    planned  REAL,
    changed  REAL,
    error    TEXT NOT NULL,     -- of the last failed attempt
    reason   TEXT NOT NULL,     -- why it was abandoned, released or void
    events   TEXT NOT NULL,     -- JSON: every record of it, as it stood in the journal
    context  TEXT NOT NULL,     -- JSON: interpreter, import path, directory and environment it needs
    settled  TEXT NOT NULL DEFAULT '',  -- what a person made of it: "retried by …", "forgotten by …"
    PRIMARY KEY (journal, id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS cleanups_changed ON cleanups (changed);
CREATE INDEX IF NOT EXISTS owners_settled ON owners (settled);

CREATE TABLE IF NOT EXISTS packed (
    journal  TEXT NOT NULL REFERENCES owners (journal) ON DELETE CASCADE,
    first    INTEGER NOT NULL,  -- the number of the first one in that journal
    last     INTEGER NOT NULL,
    count    INTEGER NOT NULL,
    scope    TEXT NOT NULL,
    doer     TEXT NOT NULL,     -- owner, reaper, …: by whom they were done
    changed  REAL,
    cleanups BLOB NOT NULL,     -- zlib: JSON: [[number, arguments], …]
    PRIMARY KEY (journal, first)
);

-- name: is_packed
SELECT 1 FROM sqlite_master WHERE name = 'packed';

-- name: no_packed
-- Of an earlier version: for whoever only reads.
CREATE TEMP TABLE packed (journal, first, last, count, scope, doer, changed, cleanups);

-- name: is_made
-- The schema has been executed.
SELECT 1 FROM sqlite_master WHERE name = 'owners_settled';

-- name: add_owner
-- Writing the same journal twice (killed between commit and unlink) changes nothing.
INSERT OR REPLACE INTO owners
    (journal, host, boot, pid, start, uid, argv0, exe, began, ended, died, settled, header)
VALUES
    (:journal, :host, :boot, :pid, :start, :uid, :argv0, :exe, :began, :ended, :died, :settled, :header);

-- name: add_cleanup
INSERT OR REPLACE INTO cleanups
    (journal, id, action, args, kwargs, scope, remote, state, attempts, planned, changed, error, reason, events, context)
VALUES
    (:journal, :id, :action, :args, :kwargs, :scope, :remote, :state, :attempts, :planned, :changed, :error, :reason,
     :events, :context);

-- name: add_packed
INSERT OR REPLACE INTO packed (journal, first, last, count, scope, doer, changed, cleanups)
VALUES (:journal, :first, :last, :count, :scope, :doer, :changed, :cleanups);

-- name: list_packed
-- One row for each scope of an owner, with the packed row of its first cleanups.
SELECT p.*, o.host, o.pid, o.argv0, o.died, o.ended, min(p.first) AS least, total.count AS all_count
FROM packed AS p JOIN owners AS o USING (journal)
JOIN (SELECT journal, scope, sum(count) AS count, max(changed) AS changed FROM packed GROUP BY journal, scope) AS total
     ON total.journal = p.journal AND total.scope = p.scope
WHERE total.changed >= :since
GROUP BY p.journal, p.scope
ORDER BY total.changed DESC, p.journal
LIMIT :most;

-- name: find_packed
SELECT p.*, o.host, o.boot, o.pid, o.start, o.uid, o.argv0, o.exe, o.began, o.ended, o.died, o.header
FROM packed AS p JOIN owners AS o USING (journal)
WHERE p.journal LIKE :journal ESCAPE '\' AND p.first <= :id AND p.last >= :id;

-- name: list_since
SELECT o.journal, o.host, o.pid, o.argv0, o.died, o.ended, c.id, c.action, c.args, c.kwargs, c.scope, c.remote, c.state,
       c.attempts, c.planned, c.changed, c.error, c.reason, c.settled, c.events
FROM cleanups AS c JOIN owners AS o USING (journal)
WHERE c.changed >= :since
ORDER BY c.changed DESC, c.journal, c.id
LIMIT :most;

-- name: list_abandoned
SELECT o.journal, o.host, o.pid, o.argv0, o.died, o.ended, c.id, c.action, c.args, c.kwargs, c.scope, c.remote, c.state,
       c.attempts, c.planned, c.changed, c.error, c.reason, c.settled, c.events
FROM cleanups AS c JOIN owners AS o USING (journal)
WHERE c.state = 'abandoned' AND c.settled = ''
ORDER BY c.changed DESC, c.journal, c.id
LIMIT :most;

-- name: count_abandoned
SELECT count(*) FROM cleanups WHERE state = 'abandoned' AND settled = '';

-- name: list_settled
SELECT c.scope, c.state, c.events, NULL AS doer, o.settled, 1 AS count, c.journal, c.id
FROM owners AS o JOIN cleanups AS c USING (journal)
WHERE o.settled > :since AND substr(c.scope, 1, length(:scope)) = :scope
UNION ALL
SELECT p.scope, 'done', NULL, p.doer, o.settled, p.count, p.journal, p.first
FROM owners AS o JOIN packed AS p USING (journal)
WHERE o.settled > :since AND substr(p.scope, 1, length(:scope)) = :scope
ORDER BY o.settled, c.journal, c.id;

-- name: find
SELECT c.*, o.host, o.boot, o.pid, o.start, o.uid, o.argv0, o.exe, o.began, o.ended, o.died, o.header, o.settled AS closed
FROM cleanups AS c JOIN owners AS o USING (journal)
WHERE c.journal LIKE :journal ESCAPE '\' AND c.id = :id;

-- name: called
SELECT c.journal, c.id,
       o.pid = :pid OR o.argv0 = :text OR substr(o.argv0, -length(:text) - 1) = '/' || :text
       OR c.args = :removed OR (c.scope = :text AND :text <> '') AS by_name
FROM cleanups AS c JOIN owners AS o USING (journal)
WHERE by_name OR c.journal LIKE :owner
ORDER BY c.changed DESC, c.journal, c.id
LIMIT 1000;

-- name: mark
UPDATE cleanups SET settled = :settled WHERE journal = :journal AND id = :id;

-- name: trim_owners
-- What was given up and nobody has looked at is kept.
DELETE FROM owners WHERE settled < :before AND NOT EXISTS (
    SELECT 1 FROM cleanups AS c WHERE c.journal = owners.journal AND c.state = 'abandoned' AND c.settled = ''
);
