# One target per task; `make` alone lists them. Each target installs its requirements into $(VENV),
# and shows the output of pip and the compiler only if they fail.

PYTHON ?= python3
VENV ?= .venv
FUZZ ?= 60
PYTHONS ?= $(PYTHON)
ARGS ?=

RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip install --disable-pip-version-check --no-input
HAS_CORE := FAKTORY_IMPL=python $(RUN) -c \
	'import sys; from importlib.util import find_spec; sys.exit(not find_spec("faktory._proto"))'

# The tests start several hundred interpreters, which would all compile the package. Where the
# environment forbids bytecode beside the sources, it goes to $(VENV).
ifdef PYTHONDONTWRITEBYTECODE
unexport PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX := $(abspath $(VENV))/pycache
endif

# What the build of the core depends on beside its sources, compiler and headers too: where one of
# them changes, or is installed, the core is built again.
BUILD := $(CC) $(CFLAGS) $(LDFLAGS) $(FAKTORY_NO_EXTENSIONS) $(FAKTORY_REQUIRE_EXTENSIONS) \
	$(shell for each in $(CC) gcc clang; do command -v $$each; done; true) \
	$(wildcard /usr/include/python3*/Python.h /usr/local/include/python3*/Python.h)

# $(call quietly,NAME): write the command's output to a log, which is shown if the command fails.
# $(call notices,NAME): show the messages of our own setup.py in it.
quietly = > $(VENV)/$(1).log 2>&1 || { cat $(VENV)/$(1).log; $(call notices,$(1)); exit 1; } >&2
notices = sed -n 's/^ *\(error: \)*\(faktory-worker: \)/\2/p' $(VENV)/$(1).log

# $(call requirements,NAME): the group or extra of that name in pyproject.toml, or what builds need
# (`requires`), for pip install -r: a pip that reads groups itself (25.1) is not everywhere.
requirements = $(RUN) -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb")); \
	print(*{**project["build-system"], **project["project"]["optional-dependencies"], \
	**project["dependency-groups"]}["$(1)"], sep="\n")'

# $(call wheels,NAME): install each of a list's packages that has a wheel for this interpreter, an
# older one if need be: many have none for a Python without a GIL, and some do not compile for it.
FREE_THREADED := $(RUN) -c \
	'import sys, sysconfig; sys.exit(not sysconfig.get_config_var("Py_GIL_DISABLED"))'
wheels = while read -r each; do \
		$(PIP) --only-binary :all: "$$each" >> $(VENV)/$(1).log 2>&1 < /dev/null || \
			echo "No wheel of $$each for this Python: tests that need it are skipped"; \
	done < $(VENV)/$(1).txt

.DELETE_ON_ERROR:
# Two instances of pip must not run in one environment at the same time.
.NOTPARALLEL:
.PHONY: help demo test coverage check docs bench chart instructions wheel wheel-test soak asan tsan annotate clean FORCE

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo '  PYTHON=python3.12 selects the interpreter, VENV=folder the environment, ARGS="-k name" is passed to pytest'
	@echo '  make test uses all cores; ARGS="-n 0" runs one process, which a debugger needs'

demo: $(VENV)/core $(VENV)/web ## a server, a worker and a few jobs; DEMO_WEB=1 shows some in a browser
	@$(RUN) -m faktory demo

# The type checkers run in `make check`.
test: $(VENV)/core $(VENV)/test ## the tests, once for each implementation of the core
	@$(if $(ARGS),,echo "This takes about 5 minutes on two cores, less on more." \
		'ARGS="tests/proto" or ARGS="-k name" runs some of them, ARGS="-n 2" in two processes.')
	@$(call both,$(PARALLEL) $(if $(ARGS),,--ignore=tests/jobs/test_typing_samples.py))

# One process more than cores, since many tests wait. Their times differ by a factor of 10,000: a process
# that is idle takes over tests of another.
PARALLEL = -n $$($(RUN) -c 'import os; print((os.cpu_count() or 1) + 1)') --dist worksteal

# $(call both,OPTIONS): the second run starts even if the first one fails. It skips what the first
# one has tested for both, unless ARGS selects tests.
both = failed=0; second=; \
	if $(HAS_CORE); then \
		echo "The compiled core (FAKTORY_IMPL=cython):"; \
		FAKTORY_IMPL=cython $(RUN) -m pytest $(1) $(ARGS) || failed=1; \
		second="$(if $(ARGS),,--core-only)"; \
	else \
		echo "The compiled core was not built, so its tests do not run:"; \
		$(call notices,core); \
	fi; \
	echo "The pure Python core (FAKTORY_IMPL=python):"; \
	FAKTORY_IMPL=python $(RUN) -m pytest $(1) $$second $(ARGS) || failed=1; \
	exit $$failed

# The compiled core is excluded: coverage.py does not see into it, and the tests hold its twin to it.
coverage: $(VENV)/core $(VENV)/test $(VENV)/coverage ## which lines the tests run, of the pure package: build/coverage/index.html
	@mkdir -p build/coverage && rm -f build/coverage/.coverage*
	@FAKTORY_IMPL=python $(RUN) -m coverage run -m pytest $(PARALLEL) $(ARGS)
	@$(RUN) -m coverage combine --quiet && $(RUN) -m coverage html --quiet && $(RUN) -m coverage report

