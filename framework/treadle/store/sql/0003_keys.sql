-- The keys that open a project to clients of the server. What is kept of a key is its digest.

-- The one table whose rows are not found by their tenant first: a key says which tenant it opens.
CREATE TABLE keys (
  id         TEXT    NOT NULL PRIMARY KEY,
  tenant     TEXT    NOT NULL,
  name       TEXT,
  digest     TEXT    NOT NULL,
  created_ms INTEGER NOT NULL,
  revoked_ms INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX keys_of_tenant ON keys (tenant, id);

CREATE TRIGGER keys_frozen BEFORE UPDATE ON keys
WHEN OLD.revoked_ms IS NOT NULL OR NEW.id <> OLD.id OR NEW.tenant <> OLD.tenant OR NEW.digest <> OLD.digest
BEGIN SELECT RAISE(ABORT, 'treadle:frozen a key opens what it opened, until it is revoked for good'); END;
