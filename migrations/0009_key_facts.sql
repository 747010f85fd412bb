-- What:  What may be told of a credential's key, and host keys that were shown and not believed.
-- Why:   People compare fingerprints: of the key that logs in with the one they made, of the key that a host shows with
--        the one on record.
-- Safe:  Only adds. Credentials from before have no facts; nothing requires them.

alter table credential
  add column key_algorithm   text check (key_algorithm <> ''),
  add column key_bits        integer check (key_bits > 0),
  add column key_fingerprint text check (key_fingerprint like 'SHA256:%'),
  add column key_comment     text check (length(key_comment) <= 128),
  add constraint credential_key_facts check (
    num_nonnulls(key_algorithm, key_bits, key_fingerprint, key_comment) in (0, 4)
    and (key_algorithm is null or auth_method in ('ssh_key', 'both')));

grant select (key_algorithm, key_bits, key_fingerprint, key_comment) on credential to openwatch_api;
grant insert (key_algorithm, key_bits, key_fingerprint, key_comment) on credential to openwatch_api;
-- A secret is replaced by sealing a new one over the old; the API still reads neither.
grant update (username, auth_method, sealed, ciphertext, key_id, key_algorithm, key_bits, key_fingerprint, key_comment)
  on credential to openwatch_api;

-- A key that a host showed and that was not believed: waits for a person to compare its fingerprint. Never trusted for
-- standing here.
create table shown_host_key (
  address     text not null,
  port        integer not null check (port between 1 and 65535),
  algorithm   text not null check (algorithm <> ''),
  public_key  text not null check (public_key <> '' and length(public_key) <= 16384),
  fingerprint text not null,
  scan_id     uuid not null,
  shown_at    timestamptz not null,
  primary key (address, port, algorithm)
);
grant select, insert, update on shown_host_key to openwatch_writer;
grant select, delete on shown_host_key to openwatch_api;
