/* Drawing a token from a row's best scores.
 *
 *     weight_i = exp(score_i / temperature - score_0 / temperature)
 *
 * of the `top_k` first. Top-p (Holtzman et al., 2020) cuts where a token and those behind it no
 * longer exceed `limit` = 1 - p of the sum, min-p where a weight is below `min_p`, in this order.
 * The drawn token is the first at which the sum of the kept weights exceeds uniform × all of it.
 */
#include "draw.h"

#include <math.h>

enum { MOST = 256 };
/* Of a sum: the caller compares in single precision, whose error is a tenth of it. */
static const double MARGIN = 1e-6;

/* Weights of the scores that top-k keeps; their number, or -1 for an order that is the caller's. */
static int weigh(const float *scores, int size, Cut cut, double *weights) {
    int count = cut.top_k < size ? cut.top_k : size;
    float largest = scores[0] / cut.temperature, before = largest;
    if (!(largest - largest == 0)) return -1;
    weights[0] = 1;
    for (int i = 1; i < size; i++) {
        float cooled = scores[i] / cut.temperature;
        if (i < count && cooled == -INFINITY) return i; /* as all behind it */
        if (!(cooled < before)) return -1;
        if (i == count) return count;
        weights[i] = exp((double)cooled - largest);
        before = cooled;
    }
    return count;
}

/* How many of the weights are kept; -1 where it hangs on rounding. */
static int kept(const double *weights, int count, Cut cut) {
    double total = 0, tail = 0;
    for (int i = 0; i < count; i++) total += weights[i];
    if (cut.limit >= 0) {
        int last = count;
        for (int i = count - 1; i > 0; i--) {
            tail += weights[i];
            if (fabs(tail / total - cut.limit) <= MARGIN) return -1;
            if (tail / total > cut.limit) break;
            last = i;
        }
        count = last;
    }
    if (cut.min_p > 0)
        for (int i = 1; i < count; i++) {
            if (fabs(weights[i] - cut.min_p) <= MARGIN * cut.min_p) return -1;
            if (weights[i] < cut.min_p) return i;
        }
    return count;
}

int draw_best(const float *scores, int size, Cut cut, double uniform) {
    double weights[MOST], sum = 0, reached = 0;
    if (size < 1 || size > MOST || cut.top_k < 1) return -1;
    int count = weigh(scores, size, cut, weights);
    if (count > 0) count = kept(weights, count, cut);
    for (int i = 0; i < count; i++) sum += weights[i];
    for (int i = 0; i < count; i++) {
        reached += weights[i];
        if (fabs(reached - uniform * sum) <= MARGIN * sum && i + 1 < count) return -1;
        if (reached > uniform * sum) return i;
    }
    return count > 0 ? count - 1 : -1;
}
