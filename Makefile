# make demo | test | lint | format | clean. Each installs what it needs into .venv, once, and again when setup.cfg or
# pyproject.toml has changed.

PYTHON ?= python3
VENV ?= .venv
# The build of torch that the parity tests compare with; on a machine without a GPU, a CPU build saves some gigabytes.
TORCH ?= torch==2.13.0
TEST_ARGS ?= -n 2 --dist loadfile

BIN := $(VENV)/bin
PROJECT := setup.cfg pyproject.toml
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test browser lint format pictures clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(BIN)/python train.py --output runs/demo --resume
	$(BIN)/python train.py --output runs/demo_one_stage --name one_stage --stages 1 --resume
	$(BIN)/python sample.py --styles runs/demo --output out/demo
	$(BIN)/python -m dreamstyler_jax.mini.studies.compare --styles runs/demo_one_stage runs/demo --output out/demo/compare.png
	@echo "The style is in runs/demo. Painted with it: $(CURDIR)/out/demo/grid.png; what it does: $(CURDIR)/out/demo/compare.png"

test: $(VENV)/.installed-test browser
	$(BIN)/python -m pytest $(TEST_ARGS)

# The tests of the page drive a real browser, which is not a Python package.
browser:
	@if ! { command -v chromium || command -v chromium-browser || command -v google-chrome; } > /dev/null \
			|| ! command -v chromedriver > /dev/null; then \
		command -v apt-get > /dev/null || { echo "error: the tests need chromium and chromedriver; install them" >&2; exit 1; }; \
		if [ "$$(id -u)" != 0 ]; then as_root=sudo; fi; \
		$$as_root apt-get update --quiet && $$as_root env DEBIAN_FRONTEND=noninteractive apt-get install --quiet --yes \
			--no-install-recommends chromium chromium-driver fonts-liberation; \
	fi

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.installed-lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The example that the package carries and the pictures of README.md, all made anew.
pictures: $(VENV)/.installed browser
	rm -rf build/pictures
	$(BIN)/python -m dreamstyler_jax.mini.studies.example
	$(BIN)/python train.py --output build/pictures/run
	cp build/pictures/run/style.safetensors dreamstyler_jax/mini/examples/example.safetensors
	$(BIN)/python sample.py --styles build/pictures/run --output build/pictures/out
	cp build/pictures/run/loss.png build/pictures/out/grid.png docs/pictures/
	$(BIN)/python train.py --output build/pictures/one_stage --name one_stage --stages 1
	$(BIN)/python -m dreamstyler_jax.mini.studies.compare --styles build/pictures/one_stage build/pictures/run \
		--output docs/pictures/compare.png
	$(BIN)/python sample.py --config configs/grids/guidance.yaml --styles build/pictures/run --output build/pictures/guidance
	chromium --headless --no-sandbox --window-size=1200,760 --screenshot=docs/pictures/page.png \
		file://$(CURDIR)/build/pictures/guidance/index.html
	$(BIN)/python sample.py --config configs/grids/transfer.yaml --styles build/pictures/run --output build/pictures/transfer
	cp build/pictures/transfer/grid.png docs/pictures/transfer.png
	$(BIN)/python train.py --property object --init_word cat --images examples/my_cat.png --output build/pictures/cat
	$(BIN)/python sample.py --styles build/pictures/cat build/pictures/run --output build/pictures/object \
		--prompts "A photo of {my_cat} in the snow at night" "A painting of {my_cat} by the sea at sunset in the style of {example}" \
		"A painting of {my_cat} in the forest by day in the style of {example}"
	cp build/pictures/object/grid.png docs/pictures/object.png
	$(BIN)/python -m dreamstyler_jax.mini.studies.check --sheet docs/pictures/check.png | tee docs/pictures/check.txt
	$(BIN)/python -m dreamstyler_jax.mini.studies.words | tee docs/pictures/words.txt

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.installed: $(PROJECT)
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	touch $@

# torch first and by itself: whatever else wants torch then takes this one.
$(VENV)/.installed-test: $(PROJECT)
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH)
	$(PIP) --editable '.[test]'
	touch $@

$(VENV)/.installed-lint: $(PROJECT)
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[lint]'
	touch $@
