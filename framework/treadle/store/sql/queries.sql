-- name: insert_agent
-- A new agent, at its first version.
INSERT INTO agents (tenant, id, version, name, origin, created_ms) VALUES (?, ?, ?, ?, ?, ?);

-- name: insert_agent_version
-- The content of one version; it never changes.
INSERT INTO agent_versions (tenant, id, version, digest, created_ms, spec) VALUES (?, ?, ?, ?, ?, ?);

-- name: advance_agent
-- Point an agent to its next version, if nobody else did.
UPDATE agents SET version = ?, name = ? WHERE tenant = ? AND id = ? AND version = ? AND deleted_ms IS NULL;

-- name: delete_agent
-- Hide an agent; its versions stay readable for the runs that used them.
UPDATE agents SET deleted_ms = ? WHERE tenant = ? AND id = ? AND deleted_ms IS NULL;

-- name: get_agent
-- An agent at its newest version.
SELECT a.id, a.version, a.name, a.origin, a.created_ms, v.spec FROM agents a
JOIN agent_versions v ON v.tenant = a.tenant AND v.id = a.id AND v.version = a.version
WHERE a.tenant = ? AND a.id = ? AND a.deleted_ms IS NULL;

-- name: get_agent_by_name
-- An agent of a file, by its name.
SELECT a.id, a.version, a.name, a.origin, a.created_ms, v.spec FROM agents a
JOIN agent_versions v ON v.tenant = a.tenant AND v.id = a.id AND v.version = a.version
WHERE a.tenant = ? AND a.name = ? AND a.origin = 'file' AND a.deleted_ms IS NULL;

-- name: get_agent_version
-- One version of an agent, deleted or not.
SELECT a.id, v.version, a.name, a.origin, a.created_ms, v.spec FROM agents a
JOIN agent_versions v ON v.tenant = a.tenant AND v.id = a.id
WHERE a.tenant = ? AND a.id = ? AND v.version = ?;

-- name: list_agents_asc
-- Agents from the oldest on, between two ids.
SELECT a.id, a.version, a.name, a.origin, a.created_ms, v.spec FROM agents a
JOIN agent_versions v ON v.tenant = a.tenant AND v.id = a.id AND v.version = a.version
WHERE a.tenant = ? AND a.id > ? AND a.id < ? AND a.deleted_ms IS NULL ORDER BY a.id ASC LIMIT ?;

-- name: list_agents_desc
-- Agents from the newest on, between two ids.
SELECT a.id, a.version, a.name, a.origin, a.created_ms, v.spec FROM agents a
JOIN agent_versions v ON v.tenant = a.tenant AND v.id = a.id AND v.version = a.version
WHERE a.tenant = ? AND a.id > ? AND a.id < ? AND a.deleted_ms IS NULL ORDER BY a.id DESC LIMIT ?;

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
-- The number of a thread.
SELECT no FROM threads WHERE tenant = ? AND id = ?;

-- name: id_of_thread
-- The id of a thread, by its number.
SELECT id FROM threads WHERE no = ?;

-- name: get_thread
-- One thread.
SELECT id, created_ms, body FROM threads WHERE tenant = ? AND id = ?;

-- name: replace_thread
-- New notes of a thread.
UPDATE threads SET body = ? WHERE tenant = ? AND id = ?;

-- name: list_threads_asc
-- Threads from the oldest on, between two numbers.
SELECT id, created_ms, body FROM threads WHERE tenant = ? AND no > ? AND no < ? ORDER BY no ASC LIMIT ?;

-- name: list_threads_desc
-- Threads from the newest on, between two numbers.
SELECT id, created_ms, body FROM threads WHERE tenant = ? AND no > ? AND no < ? ORDER BY no DESC LIMIT ?;

-- name: delete_thread
-- A thread's own row; it goes first, so that its messages may follow.
DELETE FROM threads WHERE tenant = ? AND no = ?;

