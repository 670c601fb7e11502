/* The store just before and just after it grows, for docs/figures/tour-table.svg: a line for each chain,
 * with its number, and then a line for each of its entries, with the key, and the chain that the key's
 * hash names when the round is over. */
#define main kvss_main
#include "../../kvss.c"
#undef main

enum { KEYS = 9 }; /* the last one makes the 16 chains 18 */

static void print_store(const char *when) {
    for (uint32_t i = 0; i < store.chains_len; i++) {
        printf("%s\t%u\n", when, (unsigned)i);
        for (const struct entry *e = store.chains[i]; e; e = e->next)
            printf("%s\t%u\t%.*s\t%u\n", when, (unsigned)i, e->key_len, e->bytes,
                   (unsigned)(e->hash & (store.chains_size - 1)));
    }
}

int main(void) {
    char name[16];
    hash_seed[0] = 9; /* always the same hashes; two of three entries go when chain 2 splits */
    if (!store_init(&store))
        return 1;
    for (int n = 0; n < KEYS; n++) {
        struct str key = {name, (size_t)snprintf(name, sizeof name, "key%d", n)};
        if (store_put(&store, hash_key(key), key, STR("value")) != CREATED)
            return 1;
    }
    print_store("before");
    store_grow(&store);
    print_store("after");
    return 0;
}
