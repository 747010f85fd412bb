-- What: when hosts are scanned, the scans, what they found and what that changed.
-- Why:  the heart of the system. State is rewritten only where an outcome changed; history is append-only.
-- Safe: new tables only.

-- Written by the scheduler only; a row appears with its host (see the triggers).
create table host_compliance_schedule (
  host_id                     uuid primary key references host (id) on delete cascade,
  compliance_state            text not null default 'unknown'
                              check (compliance_state in ('unknown', 'critical', 'non_compliant', 'partial', 'compliant')),
  compliance_score            numeric(5, 2) check (compliance_score between 0 and 100),
  has_critical_findings       boolean not null default false,
  current_interval_minutes    integer not null default 1440 check (current_interval_minutes between 5 and 2880),
  next_scheduled_scan         timestamptz not null default now(),
  -- Order of claiming: the due time, earlier for worse states, so that a new fleet never starves a critical host.
  claim_order                 timestamptz not null default now(),
  last_scan_completed_at      timestamptz,
  maintenance_mode            boolean not null default false,
  maintenance_until           timestamptz,
  policy_version_at_last_scan text,
  -- Number of the scan that moved the row last.
  scan_number                 bigint not null default 0,
  created_at                  timestamptz not null default now(),
  updated_at                  timestamptz not null default now(),
  check (maintenance_mode or maintenance_until is null),
  check (claim_order <= next_scheduled_scan)
) with (fillfactor = 80);
create index host_compliance_schedule_due on host_compliance_schedule (claim_order) where not maintenance_mode;
create index host_compliance_schedule_maintenance on host_compliance_schedule (maintenance_until) where maintenance_mode;

create table host_backoff_state (
  host_id              uuid not null references host (id) on delete cascade,
  probe_type           text not null default 'scan' check (probe_type in ('scan', 'intel')),
  consecutive_failures integer not null default 0 check (consecutive_failures >= 0),
  suppress_until       timestamptz,
  last_error_code      text,
  last_failure_at      timestamptz,
  updated_at           timestamptz not null default now(),
  primary key (host_id, probe_type)
);
create index host_backoff_state_active on host_backoff_state (suppress_until) where suppress_until is not null;

create table scan (
  id             uuid primary key check (get_byte(uuid_send(id), 6) >> 4 = 4),
  host_id        uuid not null references host (id) on delete restrict,
  number         bigint not null check (number > 0),
  state          text not null default 'queued' check (state in ('queued', 'running', 'completed', 'failed')),
  lane           text not null check (lane in ('manual', 'scheduled')),
  trigger        text not null check (trigger in ('manual', 'scheduled')),
  actor          text not null check (actor <> ''),
  correlation    text,
  framework      text not null check (framework <> ''),
  rules          text[] not null default '{}',
  is_full        boolean not null generated always as (framework = '*' and cardinality(rules) = 0) stored,
  policy_version text,
  corpus         text,
  engine         text,
  attempt        integer not null default 1 check (attempt > 0),
  -- Of the current attempt's job; absent until the scheduler has signed it.
  tag            bytea check (octet_length(tag) = 32),
  key_id         text,
  timeout_sec    integer check (timeout_sec > 0),
  -- Secrets released for it.
  grants         integer not null default 0,
  worker         text,
  queued_at      timestamptz not null,
  issued_at      timestamptz,
  started_at     timestamptz,
  finished_at    timestamptz,
  superseded     boolean not null default false,
  failure_reason text check (failure_reason in (
                   'host_key_unknown', 'host_key_mismatch', 'credential_decryption_failed', 'no_credential', 'auth_failed',
                   'sudo_failed', 'connect_refused', 'unreachable', 'no_shell', 'timeout', 'cancelled', 'transport_lost',
                   'evidence_oversize', 'corpus_unavailable', 'kensa_error', 'hmac_rejected', 'lost', 'invalid_result')),
  failure_detail text,
  failure_rule   text,
  unique (host_id, number),
  constraint scan_host unique (id, host_id),
  constraint scan_terminal check ((state in ('completed', 'failed')) = (finished_at is not null)),
  constraint scan_failed check ((state = 'failed') = (failure_reason is not null)),
  constraint scan_issued check (
    (tag is null) = (key_id is null) and (tag is null) = (issued_at is null) and (tag is null or timeout_sec is not null))
) with (fillfactor = 80);
create unique index scan_one_open_per_host on scan (host_id) where state in ('queued', 'running');
create index scan_unissued on scan (queued_at) where state = 'queued' and tag is null;
create index scan_recent on scan (queued_at desc, id desc);

