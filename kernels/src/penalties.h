/* Lowering the scores of tokens by what a text holds already.
 *
 * As the processors of those names in sampling/processors.py of the runtime do it, bit for bit:
 *   repetition penalty   score / penalty, of negative ones × penalty (Keskar et al., 2019, "CTRL")
 *   count penalties      score - (count × frequency + presence), of generated tokens (OpenAI)
 *   repeated n-grams     minus infinity for what would complete one a second time
 */
#ifndef GPT2JA_PENALTIES_H
#define GPT2JA_PENALTIES_H

#include <stdint.h>

typedef struct {
    const int64_t *history; /* of prompt and text */
    int32_t length;         /* tokens of the history */
    int32_t prompt;         /* how many of them are the prompt's */
    float repetition;       /* 1 for none; at least that */
    float presence, frequency; /* 0 for none; at least that */
    int32_t ngram;          /* tokens of an n-gram that may be there once; 0 for none */
} Penalties;

/* Whether any of them can change a score. */
int has_penalties(const Penalties *penalties);

/* Lower the scores of `count` tokens. `ids` has theirs, at most 256 different ones; null where they
 * are all of the vocabulary, in its order. `counts` has a zero for each, before and after. */
void apply_penalties(const Penalties *penalties, const int64_t *ids, int count, float *scores,
                     int32_t *counts);

#endif
