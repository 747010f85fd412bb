-- What: what each stage may do, and nothing more.
-- Why:  a bug or a break-in in one stage must not reach what another owns. No stage may change or delete history:
--       transactions, evidence, ledger, drift, alert transitions and the audit log grant no update and no delete.
-- Safe: grants only.

grant usage on schema public to openwatch_scheduler, openwatch_vault, openwatch_writer, openwatch_drift,
  openwatch_alerts, openwatch_liveness, openwatch_api, openwatch_caretaker;

-- Every stage: tell what it did, send, hear once, follow the policy, know the schema's version.
grant select on _sqlx_migrations, policy_history to openwatch_scheduler, openwatch_vault, openwatch_writer,
  openwatch_drift, openwatch_alerts, openwatch_liveness, openwatch_api, openwatch_caretaker;
grant insert on audit_event to openwatch_scheduler, openwatch_vault, openwatch_writer, openwatch_drift,
  openwatch_alerts, openwatch_liveness, openwatch_api, openwatch_caretaker;
grant select, insert, delete on outbox to openwatch_scheduler, openwatch_vault, openwatch_writer, openwatch_drift,
  openwatch_alerts, openwatch_liveness, openwatch_api, openwatch_caretaker;
grant select, insert on inbox to openwatch_scheduler, openwatch_writer, openwatch_drift, openwatch_alerts,
  openwatch_caretaker;

-- Scheduler: the only writer of the schedule and the only signer of jobs.
grant select on host, host_label, known_host_key, corpus, host_backoff_state, host_liveness, scan, host_state
  to openwatch_scheduler;
grant select (id, name, username, is_default) on credential to openwatch_scheduler;
grant update (last_number) on host to openwatch_scheduler;
grant select, update, delete on host_compliance_schedule to openwatch_scheduler;
grant insert on scan to openwatch_scheduler;
grant update (lane, attempt, tag, key_id, timeout_sec, policy_version, corpus, issued_at) on scan to openwatch_scheduler;
grant insert on policy_history to openwatch_scheduler;
grant update (superseded_at) on policy_history to openwatch_scheduler;

-- Vault: the only reader of secrets.
grant select on host, scan, credential to openwatch_vault;
grant update (grants) on scan to openwatch_vault;
grant update (sealed, ciphertext, key_id, updated_at) on credential to openwatch_vault;

-- Writer: ends scans.
grant select on host, host_compliance_schedule, scan, scan_ledger, host_state, evidence, rule_state, rule_gap,
  transactions, host_rule_state, host_backoff_state, known_host_key to openwatch_writer;
grant update (state, worker, started_at, finished_at, superseded, engine, failure_reason, failure_detail, failure_rule)
  on scan to openwatch_writer;
grant insert on scan_ledger, evidence, transactions to openwatch_writer;
grant insert, update on rule_state, rule_gap, host_backoff_state, known_host_key to openwatch_writer;
grant update on host_state to openwatch_writer;

-- Drift.
grant select on host, scan, scan_ledger, drift to openwatch_drift;
grant insert on drift to openwatch_drift;

-- Alerts.
grant select on host, host_label, host_backoff_state, channel, alert, alert_transition, alert_cursor, alert_delivery,
  alert_delivery_attempt to openwatch_alerts;
grant insert, update on alert, alert_cursor, alert_delivery to openwatch_alerts;
grant insert on alert_transition, alert_delivery_attempt to openwatch_alerts;

-- Liveness.
grant select on host, host_compliance_schedule, host_liveness to openwatch_liveness;
grant update on host_liveness to openwatch_liveness;

-- API: reads everything but secrets; writes what people own.
grant select on host, host_label, known_host_key, corpus, policy_history, api_token, idempotency_key,
  host_compliance_schedule, host_backoff_state, scan, scan_ledger, host_state, evidence, rule_state, rule_gap,
  transactions, host_rule_state, drift, host_liveness, alert, alert_transition, alert_delivery, alert_delivery_attempt,
  channel, audit_event to openwatch_api;
grant select (id, name, username, auth_method, is_default, key_id, created_by, created_at, updated_at)
  on credential to openwatch_api;
grant insert (id, name, username, auth_method, is_default, sealed, created_by) on credential to openwatch_api;
grant update (is_default, updated_at) on credential to openwatch_api;
grant delete on credential to openwatch_api;
grant insert on host, corpus, policy_history to openwatch_api;
grant update (published_at, published_by, key_fingerprint) on corpus to openwatch_api;
grant update (address, port, username, sudo, credential_id, last_number, deleted_at) on host to openwatch_api;
grant insert, delete, update on host_label to openwatch_api;
grant insert, update on known_host_key, api_token to openwatch_api;
grant insert, update, delete on idempotency_key, channel to openwatch_api;
grant insert on scan to openwatch_api;
grant update (lane, attempt, tag, key_id, issued_at) on scan to openwatch_api;
grant update (superseded_at) on policy_history to openwatch_api;
grant update (state, transition, silenced_until, updated_at) on alert to openwatch_api;
grant insert on alert_transition, alert_delivery to openwatch_api;

-- Caretaker: rescues scans, sweeps what has had its day.
grant select on host, host_compliance_schedule, host_backoff_state, scan, scan_ledger, host_state, corpus,
  idempotency_key, alert_delivery, alert_delivery_attempt to openwatch_caretaker;
grant update (state, attempt, tag, key_id, worker, started_at, finished_at, issued_at, failure_reason, failure_detail,
  failure_rule) on scan to openwatch_caretaker;
grant insert on scan_ledger to openwatch_caretaker;
grant insert, update on host_backoff_state to openwatch_caretaker;
grant update (applied_number) on host_state to openwatch_caretaker;
grant delete on idempotency_key, inbox, alert_delivery, alert_delivery_attempt, corpus to openwatch_caretaker;
