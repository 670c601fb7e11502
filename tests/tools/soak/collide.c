/* collide: prints so many keys that share few chains of kvss, one of 1,024, under a seed of zeros. A
 * flood of them makes these chains long, and a search goes through one of them: what an attacker could
 * do who knows the seed. It takes kvss's own hash, from kvss.c. */
#define main kvss_main
#include "../../../kvss.c"
#undef main

int main(int argc, char **argv) {
    long left = argc > 1 ? atol(argv[1]) : 0;
    for (unsigned long number = 0; left > 0; number++) {
        char key[32];
        struct str bytes = {key, (size_t)sprintf(key, "%lu", number)};
        if (hash_key(bytes) % 1024 != 0)
            continue;
        puts(key);
        left--;
    }
    return 0;
}