-- name: delete_thread_messages
-- The messages of a thread that is gone.
DELETE FROM messages WHERE pos >= ? << 32 AND pos < (? + 1) << 32;

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
-- The position of a thread's last row.
SELECT max(pos) FROM messages WHERE pos >= ? << 32 AND pos < (? + 1) << 32;

-- name: insert_message
-- One row of a thread.
INSERT INTO messages (pos, tenant, role, status, listed, open, reply, call, tokens, run, created_ms, text, blob, body)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: replace_message
-- New notes of a message.
UPDATE messages SET body = ? WHERE tenant = ? AND pos = ? AND listed = 1;

-- name: get_message
-- One message by its id, with its thread and its run.
SELECT m.pos, m.listed, m.role, m.status, m.reply, m.call, m.tokens, m.created_ms, m.text, m.blob, m.body, t.id, r.id, r.agent_id
FROM messages m JOIN threads t ON t.no = m.pos >> 32 LEFT JOIN runs r ON r.no = m.run
WHERE m.tenant = ? AND m.pos = ? AND m.listed = 1;

-- name: list_messages_asc
-- What a thread's readers see, from the oldest on.
SELECT m.pos, m.listed, m.role, m.status, m.reply, m.call, m.tokens, m.created_ms, m.text, m.blob, m.body, NULL, r.id, r.agent_id
FROM messages m LEFT JOIN runs r ON r.no = m.run
WHERE m.tenant = ? AND m.pos > ? AND m.pos < ? AND m.listed = 1 ORDER BY m.pos ASC LIMIT ?;

-- name: list_messages_desc
-- What a thread's readers see, from the newest on.
SELECT m.pos, m.listed, m.role, m.status, m.reply, m.call, m.tokens, m.created_ms, m.text, m.blob, m.body, NULL, r.id, r.agent_id
FROM messages m LEFT JOIN runs r ON r.no = m.run
WHERE m.tenant = ? AND m.pos > ? AND m.pos < ? AND m.listed = 1 ORDER BY m.pos DESC LIMIT ?;

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
FROM messages WHERE tenant = ? AND pos > ? AND pos < ? AND role = 'user' ORDER BY pos ASC LIMIT 1;

-- name: insert_run
-- A new run of a graph that is there, and of a version of an agent that is not deleted.
INSERT INTO runs (tenant, id, thread, parent, agent_id, agent_version, graph, status, rev, fence, walker, first_seq, born,
  created_ms, started_ms, ended_ms, expires_ms, wake_ms, walked_ms, prompt_tokens, completion_tokens, metadata, body)
SELECT ?1, ?2, ?3, ?4, ?5, ?6, g.no, ?8, ?9, ?10, NULL, ?11, ?12, ?13, NULL, NULL, ?14, ?15, ?16, NULL, NULL, ?17, ?18
FROM graphs g JOIN agent_versions v ON v.tenant = ?1 AND v.id = ?5 AND v.version = ?6
JOIN agents a ON a.tenant = v.tenant AND a.id = v.id AND a.deleted_ms IS NULL
WHERE g.tenant = ?1 AND g.digest = ?7 RETURNING no;

-- name: number_of_run
-- The numbers of a run and of its thread.
SELECT no, thread FROM runs WHERE tenant = ? AND id = ?;

-- name: get_run
-- One run.
SELECT r.id, t.id, p.id, r.agent_id, r.agent_version, g.digest, r.status, r.rev, r.fence, r.walker, r.first_seq,
  r.created_ms, r.started_ms, r.ended_ms, r.expires_ms, r.wake_ms, r.walked_ms, r.prompt_tokens, r.completion_tokens, r.metadata, r.body
FROM runs r JOIN threads t ON t.no = r.thread JOIN graphs g ON g.no = r.graph LEFT JOIN runs p ON p.no = r.parent
WHERE r.tenant = ? AND r.id = ?;

-- name: active_run
-- The run that a thread is busy with.
SELECT id FROM runs WHERE tenant = ? AND thread = ? AND parent IS NULL
AND status IN ('queued', 'in_progress', 'requires_action', 'cancelling');

