# siptunnel. `make help` lists what there is; Go, git and make suffice for everything but e2e (root, Debian packages).

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

GO ?= go
# Tests of many packages wait more than they work: more run at once than there are cores. The race detector needs a C
# compiler.
RACE := $(if $(shell command -v $${CC:-gcc} 2>/dev/null),-race)
FUZZTIME ?= 30s
PKG ?= ./...
E2E ?= .

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "%-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## tunneld and tunnelproxy into bin/
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/ ./cmd/tunneld ./cmd/tunnelproxy

.PHONY: test
test: vet fmt ## everything that needs no root and no other program
	$(GO) test $(RACE) -shuffle=on -p 4 -timeout 5m ./...

.PHONY: vet
vet: ## go vet, the end-to-end tests included
	$(GO) vet ./...
	$(GO) vet -tags e2e ./test/e2e/...

.PHONY: fmt
fmt: ## fails when gofmt would change a file, and names it
	@changed="$$(git ls-files -co --exclude-standard '*.go' | xargs -r gofmt -l)"; \
	if [ -n "$$changed" ]; then echo "gofmt would change:"; echo "$$changed"; exit 1; fi

.PHONY: staticcheck
staticcheck: ## the linter pinned in go.mod
	$(GO) tool staticcheck ./...
	$(GO) tool staticcheck -tags e2e ./test/e2e/...

.PHONY: lint
lint: vet fmt staticcheck ## vet, fmt, staticcheck

.PHONY: demo
demo: ## a call through the tunnel on loopback, heard and measured
	$(GO) run ./cmd/siptunnel-demo

.PHONY: demo-keep
demo-keep: ## the same, but it goes on, for a real phone
	$(GO) build -o bin/ ./cmd/siptunnel-demo
	exec bin/siptunnel-demo -keep

.PHONY: test-deps
test-deps: ## the Debian packages of e2e (root)
	.ci/test-deps

.PHONY: e2e
e2e: ## network namespaces with Kamailio, baresip, SIPp (root); one test: make e2e E2E=TestCall
	$(GO) test -tags e2e -count=1 -parallel 2 -timeout 20m -run '$(E2E)' ./test/e2e/...

.PHONY: soak
soak: ## 10,000 registrations and 10,000 calls through both programs, and what is left of them
	SOAK=10000 $(GO) test -tags e2e -count=1 -timeout 15m -v -run TestSoak ./test/e2e/soak

.PHONY: bench-deps
bench-deps: ## the Debian packages of the programs that bench measures beside (root)
	.ci/test-deps bench

.PHONY: bench
bench: build ## the two programs measured from outside, into build/bench.json; media as root only
	$(GO) run ./test/bench -bin bin -json build/bench.json
	$(GO) run ./test/mediabench -bin bin -json build/bench.json

.PHONY: microbench
microbench: ## benchmarks of the packages, with allocations: make microbench PKG=./internal/sipmsg
	$(GO) test -run '^$$' -bench . -benchmem $(PKG)

.PHONY: fuzz-seeds
fuzz-seeds: ## the fuzz targets with their seeds only, as `make test` has them too
	$(GO) test -run '^Fuzz' $(PKG)

.PHONY: fuzz
fuzz: ## one fuzz target: make fuzz PKG=./internal/sipmsg FUZZ=FuzzParse FUZZTIME=30s
	$(GO) test -run '^$$' -fuzz '^$(FUZZ)$$' -fuzztime $(FUZZTIME) $(PKG)

.PHONY: clean
clean: ## what the other targets have made
	rm -rf bin build
