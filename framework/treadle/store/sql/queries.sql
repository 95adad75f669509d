-- name: insert_agent
-- A new agent or workflow, at its first version.
INSERT INTO agents (tenant, kind, id, version, name, origin, created_ms) VALUES (?, ?, ?, ?, ?, ?, ?);

-- name: insert_agent_version
-- The content of one version; it never changes.
INSERT INTO agent_versions (tenant, id, version, digest, created_ms, spec) VALUES (?, ?, ?, ?, ?, ?);

-- name: advance_agent
-- Point an agent or workflow to its next version, if nobody else did.
UPDATE agents SET version = ?, name = ? WHERE tenant = ? AND kind = ? AND id = ? AND version = ? AND deleted_ms IS NULL;

-- name: delete_agent
-- Hide an agent or workflow; its versions stay readable for the runs that used them.
UPDATE agents SET deleted_ms = ? WHERE tenant = ? AND kind = ? AND id = ? AND deleted_ms IS NULL;

-- name: get_agent
-- An agent or workflow at its newest version.
SELECT a.id, a.version, a.name, a.origin, a.created_ms, v.spec FROM agents a
JOIN agent_versions v ON v.tenant = a.tenant AND v.id = a.id AND v.version = a.version
WHERE a.tenant = ? AND a.kind = ? AND a.id = ? AND a.deleted_ms IS NULL;

-- name: get_agent_by_name
-- An agent or workflow of a file, by its name.
SELECT a.id, a.version, a.name, a.origin, a.created_ms, v.spec FROM agents a
JOIN agent_versions v ON v.tenant = a.tenant AND v.id = a.id AND v.version = a.version
WHERE a.tenant = ? AND a.kind = ? AND a.name = ? AND a.origin = 'file' AND a.deleted_ms IS NULL;

-- name: get_agent_version
-- One version of an agent or workflow, deleted or not.
SELECT a.id, v.version, a.name, a.origin, a.created_ms, v.spec FROM agents a
JOIN agent_versions v ON v.tenant = a.tenant AND v.id = a.id
WHERE a.tenant = ? AND a.kind = ? AND a.id = ? AND v.version = ?;

-- name: list_agents_asc
-- Agents or workflows from the oldest on, between two ids.
SELECT a.id, a.version, a.name, a.origin, a.created_ms, v.spec FROM agents a
JOIN agent_versions v ON v.tenant = a.tenant AND v.id = a.id AND v.version = a.version
WHERE a.tenant = ? AND a.kind = ? AND a.id > ? AND a.id < ? AND a.deleted_ms IS NULL ORDER BY a.id ASC LIMIT ?;

-- name: list_agents_desc
-- Agents or workflows from the newest on, between two ids.
SELECT a.id, a.version, a.name, a.origin, a.created_ms, v.spec FROM agents a
JOIN agent_versions v ON v.tenant = a.tenant AND v.id = a.id AND v.version = a.version
WHERE a.tenant = ? AND a.kind = ? AND a.id > ? AND a.id < ? AND a.deleted_ms IS NULL ORDER BY a.id DESC LIMIT ?;

-- name: insert_graph
-- A step graph, once per digest.
INSERT INTO graphs (tenant, digest, text) VALUES (?, ?, ?) ON CONFLICT (tenant, digest) DO NOTHING;

-- name: number_of_graph
-- The number of a graph.
SELECT no FROM graphs WHERE tenant = ? AND digest = ?;

-- name: get_graph
-- The text of a graph.
SELECT text FROM graphs WHERE tenant = ? AND digest = ?;

-- name: insert_thread
-- A new thread.
INSERT INTO threads (tenant, id, created_ms, body) VALUES (?, ?, ?, ?) RETURNING no;

-- name: number_of_thread
-- The number of a thread, and how many rows it shares.
SELECT no, forked_at FROM threads WHERE tenant = ? AND id = ?;

-- name: id_of_thread
-- The id of a thread, by its number.
SELECT id FROM threads WHERE no = ?;

-- name: get_thread
-- One thread.
SELECT id, created_ms, body, fork_of, forked_at FROM threads WHERE tenant = ? AND id = ?;

-- name: replace_thread
-- New notes of a thread.
UPDATE threads SET body = ? WHERE tenant = ? AND id = ?;

-- name: list_threads_asc
-- Threads from the oldest on, between two numbers.
SELECT id, created_ms, body, fork_of, forked_at FROM threads WHERE tenant = ? AND no > ? AND no < ? ORDER BY no ASC LIMIT ?;

-- name: list_threads_desc
-- Threads from the newest on, between two numbers.
SELECT id, created_ms, body, fork_of, forked_at FROM threads WHERE tenant = ? AND no > ? AND no < ? ORDER BY no DESC LIMIT ?;

-- name: delete_thread
-- A thread's own row; it goes first, so that its messages may follow.
DELETE FROM threads WHERE tenant = ? AND no = ?;

