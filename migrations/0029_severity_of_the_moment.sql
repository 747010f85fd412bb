-- What: each step in an alert's life remembers how grave the alert was then.
-- Why:  looking back, an alert that got worse later was shown as grave as it is now.
-- Safe: a column without a default; steps from before tell nothing, and today's severity stands in for theirs.

alter table alert_transition add column severity text check (severity in ('info', 'low', 'medium', 'high', 'critical'));
