# Everything that is done to this repository by command. `make help` lists it.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BIN     := $(CURDIR)/build/bin
NODE    := $(CURDIR)/build/node
APP     := deploy/forge/app
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)

FUZZTIME ?= 1m
# What `make bench`, `make bench-git`, `make bench-batch` and `make bench-scale` hand to go test, such as BENCHFLAGS='-bench Git/on_disk/small'.
BENCHFLAGS ?=
# Parts of `make soak`, with | between several.
SOAK ?= .*
# What `make test`, `make test-all` and `make race` hand to go test, such as TESTFLAGS='-run TestX ./internal/ops'.
TESTFLAGS ?= ./...

# A node that `make test-tools` had to bring along comes before the system's.
export PATH := $(NODE)/node_modules/.bin:$(PATH)

##@ Work

.PHONY: help
help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' Makefile

.PHONY: run
run: ## the sandbox: receiver and worker on stand-ins for Forge, Bitbucket and Redis
	go run ./cmd/sandbox

.PHONY: fmt
fmt: $(BIN)/gofumpt ## format the Go code
	git ls-files -co --exclude-standard '*.go' | xargs -r ls 2>/dev/null | xargs -r $(BIN)/gofumpt -w

.PHONY: build
build: ## api, worker and sandbox as static binaries in build/bin
	mkdir -p $(BIN)
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X github.com/gitsmith/gitsmith/internal/app.Version=$(VERSION)' -o $(BIN)/ ./cmd/...

.PHONY: app
app: $(APP)/dist/index.html ## the page for Bitbucket, into deploy/forge/app/dist

$(APP)/dist/index.html: $(APP)/package-lock.json $(APP)/build.mjs $(APP)/index.html $(wildcard $(APP)/src/*)
	.ci/app $(APP)

##@ Check

.PHONY: ci
ci: fmt-check vet lint build app manifest test test-all ## what a change must pass

.PHONY: fmt-check
fmt-check: $(BIN)/gofumpt
	@unformatted=$$(git ls-files -co --exclude-standard '*.go' | xargs -r ls 2>/dev/null | xargs -r $(BIN)/gofumpt -l); \
	if [ -n "$$unformatted" ]; then echo "not formatted, run make fmt:"; echo "$$unformatted"; exit 1; fi

.PHONY: vet
vet:
	go vet ./...

.PHONY: lint
lint: $(BIN)/golangci-lint ## the linters of .golangci.yml
	$(BIN)/golangci-lint run

# Three packages at once: most tests wait for git and Redis more than they compute.
GOTEST = $(BIN)/gotestsum --format pkgname-and-test-fails --format-hide-empty-pkg -- -race -shuffle=on -p 3 -timeout 20m

.PHONY: test
test: test-tools app $(BIN)/gotestsum ## the tests with the race detector, in random order, but for the longest ones
	$(GOTEST) -short $(TESTFLAGS)

.PHONY: test-all
test-all: test-tools app $(BIN)/gotestsum ## the same with the longest ones: large repositories, kills under load, every way beside its peers
	$(GOTEST) $(TESTFLAGS)

.PHONY: race
race: ## the same ten times over, to find what goes wrong rarely
	$(MAKE) test-all TESTFLAGS='-count 10 $(TESTFLAGS)'

.PHONY: fuzz
fuzz: ## each fuzz target for FUZZTIME (default 1m), one after another
	.ci/fuzz $(FUZZTIME)

.PHONY: bench
bench: bench-ingest ## the benchmarks that take minutes

.PHONY: bench-ingest
bench-ingest: ## the intake of events beside its peers: minutes, and nothing else should run meanwhile
	go test -run '^$$' -timeout 60m -bench Ingest -benchtime 1x $(BENCHFLAGS) ./internal/bench

.PHONY: bench-git
bench-git: ## git jobs beside the command line and go-git: an hour, and nothing else should run meanwhile
	go test -run '^$$' -timeout 180m -bench Git -benchtime 1x $(BENCHFLAGS) ./internal/bench

.PHONY: bench-batch
bench-batch: ## a batch of 500 repositories beside xargs of the command line: half an hour, and nothing else should run meanwhile
	go test -run '^$$' -timeout 120m -bench Batch -benchtime 1x $(BENCHFLAGS) ./internal/bench

.PHONY: bench-scale
bench-scale: ## what grows with jobs, installations, workers and batches: a quarter of an hour, and nothing else should run meanwhile
	go test -run '^$$' -timeout 60m -bench Scale -benchtime 1x $(BENCHFLAGS) ./internal/bench

.PHONY: manifest
manifest: test-tools app ## the Forge manifest against Atlassian's own validator
	node deploy/forge/validate.mjs deploy/forge/manifest.yml

.PHONY: soak
soak: test-tools ## events at Forge's volume while Redis, receiver and workers die; SOAK=outage, kills, asynq, sentinel, cluster, model, fairness, tokens or 'batch.*' for one part
	go test -run '^$$' -timeout 120m -p 1 -bench '^BenchmarkSoak$$/^($(SOAK))$$' -benchtime 1x ./internal/systemtest ./internal/dispatch

##@ Tools

.PHONY: test-tools
test-tools: ## what the tests need beside Go: found, installed where this may, or named
	@.ci/test-tools $(NODE)

.PHONY: clean
clean: ## remove what was built
	rm -rf build $(APP)/dist $(APP)/node_modules

# Built once for each state of tools/go.mod.
$(BIN)/golangci-lint $(BIN)/gotestsum $(BIN)/gofumpt &: tools/go.mod tools/go.sum
	mkdir -p $(BIN)
	cd tools && GOBIN=$(BIN) go install tool
	touch $(BIN)/golangci-lint $(BIN)/gotestsum $(BIN)/gofumpt
