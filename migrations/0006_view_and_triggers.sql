-- What: the rule view, the rows that come with a host, and the wake-up calls.
-- Why:  `host_rule_state` has the columns that readers expect although no scan rewrites them; a host is never without
--       its schedule; a stage wakes within milliseconds and still polls.
-- Safe: new objects only.

create view host_rule_state as
select
  r.host_id,
  r.rule_id,
  r.status as current_status,
  r.severity,
  case when newest.filtered then r.filtered_at when r.gone_after is not null then r.gone_at else h.full_at end as last_checked_at,
  r.checks_before + r.filtered_checks
    + case when r.present_since is null then 0 else coalesce(r.gone_after, h.full_seq) - r.present_since + 1 end as check_count,
  case when newest.filtered then r.filtered_scan when r.gone_after is not null then r.gone_scan_id else h.full_scan_id end as last_scan_id,
  r.evidence_hash,
  r.framework_refs,
  r.skip_reason,
  r.first_seen_at,
  r.last_changed_at,
  r.present_since is not null and r.gone_after is null as in_corpus
from rule_state r
join host_state h on h.host_id = r.host_id
cross join lateral (
  select coalesce(r.filtered_number, 0)
    > case when r.present_since is null then -1 when r.gone_after is not null then r.gone_number else h.full_number end as filtered
) newest;

-- With the rights of the owner: nobody but the scheduler may write the schedule, whoever adds the host.
create function seed_host() returns trigger language plpgsql security definer
  set search_path = public, pg_temp as $$
begin
  insert into host_compliance_schedule (host_id, created_at, updated_at) values (new.id, now(), now());
  insert into host_liveness (host_id) values (new.id);
  insert into host_state (host_id) values (new.id);
  return null;
end
$$;
revoke all on function seed_host() from public;
create trigger host_seed after insert on host for each row execute function seed_host();

create function notify_outbox() returns trigger language plpgsql as $$
begin
  perform pg_notify('ow_outbox', senders.sender) from (select distinct sender from added) senders;
  return null;
end
$$;
create trigger outbox_notify after insert on outbox referencing new table as added
  for each statement execute function notify_outbox();

-- Wakes the listeners of the channel named by the trigger.
create function notify_channel() returns trigger language plpgsql as $$
begin
  perform pg_notify(tg_argv[0], '');
  return null;
end
$$;
create trigger scan_notify after insert or update of lane, attempt on scan
  for each statement execute function notify_channel('ow_scan');
create trigger schedule_notify after insert on host_compliance_schedule
  for each statement execute function notify_channel('ow_schedule');
create trigger credential_notify after insert on credential
  for each statement execute function notify_channel('ow_credential');
create trigger delivery_notify after insert on alert_delivery
  for each statement execute function notify_channel('ow_delivery');
create trigger policy_notify after insert on policy_history
  for each statement execute function notify_channel('ow_policy');
