/* Debian's musl has no crypt(), unlike musl itself. There, libxcrypt's static library stands in:
 *
 *     make CC=musl-gcc LDLIBS="tests/tools/portable/musl_crypt.c /usr/lib/x86_64-linux-gnu/libcrypt.a"
 *
 * It was compiled for glibc; these are the functions that it expects there. */
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

void __explicit_bzero_chk(void *bytes, size_t len, size_t size);
void arc4random_buf(void *bytes, size_t len);
int __snprintf_chk(char *s, size_t len, int flag, size_t size, const char *format, ...);

void __explicit_bzero_chk(void *bytes, size_t len, size_t size) {
    volatile char *p = bytes;
    if (len > size)
        abort();
    while (len-- > 0)
        *p++ = 0;
}

/* To make a salt, which kvss never does. */
void arc4random_buf(void *bytes, size_t len) {
    (void)bytes, (void)len;
    abort();
}

int __snprintf_chk(char *s, size_t len, int flag, size_t size, const char *format, ...) {
    va_list arguments;
    (void)flag;
    if (len > size)
        abort();
    va_start(arguments, format);
    int n = vsnprintf(s, len, format, arguments);
    va_end(arguments);
    return n;
}
