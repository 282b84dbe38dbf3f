# Bare make lists the targets.
.DEFAULT_GOAL := help

GOLANGCI  := go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
VERSION   := $(shell git describe --tags --always --dirty 2>/dev/null)
FUZZ_TIME ?= 600
TORTURE   ?= 1h

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## a throwaway PostgreSQL, a weir and a small storm, with nothing to configure
	@scripts/setup demo
	go run ./cmd/weir demo

test: ## install what tests need, then run every test
	@scripts/setup test
	@scripts/test

bench: ## measure weir beside PostgreSQL and PgBouncer; results go to docs/benchmarks.md
	@scripts/setup bench
	go run ./internal/bench -write docs/benchmarks.md

bench-overload: ## what becomes of useful work at ten times the load; results and charts go to docs/benchmarks.md
	@scripts/setup bench
	go run ./internal/bench -only overload -write docs/benchmarks.md

fuzz: ## fuzz every target in turn, for FUZZ_TIME seconds (600) in all, and compare random pipelines with PostgreSQL
	scripts/fuzz $(FUZZ_TIME)
	WEIR_TEST_SEED=random go test -count=5 -run 'Random|Cancel' ./proxy/postgres

torture: ## an hour of clients that die, stall and flood against a server that is stopped and restarted (TORTURE=1h)
	@scripts/setup test
	WEIR_TORTURE=$(TORTURE) go test -race -count=1 -timeout 0 -run TestTorture -v ./proxy/postgres

build: ## a static ./weir
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o weir ./cmd/weir

fmt: ## format the code as lint wants it
	$(GOLANGCI) fmt ./...

lint: ## look for mistakes; the first run builds golangci-lint, which takes minutes
	$(GOLANGCI) run ./...

docs: ## write the reference pages anew from the code
	go test -count=1 -run Reference $$(grep -rl --include='*_test.go' 'internal/golden"' . | xargs -n1 dirname | sort -u | grep -v internal) -update

clean: ## remove what make built
	rm -rf weir internal/drivers/node/node_modules

.PHONY: help demo test bench bench-overload fuzz torture build fmt lint docs clean
