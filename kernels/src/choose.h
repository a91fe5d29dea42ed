/* Choosing the next token of a row: from its best scores, from those that are allowed, or by
 * nucleus from all. */
#ifndef GPT2JA_CHOOSE_H
#define GPT2JA_CHOOSE_H

#include <stddef.h>
#include <stdint.h>

#include "draw.h"
#include "kernels.h"
#include "penalties.h"

enum { WATCHED = 8 };

/* What is done with a row. The values are those of `CHOICE` in gpt2ja_kernels. */
typedef enum { LEAVE, TAKE_BEST, DRAW, DRAW_FROM_ALL } ChoiceKind;

/* How a row's token is chosen. */
typedef struct {
    Cut cut;
    Penalties penalties;
    const uint8_t *allowed;   /* a bit for each token that may follow, as in `best`; null for all */
    int64_t watched[WATCHED]; /* tokens whose scores the caller may change; -1 behind the last */
    int32_t edge; /* the place of the last score that can be kept, -1 where none is outside */
    int32_t kind; /* a ChoiceKind */
} Choice;
_Static_assert(sizeof(Choice) == 136, "CHOICE in gpt2ja_kernels has this size");

/* The best scores of some rows, sorted downwards, and all of them where any row needs them. */
typedef struct {
    const float *best;  /* (rows, count) */
    const int64_t *ids; /* (rows, count) */
    const float *all;   /* (rows, size) */
    int count, size;
} ChoiceScores;

/* The tokens of some rows; -2 - token where it stands only if no watched one's score changes; -1
 * where the caller has to choose: a row that is to be left, scores that are not finite, nothing
 * that is allowed, others that may tie with what is kept, and what draw_best or draw_nucleus
 * leaves.  Scores that the caller has `changed` are drawn from as they are. */
void choose_tokens(const Kernels *kernels, const Choice *choices, size_t rows,
                   const ChoiceScores *scores, const double *uniform, int changed,
                   int64_t *tokens);

#endif
