# Anabranch. `make` alone lists the targets. Each of them installs what it needs first (e2e/setup).
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup run test unit e2e node csi-sanity mutants soak lint bench generate clean

# A caller without an environment (cron, a service) has neither. Whatever its PATH has comes first; the end is where
# rustup puts cargo.
export HOME ?= $(shell getent passwd "$$(id -u)" | cut -d: -f6)
export PATH := $(or $(PATH),/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin):$(HOME)/.cargo/bin
export ANABRANCH_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/anabranch

# ROCKSDB=source builds RocksDB once from the sources in its crate (for systems without Debian's librocksdb-dev).
ifeq ($(ROCKSDB),source)
export ROCKSDB_LIB_DIR := $(ANABRANCH_CACHE)/rocksdb/lib
export ROCKSDB_INCLUDE_DIR := $(ANABRANCH_CACHE)/rocksdb/include
export LD_LIBRARY_PATH := $(ROCKSDB_LIB_DIR)$(if $(LD_LIBRARY_PATH),:$(LD_LIBRARY_PATH))
export ROCKSDB
endif

CARGO := cargo
# Cargo.lock is the law: a build that would change it fails.
LOCKED := --locked

# A test that runs away with memory fails by itself instead of taking the machine with it: 12 GiB for each process.
CAPPED := ulimit -v 12582912;

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

run: ## the main job: build, then play examples/quickstart.yaml on a real tree and show the forks
	@./e2e/setup build
	$(CARGO) build $(LOCKED) --release --package csi-driver --no-default-features --bins
	@./e2e/quickstart

test: unit e2e node ## every test: unit, model, crash, other people's suites and real work on real mounts, and pods on a real node
	@echo "All tests passed."

# What passing tests print is shown too: seeds, and how long a takeover stalled.
unit: ## the tests of the crates alone
	@./e2e/setup build test cluster sanity
	$(CAPPED) $(CARGO) test $(LOCKED) --workspace --exclude e2e --no-fail-fast -- --show-output

e2e: ## the suites and the real work on mounts made by `anabranch play`
	@./e2e/setup build test
	$(CARGO) build $(LOCKED) --workspace --bins
	$(CAPPED) $(CARGO) test $(LOCKED) --package e2e --no-fail-fast -- --nocapture --test-threads=1

node: ## the chart on a real one-node Kubernetes: kubelet, stock sidecars, and pods on forks
	@./e2e/setup build cluster node
	$(CARGO) build $(LOCKED) --workspace --bins
	$(CAPPED) $(CARGO) test $(LOCKED) --package e2e --test node -- --nocapture

csi-sanity: ## the conformance suite of the container storage interface, against the driver on its socket
	@./e2e/setup build sanity
	$(CAPPED) $(CARGO) test $(LOCKED) --package csi-driver --test csi_sanity -- --nocapture

# Prints which test has caught each, and fails when one is not caught. The feature is on in no other build.
mutants: ## durability bugs planted one at a time in the engine: each must be caught
	@./e2e/setup build
	$(CAPPED) $(CARGO) test $(LOCKED) --package storage-engine --features planted-bugs --test faults every_planted_bug -- --nocapture

DURATION ?= 10m
soak: ## simulation, power cuts, kills, collection and flipped bits with ever new seeds: make soak DURATION=10m
	@./e2e/setup build
	$(CAPPED) ./e2e/soak "$(DURATION)"

lint: ## formatting, clippy, documentation, generated files, licences, advisories, the rendered chart, shell scripts
	@./e2e/setup build lint
	@./e2e/lint

bench: ## the benchmarks, as ratios measured in one run (minutes)
	@./e2e/setup build test
	$(CARGO) bench $(LOCKED) --package storage-engine --bench engine
	$(CARGO) build $(LOCKED) --release --workspace --bins
	$(CARGO) run $(LOCKED) --release --package e2e --bin bench

generate: ## write the generated files again (custom resource definitions)
	@./e2e/setup build
	$(CARGO) run $(LOCKED) --package crds --bin crdgen

setup: ## only install what the other targets need
	@./e2e/setup build test lint cluster node sanity

clean: ## remove what was built here (the cache stays: see docs/development.md)
	$(CARGO) clean
