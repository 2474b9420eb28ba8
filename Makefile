# Two commands on a bare Debian or Ubuntu machine with Rust: `make demo` and `make test`.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
CARGO := cargo
LOCKED := --locked

# What the agent, the tests and the demo need beside Rust: a software TPM and its tools, the TSS libraries that the
# agent links, a reverse proxy that asks the gate, and curl and openssl as relying parties see them.
PACKAGES := build-essential ca-certificates curl faketime jq libssl-dev libtpm2-pkcs11-1 libtpm2-pkcs11-tools libtss2-dev libtss2-tcti-swtpm0 nginx-light openssl pkg-config \
	python3-venv softhsm2 swtpm swtpm-tools tpm2-openssl tpm2-tools

.PHONY: help setup clients demo run test peers fuzz bench lint build clean

help: ## Lists the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: ## Installs the Debian packages that are missing; quiet when there are none
	@./deploy/setup.sh $(PACKAGES)

clients: setup ## Installs the clients that come as Python packages, for the tests
	@./deploy/python.sh

build: setup ## Builds everything, debug
	@$(CARGO) build $(LOCKED) --workspace

demo: build ## Runs the main job end to end and shows it
	@./target/debug/countersign demo $(DEMO)

run: build ## Starts only the broker, on a data directory made at the first start
	@./deploy/run.sh

test: build clients ## Runs every test of every package, other verifiers beside ours, and every fuzz target briefly
	@$(CARGO) test $(LOCKED) --workspace
	@$(MAKE) --no-print-directory peers
	@$(MAKE) --no-print-directory fuzz

peers: setup ## Compares our verdicts with other verifiers'
	@./deploy/peers.sh test

fuzz: setup ## Runs every fuzz target briefly
	@./deploy/fuzz.sh

bench: setup ## Measures the ratios to raw cost, release build
	@$(CARGO) bench $(LOCKED) --bench ratios
	@./deploy/peers.sh bench

lint: setup ## Format, clippy with warnings denied, docs, dependencies
	@$(CARGO) fmt --all --check
	@$(CARGO) clippy $(LOCKED) --workspace --all-targets -- -D warnings
	@RUSTDOCFLAGS="-D warnings" $(CARGO) doc $(LOCKED) --workspace --no-deps --quiet
	@./deploy/deny.sh

clean: ## Removes build output
	@$(CARGO) clean
