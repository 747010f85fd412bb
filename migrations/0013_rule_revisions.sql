-- What: what a rule's evidence, reason to be skipped and references were while its verdict stood still.
-- Why:  a transaction is written when a verdict moves. Evidence may move under the same verdict; without this, a look back
--       showed the evidence of the last transition in place of that of the moment.
-- Safe: new table only. Writers of before do not fill it; what they leave is told as it was told before.

create table rule_revision (
  host_id        uuid not null,
  rule_id        text not null,
  -- The scan that found it, by its place among the host's scans.
  host_number    bigint not null,
  skip_reason    text,
  framework_refs jsonb not null check (jsonb_typeof(framework_refs) = 'object'),
  evidence_hash  bytea not null references evidence (hash) on delete restrict,
  primary key (host_id, rule_id, host_number),
  foreign key (host_id, rule_id) references rule_state (host_id, rule_id) on delete restrict
);

-- What moved before today is known of the present only.
insert into rule_revision (host_id, rule_id, host_number, skip_reason, framework_refs, evidence_hash)
select r.host_id, r.rule_id, h.applied_number, r.skip_reason, r.framework_refs, r.evidence_hash
from rule_state r
join host_state h on h.host_id = r.host_id
join lateral (
  select t.skip_reason, t.framework_refs, t.evidence_hash from transactions t
  where t.host_id = r.host_id and t.rule_id = r.rule_id
  order by t.host_number desc limit 1) t on true
where (t.evidence_hash, t.framework_refs, t.skip_reason) is distinct from (r.evidence_hash, r.framework_refs, r.skip_reason);

grant select, insert on rule_revision to openwatch_writer;
grant select on rule_revision to openwatch_api;
