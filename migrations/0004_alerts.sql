-- What: alerts, their transitions, where they are delivered, and how that went.
-- Why:  one open alert per incident and one delivery per transition and channel, by index and not by habit.
-- Safe: new tables only.

create function severity_rank(severity text) returns integer language sql immutable as $$
  select array_position(array['info', 'low', 'medium', 'high', 'critical'], severity)
$$;

create table alert (
  id               uuid primary key,
  dedup_key        text not null,
  alert_type       text not null check (alert_type in (
                     'host_unreachable', 'host_recovered', 'drift_major', 'drift_minor', 'drift_improvement', 'scan_failing',
                     'host_key_changed', 'job_tampered', 'policy_rejected')),
  severity         text not null check (severity in ('info', 'low', 'medium', 'high', 'critical')),
  host_id          uuid references host (id) on delete restrict,
  title            text not null check (length(title) <= 1024),
  body             text not null default '' check (length(body) <= 16384),
  tags             jsonb not null default '{}' check (jsonb_typeof(tags) = 'object'),
  state            text not null default 'active' check (state in ('active', 'acknowledged', 'silenced', 'resolved', 'dismissed')),
  -- Number of the latest transition; opening is 1.
  transition       integer not null default 1,
  occurrences      integer not null default 1,
  occurred_at      timestamptz not null,
  last_occurred_at timestamptz not null,
  last_notified_at timestamptz not null,
  silenced_until   timestamptz,
  created_at       timestamptz not null,
  updated_at       timestamptz not null,
  check (silenced_until is null or state = 'silenced')
);
create unique index alert_one_open_per_key on alert (dedup_key) where state in ('active', 'acknowledged', 'silenced');
create index alert_recent on alert (occurred_at desc, id desc);
create index alert_host on alert (host_id, occurred_at desc, id desc);
create index alert_silence on alert (silenced_until) where state = 'silenced';

create table alert_transition (
  alert_id   uuid not null references alert (id) on delete restrict,
  number     integer not null check (number > 0),
  state      text not null check (state in ('active', 'acknowledged', 'silenced', 'resolved', 'dismissed')),
  actor      text not null,
  reason     text check (length(reason) <= 256),
  until      timestamptz,
  changed_at timestamptz not null,
  primary key (alert_id, number)
);

-- Newest event seen of one family on one host; `-` stands for no host.
create table alert_cursor (
  host        text not null,
  family      text not null,
  occurred_at timestamptz not null,
  primary key (host, family)
);

create table channel (
  id           uuid primary key,
  name         text not null unique check (name <> '' and length(name) <= 128),
  kind         text not null check (kind in ('stdout', 'webhook')),
  url          text check (length(url) <= 2048),
  -- Name of the signing key in the configuration of the alerts stage; never the key.
  secret_ref   text,
  min_severity text not null default 'info' check (min_severity in ('info', 'low', 'medium', 'high', 'critical')),
  -- All of these must stand among the alert's tags; empty lets everything pass.
  tags         jsonb not null default '{}' check (jsonb_typeof(tags) = 'object'),
  enabled      boolean not null default true,
  created_by   text not null,
  created_at   timestamptz not null default now(),
  check ((kind = 'webhook') = (url is not null))
);

create table alert_delivery (
  id          uuid primary key,
  alert_id    uuid not null references alert (id) on delete restrict,
  transition  integer not null,
  channel_id  uuid not null references channel (id) on delete cascade,
  payload     jsonb not null check (jsonb_typeof(payload) = 'object'),
  state       text not null default 'pending' check (state in ('pending', 'delivered', 'failed')),
  attempts    integer not null default 0,
  next_try_at timestamptz not null,
  created_at  timestamptz not null,
  finished_at timestamptz,
  constraint alert_delivery_once unique (alert_id, transition, channel_id),
  check ((state = 'pending') = (finished_at is null))
);
create index alert_delivery_due on alert_delivery (channel_id, next_try_at) where state = 'pending';
create index alert_delivery_finished on alert_delivery (finished_at) where finished_at is not null;

create table alert_delivery_attempt (
  delivery_id uuid not null references alert_delivery (id) on delete cascade,
  attempt     integer not null,
  delivered   boolean not null,
  error       text check (length(error) <= 1024),
  tried_at    timestamptz not null,
  primary key (delivery_id, attempt)
);