-- name: delete_thread_messages
-- The messages of a thread that is gone, after a row.
DELETE FROM messages WHERE pos > (?1 << 32) + ?2 AND pos < (?1 + 1) << 32;

-- name: insert_fork
-- A new thread that begins with rows of another one.
INSERT INTO threads (tenant, id, created_ms, body, fork_of, forked_from, forked_at) VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING no;

-- name: parts_of_thread
-- Where the rows of a thread lie, the last ones first: thread, from a row, to a row; threads that are gone among them.
WITH RECURSIVE part (no, id, forked_from, forked_at, until) AS (
  SELECT no, id, forked_from, forked_at, 4294967295 FROM threads WHERE no = ?
  UNION ALL
  SELECT p.forked_from, coalesce(t.id, s.id), coalesce(t.forked_from, s.forked_from), coalesce(t.forked_at, s.forked_at), p.forked_at
  FROM part p LEFT JOIN threads t ON t.no = p.forked_from LEFT JOIN sources s ON s.no = p.forked_from
  WHERE p.forked_from IS NOT NULL)
SELECT no, id, coalesce(forked_at, 0) + 1, until FROM part;

-- name: results_at
-- Of the calls that a row asks for or answers: how many there are, and how many are answered up to the row.
SELECT coalesce(length(a.open), 0), (SELECT count(*) FROM messages r
  WHERE r.pos > a.pos AND r.pos <= m.pos AND r.reply = a.pos & 4294967295), a.pos & 4294967295
FROM messages m JOIN messages a ON a.pos = (m.pos & ~4294967295) | coalesce(m.reply, m.pos & 4294967295) WHERE m.pos = ?;

-- name: shared_rows
-- How many rows of a thread forks begin with.
SELECT max(forked_at) FROM (
  SELECT forked_at FROM threads WHERE forked_from = ?1 UNION ALL SELECT forked_at FROM sources WHERE forked_from = ?1);

-- name: get_fork
-- What a thread that is to be deleted begins with.
SELECT forked_from, forked_at FROM threads WHERE no = ?;

-- name: insert_source
-- A thread that is gone, and whose rows forks begin with.
INSERT INTO sources (no, tenant, id, forked_from, forked_at) VALUES (?, ?, ?, ?, ?);

-- name: get_source
-- A thread that is gone, and what it began with.
SELECT forked_from FROM sources WHERE no = ?;

-- name: delete_source
-- Nobody begins with the rows of a thread that is gone any more.
DELETE FROM sources WHERE no = ?;

-- name: run_of_thread
-- A run that keeps a thread from being deleted: it goes on, or one goes on that it is a child of.
SELECT r.id FROM runs r WHERE r.tenant = ?1 AND r.thread = ?2 AND (
  r.status IN ('queued', 'in_progress', 'requires_action', 'cancelling')
  OR EXISTS (SELECT 1 FROM runs p WHERE p.no = r.parent AND p.status IN ('queued', 'in_progress', 'requires_action', 'cancelling')))
ORDER BY r.waits IS NOT NULL, r.no LIMIT 1;

-- name: free_children
-- Child runs, on threads of their own, of the runs of a thread that is going: they stand for themselves.
UPDATE runs SET parent = NULL WHERE parent IN (SELECT no FROM runs WHERE tenant = ?1 AND thread = ?2) AND thread <> ?2;

-- name: delete_thread_events
-- The events of the runs of a thread that is gone.
DELETE FROM events WHERE tenant = ? AND run IN (SELECT no FROM runs WHERE thread = ?);

-- name: numbers_of_thread_runs
-- The numbers of a thread's runs.
SELECT no FROM runs WHERE tenant = ? AND thread = ?;

-- name: delete_run_steps
-- The steps of a run that is going.
DELETE FROM steps WHERE pos >= ?1 << 32 AND pos < (?1 + 1) << 32;

-- name: delete_thread_runs
-- The runs of a thread that is gone.
DELETE FROM runs WHERE tenant = ? AND thread = ?;

-- name: last_position
-- The position of a thread's last row; where all of its rows are shared, the one before its first own row.
SELECT coalesce((SELECT max(pos) FROM messages WHERE pos >= ?1 << 32 AND pos < (?1 + 1) << 32),
  (SELECT (no << 32) + forked_at FROM threads WHERE no = ?1));

-- name: insert_message
-- One row of a thread.
INSERT INTO messages (pos, tenant, role, status, listed, open, reply, call, tokens, run, created_ms, text, blob, body)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: replace_message
-- New notes of a message.
UPDATE messages SET body = ? WHERE tenant = ? AND pos = ? AND listed = 1;

-- name: delete_message
-- Take the content of a message away; its place stays, since a thread's rows count without a gap.
UPDATE messages SET listed = 0, text = NULL, blob = NULL, tokens = ?, body = ? WHERE tenant = ? AND pos = ? AND listed = 1;

