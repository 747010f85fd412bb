-- What: the scheduler reads no more than its statements name; only it changes which policy is in force; a policy may be signed
--       anew; rounds of the scheduler that fail are counted.
-- Why:  what a job says of its host is in `job_target`, so whoever has the scheduler's password need not see credentials' names,
--       accepted keys and who accepted them, probes, or how scans ended. The API accepts no policy: with its password nobody
--       brings an old one back. What a revoked key has signed must be replaced. A round that failed was told in a log only.
-- Safe: nothing but grants is taken away; a scheduler older than `job_target` cannot issue jobs until it is replaced.

revoke select on host, host_label, known_host_key, host_liveness, host_state, host_backoff_state, scan from openwatch_scheduler;
revoke select (id, name, username, is_default) on credential from openwatch_scheduler;

-- What falls due, and what keeps it from being dispatched.
grant select (id, name, last_number, deleted_at) on host to openwatch_scheduler;
grant select (host_id, probe_type, suppress_until) on host_backoff_state to openwatch_scheduler;
-- What is open, what waits for a job, and how many were queued within the last minute.
grant select (id, host_id, number, lane, trigger, actor, framework, rules, corpus, state, attempt, tag, queued_at)
  on scan to openwatch_scheduler;

revoke insert on policy_history from openwatch_api;
revoke update (superseded_at) on policy_history from openwatch_api;
grant update (signature, key_fingerprint) on policy_history to openwatch_scheduler;

insert into counter (name) values ('tick_error_count');
