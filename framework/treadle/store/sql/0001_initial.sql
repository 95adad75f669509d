-- The first schema. Rules that must hold whatever writes are here, in the schema:
--   a thread's rows count from 1 without a gap            messages_gapless
--   a tool row answers exactly one open call              messages_result
--   a thread has one active root run                      runs_active
--   a status moves only along the tables of lifecycle.py  runs_moves, steps_moves, messages_moves
--   every move of a run raises its revision by one        runs_revision
--   a run ends with no open call and no open step         runs_whole
-- Rows of a thread or a run are keyed by the number of their parent, which belongs to one tenant; a thread's
-- rows lie side by side in the file, so that the tail of a long thread is one short read and a new row
-- writes one page.

CREATE TABLE agents (
  tenant     TEXT    NOT NULL,
  id         TEXT    NOT NULL,
  version    INTEGER NOT NULL CHECK (version >= 1),
  name       TEXT,
  origin     TEXT    NOT NULL CHECK (origin IN ('file', 'api')),
  created_ms INTEGER NOT NULL,
  deleted_ms INTEGER,
  PRIMARY KEY (tenant, id)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX agents_named ON agents (tenant, name) WHERE origin = 'file' AND deleted_ms IS NULL;

CREATE TABLE agent_versions (
  tenant     TEXT    NOT NULL,
  id         TEXT    NOT NULL,
  version    INTEGER NOT NULL,
  digest     TEXT    NOT NULL,
  created_ms INTEGER NOT NULL,
  spec       TEXT    NOT NULL,
  PRIMARY KEY (tenant, id, version)
) STRICT;

CREATE TRIGGER agent_versions_frozen BEFORE UPDATE ON agent_versions
BEGIN SELECT RAISE(ABORT, 'treadle:frozen a version of an agent never changes'); END;

CREATE TABLE graphs (
  no     INTEGER PRIMARY KEY,
  tenant TEXT NOT NULL,
  digest TEXT NOT NULL,
  text   TEXT NOT NULL,
  UNIQUE (tenant, digest)
) STRICT;

CREATE TABLE threads (
  no         INTEGER PRIMARY KEY AUTOINCREMENT,   -- never used again: other processes may remember it
  tenant     TEXT    NOT NULL,
  id         TEXT    NOT NULL,
  created_ms INTEGER NOT NULL,
  body       TEXT,
  UNIQUE (tenant, id)
) STRICT;

CREATE TABLE messages (
  pos        INTEGER PRIMARY KEY,   -- thread number << 32 | seq; a message's id is made from it
  tenant     TEXT    NOT NULL,
  role       TEXT    NOT NULL CHECK (role IN ('user', 'assistant', 'tool')),
  status     TEXT    NOT NULL,
  listed     INTEGER NOT NULL,
  open       TEXT,                  -- a character per call of an assistant row: 1 waits, 0 is answered
  reply      INTEGER,               -- tool rows: the seq of the row that asked
  call       INTEGER,               -- tool rows: the place of the call in it
  tokens     INTEGER NOT NULL,
  run        INTEGER,
  created_ms INTEGER NOT NULL,
  text       TEXT,
  blob       TEXT,                  -- the digest of the text, where it is large
  body       TEXT,
  CHECK ((role = 'tool') = (reply IS NOT NULL AND call IS NOT NULL))
) STRICT;

CREATE TABLE runs (
  no                INTEGER PRIMARY KEY AUTOINCREMENT,
  tenant            TEXT    NOT NULL,
  id                TEXT    NOT NULL,
  thread            INTEGER NOT NULL,
  parent            INTEGER,
  agent_id          TEXT    NOT NULL,
  agent_version     INTEGER NOT NULL,
  graph             INTEGER NOT NULL,
  status            TEXT    NOT NULL,
  rev               INTEGER NOT NULL,
  fence             INTEGER NOT NULL,
  walker            TEXT,
  first_seq         INTEGER NOT NULL,
  born              INTEGER NOT NULL,   -- how many events the row's birth is: created, queued, and in_progress
  created_ms        INTEGER NOT NULL,
  started_ms        INTEGER,
  ended_ms          INTEGER,
  expires_ms        INTEGER,
  wake_ms           INTEGER,
  walked_ms         INTEGER NOT NULL,
  prompt_tokens     INTEGER,
  completion_tokens INTEGER,
  metadata          TEXT,              -- the user's notes: written by everybody but the walker
  body              TEXT,
  UNIQUE (tenant, id)
) STRICT;

CREATE UNIQUE INDEX runs_active ON runs (tenant, thread)
  WHERE parent IS NULL AND status IN ('queued', 'in_progress', 'requires_action', 'cancelling');
CREATE INDEX runs_of_thread ON runs (thread, no);

CREATE TABLE steps (
  pos               INTEGER PRIMARY KEY,   -- run number << 32 | place in the journal: a replay collides here
  tenant            TEXT    NOT NULL,
  run               INTEGER AS (pos >> 32) VIRTUAL,
  n                 INTEGER AS (pos & 4294967295) VIRTUAL,
  path              TEXT    NOT NULL,
  attempt           INTEGER NOT NULL,
  kind              TEXT    NOT NULL,
  status            TEXT    NOT NULL,
  fence             INTEGER NOT NULL,
  cause             TEXT,
  edge              TEXT,
  fan               INTEGER,
  reply             INTEGER,
  call              INTEGER,
  message           INTEGER,
  tool              TEXT,
  started_ms        INTEGER NOT NULL,
  ended_ms          INTEGER,
  prompt_tokens     INTEGER,
  completion_tokens INTEGER,
  event             INTEGER,            -- the seq of the event that its end is
  said              INTEGER NOT NULL,   -- whether the seq before it is the event of its message
  body              TEXT
) STRICT;

-- A run's birth and its end are events that its row is, the end of a step is the step's row; the others are here.
CREATE TABLE events (
  tenant TEXT    NOT NULL,
  run    INTEGER NOT NULL,
  seq    INTEGER NOT NULL CHECK (seq >= 3),
  name   TEXT    NOT NULL,
  object TEXT,
  data   TEXT,
  PRIMARY KEY (tenant, run, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE blobs (
  tenant TEXT    NOT NULL,
  digest TEXT    NOT NULL,
  bytes  INTEGER NOT NULL,
  body   BLOB,                      -- NULL where the content is a file
  PRIMARY KEY (tenant, digest)
) STRICT;

CREATE TRIGGER messages_gapless BEFORE INSERT ON messages
WHEN (NEW.pos & 4294967295) <> 1 AND NOT EXISTS (SELECT 1 FROM messages WHERE pos = NEW.pos - 1)
BEGIN SELECT RAISE(ABORT, 'treadle:gap a thread''s rows count from 1 without a gap'); END;

CREATE TRIGGER messages_busy BEFORE INSERT ON messages
WHEN NEW.run IS NULL AND EXISTS (
  SELECT 1 FROM runs WHERE tenant = NEW.tenant AND thread = NEW.pos >> 32 AND parent IS NULL
  AND status IN ('queued', 'in_progress', 'requires_action', 'cancelling'))
BEGIN SELECT RAISE(ABORT, 'treadle:busy the thread has an active run'); END;

CREATE TRIGGER messages_result AFTER INSERT ON messages
WHEN NEW.role = 'tool'
BEGIN
  UPDATE messages SET open = substr(open, 1, NEW.call) || '0' || substr(open, NEW.call + 2)
  WHERE pos = (NEW.pos & ~4294967295) | NEW.reply AND substr(open, NEW.call + 1, 1) = '1';
  SELECT RAISE(ABORT, 'treadle:unpaired a result needs an open call') WHERE changes() <> 1;
END;

CREATE TRIGGER messages_kept BEFORE DELETE ON messages
WHEN EXISTS (SELECT 1 FROM threads WHERE no = OLD.pos >> 32)
BEGIN SELECT RAISE(ABORT, 'treadle:gap a row leaves only with its thread'); END;

CREATE TRIGGER steps_frozen BEFORE UPDATE ON steps WHEN OLD.status <> 'in_progress'
BEGIN SELECT RAISE(ABORT, 'treadle:frozen a step that has ended never changes'); END;

CREATE TRIGGER runs_revision BEFORE UPDATE OF status ON runs
WHEN NEW.status <> OLD.status AND NEW.rev <> OLD.rev + 1
BEGIN SELECT RAISE(ABORT, 'treadle:revision every move of a run raises its revision by one'); END;

CREATE TRIGGER runs_whole BEFORE UPDATE OF status ON runs
WHEN NEW.status IN ('cancelled', 'completed', 'incomplete', 'failed', 'expired') AND (
  EXISTS (SELECT 1 FROM steps WHERE pos >= NEW.no << 32 AND pos < (NEW.no + 1) << 32 AND status = 'in_progress')
  OR instr(coalesce((
    SELECT open FROM messages
    WHERE pos >= (NEW.thread << 32) + NEW.first_seq AND pos < (NEW.thread + 1) << 32 AND open IS NOT NULL
    ORDER BY pos DESC LIMIT 1), ''), '1') > 0)
BEGIN SELECT RAISE(ABORT, 'treadle:whole a run ends with no open call and no open step'); END;

-- generated from lifecycle.py: begin

CREATE TRIGGER runs_birth BEFORE INSERT ON runs WHEN NEW.status NOT IN ('queued')
BEGIN SELECT RAISE(ABORT, 'treadle:status a run cannot begin in that status'); END;

CREATE TRIGGER runs_moves BEFORE UPDATE OF status ON runs
WHEN NEW.status <> OLD.status AND (OLD.status || '>' || NEW.status) NOT IN (
  'queued>cancelled',
  'queued>cancelling',
  'queued>expired',
  'queued>failed',
  'queued>in_progress',
  'in_progress>cancelling',
  'in_progress>completed',
  'in_progress>expired',
  'in_progress>failed',
  'in_progress>incomplete',
  'in_progress>queued',
  'in_progress>requires_action',
  'requires_action>cancelled',
  'requires_action>cancelling',
  'requires_action>expired',
  'requires_action>failed',
  'requires_action>in_progress',
  'requires_action>queued',
  'cancelling>cancelled')
BEGIN SELECT RAISE(ABORT, 'treadle:status a run cannot make that move'); END;

CREATE TRIGGER steps_birth BEFORE INSERT ON steps WHEN NEW.status NOT IN ('in_progress', 'completed', 'failed', 'cancelled', 'expired')
BEGIN SELECT RAISE(ABORT, 'treadle:status a run step cannot begin in that status'); END;

CREATE TRIGGER steps_moves BEFORE UPDATE OF status ON steps
WHEN NEW.status <> OLD.status AND (OLD.status || '>' || NEW.status) NOT IN (
  'in_progress>cancelled',
  'in_progress>completed',
  'in_progress>expired',
  'in_progress>failed')
BEGIN SELECT RAISE(ABORT, 'treadle:status a run step cannot make that move'); END;

CREATE TRIGGER messages_birth BEFORE INSERT ON messages WHEN NEW.status NOT IN ('in_progress', 'completed', 'incomplete')
BEGIN SELECT RAISE(ABORT, 'treadle:status a message cannot begin in that status'); END;

CREATE TRIGGER messages_moves BEFORE UPDATE OF status ON messages
WHEN NEW.status <> OLD.status AND (OLD.status || '>' || NEW.status) NOT IN (
  'in_progress>completed',
  'in_progress>incomplete')
BEGIN SELECT RAISE(ABORT, 'treadle:status a message cannot make that move'); END;

-- generated from lifecycle.py: end