-- name: delete_queued
-- A message that waited, and is not to be appended any more.
DELETE FROM queue WHERE tenant = ? AND no = ? AND pos IS NULL;

-- name: get_message
-- One message by its id, with its thread and its run.
SELECT m.pos, m.listed, m.role, m.status, m.reply, m.call, m.tokens, m.created_ms, m.text, m.blob, m.body, t.id, r.id, r.agent_id
FROM messages m LEFT JOIN threads t ON t.no = m.pos >> 32 LEFT JOIN runs r ON r.no = m.run
WHERE m.tenant = ? AND m.pos = ? AND m.listed = 1;

-- name: list_messages_asc
-- What a thread's readers see, from the oldest on.
SELECT m.pos, m.listed, m.role, m.status, m.reply, m.call, m.tokens, m.created_ms, m.text, m.blob, m.body, NULL, r.id, r.agent_id
FROM messages m LEFT JOIN runs r ON r.no = m.run
WHERE m.tenant = ?1 AND m.pos > ?2 AND m.pos < ?3 AND m.listed = 1 AND (?5 IS NULL OR m.run = ?5)
ORDER BY m.pos ASC LIMIT ?4;

-- name: list_messages_desc
-- What a thread's readers see, from the newest on.
SELECT m.pos, m.listed, m.role, m.status, m.reply, m.call, m.tokens, m.created_ms, m.text, m.blob, m.body, NULL, r.id, r.agent_id
FROM messages m LEFT JOIN runs r ON r.no = m.run
WHERE m.tenant = ?1 AND m.pos > ?2 AND m.pos < ?3 AND m.listed = 1 AND (?5 IS NULL OR m.run = ?5)
ORDER BY m.pos DESC LIMIT ?4;

-- name: rows_asc
-- Every row of a thread, as the model is sent them, from the oldest on.
SELECT pos, listed, role, status, reply, call, tokens, created_ms, text, blob, body, NULL, NULL, NULL
FROM messages WHERE tenant = ? AND pos > ? AND pos < ? ORDER BY pos ASC LIMIT ?;

-- name: rows_desc
-- Every row of a thread, as the model is sent them, from the newest on.
SELECT pos, listed, role, status, reply, call, tokens, created_ms, text, blob, body, NULL, NULL, NULL
FROM messages WHERE tenant = ? AND pos > ? AND pos < ? ORDER BY pos DESC LIMIT ?;

-- name: first_user_row
-- The row with which a thread begins.
SELECT pos, listed, role, status, reply, call, tokens, created_ms, text, blob, body, NULL, NULL, NULL
FROM messages WHERE tenant = ? AND pos > ? AND pos < ? AND role = 'user' AND listed = 1 ORDER BY pos ASC LIMIT ?;

-- name: insert_run
-- A new run of a graph that is there, and of a version of an agent or workflow that is not deleted.
INSERT INTO runs (tenant, id, thread, parent, agent_id, agent_version, graph, status, rev, fence, walker, first_seq, born,
  created_ms, started_ms, ended_ms, expires_ms, wake_ms, walked_ms, prompt_tokens, completion_tokens, metadata, body, waits)
SELECT ?1, ?2, ?3, ?4, ?5, ?6, g.no, ?8, ?9, ?10, NULL, ?11, ?12, ?13, NULL, NULL, ?14, ?15, ?16, NULL, NULL, ?17, ?18, ?19
FROM graphs g JOIN agent_versions v ON v.tenant = ?1 AND v.id = ?5 AND v.version = ?6
JOIN agents a ON a.tenant = v.tenant AND a.id = v.id AND a.deleted_ms IS NULL
WHERE g.tenant = ?1 AND g.digest = ?7 RETURNING no;

-- name: number_of_run
-- The numbers of a run and of its thread.
SELECT no, thread FROM runs WHERE tenant = ? AND id = ?;

-- name: id_of_run
-- The id of a run, by its number.
SELECT id FROM runs WHERE no = ?;

-- name: get_run
-- One run.
SELECT r.id, t.id, p.id, r.agent_id, r.agent_version, g.digest, r.status, r.rev, r.fence, r.walker, r.first_seq,
  r.created_ms, r.started_ms, r.ended_ms, r.expires_ms, r.wake_ms, r.walked_ms, r.prompt_tokens, r.completion_tokens, r.metadata, r.body,
  r.waits, r.deaths
FROM runs r JOIN threads t ON t.no = r.thread JOIN graphs g ON g.no = r.graph LEFT JOIN runs p ON p.no = r.parent
WHERE r.tenant = ? AND r.id = ?;

-- name: active_run
-- The run that a thread is busy with: a root, or a child on a thread of its own.
SELECT id FROM runs WHERE tenant = ?1 AND thread = ?2 AND parent IS NULL AND waits IS NULL
AND status IN ('queued', 'in_progress', 'requires_action', 'cancelling')
UNION ALL SELECT id FROM runs WHERE tenant = ?1 AND thread = ?2 AND parent IS NOT NULL
AND status IN ('queued', 'in_progress', 'requires_action', 'cancelling') LIMIT 1;

