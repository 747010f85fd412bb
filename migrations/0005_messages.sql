-- What: the audit log, and what is to be sent and has been heard.
-- Why:  messages and audit rows commit with the change they speak of, or not at all.
-- Safe: new tables only.

create table audit_event (
  id             uuid primary key,
  action         text not null check (action ~ '^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*){1,3}$'),
  severity       text not null check (severity in ('info', 'warning', 'error', 'critical')),
  actor_type     text not null check (actor_type in ('system', 'worker', 'user', 'operator')),
  actor_label    text not null,
  host_id        uuid,
  resource_type  text,
  resource_id    text,
  correlation_id text,
  -- Message or scan that caused it.
  cause          text,
  detail         jsonb not null check (jsonb_typeof(detail) = 'object'),
  redactions     text[] not null default '{}',
  policy_version text,
  occurred_at    timestamptz not null,
  recorded_at    timestamptz not null default clock_timestamp()
);
create index audit_event_recent on audit_event (occurred_at desc, id desc);
create index audit_event_action on audit_event (action, occurred_at desc, id desc);
create index audit_event_host on audit_event (host_id, occurred_at desc, id desc) where host_id is not null;
create index audit_event_cause on audit_event (cause) where cause is not null;

create table outbox (
  id         bigint generated always as identity primary key,
  sender     text not null check (sender <> ''),
  message_id text not null unique,
  subject    text not null check (subject ~ '^[^[:space:]*>]+$'),
  headers    jsonb not null check (jsonb_typeof(headers) = 'object'),
  payload    bytea not null,
  created_at timestamptz not null
) with (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0);
create index outbox_sender on outbox (sender, id);

create table inbox (
  consumer    text not null,
  message_id  text not null,
  received_at timestamptz not null,
  primary key (consumer, message_id)
);
create index inbox_age on inbox (received_at);
