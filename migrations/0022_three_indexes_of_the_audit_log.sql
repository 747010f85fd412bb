-- What: the audit log is listed in the order of its ids.
-- Why:  every row's id is a UUIDv7 of the row's own time, so that the key is an index of time already. Every scan writes
--       several rows, and each entry of an index is more of what an unchanged scan writes at all.
-- Safe: indexes only; a program from before lists the log more slowly until it is replaced.

drop index audit_event_recent;
drop index audit_event_action;
drop index audit_event_host;
create index audit_event_action on audit_event (action, id);
create index audit_event_host on audit_event (host_id, id) where host_id is not null;