-- name: list_runs_asc
-- Runs of a tenant from the oldest on.
SELECT r.id, t.id, p.id, r.agent_id, r.agent_version, g.digest, r.status, r.rev, r.fence, r.walker, r.first_seq,
  r.created_ms, r.started_ms, r.ended_ms, r.expires_ms, r.wake_ms, r.walked_ms, r.prompt_tokens, r.completion_tokens, r.metadata, r.body,
  r.waits, r.deaths
FROM runs r JOIN threads t ON t.no = r.thread JOIN graphs g ON g.no = r.graph LEFT JOIN runs p ON p.no = r.parent
WHERE r.tenant = ? AND r.no > ? AND r.no < ? ORDER BY r.no ASC LIMIT ?;

-- name: list_runs_desc
-- Runs of a tenant from the newest on.
SELECT r.id, t.id, p.id, r.agent_id, r.agent_version, g.digest, r.status, r.rev, r.fence, r.walker, r.first_seq,
  r.created_ms, r.started_ms, r.ended_ms, r.expires_ms, r.wake_ms, r.walked_ms, r.prompt_tokens, r.completion_tokens, r.metadata, r.body,
  r.waits, r.deaths
FROM runs r JOIN threads t ON t.no = r.thread JOIN graphs g ON g.no = r.graph LEFT JOIN runs p ON p.no = r.parent
WHERE r.tenant = ? AND r.no > ? AND r.no < ? ORDER BY r.no DESC LIMIT ?;

-- name: list_thread_runs_asc
-- Runs of a thread from the oldest on.
SELECT r.id, t.id, p.id, r.agent_id, r.agent_version, g.digest, r.status, r.rev, r.fence, r.walker, r.first_seq,
  r.created_ms, r.started_ms, r.ended_ms, r.expires_ms, r.wake_ms, r.walked_ms, r.prompt_tokens, r.completion_tokens, r.metadata, r.body,
  r.waits, r.deaths
FROM runs r JOIN threads t ON t.no = r.thread JOIN graphs g ON g.no = r.graph LEFT JOIN runs p ON p.no = r.parent
WHERE r.tenant = ? AND r.thread = ? AND r.no > ? AND r.no < ? ORDER BY r.no ASC LIMIT ?;

-- name: list_thread_runs_desc
-- Runs of a thread from the newest on.
SELECT r.id, t.id, p.id, r.agent_id, r.agent_version, g.digest, r.status, r.rev, r.fence, r.walker, r.first_seq,
  r.created_ms, r.started_ms, r.ended_ms, r.expires_ms, r.wake_ms, r.walked_ms, r.prompt_tokens, r.completion_tokens, r.metadata, r.body,
  r.waits, r.deaths
FROM runs r JOIN threads t ON t.no = r.thread JOIN graphs g ON g.no = r.graph LEFT JOIN runs p ON p.no = r.parent
WHERE r.tenant = ? AND r.thread = ? AND r.no > ? AND r.no < ? ORDER BY r.no DESC LIMIT ?;

-- name: children_of_run
-- The child runs of a run, in the order they were made.
SELECT r.id, t.id, p.id, r.agent_id, r.agent_version, g.digest, r.status, r.rev, r.fence, r.walker, r.first_seq,
  r.created_ms, r.started_ms, r.ended_ms, r.expires_ms, r.wake_ms, r.walked_ms, r.prompt_tokens, r.completion_tokens, r.metadata, r.body,
  r.waits, r.deaths
FROM runs r JOIN threads t ON t.no = r.thread JOIN graphs g ON g.no = r.graph LEFT JOIN runs p ON p.no = r.parent
WHERE r.tenant = ? AND r.parent = ? ORDER BY r.no;

-- name: runs_by_prefix
-- Runs whose id begins with a text, newest first.
SELECT id FROM runs WHERE tenant = ? AND id >= ? AND id < ? ORDER BY id DESC LIMIT 3;

-- name: threads_by_prefix
-- Threads whose id begins with a text, newest first.
SELECT id FROM threads WHERE tenant = ? AND id >= ? AND id < ? ORDER BY id DESC LIMIT 3;

-- name: known_agent
-- Whether an agent or workflow ever was, deleted or not.
SELECT 1 FROM agents WHERE tenant = ? AND kind = ? AND id = ?;

-- name: agents_by_prefix
-- Agents or workflows whose id begins with a text, newest first.
SELECT id FROM agents WHERE tenant = ? AND kind = ? AND id >= ? AND id < ? AND deleted_ms IS NULL ORDER BY id DESC LIMIT 3;

-- name: head_of_run
-- What a checkpoint must find: who holds the run, its status and its revision.
SELECT fence, status, rev FROM runs WHERE no = ? AND tenant = ?;

