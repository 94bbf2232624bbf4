# hdlua: `make help` lists the targets.

# Settings -------------------------------------------------------------------
BUILD  ?= build
PREFIX ?= /usr/local
CC     ?= gcc
OPT    ?= -O3
WARN   ?= -Wall -Wextra -Wshadow
EXTRA  ?=

# Nothing below needs changing -----------------------------------------------
MULTIARCH := $(shell $(CC) -dumpmachine)
BLAS_DIR  := /usr/lib/$(shell gcc -dumpmachine)/openblas-openmp
VERSION   := 0.1.0

CPPFLAGS := -D_GNU_SOURCE -DHD_VERSION='"$(VERSION)"' -Iruntime -I/usr/include/lua5.4 -I/usr/include/$(shell gcc -dumpmachine)/openblas-openmp
CFLAGS   := -std=c11 $(OPT) -g -fopenmp -fPIE -fno-math-errno -fno-trapping-math -ffp-contract=fast $(WARN) $(EXTRA)
LDFLAGS  := -fopenmp -pie -Wl,-E $(EXTRA)
LIBS     := -llua5.4 -L$(BLAS_DIR) -Wl,-rpath,$(BLAS_DIR) -lopenblas -lcjson -lz -ledit -lm -lpthread -ldl

# Every file in backend/cpu but blas.c holds kernels and is compiled once per instruction set.
KERNELS := $(filter-out runtime/backend/cpu/blas.c,$(wildcard runtime/backend/cpu/*.c))
SOURCES := $(filter-out $(KERNELS) runtime/app/main.c runtime/preview/preview_sdl.c,$(wildcard runtime/*/*.c runtime/backend/cpu/*.c runtime/backend/ref/*.c))
ifneq (,$(findstring x86_64,$(MULTIARCH)))
ISAS := base avx2 avx512
else
ISAS := base
endif
FLAGS_base   :=
FLAGS_avx2   := -mavx2 -mfma
FLAGS_avx512 := -mavx512f -mavx512dq -mavx512bw -mavx512vl -mfma -mprefer-vector-width=512

OBJECTS := $(SOURCES:%.c=$(BUILD)/%.o) $(foreach isa,$(ISAS),$(KERNELS:%.c=$(BUILD)/%.$(isa).o))

.PHONY: all
all: setup $(BUILD)/hdlua

.PHONY: setup
setup:
	@sh scripts/setup.sh

$(BUILD)/hdlua: $(BUILD)/runtime/app/main.o $(OBJECTS)
	$(CC) $(LDFLAGS) -o $@ $^ $(LIBS)

$(BUILD)/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

define kernel_rule
$(BUILD)/%.$(1).o: %.c Makefile
	@mkdir -p $$(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -DHD_ISA_SUFFIX=$(1) $(FLAGS_$(1)) -MMD -MP -c -o $$@ $$<
endef
$(foreach isa,$(ISAS),$(eval $(call kernel_rule,$(isa))))

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
