-- What: one group role per stage, without login.
-- Why:  a process sets the role of its stage on every connection, so a stage can do to the database only what its
--       hand-overs need; the grants stand in the last of the first migrations.
-- Safe: roles belong to the cluster, not to the database: two databases may create them at the same moment.
do $$
declare
  stage text;
begin
  foreach stage in array array['scheduler', 'vault', 'writer', 'drift', 'alerts', 'liveness', 'api', 'caretaker'] loop
    begin
      if not exists (select from pg_roles where rolname = 'openwatch_' || stage) then
        execute format('create role %I nologin', 'openwatch_' || stage);
      end if;
    exception when duplicate_object or unique_violation then
      null; -- another database was quicker
    end;
    begin
      -- Whoever migrates may become every stage; a superuser already may.
      if not pg_has_role(current_user, 'openwatch_' || stage, 'member') then
        execute format('grant %I to %I', 'openwatch_' || stage, current_user);
      end if;
    exception when unique_violation then
      null;
    end;
  end loop;
end
$$;