-- name: last_event
-- The number of a run's last event, its end left out.
SELECT max(r.born, coalesce((SELECT max(seq) FROM events WHERE tenant = ?1 AND run = ?2), 0),
  coalesce((SELECT max(event) FROM steps WHERE pos >= ?2 << 32 AND pos < (?2 + 1) << 32 AND tenant = ?1), 0)), r.born
FROM runs r WHERE r.no = ?2 AND r.tenant = ?1;

-- name: update_run
-- A move of a run, if it still is where it was.
UPDATE runs SET status = ?, rev = ?, fence = ?, walker = ?, started_ms = ?, ended_ms = ?, expires_ms = ?, wake_ms = ?,
  walked_ms = ?, prompt_tokens = ?, completion_tokens = ?, body = ?
WHERE no = ? AND tenant = ? AND fence = ? AND status = ? AND rev = ?;

-- name: update_run_notes
-- New notes of a run; its status stays.
UPDATE runs SET metadata = ? WHERE tenant = ? AND id = ?;

-- name: claim_run
-- Take a queued run whose turn it is, or one that rests.
UPDATE runs SET status = CASE status WHEN 'queued' THEN 'in_progress' ELSE status END, rev = rev + 1, fence = fence + 1, walker = ?,
  started_ms = coalesce(started_ms, ?), wake_ms = NULL
WHERE no = ? AND tenant = ?
AND (status = 'queued' AND waits IS NULL OR status IN ('in_progress', 'cancelling') AND walker IS NULL);

-- name: take_over_run
-- Take a run whose walker was declared dead, or that this walker lost sight of; count who died at the same place.
UPDATE runs SET rev = rev + 1, fence = fence + 1, walker = ?1, wake_ms = NULL,
  deaths = CASE WHEN stalled IS ?4 THEN deaths + 1 ELSE 1 END, stalled = ?4
WHERE no = ?2 AND tenant = ?3 AND status IN ('in_progress', 'cancelling')
AND (walker = ?1 OR NOT EXISTS (SELECT 1 FROM walkers w WHERE w.id = runs.walker AND NOT w.dead));

-- name: ended_steps
-- How many steps of a run have ended.
SELECT count(*) FROM steps WHERE pos >= ?1 << 32 AND pos < (?1 + 1) << 32 AND status <> 'in_progress';

-- name: enlist_walker
-- A walker, before the first run that it holds.
INSERT INTO walkers (id, host, boot, space, pid, beat, until_ms) VALUES (?, ?, ?, ?, ?, 0, ?) ON CONFLICT (id) DO NOTHING;

-- name: living_walker
-- A walker that was not declared dead.
SELECT 1 FROM walkers WHERE id = ? AND NOT dead;

-- name: beat_of_walker
-- A heartbeat: the lease goes on, unless the walker was declared dead.
UPDATE walkers SET beat = beat + 1, until_ms = ? WHERE id = ? AND NOT dead;

-- name: bury_walker
-- Declare a walker dead, if its heart has not beaten since it was looked at.
UPDATE walkers SET dead = 1 WHERE id = ? AND beat = ? AND NOT dead;

-- name: retire_walker
-- A walker that lets go: it is forgotten, or declared dead where a run still names it.
UPDATE walkers SET dead = 1 WHERE id = ?;

-- name: forget_walkers
-- Dead walkers that no run names any more.
DELETE FROM walkers WHERE dead AND id NOT IN (
  SELECT walker FROM runs WHERE parent IS NULL AND waits IS NULL
  AND status IN ('queued', 'in_progress', 'requires_action', 'cancelling') AND walker IS NOT NULL
  UNION ALL SELECT walker FROM runs INDEXED BY children_active WHERE parent IS NOT NULL
  AND status IN ('queued', 'in_progress', 'requires_action', 'cancelling') AND walker IS NOT NULL);

-- name: list_walkers
-- Every walker.
SELECT id, host, boot, space, pid, beat, until_ms, dead FROM walkers;

-- name: due_runs
-- Runs that need somebody, from a number on: expired, late, to be stopped, held by this walker, or to be walked,
-- because they wait for a walker, were left by theirs, or rested until now.
SELECT r.no, r.tenant, r.id, r.status, r.walker IS ?1, r.walker IS NOT NULL AND w.id IS NULL,
  coalesce(r.expires_ms <= ?2, 0), r.rev, r.status = 'requires_action' AND coalesce(r.wake_ms <= ?2, 0)
FROM runs r INDEXED BY runs_active LEFT JOIN walkers w ON w.id = r.walker AND NOT w.dead
WHERE r.parent IS NULL AND r.waits IS NULL AND r.status IN ('queued', 'in_progress', 'requires_action', 'cancelling')
AND r.no > ?3 AND (r.walker IS NULL AND (?6 AND r.status = 'queued' OR r.status = 'cancelling'
    OR r.expires_ms <= ?2 OR r.wake_ms <= ?2 AND (?6 OR r.status = 'requires_action'))
  OR r.walker = ?1 AND (r.status = 'cancelling' OR ?5)
  OR r.walker IS NOT NULL AND w.id IS NULL AND (?6 OR r.status = 'cancelling' OR r.expires_ms <= ?2))
