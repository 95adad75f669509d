-- Workflows beside agents, runs that other runs wait for, results that are taken again, and threads that begin with
-- the rows of another one.

ALTER TABLE agents ADD COLUMN kind TEXT NOT NULL DEFAULT 'agent' CHECK (kind IN ('agent', 'workflow'));

DROP INDEX agents_named;
CREATE UNIQUE INDEX agents_named ON agents (tenant, kind, name) WHERE origin = 'file' AND deleted_ms IS NULL;

CREATE INDEX runs_of_parent ON runs (parent, no) WHERE parent IS NOT NULL;
CREATE INDEX children_active ON runs (thread)
  WHERE parent IS NOT NULL AND status IN ('queued', 'in_progress', 'requires_action', 'cancelling');

-- Results of nodes that are taken again where the same is asked for.
CREATE TABLE results (
  tenant   TEXT    NOT NULL,
  key      TEXT    NOT NULL,
  result   TEXT    NOT NULL,
  until_ms INTEGER NOT NULL,
  PRIMARY KEY (tenant, key)
) STRICT;

CREATE INDEX results_by_age ON results (until_ms);

-- A fork of the thread `fork_of` begins with its rows 1 to `forked_at`. They stay where they are: the last of them is a
-- row of the thread number `forked_from`, which may be a fork itself. The fork's own rows count on from there.
ALTER TABLE threads ADD COLUMN fork_of     TEXT;
ALTER TABLE threads ADD COLUMN forked_from INTEGER;
ALTER TABLE threads ADD COLUMN forked_at   INTEGER CHECK ((forked_at IS NULL) = (forked_from IS NULL) AND forked_at > 0);

CREATE INDEX threads_by_source ON threads (forked_from) WHERE forked_from IS NOT NULL;

-- Threads that are gone, and whose first rows forks still begin with.
CREATE TABLE sources (
  no          INTEGER PRIMARY KEY,
  tenant      TEXT NOT NULL,
  id          TEXT NOT NULL,
  forked_from INTEGER,
  forked_at   INTEGER
) STRICT;

CREATE INDEX sources_by_source ON sources (forked_from) WHERE forked_from IS NOT NULL;

CREATE TRIGGER threads_frozen BEFORE UPDATE OF fork_of, forked_from, forked_at ON threads
BEGIN SELECT RAISE(ABORT, 'treadle:frozen a fork begins with what it began with'); END;

DROP TRIGGER messages_gapless;
CREATE TRIGGER messages_gapless BEFORE INSERT ON messages
WHEN CASE
  WHEN NEW.pos & 4294967295 = 1 THEN EXISTS (SELECT 1 FROM threads WHERE no = NEW.pos >> 32 AND forked_at IS NOT NULL)
  ELSE NOT EXISTS (SELECT 1 FROM messages WHERE pos = NEW.pos - 1)
    AND NOT EXISTS (SELECT 1 FROM threads WHERE no = NEW.pos >> 32 AND forked_at = (NEW.pos & 4294967295) - 1)
  END
BEGIN SELECT RAISE(ABORT, 'treadle:gap a thread''s rows count from 1 without a gap'); END;

DROP TRIGGER messages_kept;
CREATE TRIGGER messages_kept BEFORE DELETE ON messages
WHEN EXISTS (SELECT 1 FROM threads WHERE no = OLD.pos >> 32)
OR EXISTS (SELECT 1 FROM threads WHERE forked_from = OLD.pos >> 32 AND forked_at >= OLD.pos & 4294967295)
OR EXISTS (SELECT 1 FROM sources WHERE forked_from = OLD.pos >> 32 AND forked_at >= OLD.pos & 4294967295)
BEGIN SELECT RAISE(ABORT, 'treadle:gap a row leaves only with its thread and the forks that begin with it'); END;

-- Nobody writes between the rows of a child run that has a thread of its own.
DROP TRIGGER messages_busy;
CREATE TRIGGER messages_busy BEFORE INSERT ON messages
WHEN NEW.run IS NULL AND (EXISTS (
    SELECT 1 FROM runs WHERE tenant = NEW.tenant AND thread = NEW.pos >> 32 AND parent IS NULL AND waits IS NULL
    AND status IN ('queued', 'in_progress', 'requires_action', 'cancelling'))
  OR EXISTS (
    SELECT 1 FROM runs WHERE thread = NEW.pos >> 32 AND parent IS NOT NULL
    AND status IN ('queued', 'in_progress', 'requires_action', 'cancelling')))
BEGIN SELECT RAISE(ABORT, 'treadle:busy the thread has an active run'); END;

CREATE TRIGGER runs_busy BEFORE INSERT ON runs
WHEN NEW.parent IS NULL AND NEW.waits IS NULL AND EXISTS (
  SELECT 1 FROM runs WHERE thread = NEW.thread AND parent IS NOT NULL
  AND status IN ('queued', 'in_progress', 'requires_action', 'cancelling'))
BEGIN SELECT RAISE(ABORT, 'treadle:busy the thread has an active run'); END;
