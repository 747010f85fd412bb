-- What:  Where a rotation of the data-encryption key is, and which process holds which keys.
-- Why:   A key is switched only when everybody who verifies holds the next one, and taken away only when nothing needs
--        it any more. Ids of keys tell nothing about them.
-- Safe:  Only adds.

create table key_rotation (
  id               bigint generated always as identity primary key,
  phase            text not null default 'requested' check (phase in ('requested', 'issued', 'switched', 'done')),
  requested_by     text not null,
  requested_at     timestamptz not null,
  -- How long the old key is kept after the switch: as long as a job signed with it may still be fresh.
  retire_after_sec integer not null check (retire_after_sec >= 0),
  old_key_id       text,
  next_key_id      text,
  switched_at      timestamptz,
  done_at          timestamptz,
  constraint key_rotation_named check ((phase = 'requested') or (old_key_id is not null and next_key_id is not null)),
  constraint key_rotation_switched check ((phase in ('switched', 'done')) = (switched_at is not null)),
  constraint key_rotation_done check ((phase = 'done') = (done_at is not null))
);
create unique index key_rotation_one_open on key_rotation ((true)) where phase <> 'done';

create table key_holder (
  role           text not null check (role in ('scheduler', 'vault', 'executor', 'writer', 'api')),
  process        text not null check (process <> '' and length(process) <= 128),
  current_key_id text not null,
  key_ids        text[] not null check (cardinality(key_ids) between 1 and 16),
  seen_at        timestamptz not null,
  primary key (role, process)
);

grant select, insert on key_rotation to openwatch_api;
grant select, update (phase, old_key_id, next_key_id, switched_at, done_at) on key_rotation to openwatch_vault;
grant select, insert, update on key_holder to openwatch_scheduler, openwatch_vault, openwatch_writer, openwatch_api;
grant delete on key_holder to openwatch_vault;
