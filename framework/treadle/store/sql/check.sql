-- name: thread_gaps
-- a thread's rows count without a gap from 1, and those of a fork from the last one that it shares
SELECT coalesce(t.id, s.id, 'thread number ' || (m.pos >> 32)), count(*) || ' rows, the last has seq ' || max(m.pos & 4294967295)
FROM messages m LEFT JOIN threads t ON t.no = m.pos >> 32 LEFT JOIN sources s ON s.no = m.pos >> 32
GROUP BY m.pos >> 32 HAVING min(m.pos & 4294967295) <> coalesce(t.forked_at, s.forked_at, 0) + 1
OR max(m.pos & 4294967295) <> count(*) + coalesce(t.forked_at, s.forked_at, 0);

-- name: groundless_forks
-- a fork begins with rows that are there, of its own tenant, and takes no call from its results
SELECT f.id, 'row ' || f.forked_at || ' of thread number ' || f.forked_from FROM (
  SELECT tenant, id, forked_from, forked_at FROM threads UNION ALL SELECT tenant, id, forked_from, forked_at FROM sources) f
LEFT JOIN messages m ON m.pos = (f.forked_from << 32) + f.forked_at AND m.tenant = f.tenant
LEFT JOIN messages a ON a.pos = (f.forked_from << 32) + coalesce(m.reply, f.forked_at)
WHERE f.forked_from IS NOT NULL AND (m.pos IS NULL OR coalesce(length(a.open), 0) <> (
  SELECT count(*) FROM messages r WHERE r.pos > a.pos AND r.pos <= m.pos AND r.reply = a.pos & 4294967295));

-- name: forgotten_sources
-- of a thread that is gone those rows are kept that forks begin with, and no others
SELECT s.id, 'rows up to ' || (SELECT max(pos) & 4294967295 FROM messages m WHERE m.pos >= s.no << 32 AND m.pos < (s.no + 1) << 32)
FROM sources s WHERE EXISTS (SELECT 1 FROM threads t WHERE t.no = s.no)
OR (SELECT max(pos) & 4294967295 FROM messages m WHERE m.pos >= s.no << 32 AND m.pos < (s.no + 1) << 32) IS NOT (
  SELECT max(forked_at) FROM (SELECT forked_from, forked_at FROM threads UNION ALL SELECT forked_from, forked_at FROM sources) f
  WHERE f.forked_from = s.no);

-- name: lost_messages
-- a row belongs to a thread of its own tenant, or to one that is gone and that forks begin with
SELECT 'row ' || m.pos, 'tenant ' || m.tenant
FROM messages m LEFT JOIN threads t ON t.no = m.pos >> 32 LEFT JOIN sources s ON s.no = m.pos >> 32
WHERE coalesce(t.tenant, s.tenant) IS NOT m.tenant;

-- name: unanswered_calls
-- a call without a result belongs to the thread's active run
SELECT t.id, 'row ' || (m.pos & 4294967295) || ' waits for ' || m.open
FROM messages m JOIN threads t ON t.no = m.pos >> 32
WHERE instr(m.open, '1') > 0 AND NOT EXISTS (
  SELECT 1 FROM runs r WHERE r.thread = t.no AND r.first_seq <= m.pos & 4294967295
  AND r.status IN ('queued', 'in_progress', 'requires_action', 'cancelling'));

-- name: unasked_results
-- a result answers a call of an earlier row of its thread
SELECT t.id, 'row ' || (m.pos & 4294967295) || ' answers call ' || m.call || ' of row ' || m.reply
FROM messages m JOIN threads t ON t.no = m.pos >> 32
LEFT JOIN messages a ON a.pos = (m.pos & ~4294967295) | m.reply
WHERE m.role = 'tool' AND (a.pos IS NULL OR a.pos >= m.pos OR a.role <> 'assistant'
  OR coalesce(substr(a.open, m.call + 1, 1), '') <> '0');

-- name: doubled_results
-- a call has one result
SELECT t.id, count(*) || ' results of call ' || m.call || ' of row ' || m.reply
FROM messages m JOIN threads t ON t.no = m.pos >> 32
WHERE m.role = 'tool' GROUP BY m.pos >> 32, m.reply, m.call HAVING count(*) > 1;

