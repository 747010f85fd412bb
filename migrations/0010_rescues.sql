-- What ends a scan as lost is counted apart from its attempts: a person who promotes a waiting scan makes a new attempt
-- too, and must not use up one of its three lives. And a reason of its own for a host that breaks the worker.
-- Old code keeps running: the column has a default, the list of reasons only grows.

alter table scan add column rescues integer not null default 0 check (rescues >= 0);
grant update (rescues) on scan to openwatch_caretaker;

alter table scan drop constraint scan_failure_reason_check;
alter table scan add constraint scan_failure_reason_check check (failure_reason in (
  'host_key_unknown', 'host_key_mismatch', 'credential_decryption_failed', 'no_credential', 'auth_failed',
  'sudo_failed', 'connect_refused', 'unreachable', 'no_shell', 'timeout', 'cancelled', 'transport_lost',
  'evidence_oversize', 'corpus_unavailable', 'kensa_error', 'worker_panic', 'hmac_rejected', 'lost', 'invalid_result'));
