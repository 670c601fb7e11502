# make             build kvss and kvss_client
# make test        run the tests
# make portable    compile it with other compilers and for other processors, and run the tests on that;
#                  QUICK=1 runs a part of them on most
# make valgrind    run the tests under valgrind; QUICK=1 runs a part of them
# make coverage    run the tests, and list the lines and branches that they do not reach
# make bench       measure it beside other servers, in some six minutes; QUICK=1 only checks the replies
# make faults      make each call of it fail that can, one in each of thousands of sessions
# make fuzz        fuzz it with clang's libFuzzer, a minute on each of three entries; TIME=SECONDS for other times
# make soak        a quarter of an hour (or SECONDS=) of a thousand clients, good and bad, beside a model
# make attacks     what hostile clients cost the others, in some five minutes; ONLY= for one attack
# make install     install under PREFIX (/usr/local), behind DESTDIR where that is set
# make clean       remove what make made
#
# make SANITIZE=1  builds with AddressSanitizer and UBSan; CC=clang, tcc, musl-gcc, ... with another
#                  compiler. When the flags change, everything is built anew.

PREFIX   ?= /usr/local
STANDARD  = -std=c99 -Wall -Wextra -Wpedantic
PROGRAMS = kvss kvss_client

HARDENING = -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2 -fstack-protector-strong \
            -fPIE -pie -Wl,-z,relro,-z,now

# takes FLAG: the flag, if the compiler takes it without a word.
takes = $(shell d=$$(mktemp -d); echo 'int main(void) { return 0; }' >$$d/a.c; \
	test -z "$$($(CC) -O2 $(1) -include errno.h -o $$d/a $$d/a.c 2>&1)" && echo '$(1)'; rm -r $$d)

ifdef SANITIZE
CFLAGS = -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
else
CFLAGS := -O2 $(foreach flag,$(HARDENING),$(call takes,$(flag)))
endif

# crypt() and aio_fsync() are in libraries of their own, or in libc.
kvss: LDLIBS := $(foreach flag,-lcrypt -lrt,$(call takes,$(flag)))

all: $(PROGRAMS)

$(PROGRAMS): %: %.c .flags
	$(CC) $(STANDARD) $(CFLAGS) $(LDFLAGS) -o $@ $< $(LDLIBS)

# Holds the flags of the last build, and is written only when they are others.
.flags: always
	@echo '$(CC) $(STANDARD) $(CFLAGS) $(LDFLAGS)' | cmp -s - $@ || \
		echo '$(CC) $(STANDARD) $(CFLAGS) $(LDFLAGS)' >$@

test: all
	@command -v bats >/dev/null || { echo 'make test needs bats: apt-get install bats' >&2; exit 1; }
	bats tests/

bench: kvss
	@QUICK='$(QUICK)' OUT='$(OUT)' tests/bench/run.bash

faults:
	@d=$$(mktemp -d); trap 'rm -r "$$d"' EXIT; \
	tests/faults/build.bash "$$d/kvss" && tests/faults/sweep.py "$$d/kvss"

fuzz:
	@TIME='$(TIME)' OUT='$(OUT)' tests/fuzz/run.bash

soak: kvss
	@tests/soak/soak.py --kvss ./kvss --seconds '$(or $(SECONDS),900)' $(if $(SEED),--seed '$(SEED)')

attacks: kvss
	@ONLY='$(ONLY)' tests/soak/attacks.bash

portable:
	@QUICK='$(QUICK)' tests/portable.bash

valgrind:
	@QUICK='$(QUICK)' tests/valgrind.bash

coverage:
	@tests/coverage.bash

install: all
	install -d '$(DESTDIR)$(PREFIX)/bin' '$(DESTDIR)$(PREFIX)/share/man/man1'
	install $(PROGRAMS) '$(DESTDIR)$(PREFIX)/bin'
	install -m 644 $(PROGRAMS:%=docs/%.1) '$(DESTDIR)$(PREFIX)/share/man/man1'

clean:
	rm -f $(PROGRAMS) .flags

.PHONY: all test bench faults fuzz soak attacks portable valgrind coverage clean install always
