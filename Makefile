# hdlua: `make help` lists the targets.

# Settings -------------------------------------------------------------------
BUILD   ?= build
PREFIX  ?= /usr/local
OPT     ?= -O3
WARN    ?= -Wall -Wextra -Wshadow
EXTRA   ?=
JOBS    ?= $(shell nproc)
# yes: install missing packages first (scripts/setup.sh). no: leave the system alone.
SETUP   ?= yes
# Numbers of threads that `make performance` measures.
BENCH_THREADS ?= 1,2
# Names of the tests to run, all by default: make test SPEC="ops test_tensor"
SPEC    ?=
ifeq ($(origin CC),default)
CC      := gcc
endif

# Nothing below needs changing -----------------------------------------------
VERSION := 0.1.0
GOALS   := $(or $(MAKECMDGOALS),all)

# The set-up comes before everything that looks for compilers and libraries.
ifeq ($(SETUP),yes)
ifneq (,$(filter-out help clean uninstall,$(GOALS)))
ifneq (ok,$(shell sh scripts/setup.sh $(if $(filter test% crash coverage lint% format fuzz,$(GOALS)),test) $(if $(filter test-neon,$(GOALS)),neon) >&2 && echo ok))
$(error the set-up failed)
endif
endif
endif

ifeq (0$(filter clean,$(GOALS)),$(MAKELEVEL))
MAKEFLAGS += -j$(JOBS)
endif

# Debian keeps the OpenMP flavour of OpenBLAS in a folder of its own; elsewhere it is the default.
TARGET   := $(shell $(CC) -dumpmachine)
OPENBLAS := $(wildcard $(PKG_CONFIG_SYSROOT_DIR)/usr/lib/$(firstword $(subst -, ,$(TARGET)))-*/openblas-openmp/pkgconfig)
PKG      := PKG_CONFIG_PATH=$(firstword $(OPENBLAS)):$$PKG_CONFIG_PATH pkg-config
LUA      := $(shell for p in lua5.4 lua54 lua-5.4 lua; do pkg-config --exists "$$p >= 5.4" && echo $$p && break; done)
PACKAGES := $(LUA) openblas libcjson zlib libedit
BLAS_DIR := $(shell $(PKG) --variable=libdir openblas)

# Sanitizers check more, and _FORTIFY_SOURCE would hide calls from them.
HARDEN   := $(if $(findstring -fsanitize,$(EXTRA)),,-D_FORTIFY_SOURCE=2 -fstack-protector-strong)
CPPFLAGS += -D_GNU_SOURCE -DHD_VERSION='"$(VERSION)"' -Iruntime $(shell $(PKG) --cflags $(PACKAGES))
CFLAGS   := -std=c11 $(OPT) -g -fopenmp -fPIE -fno-math-errno -fno-trapping-math -ffp-contract=fast $(HARDEN) $(WARN) $(EXTRA)
LDFLAGS  += -fopenmp -pie -Wl,-E -Wl,-z,relro,-z,now $(EXTRA)
# clang's OpenMP comes before OpenBLAS, so that both use it.
LIBS     := $(if $(findstring clang,$(CC)),-lomp) -Wl,-rpath,$(BLAS_DIR) $(shell $(PKG) --libs $(PACKAGES)) -lm -lpthread -ldl

