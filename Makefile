# Everything a developer runs. `make demo` and `make test` need nothing but python3.11+ with venv,
# make and a package index: they set up what is missing first.

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all lint format bench bench-inference bench-attestation peers fuzz remove-checks protos lock clean distclean \
	lint-style lint-format lint-types lint-imports lint-dependencies lint-contracts lint-breaking lint-generated

# The first interpreter that is new enough; override with `make PYTHON=/path/to/python3.12 ...`.
PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,\
	$(shell $(p) -c 'import sys; sys.version_info >= (3, 11) and print("$(p)")' 2>/dev/null)) python3)
BIN := .venv/bin
FUZZ_SECONDS ?= 5
PACKAGES := core runtime services clients/python tests tools bench protos/generate.py

help: ## Say what there is to run
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Make .venv, install the locks, generate the contracts, fetch the demo's model
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "setup: Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 $(or $(MAKECMDGOALS),setup)"; exit 1; }
	@$(PYTHON) tools/bootstrap.py

demo: setup ## Ask a model, verify the answers offline, refuse the attacks (DEMO="--json" for one object)
	@$(BIN)/otr demo $(DEMO)

test: setup ## Run the tests (TEST="tests/unit -k tlog" for some of them)
	@$(BIN)/python -m pytest $(TEST)

test-all: setup ## Run the slow tests too
	@$(BIN)/python -m pytest -m "not soak" $(TEST)

lint: setup lint-style lint-format lint-types lint-imports lint-dependencies lint-contracts lint-breaking lint-generated ## Run every check that needs no test (make -k lint shows all findings)

lint-style: setup
	$(BIN)/ruff check $(PACKAGES)

lint-format: setup
	$(BIN)/ruff format --check $(PACKAGES)

lint-types: setup
	$(BIN)/mypy

lint-imports: setup
	PYTHONPATH=tools $(BIN)/lint-imports --no-logo

lint-dependencies: setup
	$(BIN)/python tools/check_dependencies.py

lint-contracts: setup
	$(BIN)/buf lint

lint-breaking: setup
	$(BIN)/python tools/check_breaking.py

lint-generated:
	@committed=$$(git ls-files '*_pb2.py' '*_pb2.pyi' '*_pb2_grpc.py' '*_pb2_grpc.pyi' 'protos/gen/*'); \
	if [ -n "$$committed" ]; then echo "generated code is committed:"; echo "$$committed"; exit 1; fi

format: setup ## Format and fix what can be fixed by machine
	$(BIN)/ruff check --fix $(PACKAGES)
	$(BIN)/ruff format $(PACKAGES)
	$(BIN)/buf format -w

protos: setup ## Generate the package `otr` from protos/otr (a part of setup)

bench: setup ## Run every benchmark; each prints one JSON line
	@$(BIN)/python bench/run.py

bench-inference: setup ## Attested throughput against the bare engine, as one JSON line
	@$(BIN)/python bench/inference_throughput.py

bench-attestation: setup ## Verifications per CPU second and the service's latency, beside the peers that are there
	@PYTHONPATH=tests $(BIN)/python bench/attestation_verification.py
	@PYTHONPATH=tests $(BIN)/python bench/attestation_latency.py

peers: setup ## Make the environments of the verifiers that ours is compared with
	@$(BIN)/python tools/side_environments.py nvidia_verifier signxml

fuzz: setup ## Fuzz every parser of strangers' bytes (FUZZ_SECONDS=5 each)
	@$(BIN)/python tools/side_environments.py fuzz
	@.venv-fuzz/bin/python tests/fuzz/run.py --seconds $(FUZZ_SECONDS)

remove-checks: setup ## Take out every check of attestation once; a test must fail each time
	@PYTHONPATH=tests $(BIN)/python tools/remove_checks.py

lock: setup ## Compile requirements/*.in anew into hash-pinned locks
	@$(BIN)/python tools/lock.py $(UPGRADE)

clean: ## Remove what builds and tests leave behind; keeps .venv and the model
	rm -rf protos/gen protos/gen.new protos/gen.old .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -path ./.venv -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf
	find . -path ./.venv -prune -o -name '*.egg-info' -type d -print0 | xargs -0 rm -rf

distclean: clean ## Remove .venv, the build environments and the fetched model too
	rm -rf .venv .venv-protoc .venv-mypy-protobuf models/smollm2
