/* Where no library has crypt(), as with gcc -m32 on Debian: make LDLIBS=tests/tools/portable/no_crypt.c. Every
 * line of a managers' file is then refused at the start. */
char *crypt(const char *password, const char *setting);

char *crypt(const char *password, const char *setting) {
    (void)password, (void)setting;
    return 0;
}
