-- What: since when a host has not answered; whether the probers' own network is gone; two alert types for that.
-- Why:  a thousand hosts that fall silent together are one outage of ours, not a thousand of theirs: all probers share what
--       they know of it, and it survives each of them.
-- Safe: a nullable column, a new table of one row, a wider check.

alter table host_liveness add column failing_since timestamptz;

create table prober_standing (
  one_row        boolean primary key default true check (one_row),
  -- Absent while hosts answer.
  isolated_since timestamptz,
  -- End of the last isolation: what was seen before does not count.
  connected_at   timestamptz,
  -- Number of the latest change: orders its events.
  transition     bigint not null default 0
);
insert into prober_standing default values;

alter table alert drop constraint alert_alert_type_check, add constraint alert_alert_type_check check (alert_type in (
  'host_unreachable', 'host_recovered', 'prober_isolated', 'prober_connected', 'drift_major', 'drift_minor',
  'drift_improvement', 'scan_failing', 'host_key_changed', 'job_tampered', 'policy_rejected'));

grant select, update on prober_standing to openwatch_liveness;
grant select on prober_standing to openwatch_api;