-- Whoever inserts the row of a scan has ended it.
create table scan_ledger (
  scan_id          uuid primary key,
  host_id          uuid not null,
  number           bigint not null,
  attempt          integer not null,
  outcome          text not null check (outcome in ('completed', 'failed', 'superseded')),
  is_full          boolean not null,
  -- How many full scans had been applied to the host with this one; also on scans that applied nothing.
  full_seq         bigint not null,
  pass             integer not null default 0 check (pass >= 0),
  fail             integer not null default 0 check (fail >= 0),
  skipped          integer not null default 0 check (skipped >= 0),
  error            integer not null default 0 check (error >= 0),
  critical_failing integer not null default 0 check (critical_failing >= 0),
  compliance_state text check (compliance_state in ('unknown', 'critical', 'non_compliant', 'partial', 'compliant')),
  changes          integer not null default 0,
  -- Nothing differed from the scan before: the proof of silence.
  unchanged        boolean not null default false,
  digest           bytea check (octet_length(digest) = 32),
  summary          jsonb check (jsonb_typeof(summary) = 'object'),
  -- Rule ids of a filtered scan; a full scan's follow from its sequence.
  rule_ids         text[],
  timings          jsonb check (jsonb_typeof(timings) = 'array'),
  worker           text,
  applied_at       timestamptz not null,
  foreign key (scan_id, host_id) references scan (id, host_id) on delete restrict,
  constraint scan_ledger_completed check ((outcome = 'completed') = (summary is not null)),
  constraint scan_ledger_rules check (outcome <> 'completed' or is_full = (rule_ids is null))
);
create index scan_ledger_host on scan_ledger (host_id, number desc);
create index scan_ledger_host_time on scan_ledger (host_id, applied_at desc) where outcome = 'completed' and is_full;

-- What the writer knows of a host as a whole: one row, rewritten on each applied scan.
create table host_state (
  host_id          uuid primary key references host (id) on delete cascade,
  -- Full scans applied so far.
  full_seq         bigint not null default 0,
  -- Number of the newest scan applied, full or filtered.
  applied_number   bigint not null default 0,
  full_number      bigint,
  full_scan_id     uuid,
  full_at          timestamptz,
  full_digest      bytea check (octet_length(full_digest) = 32),
  pass             integer not null default 0,
  fail             integer not null default 0,
  skipped          integer not null default 0,
  error            integer not null default 0,
  critical_failing integer not null default 0,
  compliance_state text not null default 'unknown'
                   check (compliance_state in ('unknown', 'critical', 'non_compliant', 'partial', 'compliant')),
  platform         jsonb not null default '{}' check (jsonb_typeof(platform) = 'object'),
  capabilities     jsonb not null default '{}' check (jsonb_typeof(capabilities) = 'object')
) with (fillfactor = 50);

-- Evidence by content: each distinct body once.
create table evidence (
  hash  bytea primary key check (octet_length(hash) = 32),
  body  jsonb not null check (jsonb_typeof(body) = 'object'),
  -- As received, before jsonb.
  bytes integer not null constraint evidence_oversize check (bytes between 2 and 262144)
);

create table rule_state (
  host_id         uuid not null references host (id) on delete restrict,
  rule_id         text not null check (rule_id <> '' and length(rule_id) <= 256),
  status          text not null check (status in ('pass', 'fail', 'skipped', 'error')),
  severity        text check (severity in ('low', 'medium', 'high', 'critical')),
  skip_reason     text,
  framework_refs  jsonb not null check (jsonb_typeof(framework_refs) = 'object'),
  evidence_hash   bytea not null references evidence (hash) on delete restrict,
  -- Over all of the above: one comparison tells whether anything differs.
  digest          bytea not null check (octet_length(digest) = 32),
  first_seen_at   timestamptz not null,
  last_changed_at timestamptz not null,
  -- Sequence of the first full scan that had the rule; absent while only filtered scans had it.
  first_seq       bigint,
  -- Since when it has been in every full scan, and the checks before that.
  present_since   bigint,
  checks_before   bigint not null default 0,
  -- Frozen here when it dropped out: the last full scan that had it.
  gone_after      bigint,
  gone_number     bigint,
  gone_scan_id    uuid,
  gone_at         timestamptz,
  -- Filtered scans.
  filtered_checks bigint not null default 0,
  filtered_number bigint,
  filtered_scan   uuid,
  filtered_at     timestamptz,
  primary key (host_id, rule_id),
  check (skip_reason is null or status = 'skipped'),
  check ((first_seq is null) = (present_since is null)),
  check ((gone_after is null) = (gone_scan_id is null) and (gone_after is null) = (gone_at is null)),
  check (gone_after is null or gone_after >= present_since)
) with (fillfactor = 90);

