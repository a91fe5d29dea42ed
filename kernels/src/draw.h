/* Drawing a token from a row's best scores by temperature, top-k, top-p and min-p. */
#ifndef GPT2JA_DRAW_H
#define GPT2JA_DRAW_H

/* How the tokens of a row are kept. */
typedef struct {
    float temperature;
    int top_k;    /* scores that are kept at most */
    double limit; /* the part of all probability that a token and those behind it must exceed to be
                   * kept, below 0 for no such bound */
    double min_p; /* least weight that is kept, of the best token's */
} Cut;

/* The place of the drawn score among `size` that are sorted downwards; -1 where a decision hangs
 * on rounding or on the order of equal scores, which is the caller's. */
int draw_best(const float *scores, int size, Cut cut, double uniform);

#endif