-- name: miscounted_calls
-- a row knows which of its calls are answered
SELECT t.id, 'row ' || (m.pos & 4294967295) || ' says ' || coalesce(m.open, 'nothing')
FROM messages m JOIN threads t ON t.no = m.pos >> 32
WHERE (m.role = 'assistant' AND coalesce(length(m.open), 0) <> coalesce(json_array_length(m.body, '$.tool_calls'), 0))
OR (m.role <> 'assistant' AND m.open IS NOT NULL)
OR (m.open IS NOT NULL AND length(m.open) - length(replace(m.open, '0', '')) <> (
  SELECT count(*) FROM messages r
  WHERE r.pos > m.pos AND r.pos < ((m.pos >> 32) + 1) << 32 AND r.reply = m.pos & 4294967295));

-- name: parted_results
-- nothing stands between a reply and the results of its calls
SELECT t.id, 'row ' || (o.pos & 4294967295) || ' stands before the result in row ' || (m.pos & 4294967295)
FROM messages m JOIN threads t ON t.no = m.pos >> 32
JOIN messages o ON o.pos > ((m.pos & ~4294967295) | m.reply) AND o.pos < m.pos AND o.role <> 'tool'
WHERE m.role = 'tool';

-- name: busy_threads
-- a thread has at most one active root run that does not stand in line
SELECT t.id, count(*) || ' active runs' FROM runs r JOIN threads t ON t.no = r.thread
WHERE r.parent IS NULL AND r.waits IS NULL AND r.status IN ('queued', 'in_progress', 'requires_action', 'cancelling')
GROUP BY r.thread HAVING count(*) > 1;

-- name: rootless_runs
-- a run has a thread, a step graph and a version of an agent, all of its own tenant
SELECT r.id, 'tenant ' || r.tenant FROM runs r
LEFT JOIN threads t ON t.no = r.thread AND t.tenant = r.tenant
LEFT JOIN graphs g ON g.no = r.graph AND g.tenant = r.tenant
LEFT JOIN agent_versions v ON v.tenant = r.tenant AND v.id = r.agent_id AND v.version = r.agent_version
WHERE t.no IS NULL OR g.no IS NULL OR v.id IS NULL;

-- name: lost_children
-- a child run has a parent that is there, of its own tenant
SELECT r.id, 'its parent is run number ' || r.parent FROM runs r LEFT JOIN runs p ON p.no = r.parent AND p.tenant = r.tenant
WHERE r.parent IS NOT NULL AND (p.no IS NULL OR p.no >= r.no);

-- name: outlived_children
-- a run that has ended has no child run that goes on
SELECT r.id, r.status || ', while ' || p.id || ' is ' || p.status FROM runs r JOIN runs p ON p.no = r.parent
WHERE r.status IN ('queued', 'in_progress', 'requires_action', 'cancelling')
AND p.status IN ('cancelled', 'completed', 'incomplete', 'failed', 'expired');

-- name: unfinished_runs
-- a run that has ended has its time, its usage and no walker, and no step of it is open
SELECT r.id, r.status FROM runs r
WHERE r.status IN ('cancelled', 'completed', 'incomplete', 'failed', 'expired') AND (
  r.ended_ms IS NULL OR r.prompt_tokens IS NULL OR r.completion_tokens IS NULL OR r.walker IS NOT NULL
  OR EXISTS (SELECT 1 FROM steps s WHERE s.pos >= r.no << 32 AND s.pos < (r.no + 1) << 32 AND s.status = 'in_progress'));

-- name: ended_too_early
-- a run that has not ended has no time of its end, and a walker only while it is in progress or being cancelled; where nobody walks it then, its time to go on is known, or it is a child
SELECT r.id, r.status || coalesce(', walked by ' || r.walker, '') FROM runs r
WHERE r.status IN ('queued', 'in_progress', 'requires_action', 'cancelling')
AND (r.ended_ms IS NOT NULL OR (r.walker IS NULL AND r.status = 'in_progress' AND r.wake_ms IS NULL AND r.parent IS NULL)
  OR (r.walker IS NOT NULL AND r.status NOT IN ('in_progress', 'cancelling')));

-- name: doubled_events
-- a run's birth and its end are its row, and stand nowhere else
SELECT r.id, e.name FROM events e JOIN runs r ON r.no = e.run AND r.tenant = e.tenant
WHERE e.name IN ('thread.run.created', 'thread.run.cancelled', 'thread.run.completed', 'thread.run.incomplete',
  'thread.run.failed', 'thread.run.expired');

-- name: event_gaps
-- a run's events count on from its birth without a gap
SELECT coalesce(r.id, 'run number ' || e.run), count(*) || ' events, the last has seq ' || max(e.seq)
FROM (
  SELECT tenant, run, seq FROM events
  UNION ALL SELECT tenant, run, event FROM steps WHERE event IS NOT NULL
  UNION ALL SELECT tenant, run, event - 1 FROM steps WHERE event IS NOT NULL AND said
) e LEFT JOIN runs r ON r.no = e.run AND r.tenant = e.tenant
GROUP BY e.tenant, e.run HAVING r.no IS NULL OR min(e.seq) <> r.born + 1 OR max(e.seq) <> count(*) + r.born
OR count(DISTINCT e.seq) <> count(*);

-- name: lost_steps
-- a step belongs to a run, which never had a lower fence than the step
SELECT coalesce(r.id, 'run number ' || s.run), s.path FROM steps s
LEFT JOIN runs r ON r.no = s.run AND r.tenant = s.tenant WHERE r.no IS NULL OR s.fence > r.fence;

-- name: doubled_steps
-- a step's attempt stands in the journal once
SELECT r.id, s.path || ', attempt ' || s.attempt FROM steps s JOIN runs r ON r.no = s.run AND r.tenant = s.tenant
GROUP BY s.tenant, s.run, s.path, s.attempt HAVING count(*) > 1;

-- name: misplaced_steps
-- a step names the row that it wrote, which is the reply of a model, the result of its own call, or the answer; an attempt that is made again writes none; a call that a node of a workflow makes has neither a row that asked nor one with its result
SELECT r.id, s.path FROM steps s JOIN runs r ON r.no = s.run AND r.tenant = s.tenant
LEFT JOIN messages m ON m.pos = (r.thread << 32) + s.message
WHERE (s.message IS NOT NULL AND (m.pos IS NULL OR s.message < r.first_seq OR m.run IS NOT r.no
    OR (s.kind = 'tool_call') <> (m.role = 'tool')
    OR (s.kind = 'tool_call' AND (m.reply IS NOT s.reply OR m.call IS NOT s.call))))
OR (s.kind = 'tool_call' AND CASE WHEN r.agent_id GLOB 'wf[_]*' THEN s.reply IS NOT NULL OR s.call IS NOT NULL OR s.message IS NOT NULL
  ELSE s.reply IS NULL OR s.call IS NULL OR (s.status <> 'in_progress' AND s.edge IS NOT 'retry' AND s.message IS NULL) END)
OR (s.status = 'in_progress') <> (s.ended_ms IS NULL) OR (s.status = 'in_progress') <> (s.event IS NULL)
OR s.said <> coalesce(m.listed, 0);

-- name: foreign_rows
-- a row that a run wrote lies in the run's thread, after the run began
SELECT r.id, 'row ' || (m.pos & 4294967295) FROM messages m JOIN runs r ON r.no = m.run
WHERE r.thread <> m.pos >> 32 OR r.tenant <> m.tenant OR r.first_seq > m.pos & 4294967295;

-- name: agent_versions
-- an agent or a workflow points to the last of its versions, which count from 1
SELECT a.id, 'version ' || a.version FROM agents a
LEFT JOIN agent_versions v ON v.tenant = a.tenant AND v.id = a.id
GROUP BY a.tenant, a.id HAVING count(v.version) <> a.version OR max(v.version) <> a.version;

-- name: missing_blobs
-- a large text that a row or a step names is kept
SELECT 'row ' || m.pos, m.blob FROM messages m
LEFT JOIN blobs b ON b.tenant = m.tenant AND b.digest = m.blob WHERE m.blob IS NOT NULL AND b.digest IS NULL
UNION ALL
SELECT r.id || ' ' || s.path, json_extract(s.body, '$.full_output') FROM steps s
JOIN runs r ON r.no = s.run AND r.tenant = s.tenant
LEFT JOIN blobs b ON b.tenant = s.tenant AND b.digest = json_extract(s.body, '$.full_output')
WHERE json_extract(s.body, '$.full_output') IS NOT NULL AND b.digest IS NULL
UNION ALL
SELECT r.id || ' ' || s.path, e.value FROM steps s
JOIN runs r ON r.no = s.run AND r.tenant = s.tenant
JOIN json_each(s.body, '$.blobs') e ON json_extract(s.body, '$.blobs') IS NOT NULL
LEFT JOIN blobs b ON b.tenant = s.tenant AND b.digest = e.value WHERE b.digest IS NULL;

-- name: lines_without_head
-- a run stands in line behind an active run of its thread
SELECT r.id, r.status FROM runs r WHERE r.waits = 1 AND (r.status <> 'queued' OR r.walker IS NOT NULL OR r.parent IS NOT NULL
  OR NOT EXISTS (SELECT 1 FROM runs a WHERE a.thread = r.thread AND a.parent IS NULL AND a.waits IS NULL
    AND a.status IN ('queued', 'in_progress', 'requires_action', 'cancelling')));

