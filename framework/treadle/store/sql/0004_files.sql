-- Files, and the vector stores that they are put in. A vector store and a batch count their files by status; the
-- triggers keep the numbers, whatever writes.

CREATE TABLE files (
  tenant     TEXT    NOT NULL,
  id         TEXT    NOT NULL,
  filename   TEXT    NOT NULL,
  purpose    TEXT    NOT NULL,
  bytes      INTEGER NOT NULL CHECK (bytes >= 0),
  sha256     TEXT    NOT NULL,
  media_type TEXT    NOT NULL,
  created_ms INTEGER NOT NULL,
  expires_ms INTEGER,
  PRIMARY KEY (tenant, id)
) STRICT, WITHOUT ROWID;

CREATE INDEX files_by_purpose ON files (tenant, purpose, id);
CREATE INDEX files_by_size ON files (tenant, bytes);
CREATE INDEX files_that_expire ON files (expires_ms) WHERE expires_ms IS NOT NULL;

CREATE TRIGGER files_frozen BEFORE UPDATE OF bytes, sha256 ON files
BEGIN SELECT RAISE(ABORT, 'treadle:frozen the content of a file never changes'); END;

-- The content of a file that is small; a larger one is beside the database, under the file's id.
CREATE TABLE file_contents (
  tenant TEXT NOT NULL,
  id     TEXT NOT NULL,
  body   BLOB NOT NULL,
  PRIMARY KEY (tenant, id)
) STRICT;

CREATE TABLE vector_stores (
  tenant         TEXT    NOT NULL,
  id             TEXT    NOT NULL,
  created_ms     INTEGER NOT NULL,
  last_active_ms INTEGER NOT NULL,
  expires_days   INTEGER,
  body           TEXT,
  in_progress    INTEGER NOT NULL DEFAULT 0,
  completed      INTEGER NOT NULL DEFAULT 0,
  failed         INTEGER NOT NULL DEFAULT 0,
  cancelled      INTEGER NOT NULL DEFAULT 0,
  usage_bytes    INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (tenant, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE file_batches (
  tenant       TEXT    NOT NULL,
  id           TEXT    NOT NULL,
  store        TEXT    NOT NULL,
  created_ms   INTEGER NOT NULL,
  is_cancelled INTEGER NOT NULL DEFAULT 0,
  in_progress  INTEGER NOT NULL DEFAULT 0,
  completed    INTEGER NOT NULL DEFAULT 0,
  failed       INTEGER NOT NULL DEFAULT 0,
  cancelled    INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (tenant, id)
) STRICT, WITHOUT ROWID;

CREATE INDEX file_batches_of_store ON file_batches (tenant, store);

CREATE TABLE vector_store_files (
  no          INTEGER PRIMARY KEY AUTOINCREMENT,
  tenant      TEXT    NOT NULL,
  store       TEXT    NOT NULL,
  file        TEXT    NOT NULL,
  batch       TEXT,
  status      TEXT    NOT NULL CHECK (status IN ('in_progress', 'completed', 'cancelled', 'failed')),
  usage_bytes INTEGER NOT NULL,
  created_ms  INTEGER NOT NULL,
  body        TEXT,
  UNIQUE (tenant, store, file)
) STRICT;

CREATE INDEX vector_store_files_in_order ON vector_store_files (tenant, store, no);
CREATE INDEX vector_store_files_waiting ON vector_store_files (tenant, store, no) WHERE status = 'in_progress';
CREATE INDEX vector_store_files_of_file ON vector_store_files (tenant, file);

CREATE TRIGGER vector_store_files_in AFTER INSERT ON vector_store_files
BEGIN
  UPDATE vector_stores SET
    in_progress = in_progress + (NEW.status = 'in_progress'), completed = completed + (NEW.status = 'completed'),
    failed = failed + (NEW.status = 'failed'), cancelled = cancelled + (NEW.status = 'cancelled'),
    usage_bytes = usage_bytes + NEW.usage_bytes
  WHERE tenant = NEW.tenant AND id = NEW.store;
  UPDATE file_batches SET
    in_progress = in_progress + (NEW.status = 'in_progress'), completed = completed + (NEW.status = 'completed'),
    failed = failed + (NEW.status = 'failed'), cancelled = cancelled + (NEW.status = 'cancelled')
  WHERE tenant = NEW.tenant AND id = NEW.batch;
END;

CREATE TRIGGER vector_store_files_out AFTER DELETE ON vector_store_files
BEGIN
  UPDATE vector_stores SET
    in_progress = in_progress - (OLD.status = 'in_progress'), completed = completed - (OLD.status = 'completed'),
    failed = failed - (OLD.status = 'failed'), cancelled = cancelled - (OLD.status = 'cancelled'),
    usage_bytes = usage_bytes - OLD.usage_bytes
  WHERE tenant = OLD.tenant AND id = OLD.store;
  UPDATE file_batches SET
    in_progress = in_progress - (OLD.status = 'in_progress'), completed = completed - (OLD.status = 'completed'),
    failed = failed - (OLD.status = 'failed'), cancelled = cancelled - (OLD.status = 'cancelled')
  WHERE tenant = OLD.tenant AND id = OLD.batch;
END;

CREATE TRIGGER vector_store_files_moved AFTER UPDATE OF status, usage_bytes, batch ON vector_store_files
BEGIN
  UPDATE vector_stores SET
    in_progress = in_progress + (NEW.status = 'in_progress') - (OLD.status = 'in_progress'),
    completed = completed + (NEW.status = 'completed') - (OLD.status = 'completed'),
    failed = failed + (NEW.status = 'failed') - (OLD.status = 'failed'),
    cancelled = cancelled + (NEW.status = 'cancelled') - (OLD.status = 'cancelled'),
    usage_bytes = usage_bytes + NEW.usage_bytes - OLD.usage_bytes
  WHERE tenant = NEW.tenant AND id = NEW.store;
  UPDATE file_batches SET
    in_progress = in_progress - (OLD.status = 'in_progress'), completed = completed - (OLD.status = 'completed'),
    failed = failed - (OLD.status = 'failed'), cancelled = cancelled - (OLD.status = 'cancelled')
  WHERE tenant = OLD.tenant AND id = OLD.batch;
  UPDATE file_batches SET
    in_progress = in_progress + (NEW.status = 'in_progress'), completed = completed + (NEW.status = 'completed'),
    failed = failed + (NEW.status = 'failed'), cancelled = cancelled + (NEW.status = 'cancelled')
  WHERE tenant = NEW.tenant AND id = NEW.batch;
END;
