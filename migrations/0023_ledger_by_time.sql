-- What: the ledger can be read by time, for all hosts at once.
-- Why:  the fleet's score at a moment looked into the index of hosts once for each host: ten thousand looks into an index
--       that is larger than the memory for it. What ended lately is a few pages side by side.
-- Safe: a new index of block ranges. The ledger is only ever added to, so its pages are in order of time, and a row that
--       is added tells such an index nothing: only the pages that have become full are summed up, by autovacuum.

create index scan_ledger_time on scan_ledger using brin (applied_at) with (autosummarize = on);
