-- What: the scheduler is called for scans that wait for a job, and no longer for every scan that is inserted.
-- Why:  what falls due is inserted with its job. A hundred thousand of them called the scheduler a thousand times to look for
--       scans without one among all that are under way, which took twice as long as claiming them.
-- Safe: a trigger moves. Whoever makes a scan wait says so in `open_scan` since version 24.

drop trigger scan_notify on scan;
create trigger open_scan_notify after insert or update of unissued on open_scan
  for each row when (new.unissued) execute function notify_channel('ow_scan');
