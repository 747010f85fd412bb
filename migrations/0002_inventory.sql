-- What: what is scanned and how to get in: credentials, hosts, labels, host keys, corpora, policies, tokens.
-- Why:  the rest of the schema refers to these.
-- Safe: new tables only.

create table credential (
  id          uuid primary key,
  name        text not null unique check (name <> '' and length(name) <= 200),
  username    text not null check (username <> '' and length(username) <= 128),
  auth_method text not null check (auth_method in ('ssh_key', 'password', 'both')),
  is_default  boolean not null default false,
  -- As it came in, sealed to the vault's public key; gone as soon as the vault has encrypted it.
  sealed      bytea check (octet_length(sealed) between 1 and 131072),
  -- Under the data-encryption key, with the id of that key.
  ciphertext  bytea check (octet_length(ciphertext) between 1 and 131072),
  key_id      text,
  created_by  text not null,
  created_at  timestamptz not null default now(),
  updated_at  timestamptz not null default now(),
  constraint credential_sealed_or_encrypted check ((sealed is null) <> (ciphertext is null)),
  constraint credential_key_id check ((ciphertext is null) = (key_id is null))
);
create unique index credential_one_default on credential (is_default) where is_default;
create index credential_pending on credential (created_at) where sealed is not null;

create table host (
  id            uuid primary key,
  name          text not null check (name <> '' and length(name) <= 253 and name !~ '[[:space:][:cntrl:]]'),
  address       text not null check (address <> '' and length(address) <= 253 and address !~ '[[:space:][:cntrl:]]'),
  port          integer not null default 22 check (port between 1 and 65535),
  -- Wins over the credential's user name.
  username      text check (username <> '' and length(username) <= 128),
  sudo          text not null default 'none' check (sudo in ('none', 'sudo')),
  credential_id uuid references credential (id) on delete restrict,
  -- Number of the latest scan asked for; decides order among the host's scans.
  last_number   bigint not null default 0,
  created_by    text not null,
  created_at    timestamptz not null default now(),
  deleted_at    timestamptz
) with (fillfactor = 80);
create unique index host_name on host (name) where deleted_at is null;
create index host_credential on host (credential_id) where credential_id is not null;
create index host_deleted on host (deleted_at) where deleted_at is not null;

create table host_label (
  host_id uuid not null references host (id) on delete cascade,
  key     text not null check (key <> '' and length(key) <= 63 and key !~ '[[:space:][:cntrl:]=]'),
  value   text not null check (length(value) <= 253 and value !~ '[[:cntrl:]]'),
  primary key (host_id, key)
);
create index host_label_pair on host_label (key, value);

create table known_host_key (
  address     text not null,
  port        integer not null check (port between 1 and 65535),
  algorithm   text not null check (algorithm <> ''),
  public_key  text not null check (public_key <> ''),
  fingerprint text not null,
  first_seen  timestamptz not null default now(),
  last_seen   timestamptz not null default now(),
  -- `first contact`, or who put it on record.
  accepted_by text not null,
  revoked_at  timestamptz,
  primary key (address, port, algorithm)
);

create table corpus (
  digest          text primary key check (digest ~ '^[0-9a-f]{64}$'),
  rules           integer not null check (rules >= 0),
  bytes           bigint not null check (bytes >= 0),
  key_fingerprint text not null,
  published_by    text not null,
  published_at    timestamptz not null default now()
);
create index corpus_newest on corpus (published_at desc);

create table policy_history (
  version         text primary key check (version ~ '^[0-9]{1,18}\.[0-9]{1,18}\.[0-9]{1,18}$'),
  -- The three numbers of the version, for order.
  ordinal         bigint[] not null check (cardinality(ordinal) = 3),
  document        bytea not null check (octet_length(document) <= 262144),
  signature       bytea not null check (octet_length(signature) <= 65536),
  source_hash     bytea not null check (octet_length(source_hash) = 32),
  key_fingerprint text not null,
  loaded_by       text not null,
  loaded_at       timestamptz not null default now(),
  superseded_at   timestamptz
);
create unique index policy_history_order on policy_history (ordinal desc);
create unique index policy_history_one_in_force on policy_history ((superseded_at is null)) where superseded_at is null;

create table api_token (
  id           uuid primary key,
  name         text not null unique check (name <> '' and length(name) <= 128),
  token_hash   bytea not null unique check (octet_length(token_hash) = 32),
  prefix       text not null check (length(prefix) between 4 and 16),
  role         text not null check (role in ('viewer', 'operator', 'admin')),
  created_by   text not null,
  created_at   timestamptz not null default now(),
  expires_at   timestamptz,
  last_used_at timestamptz,
  revoked_at   timestamptz
);

create table idempotency_key (
  actor           text not null,
  key             text not null check (length(key) between 1 and 255),
  request_hash    bytea not null check (octet_length(request_hash) = 32),
  -- Absent while the request is being worked on.
  response_status integer check (response_status between 200 and 299),
  response_body   jsonb,
  created_at      timestamptz not null default now(),
  expires_at      timestamptz not null,
  primary key (actor, key)
);
create index idempotency_key_expiry on idempotency_key (expires_at);
