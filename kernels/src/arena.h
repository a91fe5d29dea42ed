/* Memory that kernels keep from one call to the next, in huge pages where the system has them. */
#ifndef GPT2JA_ARENA_H
#define GPT2JA_ARENA_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct Chunk Chunk;

typedef struct {
    char *data; /* null: there is no memory left */
    size_t bytes;
    Chunk *chunk;
} Block;

/* `bytes` that begin at a multiple of 64; every part of a block should. */
Block arena_take(size_t bytes);
void arena_give_back(Block block);

/* Bytes in blocks that were not given back. */
uint64_t arena_bytes(void);

static inline size_t aligned(size_t bytes) { return (bytes + 63) / 64 * 64; }

/* The next part of a block: `count` numbers of 4 bytes, the first `given` of them `source`'s, the
 * others 0. */
static inline void *arena_part(char **next, size_t count, const void *source, size_t given) {
    char *target = *next;
    *next += aligned(count * 4);
    memset(target, 0, count * 4);
    return given ? memcpy(target, source, given * 4) : target;
}

#endif
