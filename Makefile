# make demo | test | test-tpu | lint | format | site | dist | paper_eval | pictures | clean. Each installs what it needs into .venv
# (test-tpu into .venv-tpu), and installs it again if setup.cfg or pyproject.toml has changed.

PYTHON ?= python3
VENV ?= .venv
# With the compiler of TPUs, which would make other programs look for a TPU.
TPU_VENV ?= $(VENV)-tpu
# The build of torch that the parity tests compare with. Without a GPU, a CPU build saves some gigabytes.
TORCH ?= torch==2.13.0
TEST_ARGS ?= -n 2 --dist loadfile --no-loadscope-reorder

BIN := $(VENV)/bin
PROJECT := setup.cfg pyproject.toml
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test test-tpu browser lint format site dist paper_eval pictures clean
.DELETE_ON_ERROR:

PAINTINGS := boat flower bird house

demo: $(VENV)/.installed
	$(BIN)/dreamstyler train --separate --images $(PAINTINGS:%=examples/%.png) --output runs/demo --steps 150 --resume
	$(BIN)/dreamstyler sample --styles $(PAINTINGS:%=runs/demo/%) --output out/demo --seeds 3 --prompts \
		"A painting of an orange cat in the snow by day in the style of {}" \
		"A painting of a red house by the sea at sunset in the style of {}" \
		"A painting of a green tree in the desert at night in the style of {}" \
		"A painting of a red mushroom in the forest by day in the style of {}"
	@echo "The styles are in runs/demo. Painted with them: $(CURDIR)/out/demo/grid.png"

test: $(VENV)/.installed-test browser
	$(BIN)/python -m pytest $(TEST_ARGS)

# Programs compiled for TPUs, without a TPU.
test-tpu: $(TPU_VENV)/.installed
	JAX_OPTIMIZATION_LEVEL=O1 $(TPU_VENV)/bin/python -m pytest -m tpu tests/test_tpu.py

# The tests of the page drive a real browser, which pip cannot install.
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
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.installed-lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The documentation as a site, build/site; warnings are errors.
site: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# The source distribution and, from it, the wheel, in dist/. The wheel then learns a style in an empty environment and an
# empty folder, in a few steps that are compiled quickly.
dist: export JAX_DISABLE_MOST_OPTIMIZATIONS = true
dist:
	rm -rf dist build/dist
	$(PYTHON) -m venv build/dist
	build/dist/bin/python -m pip install --quiet --disable-pip-version-check 'build>=1.3'
	build/dist/bin/python -m build --quiet --outdir dist .
	build/dist/bin/python -m pip install --quiet --disable-pip-version-check dist/*.whl
	mkdir build/dist/folder
	cp examples/boat.png build/dist/folder
	cd build/dist/folder && PATH="$$PWD/../bin:$$PATH" && dreamstyler doctor \
		&& dreamstyler train --images boat.png --prompts "A painting of a red boat in the style of {}" --steps 5 --preview_prompts
	test -s build/dist/folder/runs/boat/report.html

# The protocol of Table 1 in the paper, with your pictures; EVALUATE may name further checkpoints (docs/evaluation.md).
MODEL ?= stable-diffusion-v1-5/stable-diffusion-v1-5
EVALUATE ?= --clip openai/clip-vit-large-patch14 --vgg timm/vgg16.tv_in1k
paper_eval: $(VENV)/.installed
	$(BIN)/dreamstyler train --config paper_eval --separate --model $(MODEL) --images $(PICTURES) --resume
	$(BIN)/dreamstyler sample --config paper_eval --model $(MODEL)
	$(BIN)/dreamstyler evaluate --pictures out/paper_eval --styles runs/paper_eval $(EVALUATE)

# Makes the package's example and all pictures in docs/ again.
pictures: $(VENV)/.installed browser
	rm -rf build/pictures runs/demo out/demo
	$(BIN)/dreamstyler examples
	$(MAKE) demo
	cp out/demo/grid.png docs/pictures/
	$(BIN)/dreamstyler train --output build/pictures/one_stage --name one_stage --stages 1 --steps 150
	$(BIN)/dreamstyler compare --styles build/pictures/one_stage runs/demo/boat --output docs/pictures/compare.png
	$(BIN)/dreamstyler train --output build/pictures/run
	cp build/pictures/run/style.safetensors dreamstyler_jax/mini/examples/example.safetensors
	cp build/pictures/run/loss.png docs/pictures/
	$(BIN)/dreamstyler sample --styles runs/demo/flower runs/demo/boat --seeds 0:3 --output build/pictures/page --prompts \
		"A painting of a red house by the sea at sunset in the style of {}" \
		"A painting of an orange cat in the snow by day in the style of {}" \
		"A painting of a blue bird in the forest at night in the style of {}"
	chromium --headless --no-sandbox --hide-scrollbars --virtual-time-budget=20000 --window-size=1200,760 \
		--screenshot=docs/pictures/page.png file://$(CURDIR)/build/pictures/page/index.html
	$(BIN)/python -c "from PIL import Image; name = 'docs/pictures/page.png'; \
		Image.open(name).convert('RGB').quantize(128, dither=Image.Dither.NONE).save(name, optimize=True)"
	$(BIN)/dreamstyler sample --config grids/transfer --styles build/pictures/run --output build/pictures/transfer
	cp build/pictures/transfer/grid.png docs/pictures/transfer.png
	$(BIN)/dreamstyler train --property object --init_word cat --images examples/my_cat.png --output build/pictures/cat
	$(BIN)/dreamstyler sample --styles build/pictures/cat build/pictures/run --output build/pictures/object \
		--prompts "A photo of {my_cat} in the snow at night" "A painting of {my_cat} by the sea at sunset in the style of {example}" \
		"A painting of {my_cat} in the forest by day in the style of {example}"
	cp build/pictures/object/grid.png docs/pictures/object.png
	$(BIN)/dreamstyler sample --styles runs/demo/flower runs/demo/house --seeds 1 --output build/pictures/favourites \
		--prompts "A painting of a red house by the sea at sunset in the style of {flower}" \
		"A painting of an orange cat in the snow by day in the style of {house}"
	$(BIN)/dreamstyler enlarge build/pictures/favourites --strength 0.3 0.5
	$(BIN)/python -c "from PIL import Image; Image.open('build/pictures/favourites-enlarged/grid.png').quantize(256).save( \
		'docs/pictures/enlarged.png', optimize=True)"
	$(BIN)/dreamstyler check --sheet docs/pictures/check.png | tee docs/pictures/check.txt
	$(BIN)/dreamstyler words | tee docs/pictures/words.txt

clean:
	rm -rf $(VENV) $(TPU_VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.installed: $(PROJECT)
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	touch $@

# torch comes first: packages that need torch then accept the one that is installed.
$(VENV)/.installed-test: $(PROJECT)
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH)
	$(PIP) --editable '.[test]'
	touch $@

$(TPU_VENV)/.installed: $(PROJECT)
	$(PYTHON) -m venv $(TPU_VENV)
	$(TPU_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[tpu]' hypothesis pytest \
		pytest-timeout
	touch $@

$(VENV)/.installed-docs: $(PROJECT)
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[docs]'
	touch $@

$(VENV)/.installed-lint: $(PROJECT)
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[lint]'
	touch $@
