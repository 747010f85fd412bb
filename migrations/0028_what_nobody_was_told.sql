-- What: failed scans in a row are counted whatever the reason; a host that gets another way starts its liveness anew.
-- Why:  a host whose scans fail for a reason that says nothing against it (no credential, no corpus) is left in its rhythm and was
--       never told of. One that moved behind a jump host is probed no more, and stayed unreachable for ever.
-- Safe: a column with a default, and a grant. A program from before leaves the count where it is.

alter table host_backoff_state add column failed_scans integer not null default 0 check (failed_scans >= 0);
update host_backoff_state set failed_scans = consecutive_failures where probe_type = 'scan';

grant update (reachability_status, consecutive_failures, failing_since, last_probe_at, last_response_ms, last_error_type,
  last_state_change_at, next_probe_at, updated_at) on host_liveness to openwatch_api;

update host_liveness l
set reachability_status = 'unknown', consecutive_failures = 0, failing_since = null, last_probe_at = null, last_response_ms = null,
  last_error_type = null, last_state_change_at = null
from host h
where h.id = l.host_id and h.jump_id is not null;
