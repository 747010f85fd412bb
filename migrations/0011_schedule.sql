-- What: why a host is due when it is, maintenance asked for by people, counters of what the scheduler did, and accepted
--       lists of revoked signing keys.
-- Why:  `host show` explains the next scan; people set maintenance through the API, but only the scheduler writes the
--       schedule, so they leave a request and it takes it over; counters must survive every process and count once.
-- Safe: one column with a constant default, new tables, a new view.

alter table host_compliance_schedule add column next_reason text not null default 'first_contact'
  check (next_reason in ('first_contact', 'spread', 'interval', 'retry', 'backoff'));
update host_compliance_schedule set next_reason = 'interval' where scan_number > 0;
-- Hosts never asked to be scanned: only they are spread when a fleet arrives at once.
create index host_compliance_schedule_new on host_compliance_schedule (next_scheduled_scan)
  where next_reason in ('first_contact', 'spread');

-- A wish that the scheduler has not taken over yet.
create table maintenance_request (
  id           bigint generated always as identity primary key,
  host_id      uuid not null references host (id) on delete cascade,
  maintenance  boolean not null,
  until        timestamptz,
  actor        text not null,
  correlation  text,
  requested_at timestamptz not null,
  check (maintenance or until is null)
);
create index maintenance_request_host on maintenance_request (host_id, id desc);

-- The one answer to "is this host in maintenance by hand": the newest wish, else the schedule's flag; over when its time
-- is up, whoever has noticed that. Maintenance by policy is the policy's to say.
create view host_maintenance as
select s.host_id,
  coalesce(r.maintenance, s.maintenance_mode) and coalesce(u.until > now(), true) as maintenance,
  u.until
from host_compliance_schedule s
left join lateral (
  select q.maintenance, q.until from maintenance_request q where q.host_id = s.host_id order by q.id desc limit 1
) r on true
cross join lateral (select case when r.maintenance is null then s.maintenance_until else r.until end as until) u;

-- What happened so far, over all processes and lives. Moved in the transaction of what is counted.
create table counter (
  name     text primary key check (name ~ '^[a-z][a-z_]*$'),
  value    bigint not null default 0,
  moved_at timestamptz
);
insert into counter (name) values ('tick_count'), ('due_count'), ('dispatched_count'), ('skipped_maintenance_count'),
  ('skipped_backoff_count'), ('skipped_open_count'), ('host_error_count'), ('refuse_count'), ('policy_clamped_count'),
  ('hmac_reject_count');

-- Lists of revoked signing keys that were accepted: the newest holds, also after a restart and where no file lies.
create table policy_revocation (
  sequence        bigint primary key check (sequence >= 0),
  document        bytea not null check (octet_length(document) <= 262144),
  signature       bytea not null check (octet_length(signature) <= 65536),
  loaded_by       text not null,
  loaded_at       timestamptz not null
);

create trigger maintenance_request_notify after insert on maintenance_request
  for each statement execute function notify_channel('ow_schedule');

-- Locked before it is taken over, which PostgreSQL counts as an update.
grant select, update, delete on maintenance_request to openwatch_scheduler;
grant select, insert on maintenance_request to openwatch_api;
grant select on maintenance_request to openwatch_liveness;
grant select on host_maintenance to openwatch_scheduler, openwatch_liveness, openwatch_api;
grant select, update on counter to openwatch_scheduler, openwatch_writer;
grant select on counter to openwatch_api;
grant select on policy_revocation to openwatch_scheduler, openwatch_vault, openwatch_writer, openwatch_drift,
  openwatch_alerts, openwatch_liveness, openwatch_api, openwatch_caretaker;
grant insert on policy_revocation to openwatch_scheduler;
