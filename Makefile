# `make help` lists the targets.

CARGO ?= cargo
# Flags of `shoal up`, such as UP_FLAGS="--data /srv/shoal --agents 3".
UP_FLAGS ?=
# Seed of `make sim`.
SEED ?= 1
# Names of tests, such as T=skopeo.
T ?=
# Name of the image, and flags of `docker build`.
IMAGE ?= shoal:local
IMAGE_FLAGS ?=

# What the end-to-end tests drive, by Debian package.
TEST_PACKAGES := busybox-static cmake containerd curl docker-compose docker.io docker-registry \
  e2fsprogs iproute2 iptables mount openssl podman skopeo
# Where nydusd is, which no package has: it is built once, and the tests look for it here too.
NYDUS_ROOT ?= $(HOME)/.cache/shoal/nydus-2.2.0
export NYDUS_ROOT
# What compiling needs.
BUILD_PACKAGES := gcc libc6-dev

# The tests make network namespaces and run their own dockerd, as root. Who is not root builds as
# before, and only what was built is run by sudo.
as_root = $(if $(filter-out 0,$(shell id -u)),$(CARGO) build --workspace --bins --tests --locked && \
  CARGO_TARGET_$(shell rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')_RUNNER="sudo -E")

# Where a release is built, for the shell of a recipe. Cargo's folder for what it builds is in
# CARGO_TARGET_DIR or in a configuration, and below it there is one for the kind of machine.
RELEASE = $$($(CARGO) metadata --format-version 1 --no-deps --locked \
  | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/$$(rustc -vV | sed -n 's/^host: //p')/release

.DEFAULT_GOAL := help
.PHONY: help up build image test check e2e sim fmt bench tools test-tools nydus

help: ## Show this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 8

up: build ## Build and run everything in one process; prints what to do next
	bin/shoal up $(UP_FLAGS)

build: tools ## Build the binary: bin/shoal
	$(CARGO) build --release --locked -p shoal
	@mkdir -p bin && ln -sf "$(RELEASE)/shoal" bin/shoal

image: ## Build the container image, IMAGE=shoal:local; IMAGE_FLAGS go to docker build
	docker build -t $(IMAGE) $(IMAGE_FLAGS) .

test: tools test-tools nydus ## Run every test, the end-to-end ones against real clients too
	$(as_root) $(CARGO) test --workspace --locked

check: tools ## Formatting, lints and documentation, as the CI asks for them
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --document-private-items --locked

e2e: tools test-tools nydus ## Run the end-to-end tests only; T=name picks some
	$(as_root) $(CARGO) test --workspace --test e2e --locked -- $(T)

sim: tools ## Run all scenarios of the simulator; SEED=n changes their randomness
	$(CARGO) run --release --locked -p shoal -- sim run --seed $(SEED)

bench: tools ## Measure everything and write docs/benchmarks.md; takes minutes
	$(CARGO) build --release --locked -p shoal -p tests --bin shoal --bin tests-s3
	@built="$(RELEASE)"; page=$$(mktemp) || exit 1; trap 'rm -f "$$page"' EXIT; \
	"$$built/shoal" bench all --s3-server "$$built/tests-s3" \
	  --commit "$$(git describe --always --dirty 2>/dev/null || echo unknown)" >"$$page" \
	  && cp "$$page" docs/benchmarks.md && echo "docs/benchmarks.md has the figures"

fmt: ## Format all code
	$(CARGO) fmt --all

# Says which system package is missing before cargo says something less clear.
tools:
	@command -v $(CARGO) >/dev/null || { \
	  echo "cargo is missing: install Rust with rustup, which reads rust-toolchain.toml" >&2; exit 1; }
	@command -v cc >/dev/null || { \
	  echo "a C compiler and linker is missing: apt-get install -y $(BUILD_PACKAGES)" >&2; exit 1; }
	@echo 'int main(void){return 0;}' | cc -x c -o /dev/null - 2>/dev/null || { \
	  echo "cc cannot link a program: apt-get install -y $(BUILD_PACKAGES)" >&2; exit 1; }

# Installs what the tests drive, as root or through sudo. No service of these packages is started.
test-tools:
	@missing=""; \
	for package in $(TEST_PACKAGES); do \
	  dpkg-query -W -f '$${Status}' $$package 2>/dev/null | grep -q 'ok installed' \
	    || missing="$$missing $$package"; \
	done; \
	[ -z "$$missing" ] && exit 0; \
	install="apt-get install -y --no-install-recommends$$missing"; \
	if [ "$$(id -u)" = 0 ]; then sudo=""; \
	elif sudo -n true 2>/dev/null; then sudo="sudo"; \
	else echo "the tests need packages; run as root: $$install" >&2; exit 1; fi; \
	echo "installing what the tests drive:$$missing"; \
	policy=/usr/sbin/policy-rc.d; made=""; \
	if [ ! -e $$policy ]; then \
	  printf '#!/bin/sh\nexit 101\n' | $$sudo tee $$policy >/dev/null && $$sudo chmod 755 $$policy && made=yes; \
	fi; \
	$$sudo apt-get update -q >/dev/null; \
	$$sudo env DEBIAN_FRONTEND=noninteractive $$install; code=$$?; \
	[ -z "$$made" ] || $$sudo rm -f $$policy; \
	[ $$code = 0 ] || { echo "installing failed; run as root: apt-get update && $$install" >&2; exit 1; }

# Builds nydusd and nydus-image elsewhere than in this workspace, whose configuration is not theirs,
# and with the compiler that this workspace has.
nydus: tools test-tools
	@[ -x $(NYDUS_ROOT)/bin/nydusd ] && exit 0; \
	echo "building nydusd for the tests, once; this takes some minutes"; \
	toolchain=$$(rustup show active-toolchain 2>/dev/null | cut -d' ' -f1); \
	target=$$(mktemp -d) || exit 1; \
	trap 'rm -rf "$$target"' EXIT; \
	cd / && env -u RUSTFLAGS -u CARGO_ENCODED_RUSTFLAGS -u CARGO_BUILD_TARGET -u CARGO_BUILD_RUSTFLAGS \
	  CARGO_TARGET_DIR="$$target" $${toolchain:+RUSTUP_TOOLCHAIN="$$toolchain"} \
	  $(CARGO) install nydus-rs --version 2.2.0 --locked --root $(NYDUS_ROOT)