-- Full scans between which a rule was out of the corpus.
create table rule_gap (
  host_id    uuid not null,
  rule_id    text not null,
  after_seq  bigint not null,
  before_seq bigint,
  primary key (host_id, rule_id, after_seq),
  foreign key (host_id, rule_id) references rule_state (host_id, rule_id) on delete restrict,
  check (before_seq > after_seq)
);

-- The log. Nobody may change it.
create table transactions (
  id             uuid primary key,
  host_id        uuid not null,
  rule_id        text not null,
  scan_id        uuid not null,
  host_number    bigint not null,
  change_kind    text not null check (change_kind in ('first_seen', 'state_changed', 'severity_changed')),
  status         text not null check (status in ('pass', 'fail', 'skipped', 'error')),
  severity       text check (severity in ('low', 'medium', 'high', 'critical')),
  prior_status   text check (prior_status in ('pass', 'fail', 'skipped', 'error')),
  prior_severity text check (prior_severity in ('low', 'medium', 'high', 'critical')),
  skip_reason    text,
  framework_refs jsonb not null check (jsonb_typeof(framework_refs) = 'object'),
  evidence_hash  bytea not null references evidence (hash) on delete restrict,
  occurred_at    timestamptz not null,
  constraint transactions_once unique (scan_id, rule_id),
  foreign key (scan_id, host_id) references scan (id, host_id) on delete restrict,
  constraint transactions_prior check ((change_kind = 'first_seen') = (prior_status is null)),
  constraint transactions_change check (
    (change_kind <> 'state_changed' or status <> prior_status)
    and (change_kind <> 'severity_changed' or (status = prior_status and severity is distinct from prior_severity)))
);
create index transactions_rule on transactions (host_id, rule_id, host_number desc);

create table drift (
  scan_id        uuid primary key,
  host_id        uuid not null,
  kind           text not null check (kind in ('stable', 'minor_worsening', 'major_worsening', 'improvement')),
  drift          jsonb not null check (jsonb_typeof(drift) = 'object'),
  policy_version text not null,
  detected_at    timestamptz not null,
  foreign key (scan_id, host_id) references scan (id, host_id) on delete restrict
);
create index drift_host on drift (host_id, detected_at desc, scan_id desc);
create index drift_recent on drift (detected_at desc, scan_id desc);

create table host_liveness (
  host_id              uuid primary key references host (id) on delete cascade,
  reachability_status  text not null default 'unknown' check (reachability_status in ('reachable', 'unreachable', 'unknown')),
  last_probe_at        timestamptz,
  last_response_ms     double precision check (last_response_ms > 0),
  consecutive_failures integer not null default 0 check (consecutive_failures >= 0),
  last_state_change_at timestamptz,
  last_error_type      text check (last_error_type in ('tcp_timeout', 'connection_refused', 'banner_mismatch', 'tcp_error')),
  -- Number of the latest transition: with the host, the id of its event.
  transition           bigint not null default 0,
  next_probe_at        timestamptz not null default now(),
  created_at           timestamptz not null default now(),
  updated_at           timestamptz not null default now()
) with (fillfactor = 70);
create index host_liveness_due on host_liveness (next_probe_at);
create index host_liveness_unreachable on host_liveness (host_id) where reachability_status = 'unreachable';

-- A worse state goes before its due time by as much as it would be scanned more often.
create function claim_order(state text, due timestamptz) returns timestamptz language sql stable as $$
  select due - case state
    when 'critical' then interval '4 hours'
    when 'non_compliant' then interval '2 hours'
    when 'partial' then interval '30 minutes'
    else interval '0'
  end
$$;