# Cython does not expose the signature of a __cinit__, and adds a __test__ to every module.
STUBTEST_ALLOWS := 'faktory\._(proto|exchange)\.\w+\.__init__' 'faktory\._(proto|exchange)\.__test__'

check: $(VENV)/core $(VENV)/test $(VENV)/check ## lint, format, types, and the imports between rooms
	@$(RUN) -m ruff check --quiet
	@$(RUN) -m ruff format --check || \
		{ echo "These files are not formatted. Run $(VENV)/bin/ruff format" >&2; exit 1; }
	@$(RUN) -m mypy --strict faktory
	@if $(HAS_CORE); then \
		printf '%s\n' $(STUBTEST_ALLOWS) > $(VENV)/stubtest.txt; \
		$(RUN) -m mypy.stubtest faktory._proto faktory._exchange --ignore-unused-allowlist \
			--allowlist $(VENV)/stubtest.txt; \
	else \
		echo "stubtest of faktory._proto skipped: the compiled core was not built."; \
	fi
	@$(RUN) -m pytest --quiet tests/test_layers.py tests/jobs/test_typing_samples.py tests/test_package_page.py
	@$(RUN) -m codespell_lib
	@$(VENV)/bin/zizmor --offline --no-progress .github $(call quietly,zizmor)
	@$(VENV)/bin/towncrier build --draft --version 0 $(call quietly,towncrier)
	@FAKTORY_PROJECT_URL=https://github.com/OWNER/NAME $(VENV)/bin/pyroma -n 10 --skip-tests AuthorEmail . \
		$(call quietly,pyroma)

docs: $(VENV)/core $(VENV)/docs ## build/docs from the pages and the docstrings; a warning is an error
	@$(RUN) -m sphinx -W --keep-going -n -q -E docs build/docs
	@echo build/docs/index.html

bench: $(VENV)/core $(VENV)/bench $(VENV)/installed-peers ## the benchmarks, beside other packages: build/bench/results.txt and .json
	@$(RUN) -m pytest benchmarks --benchmark-only --benchmark-quiet -q -s --timeout=0 $(ARGS)

chart: $(VENV)/bench ## update the figures in README.md, docs/asyncio.md and docs/scale.md from the results of make bench
	@$(RUN) -m benchmarks.chart build/bench/results.json
	@$(RUN) -m benchmarks.chart_asyncio build/bench/results.json
	@$(RUN) -m benchmarks.chart_scale build/bench/results.json

instructions: $(VENV)/core $(VENV)/bench ## the instructions that the core's tasks take, independent of other load
	@$(RUN) benchmarks/instructions.py $(ARGS)

wheel: $(VENV)/wheel ## dist/: the sdist, a wheel for this platform, a pure wheel for all others
	@rm -rf dist/faktory_worker-* build/lib* build/bdist*
	@$(RUN) -m build $(call quietly,build)
	@$(call notices,build)
	@FAKTORY_REQUIRE_EXTENSIONS= FAKTORY_NO_EXTENSIONS=1 $(RUN) -m build --wheel $(call quietly,build)
	@for wheel in dist/faktory_worker-*-linux_*.whl; do \
		[ -e "$$wheel" ] || continue; \
		PATH="$(abspath $(VENV))/bin:$$PATH" $(RUN) -m auditwheel repair --wheel-dir dist "$$wheel" \
			$(call quietly,auditwheel) && rm "$$wheel"; \
	done
	@$(RUN) -m check_wheel_contents dist
	@ls dist/faktory_worker-*

wheel-test: ## install wheels for $(PYTHONS) into fresh environments and run the tests against them
	@.ci/wheel-test $(PYTHONS)

soak: $(VENV)/core $(VENV)/test $(VENV)/soak $(VENV)/browser ## the long tests, then FUZZ=60 seconds of fuzzing
	@$(call both,$(SOAK) $(if $(ARGS),,--ignore=tests/soak))
	@$(if $(ARGS),,$(call both,$(SOAK) -n 8 tests/soak))
	@if $(HAS_CORE); then \
		$(RUN) tests/fuzz/fuzz_core.py -max_total_time=$(FUZZ); \
	else \
		echo "Nothing to fuzz: the compiled core was not built."; \
	fi

# The tests in tests/soak wait most of the time; the others measure memory, one after another.
SOAK := -m soak -rs --timeout=1800

asan: ## the core's tests on a core built with AddressSanitizer and UndefinedBehaviorSanitizer
	@$(MAKE) --no-print-directory VENV=.venv-asan .venv-asan/test
	@mkdir -p build/asan
	@CFLAGS="-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined" \
		LDFLAGS="-fsanitize=address,undefined" FAKTORY_REQUIRE_EXTENSIONS=1 \
		.venv-asan/bin/python -m pip install --disable-pip-version-check --no-build-isolation \
		--no-deps --force-reinstall . > .venv-asan/asan.log 2>&1 || { cat .venv-asan/asan.log >&2; exit 1; }
	@LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
		PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 \
		FAKTORY_IMPL=cython .venv-asan/bin/pytest tests/proto --timeout=300 $(ARGS)

