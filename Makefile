# What people and CI type. `make help` lists it. Nothing here waits for input.

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)

.DEFAULT_GOAL := help
.PHONY: demo fuzz test test-long check specs up bench bench-scan setup help

demo: setup ## fetch what is missing, build, run a whole stack in a fresh directory and scan a real host
	$(CARGO) build --release --locked --bin openwatch
	scripts/demo

up: setup ## build and run everything on this machine until Ctrl-C
	$(CARGO) build --release --locked --bin openwatch
	exec $(TARGET)/release/openwatch up --data-dir $${OPENWATCH_DATA_DIR:-.local/data}

test: setup ## build and run all tests, with real servers; quick ones only
	scripts/run-tests

test-long: setup ## the same with the slow matrices (OPENWATCH_LONG=1)
	OPENWATCH_LONG=1 scripts/run-tests

fuzz: ## every fuzz target for SECONDS (60) each; needs cargo-fuzz (cargo install cargo-fuzz), no nightly
	@for target in $(notdir $(basename $(wildcard fuzz/fuzz_targets/*.rs))); do \
		mkdir -p fuzz/corpus/$$target && (cd fuzz && RUSTC_BOOTSTRAP=1 cargo fuzz run --sanitizer none $$target corpus/$$target seeds/$$target -- \
			-max_total_time=$(or $(SECONDS),60)) || exit 1; done

check: ## what needs no server: format, clippy, docs, licences and arrows, specs against test sources
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked --quiet
	scripts/deny
	$(CARGO) test --locked --quiet --package openwatch-tests --test it -- layering::
	$(CARGO) run --locked --quiet --package openwatch-tests --bin specs

specs: test ## every acceptance criterion has a passing test (runs all tests)
	$(CARGO) run --locked --quiet --package openwatch-tests --bin specs -- $(TARGET)/test.log

bench: setup ## measure on this machine: scans near and far, hand-overs, apply path
	$(CARGO) build --release --locked --bin openwatch
	scripts/bench

bench-scan: setup ## only the scans: one execution per check against ours, and the floor
	scripts/bench bench_scan

setup: ## find PostgreSQL, NATS and an OpenSSH server, or fetch them
	@scripts/setup

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:[^#]*## /\t/' | awk -F '\t' '{ printf "  make %-10s %s\n", $$1, $$2 }'