ORDER BY r.no LIMIT ?4;

-- name: due_in_line
-- Runs in line whose time is over.
SELECT r.no, r.tenant, r.id, r.status, 0, 0, 1, r.rev, 0 FROM runs r INDEXED BY runs_in_line WHERE r.waits = 1 AND r.expires_ms <= ? AND r.no > ? ORDER BY r.no LIMIT ?;

-- name: line_of_thread
-- The next run in line, and whether a message waits.
SELECT (SELECT min(no) FROM runs WHERE thread = ?1 AND waits = 1),
  EXISTS (SELECT 1 FROM queue WHERE thread = ?1 AND pos IS NULL);

-- name: last_in_line
-- The run that is the last to have the thread as things stand.
SELECT max(no) FROM (
  SELECT no FROM runs WHERE tenant = ?1 AND thread = ?2 AND parent IS NULL AND waits IS NULL
  AND status IN ('queued', 'in_progress', 'requires_action', 'cancelling')
  UNION ALL SELECT no FROM runs WHERE thread = ?2 AND waits = 1);

-- name: leave_line
-- A run has ended before its turn came.
UPDATE runs SET waits = NULL WHERE no = ?;

-- name: promote_run
-- It is a run's turn.
UPDATE runs SET waits = NULL, rev = rev + 1, first_seq = ? WHERE no = ? AND waits = 1;

-- name: queue_message
-- A message for a thread that is busy.
INSERT INTO queue (tenant, thread, after, body) VALUES (?, ?, ?, ?) RETURNING no;

-- name: queued_messages
-- What is to be appended before a run has its turn.
SELECT no, body FROM queue WHERE thread = ? AND pos IS NULL AND after < ? ORDER BY no;

-- name: append_queued
-- A message that waited has its place.
UPDATE queue SET pos = ?, body = NULL WHERE no = ?;

-- name: get_queued
-- A message that waits, or its place once it has one.
SELECT thread, pos, body FROM queue WHERE tenant = ? AND no = ?;

-- name: replace_queued
-- New notes of a message that waits.
UPDATE queue SET body = ? WHERE tenant = ? AND no = ? AND pos IS NULL;

-- name: delete_thread_queue
-- What waits for a thread that is gone.
DELETE FROM queue WHERE tenant = ? AND thread = ?;

-- name: get_request
-- What was asked under a client's key, and the object that it got.
SELECT digest, object FROM requests WHERE tenant = ? AND key = ?;

-- name: insert_request
-- A client's key and the object that it got.
INSERT INTO requests (tenant, key, digest, object, created_ms) VALUES (?, ?, ?, ?, ?);

-- name: forget_requests
-- Keys that are older than they are kept.
DELETE FROM requests WHERE created_ms < ?;

-- name: insert_key
-- A new key.
INSERT INTO keys (id, tenant, name, digest, created_ms, revoked_ms) VALUES (?, ?, ?, ?, ?, ?);

-- name: insert_first_key
-- A new key, where the store never had one.
INSERT INTO keys (id, tenant, name, digest, created_ms, revoked_ms)
SELECT ?, ?, ?, ?, ?, ? WHERE NOT EXISTS (SELECT 1 FROM keys);

-- name: get_key
-- A key of any tenant.
SELECT id, tenant, name, digest, created_ms, revoked_ms FROM keys WHERE id = ?;

-- name: list_keys
-- The keys of a tenant, the newest first.
SELECT id, tenant, name, digest, created_ms, revoked_ms FROM keys WHERE tenant = ? ORDER BY id DESC;

-- name: revoke_key
-- A key that opens nothing any more.
UPDATE keys SET revoked_ms = ? WHERE tenant = ? AND id = ? AND revoked_ms IS NULL;

-- name: put_step
-- A step begins or ends.
INSERT INTO steps (pos, tenant, path, attempt, kind, status, fence, cause, edge, fan, reply, call, message, tool,
  started_ms, ended_ms, prompt_tokens, completion_tokens, event, said, body)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (pos) DO UPDATE SET status = excluded.status, fence = excluded.fence,
  edge = excluded.edge, fan = excluded.fan, message = excluded.message, ended_ms = excluded.ended_ms,
  prompt_tokens = excluded.prompt_tokens, completion_tokens = excluded.completion_tokens, event = excluded.event,
  said = excluded.said, body = excluded.body WHERE path = excluded.path AND attempt = excluded.attempt;

-- name: steps_of_run
-- The journal of a run, from a row on.
SELECT n, path, attempt, kind, status, fence, cause, edge, fan, reply, call, message, tool, started_ms, ended_ms,
  prompt_tokens, completion_tokens, event, said, body
