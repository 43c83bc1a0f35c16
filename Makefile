# make demo, make docs, make test, make lint: each makes the environment first, in .venv.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
DEMO ?= demo
RUNS ?= 10000
INSTALLED := $(VENV)/.installed

.PHONY: env demo packaged-models docs fuzz fuzz-guided gpu-test image-test legacy-validator pictures singularity-test slurm-test test lint clean

env: $(INSTALLED)

# torch goes first: it keeps the other packages from choosing a torch of their own.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

# Simulated participants at two simulated sites, all rendered as if scanned at PhantomA.
demo: $(INSTALLED)
	test -d $(DEMO)/bids || $(BIN)/ddae-phantom $(DEMO)/bids --sites 2 --subjects-per-site 5 --whole-head --traveling
	$(BIN)/ddae-app $(DEMO)/bids $(DEMO)/out participant -w $(DEMO)/work --slices medial --target-site PhantomA
	@echo "Open in a browser: $$(ls $(DEMO)/out/sub-*.html | tail -n 1)"

# The packaged models, from a dataset of real scans (docs/contributing.md): make packaged-models REAL=...
packaged-models: $(INSTALLED)
	$(BIN)/ddae-app $(REAL) $(DEMO)/real participant -w $(DEMO)/work --stage preproc
	$(BIN)/python -m benchmarks.universal $(REAL) $(DEMO)/real $(DEMO)/universal
	$(BIN)/python -m benchmarks.references $(REAL) $(DEMO)/real $(DEMO)/universal $(DEMO)/universal
	cp $(DEMO)/universal/universal-*.safetensors ddae_app/data/

# Hundreds of processes load the package, so its bytecode is kept, also where the environment says
# otherwise.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# The old BIDS validator, for the one test that asks for it; everything else does without Node.
legacy-validator: $(INSTALLED)
	npm install --silent --prefix $(VENV)/legacy bids-validator@1.15.0

# image-test, singularity-test and slurm-test need root and packages of Debian; each script says
# which.
image-test:
	tests/containers/image_test.sh

singularity-test: $(INSTALLED)
	$(BIN)/pip install --quiet -c constraints.txt spython
	SPYTHON=$(abspath $(BIN))/spython tests/containers/singularity_test.sh

fuzz: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz.fuzz

# Guided by what it reaches; atheris has wheels for Linux and Mac only, so it is not among dev.
fuzz-guided: $(INSTALLED)
	$(BIN)/pip install --quiet -c constraints.txt atheris
	for kind in nifti table filters results settings bundle arguments; do \
	    OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz.guided $$kind -runs=$(RUNS) || exit 1; done

# Fails where there is no GPU, instead of leaving everything out.
gpu-test: $(INSTALLED)
	$(BIN)/python -c "import torch; assert torch.cuda.is_available(), 'PyTorch sees no GPU'"
	$(BIN)/python -m pytest tests/gpu

slurm-test: $(INSTALLED)
	BIN=$(abspath $(BIN)) tests/slurm/slurm_test.sh

# Every picture of the documentation; needs Chromium, and 17 minutes of processor time at first.
pictures: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python docs/pictures/make.py $(DEMO)/pictures

docs: $(INSTALLED)
	$(BIN)/python docs/write_measures.py
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build
	@echo "Open in a browser: docs/_build/index.html"

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

clean:
	rm -rf $(DEMO)