-- name: list_runs_asc
-- Runs of a tenant from the oldest on.
SELECT r.id, t.id, p.id, r.agent_id, r.agent_version, g.digest, r.status, r.rev, r.fence, r.walker, r.first_seq,
  r.created_ms, r.started_ms, r.ended_ms, r.expires_ms, r.wake_ms, r.walked_ms, r.prompt_tokens, r.completion_tokens, r.metadata, r.body
FROM runs r JOIN threads t ON t.no = r.thread JOIN graphs g ON g.no = r.graph LEFT JOIN runs p ON p.no = r.parent
WHERE r.tenant = ? AND r.no > ? AND r.no < ? ORDER BY r.no ASC LIMIT ?;

-- name: list_runs_desc
-- Runs of a tenant from the newest on.
SELECT r.id, t.id, p.id, r.agent_id, r.agent_version, g.digest, r.status, r.rev, r.fence, r.walker, r.first_seq,
  r.created_ms, r.started_ms, r.ended_ms, r.expires_ms, r.wake_ms, r.walked_ms, r.prompt_tokens, r.completion_tokens, r.metadata, r.body
FROM runs r JOIN threads t ON t.no = r.thread JOIN graphs g ON g.no = r.graph LEFT JOIN runs p ON p.no = r.parent
WHERE r.tenant = ? AND r.no > ? AND r.no < ? ORDER BY r.no DESC LIMIT ?;

-- name: list_thread_runs_asc
-- Runs of a thread from the oldest on.
SELECT r.id, t.id, p.id, r.agent_id, r.agent_version, g.digest, r.status, r.rev, r.fence, r.walker, r.first_seq,
  r.created_ms, r.started_ms, r.ended_ms, r.expires_ms, r.wake_ms, r.walked_ms, r.prompt_tokens, r.completion_tokens, r.metadata, r.body
FROM runs r JOIN threads t ON t.no = r.thread JOIN graphs g ON g.no = r.graph LEFT JOIN runs p ON p.no = r.parent
WHERE r.tenant = ? AND r.thread = ? AND r.no > ? AND r.no < ? ORDER BY r.no ASC LIMIT ?;

-- name: list_thread_runs_desc
-- Runs of a thread from the newest on.
SELECT r.id, t.id, p.id, r.agent_id, r.agent_version, g.digest, r.status, r.rev, r.fence, r.walker, r.first_seq,
  r.created_ms, r.started_ms, r.ended_ms, r.expires_ms, r.wake_ms, r.walked_ms, r.prompt_tokens, r.completion_tokens, r.metadata, r.body
FROM runs r JOIN threads t ON t.no = r.thread JOIN graphs g ON g.no = r.graph LEFT JOIN runs p ON p.no = r.parent
WHERE r.tenant = ? AND r.thread = ? AND r.no > ? AND r.no < ? ORDER BY r.no DESC LIMIT ?;

-- name: runs_by_prefix
-- Runs whose id begins with a text, newest first.
SELECT id FROM runs WHERE tenant = ? AND id >= ? AND id < ? ORDER BY id DESC LIMIT 3;

-- name: threads_by_prefix
-- Threads whose id begins with a text, newest first.
SELECT id FROM threads WHERE tenant = ? AND id >= ? AND id < ? ORDER BY id DESC LIMIT 3;

-- name: agents_by_prefix
-- Agents whose id begins with a text, newest first.
SELECT id FROM agents WHERE tenant = ? AND id >= ? AND id < ? AND deleted_ms IS NULL ORDER BY id DESC LIMIT 3;

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
-- Take a queued run.
UPDATE runs SET status = 'in_progress', rev = rev + 1, fence = fence + 1, walker = ?, started_ms = coalesce(started_ms, ?)
WHERE no = ? AND tenant = ? AND status = 'queued';

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
-- The journal of a run.
SELECT n, path, attempt, kind, status, fence, cause, edge, fan, reply, call, message, tool, started_ms, ended_ms,
  prompt_tokens, completion_tokens, event, said, body
FROM steps WHERE tenant = ?1 AND pos >= ?2 << 32 AND pos < (?2 + 1) << 32 ORDER BY pos;

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
