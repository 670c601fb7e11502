/* collide: prints so many keys that share a table of kvss, and a quarter of its slots, under a seed
 * of zeros. A flood of them is one long run of slots, and the search for each goes through it: what
 * an attacker could do who knows the seed. It takes kvss's own hash, from kvss.c. */
#define main kvss_main
#include "../../../kvss.c"
#undef main

int main(int argc, char **argv) {
    long left = argc > 1 ? atol(argv[1]) : 0;
    for (unsigned long number = 0; left > 0; number++) {
        char key[32];
        struct str bytes = {key, (size_t)sprintf(key, "%lu", number)};
        uint64_t hash = store_hash(bytes);
        if (hash >> 56 != 0 || (uint32_t)hash >> 30 != 0)
            continue;
        puts(key);
        left--;
    }
    return 0;
}