FROM steps WHERE tenant = ?1 AND pos >= (?2 << 32) + ?3 AND pos < (?2 + 1) << 32 ORDER BY pos;

-- name: step_events_after
-- The ends of a run's steps after a number, as events.
SELECT n, path, attempt, kind, status, fence, cause, edge, fan, reply, call, message, tool, started_ms, ended_ms,
  prompt_tokens, completion_tokens, event, said, body
FROM steps WHERE tenant = ?1 AND pos >= ?2 << 32 AND pos < (?2 + 1) << 32 AND event > ?3 ORDER BY event LIMIT ?4;

-- name: insert_event
-- One event of a run.
INSERT INTO events (tenant, run, seq, name, object, data) VALUES (?, ?, ?, ?, ?, ?);

-- name: events_after
-- The events of a run after a number.
SELECT seq, name, object, data FROM events WHERE tenant = ? AND run = ? AND seq > ? ORDER BY seq LIMIT ?;

-- name: insert_blob
-- A large text, once per digest.
INSERT INTO blobs (tenant, digest, bytes, body) VALUES (?, ?, ?, ?) ON CONFLICT (tenant, digest) DO NOTHING;

-- name: get_blob
-- A large text, or NULL where it is a file.
SELECT body FROM blobs WHERE tenant = ? AND digest = ?;

-- name: put_result
-- A result that is taken again, in place of the one before it.
INSERT INTO results (tenant, key, result, until_ms) VALUES (?, ?, ?, ?)
ON CONFLICT (tenant, key) DO UPDATE SET result = excluded.result, until_ms = excluded.until_ms;

-- name: get_result
-- A result whose time is not over.
SELECT result FROM results WHERE tenant = ? AND key = ? AND until_ms > ?;

-- name: forget_results
-- Results whose time is over.
DELETE FROM results WHERE until_ms <= ?;

