-- Who walks a run and until when, what stands in line for a busy thread, and what clients asked for already.

CREATE TABLE walkers (
  id       TEXT    NOT NULL PRIMARY KEY,
  host     TEXT    NOT NULL,
  boot     TEXT    NOT NULL,           -- the life of the machine that until_ms is of
  space    TEXT    NOT NULL,
  pid      INTEGER NOT NULL,
  beat     INTEGER NOT NULL,           -- counts the heartbeats
  until_ms INTEGER NOT NULL,           -- monotonic: when the lease is over
  dead     INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

CREATE TRIGGER walkers_stay_dead BEFORE UPDATE ON walkers WHEN OLD.dead AND NOT NEW.dead
BEGIN SELECT RAISE(ABORT, 'treadle:frozen a walker that was declared dead stays dead'); END;

ALTER TABLE runs ADD COLUMN waits   INTEGER;                     -- 1: in line behind the run that the thread has
ALTER TABLE runs ADD COLUMN deaths  INTEGER NOT NULL DEFAULT 0;  -- walkers that died at the place `stalled`
ALTER TABLE runs ADD COLUMN stalled INTEGER;                     -- how many steps had ended when the last one died

DROP INDEX runs_active;
CREATE UNIQUE INDEX runs_active ON runs (tenant, thread)
  WHERE parent IS NULL AND waits IS NULL AND status IN ('queued', 'in_progress', 'requires_action', 'cancelling');
CREATE INDEX runs_in_line ON runs (thread, no) WHERE waits = 1;

CREATE TRIGGER runs_in_line_wait BEFORE UPDATE OF status ON runs
WHEN NEW.waits = 1 AND NEW.status IN ('in_progress', 'requires_action')
BEGIN SELECT RAISE(ABORT, 'treadle:status a run that stands in line is not walked'); END;

DROP TRIGGER messages_busy;
CREATE TRIGGER messages_busy BEFORE INSERT ON messages
WHEN NEW.run IS NULL AND EXISTS (
  SELECT 1 FROM runs WHERE tenant = NEW.tenant AND thread = NEW.pos >> 32 AND parent IS NULL AND waits IS NULL
  AND status IN ('queued', 'in_progress', 'requires_action', 'cancelling'))
BEGIN SELECT RAISE(ABORT, 'treadle:busy the thread has an active run'); END;

-- Messages for a thread that is busy: appended when the run `after` and those before it have ended.
CREATE TABLE queue (
  no     INTEGER PRIMARY KEY AUTOINCREMENT,
  tenant TEXT    NOT NULL,
  thread INTEGER NOT NULL,
  after  INTEGER NOT NULL,
  pos    INTEGER,                      -- where it stands, once it is appended
  body   TEXT,                         -- the message, until then
  CHECK ((pos IS NULL) = (body IS NOT NULL))
) STRICT;

CREATE INDEX queue_waiting ON queue (thread, no) WHERE pos IS NULL;

-- What a client asked for under a key of its own, and the object that it got.
CREATE TABLE requests (
  tenant     TEXT    NOT NULL,
  key        TEXT    NOT NULL,
  digest     TEXT    NOT NULL,
  object     TEXT    NOT NULL,
  created_ms INTEGER NOT NULL,
  PRIMARY KEY (tenant, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX requests_by_age ON requests (created_ms);
