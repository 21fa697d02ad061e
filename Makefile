# Two commands set up a fresh machine: `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/installed
BIN := $(VENV)/bin

.PHONY: demo test check

# Export the bundled network and measure it. CIFAR-10 comes from EDGERESNET_DATA, else through torchvision.
demo: $(INSTALLED)
	$(BIN)/edgeresnet export --output build
	$(BIN)/edgeresnet bench build/resnet18-fp32.onnx build/resnet18-int8.onnx --download --limit 2000

# In two processes, each with cores of its own: most tests keep one busy. Those of a file share what they make and stay together.
test: check
	$(BIN)/pytest --numprocesses 2 --dist loadfile

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@
