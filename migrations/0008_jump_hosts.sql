-- What:  A host may be reached through another one, directly: no chains, so no cycles either.
-- Why:   Fleets sit behind bastions. That a jump host is itself dialled directly and is not removed while others need it
--        is kept by the foreign key below, whoever changes what at the same time: it points at (id, true), and a host
--        carries others only while it is neither behind one nor removed.
-- Safe:  Only adds; code that does not know the columns dials directly, as before.

alter table host add column jump_id uuid;
alter table host add column carries boolean not null generated always as (jump_id is null and deleted_at is null) stored;
alter table host add column jump_carries boolean generated always as (case when jump_id is null then null else true end) stored;
alter table host add constraint host_carries_key unique (id, carries);
alter table host add constraint host_jump_fkey foreign key (jump_id, jump_carries) references host (id, carries);
create index host_jump on host (jump_id) where jump_id is not null;

grant update (jump_id) on host to openwatch_api;
