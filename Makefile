# make             build kvss and kvss_client
# make test        run the tests
# make check       run all other checks as well: some 30 minutes, see .ci/run
# make bench       measure it beside other servers: 6 minutes
# make demo        watch a session; PACE=2 is half as fast
# make install     install under PREFIX (/usr/local), behind DESTDIR where that is set
# make clean       remove what make made
#
# make SANITIZE=1  builds with AddressSanitizer and UBSan; CC=clang, CC=tcc, ... with another
#                  compiler. When the flags change, everything is built anew.

PREFIX   ?= /usr/local
STANDARD  = -std=c99 -Wall -Wextra -Wpedantic
PROGRAMS = kvss kvss_client

HARDENING = -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2 -fstack-protector-strong \
            -fPIE -pie -Wl,-z,relro,-z,now

# takes FLAGS: these flags, if the compiler takes them without a word. usable FLAGS: those that it takes;
# nearly always it takes all of them, and that is asked first.
takes  = $(shell d=$$(mktemp -d); echo 'int main(void) { return 0; }' >$$d/a.c; \
	test -z "$$($(CC) -O2 $(1) -include errno.h -o $$d/a $$d/a.c 2>&1)" && echo '$(1)'; rm -r $$d)
usable = $(or $(call takes,$(1)),$(foreach flag,$(1),$(call takes,$(flag))))

# The compiler is asked once, and not before something is built: a value that is $(eval)uated sets itself.
ifdef SANITIZE
CFLAGS = -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
else
CFLAGS = $(eval CFLAGS := -O2 $(call usable,$(HARDENING)))$(CFLAGS)
endif

# crypt() and aio_fsync() are in libraries of their own, or in libc.
LIBRARIES = $(eval LIBRARIES := $(call usable,-lcrypt -lrt))$(LIBRARIES)
kvss: LDLIBS = $(LIBRARIES)

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

check: ; @.ci/run --installed
bench: ; @tests/tools/bench/run.bash
demo: kvss ; @docs/figures/demo.bash

install: all
	install -d '$(DESTDIR)$(PREFIX)/bin' '$(DESTDIR)$(PREFIX)/share/man/man1'
	install $(PROGRAMS) '$(DESTDIR)$(PREFIX)/bin'
	install -m 644 $(PROGRAMS:%=docs/%.1) '$(DESTDIR)$(PREFIX)/share/man/man1'

clean:
	rm -f $(PROGRAMS) .flags

.PHONY: all test check bench demo install clean always
