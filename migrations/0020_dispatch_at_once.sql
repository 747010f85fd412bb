-- What: what a job says of its host, in one view; more room beside hosts; nothing in line is packed twice.
-- Why:  jobs are signed where scans fall due and where people ask for them, and both say the same; 100,000 at once are to be quick.
-- Safe: a new view, which old processes do not know; pages written before keep their filling.

create view job_target as
select h.id as host_id, h.name, h.address, h.port, h.sudo, coalesce(h.username, c.username) as username,
  (select coalesce(jsonb_object_agg(l.key, l.value), '{}') from host_label l where l.host_id = h.id) as labels,
  (select coalesce(jsonb_agg(jsonb_build_object('algorithm', k.algorithm, 'key', k.public_key) order by k.algorithm), '[]')
   from known_host_key k
   where k.address = lower(h.address) and k.port = h.port and k.revoked_at is null) as known_keys,
  j.id as jump_id, j.address as jump_address, j.port as jump_port, coalesce(j.username, jc.username) as jump_username,
  (select coalesce(jsonb_agg(jsonb_build_object('algorithm', k.algorithm, 'key', k.public_key) order by k.algorithm), '[]')
   from known_host_key k
   where k.address = lower(j.address) and k.port = j.port and k.revoked_at is null) as jump_keys
from host h
left join credential c on c.id = h.credential_id or (h.credential_id is null and c.is_default)
left join host j on j.id = h.jump_id
left join credential jc on jc.id = j.credential_id or (j.credential_id is null and jc.is_default);

grant select on job_target to openwatch_scheduler;

-- A host's row changes with each scan that is asked for. When a whole fleet is due at once, all rows of a page change within
-- a moment: they find room on it, and no index has to be told.
alter table host set (fillfactor = 50);

-- What is in line is packed already, or short.
alter table outbox alter payload set storage external;
