-- What: a row of the outbox may hold several messages, packed.
-- Why:  an unchanged scan tells two things; as two rows of plain text they were half of what it wrote to the log.
-- Safe: a new column with a default. Old processes write plain rows, which new ones read; a row that a new process packed
--       is for the relay of its own stage: stop the old processes of a stage before the new ones work.

alter table outbox add packed boolean not null default false;
