-- What: channels of more kinds, whose targets are sealed; tries of deliveries with what was answered; tests of channels;
--       alerts that are kept back because they flap.
-- Why:  a target holds secrets (an address, a password, a key) that only the alerts stage may read.
-- Safe: takes away the two columns that held a webhook's address in the clear. A webhook made before is turned off, with
--       the reason beside it: its address cannot be sealed here. Nothing that was released made any.

alter table channel drop constraint channel_kind_check;
alter table channel drop constraint channel_check;
alter table channel add constraint channel_kind_check
  check (kind in ('webhook', 'slack', 'email', 'pagerduty', 'nats', 'stdout'));
alter table channel
  -- Opens with the alerts stage's key only.
  add column sealed          bytea check (length(sealed) <= 32768),
  add column key_id          text,
  -- What may be shown of it: the host of an address, a mail server and its readers, a subject.
  add column target          text not null default '' check (length(target) <= 512),
  -- May go to addresses inside the network.
  add column allow_private   boolean not null default false,
  add column disabled_reason text check (length(disabled_reason) <= 256);
update channel set enabled = false, disabled_reason = 'made before targets were sealed; add it again' where kind = 'webhook';
alter table channel drop column url, drop column secret_ref;
alter table channel
  add constraint channel_sealed check (sealed is not null or kind = 'stdout' or not enabled),
  add constraint channel_key check ((sealed is null) = (key_id is null)),
  add constraint channel_reason check (disabled_reason is null or not enabled);

-- A test of a channel is a delivery without an alert.
alter table alert_delivery alter column alert_id drop not null;
create index alert_delivery_channel on alert_delivery (channel_id, created_at desc, id desc);

alter table alert_delivery_attempt
  add column status  integer,
  add column took_ms integer;

-- Opened while it flapped: people are told of it at that time, if it is still open.
alter table alert add column withheld_until timestamptz;
create index alert_withheld on alert (withheld_until) where withheld_until is not null;
create index alert_key_recent on alert (dedup_key, created_at);

create trigger channel_notify after insert or update or delete on channel
  for each statement execute function notify_channel('ow_channel');

-- Only the alerts stage reads what is sealed.
revoke select on channel from openwatch_api;
grant select (id, name, kind, key_id, target, allow_private, min_severity, tags, enabled, disabled_reason, created_by, created_at)
  on channel to openwatch_api;
grant select (id, key_id) on channel to openwatch_vault;
grant update (enabled, disabled_reason, sealed, key_id) on channel to openwatch_alerts;
grant update (withheld_until) on alert to openwatch_api;

alter table key_holder drop constraint key_holder_role_check;
alter table key_holder add constraint key_holder_role_check
  check (role in ('scheduler', 'vault', 'executor', 'writer', 'api', 'alerts'));
grant select, insert, update on key_holder to openwatch_alerts;