-- name: insert_file
-- A new file.
INSERT INTO files (tenant, id, filename, purpose, bytes, sha256, media_type, created_ms, expires_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: insert_file_content
-- The content of a file that is small.
INSERT INTO file_contents (tenant, id, body) VALUES (?, ?, ?);

-- name: get_file
-- One file.
SELECT id, filename, purpose, bytes, sha256, media_type, created_ms, expires_ms FROM files WHERE tenant = ? AND id = ?;

-- name: get_file_content
-- The content of a file, unless it is beside the database.
SELECT body FROM file_contents WHERE tenant = ? AND id = ?;

-- name: list_files_asc
-- Files that have not expired, of one purpose or of all, from the oldest on, between two ids.
SELECT id, filename, purpose, bytes, sha256, media_type, created_ms, expires_ms FROM files
WHERE tenant = ?1 AND id > ?2 AND id < ?3 AND (?4 IS NULL OR purpose = ?4) AND (expires_ms IS NULL OR expires_ms > ?5) ORDER BY id ASC LIMIT ?6;

-- name: list_files_desc
-- Files that have not expired, of one purpose or of all, from the newest on, between two ids.
SELECT id, filename, purpose, bytes, sha256, media_type, created_ms, expires_ms FROM files
WHERE tenant = ?1 AND id > ?2 AND id < ?3 AND (?4 IS NULL OR purpose = ?4) AND (expires_ms IS NULL OR expires_ms > ?5) ORDER BY id DESC LIMIT ?6;

-- name: bytes_of_files
-- How many bytes the files of a tenant have.
SELECT coalesce(sum(bytes), 0) FROM files WHERE tenant = ?;

-- name: expired_files
-- Files of every tenant whose time is over.
SELECT tenant, id FROM files WHERE expires_ms IS NOT NULL AND expires_ms <= ?;

-- name: tenants_with_files
-- Everybody who has a file.
SELECT DISTINCT tenant FROM files;

-- name: delete_file
-- A file's own row.
DELETE FROM files WHERE tenant = ? AND id = ?;

-- name: delete_file_content
-- What a small file contained.
DELETE FROM file_contents WHERE tenant = ? AND id = ?;

-- name: delete_file_links
-- A file in every vector store.
DELETE FROM vector_store_files WHERE tenant = ? AND file = ?;

-- name: insert_vector_store
-- A new vector store, without files.
INSERT INTO vector_stores (tenant, id, created_ms, last_active_ms, expires_days, body) VALUES (?, ?, ?, ?, ?, ?);

-- name: get_vector_store
-- One vector store, with the numbers of its files.
SELECT id, created_ms, last_active_ms, expires_days, body, in_progress, completed, failed, cancelled, usage_bytes FROM vector_stores WHERE tenant = ? AND id = ?;

-- name: list_vector_stores_asc
-- Vector stores from the oldest on, between two ids.
SELECT id, created_ms, last_active_ms, expires_days, body, in_progress, completed, failed, cancelled, usage_bytes FROM vector_stores
WHERE tenant = ? AND id > ? AND id < ? ORDER BY id ASC LIMIT ?;

-- name: list_vector_stores_desc
-- Vector stores from the newest on, between two ids.
SELECT id, created_ms, last_active_ms, expires_days, body, in_progress, completed, failed, cancelled, usage_bytes FROM vector_stores
WHERE tenant = ? AND id > ? AND id < ? ORDER BY id DESC LIMIT ?;

-- name: replace_vector_store
-- New notes of a vector store, and when it was last used.
UPDATE vector_stores SET last_active_ms = max(last_active_ms, ?), expires_days = ?, body = ? WHERE tenant = ? AND id = ?;

-- name: touch_vector_store
-- A vector store is used.
UPDATE vector_stores SET last_active_ms = max(last_active_ms, ?) WHERE tenant = ? AND id = ?;

-- name: delete_vector_store
-- A vector store's own row; its files go after it.
DELETE FROM vector_stores WHERE tenant = ? AND id = ?;

-- name: delete_vector_store_files
-- The files of a vector store that is gone, which stay files.
DELETE FROM vector_store_files WHERE tenant = ? AND store = ?;

-- name: delete_vector_store_batches
-- The batches of a vector store that is gone.
DELETE FROM file_batches WHERE tenant = ? AND store = ?;

-- name: put_vector_store_file
-- A file that is there into a vector store that is there; one that is in it already is put in anew.
INSERT INTO vector_store_files (tenant, store, file, batch, status, usage_bytes, created_ms, body)
SELECT f.tenant, v.id, f.id, ?4, ?5, ?6, ?7, ?8 FROM files f JOIN vector_stores v ON v.tenant = f.tenant
WHERE f.tenant = ?1 AND v.id = ?2 AND f.id = ?3
ON CONFLICT (tenant, store, file) DO UPDATE SET batch = excluded.batch, status = excluded.status,
  usage_bytes = excluded.usage_bytes, body = excluded.body;

-- name: get_vector_store_file
-- A file of a vector store.
SELECT store, file, batch, status, usage_bytes, created_ms, body FROM vector_store_files WHERE tenant = ? AND store = ? AND file = ?;

-- name: number_of_vector_store_file
-- The place of a file in the order of its vector store.
SELECT no FROM vector_store_files WHERE tenant = ? AND store = ? AND file = ?;

-- name: list_vector_store_files_asc
-- Files of a vector store, of one batch, in one status or all, from the oldest on.
SELECT store, file, batch, status, usage_bytes, created_ms, body FROM vector_store_files
WHERE tenant = ?1 AND store = ?2 AND no > ?3 AND no < ?4 AND (?5 IS NULL OR batch = ?5) AND (?6 IS NULL OR status = ?6)
ORDER BY no ASC LIMIT ?7;

-- name: list_vector_store_files_desc
-- Files of a vector store, of one batch, in one status or all, from the newest on.
SELECT store, file, batch, status, usage_bytes, created_ms, body FROM vector_store_files
WHERE tenant = ?1 AND store = ?2 AND no > ?3 AND no < ?4 AND (?5 IS NULL OR batch = ?5) AND (?6 IS NULL OR status = ?6)
ORDER BY no DESC LIMIT ?7;

-- name: waiting_vector_store_files
-- Files of a vector store that nobody has read yet.
SELECT store, file, batch, status, usage_bytes, created_ms, body FROM vector_store_files
WHERE tenant = ? AND store = ? AND status = 'in_progress' ORDER BY no LIMIT ?;

-- name: settle_vector_store_file
-- What became of a file that was being read.
UPDATE vector_store_files SET status = ?, usage_bytes = ?, body = ?
WHERE tenant = ? AND store = ? AND file = ? AND status = 'in_progress';

-- name: annotate_vector_store_file
-- New attributes of a file of a vector store.
UPDATE vector_store_files SET body = ? WHERE tenant = ? AND store = ? AND file = ?;

-- name: delete_vector_store_file
-- A file out of a vector store; it stays a file.
DELETE FROM vector_store_files WHERE tenant = ? AND store = ? AND file = ?;

-- name: insert_file_batch
-- A new batch, without files, of a vector store that is there.
INSERT INTO file_batches (tenant, id, store, created_ms) SELECT tenant, ?3, id, ?4 FROM vector_stores WHERE tenant = ?1 AND id = ?2;

-- name: get_file_batch
-- One batch, with the numbers of its files.
SELECT id, store, created_ms, is_cancelled, in_progress, completed, failed, cancelled FROM file_batches WHERE tenant = ? AND id = ?;

-- name: cancel_file_batch
-- Mark a batch that is not all read as cancelled.
UPDATE file_batches SET is_cancelled = 1 WHERE tenant = ? AND id = ? AND in_progress > 0;

-- name: cancel_batch_files
-- What is not read of a batch stays unread.
UPDATE vector_store_files SET status = 'cancelled' WHERE tenant = ? AND store = ? AND batch = ? AND status = 'in_progress';