# Races of the interpreter itself, further up in a stack, do not count.
tsan: $(VENV)/core ## races of threads in the core; TSAN=an interpreter of .ci/free-threaded FOLDER --with-thread-sanitizer
	@rm -rf build/race && mkdir -p build/race
	@cp -r faktory tests/proto/races.py build/race && rm -f build/race/faktory/*.so
	@$(RUN) -m cython faktory/_proto.pyx -o build/race/_proto.c $(call quietly,cython)
	@$(CC) -shared -fPIC -O1 -g -w -fsanitize=thread -Ifaktory -I"$$(TSAN_OPTIONS=exitcode=0 \
		$(TSAN) -c 'import sysconfig; print(sysconfig.get_path("include"))')" \
		build/race/_proto.c -o build/race/faktory/_proto.so
	@cd build/race && TSAN_OPTIONS="exitcode=0 log_path=report" $(abspath $(TSAN)) races.py _proto 100000
	@! grep -l "#[0-2] .*_proto\.so" build/race/report.* 2> /dev/null || \
		{ echo "Races in the core: see these files" >&2; exit 1; }

annotate: $(VENV)/core ## the compiled core as a page whose yellow lines call Python
	@mkdir -p build/annotate
	@$(RUN) -m cython -a faktory/_proto.pyx -o build/annotate/_proto.c $(call quietly,annotate)
	@echo build/annotate/_proto.html

clean: ## remove all files that make and builds created
	@rm -rf $(VENV) .venv-asan .venv-tsan build dist *.egg-info faktory/_*.so faktory/_*.pyd faktory/_*.c
	@rm -rf .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find faktory tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# The targets below are stamps: an empty file in $(VENV) marks a finished step.

$(VENV)/env: pyproject.toml setup.py $(VENV)/.python
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "faktory-worker needs Python 3.11 or newer; $(PYTHON) is older or missing." \
		"Use another one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> $(VENV)/venv.log || \
		{ echo "$(PYTHON) cannot create virtual environments: its modules venv and ensurepip are" \
		"missing. On Debian and Ubuntu: apt-get install python3-venv, then make again" >&2; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) -V)"
	@rm -rf $(VENV)/bin $(VENV)/lib $(VENV)/lib64 $(VENV)/include
	@$(PYTHON) -m venv $(VENV) $(call quietly,venv)
	@$(call requirements,requires) > $(VENV)/env.txt
	@$(PIP) -r $(VENV)/env.txt $(call quietly,env)
	@touch $@

$(VENV)/core: $(VENV)/env $(VENV)/.build $(wildcard faktory/*.pyx faktory/*.pxd faktory/*.h)
	@$(PIP) --verbose --no-build-isolation --no-deps --editable . $(call quietly,core)
	@$(call notices,core)
	@touch $@

# None of these depends on the core: a changed core does not run pip again.
$(VENV)/test $(VENV)/wheel $(VENV)/docs $(VENV)/web: $(VENV)/env
$(VENV)/check $(VENV)/bench $(VENV)/soak $(VENV)/browser $(VENV)/coverage: $(VENV)/test
$(VENV)/test $(VENV)/check $(VENV)/coverage $(VENV)/docs $(VENV)/bench $(VENV)/browser $(VENV)/soak $(VENV)/wheel $(VENV)/web:
	@echo "Installing what make $(@F) needs"
	@$(call requirements,$(@F)) > $@.txt
	@if $(FREE_THREADED); then $(call wheels,$(@F)); else $(PIP) -r $@.txt $(call quietly,$(@F)); fi
	@touch $@

# Other clients, each in its own environment, because one has the same import name. If one cannot be
# installed, the benchmarks run without it.
PEERS := faktory==1.0.0 pyfaktory==0.2.13

$(VENV)/installed-peers: $(VENV)/env
	@rm -rf $(VENV)/peers && mkdir $(VENV)/peers
	@for peer in $(PEERS); do \
		place=$(VENV)/peers/$${peer%%==*}; \
		echo "Installing $$peer to measure beside it"; \
		{ $(RUN) -m venv $$place && \
			$$place/bin/pip install --disable-pip-version-check --no-input $$peer; \
		} > $$place.log 2>&1 || { rm -rf $$place; echo "$$peer could not be installed:" \
			"see $$place.log, then remove $@ to try again. The benchmarks run without it." >&2; }; \
	done
	@touch $@

# These two files change only when their content changes.
$(VENV)/.python: FORCE
	@mkdir -p $(VENV)
	@echo '$(PYTHON)' | cmp -s - $@ || echo '$(PYTHON)' > $@

$(VENV)/.build: FORCE
	@mkdir -p $(VENV)
	@echo '$(BUILD)' | cmp -s - $@ || echo '$(BUILD)' > $@
