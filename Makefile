# What a newcomer needs, one word each. Kept to what make 3.81 knows: macOS ships no newer one.

.DEFAULT_GOAL := help
.PHONY: help setup build dist demo test test-clients test-console test-api ha bench attack fuzz lint deny fmt doc clean

help: ## list these words
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' Makefile | expand -t 22

setup: ## install PostgreSQL's server programs, if there are none
	@.ci/setup

build: ## build the binary, target/release/manybox
	cargo build --release

dist: ## build what is shipped, target/dist/manybox: smaller and quicker, slower to build
	cargo build --profile dist

# An optimized build: what people try first is what they judge the speed by, and how long they wait for it.
# `exec` leaves no shell between the terminal and manybox, so Ctrl-C ends it in order.
demo: setup ## build, then three tenants with data, served until Ctrl-C
	@cargo build --profile demo
	@exec target/demo/manybox demo

# PG_BIN=/path/to/bin for another version's programs: initdb, pg_ctl, postgres, psql, pg_dump, pg_restore, pg_basebackup.
PG_BIN ?= $(MANYBOX_PG_BIN)
# Tests wait for PostgreSQL: one more at a time than there are processors keeps these busy.
RUST_TEST_THREADS ?= $(shell expr 1 + `getconf _NPROCESSORS_ONLN`)
test: setup ## all tests, against a private PostgreSQL
	$(if $(PG_BIN),MANYBOX_PG_BIN="$(PG_BIN)" PATH="$(PG_BIN):$$PATH") RUST_TEST_THREADS=$(RUST_TEST_THREADS) cargo test

# Here python3 alone is asked for; what else the clients need, the script says.
test-clients: setup ## supabase-js, postgrest-js, react-admin, Python's postgrest and a browser against a demo
	@command -v python3 >/dev/null || { echo "python3 is missing: apt install python3 python3-venv, or brew install python" >&2; exit 1; }
	@tests/clients/run

# TRIES=1 for a short one. It needs etcd, HAProxy and python3, installs Patroni by pip, and takes half an hour.
ha: setup ## fail a Patroni cluster over under load, and say what clients saw
	@tests/ha/run

# TENANTS=200 for a longer rollout, SCREENSHOTS=/folder for pictures of every page.
test-console: setup ## the console in a browser, against a fleet of its own
	@command -v python3 >/dev/null || { echo "python3 is missing: apt install python3, or brew install python" >&2; exit 1; }
	@tests/console/run

# ONLY=fair,cold for some of it, FULL=1 for the large scenarios.
bench: setup ## what routing costs, as ratios to baselines of the same run
	@command -v wrk >/dev/null || { echo "wrk is missing: apt install wrk, or brew install wrk" >&2; exit 1; }
	@cargo bench --profile dist --bench fleet

# EXAMPLES=200 for longer, PORT=8092.
test-api: setup ## schemathesis against the control service of a fleet of its own
	@command -v python3 >/dev/null || { echo "python3 is missing: apt install python3 python3-venv, or brew install python" >&2; exit 1; }
	@cargo build --profile demo
	@tests/api/run

attack: setup ## what hostile tenants and callers try, as tests, and sqlmap against a demo
	@command -v sqlmap >/dev/null || { echo "sqlmap is missing: apt install sqlmap, or brew install sqlmap" >&2; exit 1; }
	cargo test --test integration attack::
	@cargo build --profile demo
	@tests/attack/run

# SECONDS_EACH=600 for longer. The folder is a workspace of its own, so that nothing else needs a nightly compiler.
fuzz: ## random input for each reader of what strangers send, 60 s each
	@fuzz/run

lint: ## formatting and clippy, as CI has them
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings

deny: ## licences, sources and known vulnerabilities of all that is built in
	@.ci/deny

fmt: ## format the code
	cargo fmt

doc: ## the code's documentation, with warnings as errors
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps

# The demo's data stays: it may be somebody's work by now.
clean: ## delete what the build made
	cargo clean
	rm -rf tests/clients/node_modules tests/console/node_modules
