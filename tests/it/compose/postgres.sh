#!/bin/sh
# Stands in for the entry point of the PostgreSQL image: what that documents of the variables we give it, no more.
set -eu

data=/var/lib/postgresql/data
password=$(cat "$POSTGRES_PASSWORD_FILE")
as_postgres() { setpriv --reuid 999 --regid 999 --clear-groups "$@"; }

if [ ! -e "$data/PG_VERSION" ]; then
    chown 999:999 "$data"
    chmod 700 "$data"
    (umask 077 && printf '%s\n' "$password" >/tmp/password && chown 999:999 /tmp/password)
    # shellcheck disable=SC2086 # words on purpose
    as_postgres initdb --pgdata "$data" --username "$POSTGRES_USER" --pwfile /tmp/password $POSTGRES_INITDB_ARGS
    rm /tmp/password
    echo 'host all all all scram-sha-256' >>"$data/pg_hba.conf"
    echo "create database $POSTGRES_DB" | as_postgres postgres --single -D "$data" postgres
fi
# "$@": the command of the file, which begins with `postgres`.
exec setpriv --reuid 999 --regid 999 --clear-groups \
    "$@" -D "$data" -c "listen_addresses=*" -c unix_socket_directories=/tmp
