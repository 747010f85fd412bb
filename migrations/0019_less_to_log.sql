-- What: rows of the outbox that hold several messages are in no unique index; the audit log no longer repeats in two
--       columns what its detail says.
-- Why:  a scan that found nothing new writes little else. Nobody asks for a packed row by its message's id, and none is
--       made twice.
-- Safe: an index is replaced by a smaller one over the few rows that wait; columns stay and are left empty. An older
--       stage could not put anything in line any more: it is stopped first (ADR 19).

create unique index outbox_message on outbox (message_id) where not packed;
alter table outbox drop constraint outbox_message_id_key;
comment on column audit_event.resource_type is 'Of rows up to version 18; since then the detail alone says it.';
comment on column audit_event.resource_id is 'See resource_type.';