-- name: stranded_messages
-- a message in line waits for a run of its thread that has not ended
SELECT coalesce(t.id, 'thread number ' || q.thread), 'number ' || q.no || ' of the queue' FROM queue q
LEFT JOIN threads t ON t.no = q.thread AND t.tenant = q.tenant
WHERE t.no IS NULL OR q.pos IS NULL AND NOT EXISTS (SELECT 1 FROM runs r WHERE r.thread = q.thread AND r.parent IS NULL
  AND r.status IN ('queued', 'in_progress', 'requires_action', 'cancelling'));

-- name: misplaced_messages
-- a message that waited stands where the queue says, under the id that it got
SELECT 'number ' || q.no || ' of the queue', 'row ' || (q.pos & 4294967295) FROM queue q
LEFT JOIN messages m ON m.pos = q.pos AND m.pos >> 32 = q.thread
WHERE q.pos IS NOT NULL AND (m.pos IS NULL OR json_extract(m.body, '$.id') IS NULL);

-- name: unknown_walkers
-- a run is held by a walker that the store knows
SELECT r.id, r.walker FROM runs r WHERE r.walker IS NOT NULL AND NOT EXISTS (SELECT 1 FROM walkers w WHERE w.id = r.walker);

-- name: decided_without_leave
-- a call that a person kept from running has no outcome but that, and one that was decided on says who decided
SELECT r.id, s.path FROM steps s JOIN runs r ON r.no = s.run AND r.tenant = s.tenant
WHERE s.edge IN ('approval', 'unknown') AND json_extract(s.body, '$.asked.digest') IS NULL
OR s.edge = 'approved' AND coalesce(json_extract(s.body, '$.decision.verdict'), '') <> 'approve'
OR json_extract(s.body, '$.decision.verdict') = 'reject' AND s.status = 'completed'
  AND coalesce(json_extract(s.body, '$.last_error.code'), '') NOT IN ('approval_rejected', 'outcome_unknown');

-- name: lost_contents
-- a content belongs to a file, and is as long as it says
SELECT c.id, 'tenant ' || c.tenant || ', ' || length(c.body) || ' bytes' FROM file_contents c
LEFT JOIN files f ON f.tenant = c.tenant AND f.id = c.id WHERE f.id IS NULL OR f.bytes <> length(c.body);

-- name: lost_vector_store_files
-- a file of a vector store is a file, and the vector store is there, both of its own tenant
SELECT l.store, 'file ' || l.file || ' of tenant ' || l.tenant FROM vector_store_files l
LEFT JOIN files f ON f.tenant = l.tenant AND f.id = l.file
LEFT JOIN vector_stores v ON v.tenant = l.tenant AND v.id = l.store
WHERE f.id IS NULL OR v.id IS NULL;

-- name: miscounted_vector_stores
-- a vector store knows how many files it has, and their bytes
SELECT v.id, 'it counts ' || v.in_progress || ', ' || v.completed || ', ' || v.failed || ', ' || v.cancelled || ' and ' || v.usage_bytes || ' bytes'
FROM vector_stores v LEFT JOIN vector_store_files l ON l.tenant = v.tenant AND l.store = v.id GROUP BY v.tenant, v.id
HAVING v.in_progress <> coalesce(sum(l.status = 'in_progress'), 0) OR v.completed <> coalesce(sum(l.status = 'completed'), 0)
OR v.failed <> coalesce(sum(l.status = 'failed'), 0) OR v.cancelled <> coalesce(sum(l.status = 'cancelled'), 0)
OR v.usage_bytes <> coalesce(sum(l.usage_bytes), 0);

-- name: miscounted_batches
-- a batch knows how many files it has, and belongs to a vector store
SELECT b.id, 'it counts ' || b.in_progress || ', ' || b.completed || ', ' || b.failed || ', ' || b.cancelled
FROM file_batches b LEFT JOIN vector_stores v ON v.tenant = b.tenant AND v.id = b.store
LEFT JOIN vector_store_files l ON l.tenant = b.tenant AND l.store = b.store AND l.batch = b.id GROUP BY b.tenant, b.id
HAVING v.id IS NULL
OR b.in_progress <> coalesce(sum(l.status = 'in_progress'), 0) OR b.completed <> coalesce(sum(l.status = 'completed'), 0)
OR b.failed <> coalesce(sum(l.status = 'failed'), 0) OR b.cancelled <> coalesce(sum(l.status = 'cancelled'), 0);
