-- What: putting something in line calls nobody by itself any more.
-- Why:  a call wakes every process that listens to anything, several times for each scan, and nearly always the one that
--       is meant is the one that put it in line: it knows without a call. Whoever puts something in line where no relay
--       runs calls for itself.
-- Safe: a trigger less; what an older process puts in line is found within a second.

drop trigger outbox_notify on outbox;
drop function notify_outbox();
