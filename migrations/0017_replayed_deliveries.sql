-- What: deliveries that were given up can be tried again.
-- Why:  a receiver that was away for a day is told what it missed once somebody says so.
-- Safe: a new column with a default, a grant, and a trigger.

-- Tries before the latest replay: the waits between tries begin anew.
alter table alert_delivery add column attempts_before integer not null default 0;
grant update (state, next_try_at, finished_at, attempts_before) on alert_delivery to openwatch_api;
create trigger delivery_replay_notify after update of attempts_before on alert_delivery
  for each statement execute function notify_channel('ow_delivery');
