-- What: `scan` has together, and last, what its end changes; rows of the outbox that hold several messages have no
--       id and subject, and all of them one index; one index of the ledger serves what two did; the log finds causes by a hash
--       and says a row's host once.
-- Why:  a scan that found nothing new writes these rows and little else. A changed row is logged from the first byte that
--       differs to the last: `state` stood before, and `finished_at` after, everything that stays.
-- Safe: rewrites `scan` once (a million rows take a quarter of a minute) and builds an index of the ledger and one of the log.
--       A relay from before cannot read what is put in line now: every stage is stopped first (ADR 19).

-- A column filled from another moves all rows at once, where setting it would leave each of them twice.
alter table scan
  add column finished_at_last timestamptz generated always as (finished_at) stored,
  add column state_last text generated always as (state) stored,
  add column engine_last text generated always as (engine) stored;
alter table scan
  alter column finished_at_last drop expression,
  alter column state_last drop expression,
  alter column engine_last drop expression;
alter table scan drop column finished_at, drop column state, drop column engine;
alter table scan rename column finished_at_last to finished_at;
alter table scan rename column state_last to state;
alter table scan rename column engine_last to engine;
alter table scan
  alter column state set not null,
  alter column state set default 'queued',
  add constraint scan_state_check check (state in ('queued', 'running', 'completed', 'failed')),
  add constraint scan_terminal check ((state in ('completed', 'failed')) = (finished_at is not null)),
  add constraint scan_failed check ((state = 'failed') = (failure_reason is not null));
grant select (state) on scan to openwatch_scheduler;
grant update (finished_at, state, engine) on scan to openwatch_writer, openwatch_caretaker;

-- The messages in a packed row have names of their own.
alter table outbox
  drop constraint outbox_pkey,
  add primary key (sender, id),
  alter column message_id drop not null,
  alter column subject drop not null,
  alter column headers drop not null,
  add constraint outbox_named check (packed or (message_id is not null and subject is not null and headers is not null));
drop index outbox_sender;

-- Filtered scans too: then a moment in the past of one host is found by its time, as it is for the fleet.
drop index scan_ledger_host;
drop index scan_ledger_host_time;
create index scan_ledger_host_time on scan_ledger (host_id, applied_at desc) where outcome = 'completed';

-- Made for an empty table, the index holds a summary of the first pages that each of their rows would renew; like all others
-- they are to be summed up when they are full.
select brin_desummarize_range('scan_ledger_time', 0) where not exists (select from scan_ledger);

comment on column audit_event.detail is 'Of rows since version 26 without `host_id`, which is a column.';
alter table audit_event
  alter column redactions drop not null,
  alter column redactions drop default;
drop index audit_event_cause;
create index audit_event_cause on audit_event (hashtextextended(cause, 0)) where cause is not null;
