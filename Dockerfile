# One image for every stage: the subcommand decides what a container is.
#
#   docker build -t openwatch .

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# The cache keeps dependencies between builds; the program is copied out of it.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin openwatch \
    && install -D target/release/openwatch /out/openwatch

FROM debian:bookworm-slim
# Only certificates: TLS to NATS, PostgreSQL and webhooks is checked against the system's authorities.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --system --gid 10001 openwatch \
    && useradd --system --uid 10001 --gid 10001 --home-dir /nonexistent --shell /usr/sbin/nologin openwatch
COPY --from=build /out/openwatch /usr/local/bin/openwatch
COPY scripts/compose-init /usr/local/bin/compose-init
# No stage writes a file; run it read-only (docker-compose.yml does).
USER 10001:10001
ENTRYPOINT ["openwatch"]
CMD ["--help"]