# Every file in backend/cpu but these two holds kernels and is compiled once per instruction set.
KERNELS := $(filter-out runtime/backend/cpu/blas.c runtime/backend/cpu/lapack.c,$(wildcard runtime/backend/cpu/*.c))
PREVIEW := runtime/preview/preview_sdl.c runtime/preview/preview_draw.c
# Without SDL2 everything but the preview window works.
WINDOW  := $(if $(shell pkg-config --exists sdl2 && echo yes),$(BUILD)/preview_sdl.so,$(info SDL2 is missing: no preview window))
SOURCES := $(filter-out $(KERNELS) $(PREVIEW) runtime/app/main.c,$(wildcard runtime/*/*.c runtime/backend/*/*.c))
ISAS    := $(if $(findstring aarch64,$(TARGET)),neon,base) $(if $(findstring x86_64,$(TARGET)),avx2 avx512)
FLAGS_avx2   := -mavx2 -mfma
FLAGS_avx512 := -mavx512f -mavx512dq -mavx512bw -mavx512vl -mfma -mprefer-vector-width=512

OBJECTS := $(SOURCES:%.c=$(BUILD)/%.o) $(foreach isa,$(ISAS),$(KERNELS:%.c=$(BUILD)/%.$(isa).o))
C_FILES := $(wildcard runtime/*/*.[ch] runtime/*/*/*.[ch] tests/*/*.[ch])
TESTS   := $(patsubst tests/c/%.c,$(BUILD)/tests/%,$(wildcard tests/c/test_*.c)) \
           $(patsubst tests/fuzz/%.c,$(BUILD)/tests/test_%,$(wildcard tests/fuzz/fuzz_*.c))
HDLUA   := $(BUILD)/hdlua

.PHONY: all
all: $(HDLUA) $(WINDOW) ## build everything (the default)

$(HDLUA): $(BUILD)/runtime/app/main.o $(OBJECTS)
	$(CC) $(LDFLAGS) -o $@ $^ $(LIBS)

# The one object linked with SDL2; only the preview's own process loads it.
$(BUILD)/preview_sdl.so: $(PREVIEW) $(wildcard runtime/preview/*.h) Makefile
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(filter-out -fopenmp -fPIE,$(CFLAGS)) -fPIC -shared -Wl,-z,relro,-z,now -o $@ $(PREVIEW) $(shell pkg-config --cflags --libs sdl2) -lm

# Tests are programs of their own: everything but the interpreter.
TESTED := $(filter-out $(BUILD)/runtime/app/%,$(OBJECTS))
$(BUILD)/tests/%: tests/c/%.c $(TESTED)
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -MMD -MP -o $@ $< $(TESTED) $(LIBS) -lcmocka

# A Lua module for the tests that kill: loaded by tests/crash/harness.lua.
PROCESS := $(BUILD)/tests/process.so
$(PROCESS): tests/crash/process.c Makefile
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(filter-out -fopenmp -fPIE,$(CFLAGS)) -fPIC -shared -o $@ $<

# A fuzz target without a fuzzer: it runs its seeds.
$(BUILD)/tests/test_fuzz_%: tests/fuzz/fuzz_%.c $(TESTED) $(BUILD)/runtime/app/options.o
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) '-DFUZZ_SEEDS="tests/fuzz/seeds/$*"' -MMD -MP -o $@ $^ $(LIBS)

$(BUILD)/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

define kernel_rule
$(BUILD)/%.$(1).o: %.c Makefile
	@mkdir -p $$(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -DHD_ISA_SUFFIX=$(1) $(FLAGS_$(1)) -MMD -MP -c -o $$@ $$<
endef
$(foreach isa,$(ISAS),$(eval $(call kernel_rule,$(isa))))

-include $(OBJECTS:.o=.d) $(BUILD)/runtime/app/main.d $(TESTS:%=%.d)

# Use ------------------------------------------------------------------------
.PHONY: run bench performance results-images results-text results-sound results-augment install uninstall
run: all ## train a three-level hierarchy on real pictures for five minutes and draw with it
	$(HDLUA) examples/train_images.lua --data emoji --minutes 5 --out runs/emoji

bench: all ## time all workloads, beside PyTorch where it is installed (scripts/bench_peer.sh --install)
	$(HDLUA) -m bench

# RESUME=--resume goes on with what an interrupted call has measured.
performance: all ## measure everything in rounds with PyTorch and write docs/PERFORMANCE.md: half an hour of a quiet machine
	$(HDLUA) -m bench --threads $(BENCH_THREADS) --rounds 3 --gemm kernel,blas --verify --json $(BUILD)/bench.json $(RESUME)
	$(HDLUA) -m bench --threads $(BENCH_THREADS) --rounds 1 --workload growth --json $(BUILD)/growth.json $(RESUME)
	$(HDLUA) scripts/performance.lua --bench $(BUILD)/bench.json --growth $(BUILD)/growth.json

# Folders of CIFAR-10's binary files and of MNIST's IDX files, where they are at hand: make results-images CIFAR10=DIR.
# Three seeds of each arm take its minutes and about half as many for drawing; the same call goes on after an interruption.
COMMA := ,
MNIST_FILES = $(firstword $(wildcard $(MNIST)/*images*))$(COMMA)$(firstword $(wildcard $(MNIST)/*labels*))
results-images: all ## compare flat and hierarchical diffusion at equal cost, into docs/results: hours
	$(HDLUA) -m compare --data emoji --minutes 6
	$(if $(CIFAR10),$(HDLUA) -m compare --data cifar10:$(CIFAR10) --minutes 8)
	$(if $(MNIST),$(HDLUA) -m compare --data idx:$(MNIST_FILES) --name mnist --by-class --guidance 1.3 --minutes 5)

# A text (UTF-8), and one whose phrases are parted by bars, where they are at hand: make results-text TEXT=FILE.
results-text: all ## flat and level-ordered masked diffusion of text after 15 minutes each, into docs/results
	$(HDLUA) -m compare_text $(if $(TEXT),--data $(TEXT)) --minutes 15
	$(if $(PHRASES),$(HDLUA) -m compare_text --data $(PHRASES) --unit word --length 64 --minutes 5)

# A folder of CLASS_SPEAKER_TAKE.wav and whose clips are to be learnt, where they are at hand: make results-sound
# SOUNDS=DIR SPEAKERS=NAMES; ALSO: a folder of more for the recogniser (scripts/say_digits.sh makes one of digits).
results-sound: all ## diffusion of sounds by frequency bands and of all at once, into docs/results
	$(HDLUA) -m compare_audio $(if $(SOUNDS),--data wav:$(SOUNDS) --speakers $(SPEAKERS)) $(if $(ALSO),--also $(ALSO)) --minutes 15

results-augment: all ## what drawn pictures add to few real ones, for a classifier, into docs/results: an hour
	$(HDLUA) -m augment_study $(if $(MNIST),--data idx:$(MNIST_FILES) --name mnist) --settings plain,guided,few,sure,held

install: all ## install under PREFIX (and DESTDIR)
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/hdlua $(DESTDIR)$(PREFIX)/share/hdlua $(DESTDIR)$(PREFIX)/share/doc/hdlua
	install $(HDLUA) $(DESTDIR)$(PREFIX)/bin/
	$(if $(WINDOW),install $(WINDOW) $(DESTDIR)$(PREFIX)/lib/hdlua/)
	cp -R lib/. $(DESTDIR)$(PREFIX)/share/hdlua/
	cp -R README.md LICENSE docs/. $(DESTDIR)$(PREFIX)/share/doc/hdlua/

uninstall: ## remove what install put there
	rm -f $(DESTDIR)$(PREFIX)/bin/hdlua
	rm -rf $(DESTDIR)$(PREFIX)/lib/hdlua $(DESTDIR)$(PREFIX)/share/hdlua $(DESTDIR)$(PREFIX)/share/doc/hdlua

# Check ----------------------------------------------------------------------
.PHONY: test test-c test-lua crash lint lint-gcc lint-clang lint-lua lint-format lint-layers lint-docs lint-hardening objects
test: all $(TESTS) $(PROCESS) $(if $(filter fuzz%,$(or $(SPEC),fuzz)),fuzzers) ## run all tests: cmocka, busted under hdlua, fuzz targets
	@sh tests/run.sh $(BUILD) $(or $(SPEC),c lua crash fuzz)

crash: all $(PROCESS) ## kill and interrupt runs, fail allocations and system calls, in the long form
	@HDLUA_LONG=1 sh tests/run.sh $(BUILD) crash checkpoint memory

test-c: $(TESTS) $(WINDOW) ## run the C tests alone
	@sh tests/run.sh $(BUILD) c

test-lua: all ## run the Lua tests alone
	@sh tests/run.sh $(BUILD) lua

# The same tests under tools that see what a test cannot. Each has a build of its own beside BUILD.
.PHONY: test-asan test-gc test-tsan test-valgrind coverage
test-asan: ## all tests under AddressSanitizer and UBSan, fresh memory full of NaN
	@HDLUA_BRIEF=1 UBSAN_OPTIONS=print_stacktrace=1 \
	  ASAN_OPTIONS=detect_stack_use_after_return=1:max_malloc_fill_size=1073741824:malloc_fill_byte=255:allocator_may_return_null=1 \
	  $(MAKE) SETUP=no CC=gcc BUILD=$(BUILD)-asan OPT=-O2 SPEC="$(or $(SPEC),c lua crash)" \
	    EXTRA="-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer" test

# Lua's collector at its most eager: each new byte pays for ten; a young collection at each hundredth of the heap; and
# one before every call of a C function. LUA_INIT reaches every hdlua that a test starts.
test-gc: all ## the Lua tests with the collector at its most eager, in three ways
	@for eager in "collectgarbage('incremental', 1, 1000, 1)" "collectgarbage('generational', 1, 1)" "@$(CURDIR)/tests/lua/eager.lua"; do \
	  echo "LUA_INIT: $$eager"; LUA_INIT="$$eager" sh tests/run.sh $(BUILD) $(or $(SPEC),lua) || failed=1; done; [ -z "$$failed" ]

# clang, whose OpenMP tells the sanitizer through Archer how its threads wait for each other; gcc's would give false
# alarms. It follows accesses of up to 16 bytes, hence the narrow kernels; OpenBLAS is not built here and stays out.
test-tsan: ## kernels, loader, allocator, signals and preview under ThreadSanitizer
	@HDLUA_ISA=base HDLUA_GEMM=kernel HDLUA_BRIEF=1 TSAN_OPTIONS=ignore_noninstrumented_modules=1 \
	  $(MAKE) SETUP=no CC=clang BUILD=$(BUILD)-tsan OPT=-O1 EXTRA=-fsanitize=thread \
	    SPEC="$(or $(SPEC),test_core test_io_data test_preview test_backend test_backend_layers data nn hierarchy_run)" test

# One thread, and no instructions that valgrind does not know.
test-valgrind: all $(TESTS) ## a subset of the tests under valgrind
	@HDLUA_UNDER="valgrind -q --error-exitcode=99 --leak-check=full --errors-for-leak-kinds=definite" \
	  OPENBLAS_CORETYPE=Haswell HDLUA_ISA=avx2 HDLUA_BRIEF=1 \
	  taskset -c 0 sh tests/run.sh $(BUILD) $(or $(SPEC),test_core test_io test_io_formats test_io_data tensor optim)

# The operations with every build of the kernels that this processor runs, and both ways to compute products.
.PHONY: test-isa
test-isa: all $(TESTS) ## the tests of the operations for each HDLUA_ISA and HDLUA_GEMM
	@for isa in $(ISAS); do for gemm in kernel blas; do \
	  export HDLUA_ISA=$$isa HDLUA_GEMM=$$gemm; \
	  if ! $(HDLUA) --version | grep -qx "instruction set $$isa"; then echo "HDLUA_ISA=$$isa: not on this processor"; continue; fi; \
	  echo "HDLUA_ISA=$$isa HDLUA_GEMM=$$gemm"; \
	  sh tests/run.sh $(BUILD) $(or $(SPEC),test_backend test_backend_layers ops tensor nn optim determinism) || failed=1; \
	done; done; [ -z "$$failed" ]

# The whole program built for arm64 with the libraries of Debian's packages, its kernels as NEON; under an emulator.
SYSROOT := $(abspath $(BUILD)-neon/sysroot)
.PHONY: test-neon
test-neon: $(SYSROOT) ## the tests of the operations with the NEON build, under qemu
	@export PKG_CONFIG_SYSROOT_DIR=$< PKG_CONFIG_LIBDIR=$</usr/lib/aarch64-linux-gnu/pkgconfig:$</usr/share/pkgconfig; \
	  HDLUA_BRIEF=1 OMP_WAIT_POLICY=passive HDLUA_UNDER="qemu-aarch64 -cpu cortex-a72 -L $<" $(MAKE) SETUP=no CC=aarch64-linux-gnu-gcc \
	    BUILD=$(BUILD)-neon EXTRA=--sysroot=$< SPEC="$(or $(SPEC),test_backend test_backend_layers builds ops nn)" test

$(SYSROOT):
	sh scripts/sysroot.sh $@.part
	mv $@.part $@

coverage: all ## lines of each folder that the tests run
	@find . -path './$(BUILD)-coverage/*' -name '*.gcda' -delete
	@$(MAKE) SETUP=no CC=gcc BUILD=$(BUILD)-coverage OPT=-O1 EXTRA="--coverage -fprofile-update=atomic" \
	  SPEC="$(or $(SPEC),c lua)" test
	@$(HDLUA) scripts/coverage.lua $(BUILD)-coverage

LINTS := lint-gcc lint-clang lint-lua lint-format lint-layers lint-docs lint-hardening
lint: all ## compiler warnings, luacheck, clang-format, layers, documentation, hardening
	@passed=0; failed=0; for check in $(LINTS); do \
	  if $(MAKE) -s --no-print-directory SETUP=no $$check; then passed=$$((passed + 1)); \
	  else failed=$$((failed + 1)); echo "$$check: FAILED"; fi; done; \
	echo "lint: $$passed passed, $$failed failed"; [ $$failed = 0 ]

objects: $(OBJECTS) $(BUILD)/runtime/app/main.o $(WINDOW)

lint-gcc:
	$(MAKE) SETUP=no CC=gcc BUILD=$(BUILD)/lint-gcc OPT=-O1 EXTRA=-Werror objects

lint-clang:
	$(MAKE) SETUP=no CC=clang BUILD=$(BUILD)/lint-clang OPT=-O1 EXTRA=-Werror objects

lint-lua:
	luacheck -q lib scripts tests examples

lint-format:
	clang-format --dry-run -Werror $(C_FILES)

lint-layers:
	$(HDLUA) scripts/check_layers.lua

lint-docs:
	$(HDLUA) scripts/gen_docs.lua --check

lint-hardening:
	@sh scripts/check_hardening.sh $(HDLUA) $(WINDOW)

# Readers and operations under clang's libFuzzer (tests/fuzz). FUZZ_SECONDS is the time for each target; what they find
# stays in BUILD/fuzz.
FUZZ_SECONDS ?= 60
FUZZ_FLAGS   := -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all
FUZZERS      := $(patsubst tests/fuzz/%.c,$(BUILD)/%,$(wildcard tests/fuzz/fuzz_*.c))
.PHONY: fuzz fuzzers fuzz-programs
fuzz: all fuzzers ## fuzz the readers of files and the operations, FUZZ_SECONDS each, and every function with any values
	@HDLUA_LONG=1 FUZZ_SECONDS=$(FUZZ_SECONDS) sh tests/run.sh $(BUILD) fuzz random_calls

fuzzers:
	@mkdir -p $(BUILD)/fuzz
	@if echo 'int LLVMFuzzerTestOneInput(void) { return 0; }' | clang -fsanitize=fuzzer -o $(BUILD)/fuzz/probe -x c - 2>&-; then \
	  $(MAKE) -s --no-print-directory SETUP=no CC=clang BUILD=$(BUILD)/fuzz OPT=-O1 EXTRA="$(FUZZ_FLAGS)" fuzz-programs; \
	else echo "clang's libFuzzer is missing: no fuzz targets"; fi

fuzz-programs: $(FUZZERS)

# An archive, so that a reader's target carries that reader alone.
$(BUILD)/hdlua.a: $(TESTED) $(BUILD)/runtime/app/options.o
	rm -f $@
	ar rc $@ $^

$(BUILD)/fuzz_%: tests/fuzz/fuzz_%.c $(BUILD)/hdlua.a $(wildcard tests/fuzz/*.h)
	$(CC) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -fsanitize=fuzzer -o $@ $< $(BUILD)/hdlua.a $(LIBS)

# Care -----------------------------------------------------------------------
.PHONY: docs format size clean help
docs: all ## write docs/reference.md, the stubs and the help from the sources
	$(HDLUA) scripts/gen_docs.lua

format: ## lay out all C files
	clang-format -i $(C_FILES)

size: all ## lines per folder and the longest functions
	@$(HDLUA) scripts/size_report.lua

clean: ## remove what was built (runs/ stays)
	rm -rf $(BUILD) $(BUILD)-*

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile
