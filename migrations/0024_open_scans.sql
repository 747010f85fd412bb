-- What: scans under way have a small table of their own; two indexes of `scan` go.
-- Why:  the indexes looked at `state` and `tag`, so that whenever these changed, all indexes of `scan` got a new entry: when a
--       scan began, and most of all when it ended, which was a seventh of what an unchanged scan writes to the log. One open
--       scan per host is now a primary key, and asking what is open reads no history.
-- Safe: what is open is moved. A stage from before would open scans that nobody finds: it is stopped first (ADR 19).

-- A row comes in the statement that inserts its scan, and goes in the one that ends it. Whoever inserts it has opened the
-- scan. No reference to `scan`: that would lock, and log, a row that the same statement writes anyway.
create table open_scan (
  host_id  uuid primary key,
  scan_id  uuid not null,
  -- Its current attempt has no job yet.
  unissued boolean not null
) with (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0);
create index open_scan_unissued on open_scan (scan_id) where unissued;

insert into open_scan (host_id, scan_id, unissued)
select host_id, id, tag is null from scan where state in ('queued', 'running');

drop index scan_one_open_per_host;
drop index scan_unissued;

-- Who opens scans and gives out their jobs, who ends them, and who looks.
grant select, insert on open_scan to openwatch_scheduler, openwatch_api;
grant select, delete on open_scan to openwatch_writer, openwatch_caretaker;
grant update (unissued) on open_scan to openwatch_scheduler, openwatch_api, openwatch_caretaker;
