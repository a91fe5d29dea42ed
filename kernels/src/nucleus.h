/* Draws a token of a row from its nucleus (top-p: Holtzman et al., 2020; min-p: Nguyen et al.,
 * 2024).
 *
 *   w(i)  = exp((score(i) - largest) / temperature)
 *   order: falling score, equal ones by falling index
 *   kept: the first one, and those with w >= min_p that stand before the point where what is left,
 *         1 - Σ_before w / Σ w, is at most `limit`
 *   drawn: the first whose sum of w reaches uniform × Σ_kept w
 *
 * Only scores that could be kept or drawn are looked at twice: all below limit × Σ w / size
 * together weigh too little. Their weights are added up in bins of 1/128 of a logarithm, and
 * nothing is sorted but the bins around the cut and around the drawn score.
 *
 * A token that hangs on less than MARGIN of the sum is left to the caller: the order in which
 * floats are added must not choose it.
 */
#include <math.h>
#include <stdlib.h>

enum { BINS = 2048, MEMBERS = 4096 };
#define MARGIN 1e-6

typedef struct {
    float score, weight;
    int32_t index;
} Member;

/* The scores that are looked at: divided by the temperature, in their order, padded to vectors. */
typedef struct {
    int count;
    float *cooled;
    int32_t *indices;
    float largest;
} Upper;

/* Sixteen scores from `i` on, zeros behind the last. */
INLINE f32x16 scores_at(const float *scores, int i, int size) {
    return load_some(scores + i, size - i);
}

/* Logarithms below the largest score, in bins; rising as scores fall. */
INLINE i32x16 bins_of(f32x16 cooled, float largest) {
    f32x16 below = (largest - cooled) * 128.0f;
    below = as_float(pick(below < (float)(BINS - 1), as_int(below), as_int(splat(BINS - 1))));
    return nearest(below);
}

static int compare_members(const void *a, const void *b) {
    const Member *left = a, *right = b;
    if (left->score != right->score) return left->score < right->score ? 1 : -1;
    return left->index < right->index ? 1 : -1;
}

/* The scores of one bin, sorted; -1 if they are too many. */
static int members_of(const Upper *upper, int bin, Member *members) {
    int count = 0;
    for (int i = 0; i < upper->count; i += 16) {
        f32x16 cooled = load(upper->cooled + i);
        i32x16 found = (bins_of(cooled, upper->largest) == bin) & (lanes() < upper->count - i);
        if (sum_whole(found) == 0) continue;
        f32x16 weights = exponential(cooled - upper->largest);
        for (int lane = 0; lane < 16; lane++) {
            if (!found[lane]) continue;
            if (count == MEMBERS) return -1;
            members[count++] = (Member){cooled[lane], weights[lane], upper->indices[i + lane]};
        }
    }
    qsort(members, (size_t)count, sizeof *members, compare_members);
    return count;
}

/* The largest score divided by the temperature, and the sum of all weights; NaN if one is not a
 * number or +∞. One piece of code for this and sum_exponentials makes that a fifth slower. */
static double sum_weights(const float *scores, int size, float temperature, float *largest) {
    f32x16 most = splat(-3.4e38f), broken = {0};
    for (int i = 0; i < size; i += 16) {
        f32x16 value = scores_at(scores, i, size);
        i32x16 higher = (value > most) & (lanes() < size - i);
        most = as_float(pick(higher, as_int(value), as_int(most)));
        broken += as_float(pick(value < 0, (i32x16){0}, as_int(value - value)));
    }
    *largest = most[0];
    for (int i = 1; i < 16; i++) *largest = most[i] > *largest ? most[i] : *largest;
    *largest /= temperature;
    double total = sum(broken);
    for (int block = 0; block < size; block += ADDED) {
        int end = block + ADDED < size ? block + ADDED : size;
        f32x16 sums = {0};
        for (int i = block; i < end; i += 16) {
            f32x16 value = scores_at(scores, i, end);
            sums += only(exponential(value / temperature - *largest), end - i);
        }
        total += sum(sums);
    }
    return total;
}

/* Scores above `least`. */
static void take_upper(const float *scores, int size, float temperature, float least,
                       Upper *upper) {
    int count = 0;
    for (int i = 0; i < size; i += 16) {
        int left = size - i < 16 ? size - i : 16;
        float cooled[16];
        store(cooled, scores_at(scores, i, size) / temperature);
        for (int lane = 0; lane < left; lane++) {
            upper->cooled[count] = cooled[lane];
            upper->indices[count] = i + lane;
            count += cooled[lane] > least;
        }
    }
    upper->count = count;
    for (int i = 0; i < 16; i++) upper->cooled[count + i] = least;
}

/* What the nucleus weighs, at least and at most: where the cut hangs on rounding it may be before
 * one of several scores. NaN where the caller has to decide. */
typedef struct {
    double least, most;
} Kept;

static Kept nucleus_weight(const Upper *upper, const double *sums, double total, double limit,
                           double min_p, Member *members) {
    const Kept unknown = {NAN, NAN};
    double near = MARGIN * total, before = 0, until = (1 - limit) * total, least = NAN;
    int first = 1;
    for (int bin = 0; bin < BINS - 1; bin++) {
        double lowest = exponential(splat(-(float)(bin + 1) / 128))[0]; /* below every weight */
        if (before + sums[bin] < until - near && lowest > min_p) {
            first &= sums[bin] == 0;
            before += sums[bin];
            continue;
        }
        int count = members_of(upper, bin, members);
        if (count < 0) return unknown;
        for (int i = 0; i < count; i++, first = 0) {
            double weight = members[i].weight;
            if (!first) {
                double from_limit = before - until, from_min_p = weight - min_p;
                int open = fabs(from_limit) <= near || fabs(from_min_p) <= MARGIN * min_p;
                if (open && !(least <= before)) least = before;
                if (!open && (from_limit > 0 || from_min_p < 0))
                    return (Kept){least <= before ? least : before, before};
            }
            before += weight;
        }
    }
    /* What is left weighs less than e⁻¹⁵, or could not be kept: see take_upper. */
    if (!(before - until > near || min_p > 1e-6)) return unknown;
    return (Kept){least <= before ? least : before, before};
}

/* The index of the token; -1 where the caller has to decide, as where a score is NaN. `scratch`:
 * see nucleus_scratch. */
static int draw_nucleus(const float *scores, int size, float temperature, double limit,
                        double min_p, double uniform, void *scratch) {
    Upper upper = {.cooled = scratch, .indices = (int32_t *)scratch + padded(size) + 16};
    double total = sum_weights(scores, size, temperature, &upper.largest);
    if (!(total >= 1 - MARGIN)) return -1;
    int bounded = limit >= 0 || min_p > 0;
    /* What stands behind the cut, or behind the drawn score, is at most this part of the sum. */
    double rest = limit >= 0 ? limit : bounded ? 0 : 1 - uniform;
    double least = rest * total / size > min_p ? 0.99 * rest * total / size : 0.99 * min_p;
    take_upper(scores, size, temperature, upper.largest + (float)log(least), &upper);

    double sums[BINS] = {0};
    for (int i = 0; i < upper.count; i += 16) {
        f32x16 cooled = load(upper.cooled + i);
        float weights[16];
        int32_t bins[16];
        store(weights, only(exponential(cooled - upper.largest), upper.count - i));
        i32x16 found = bins_of(cooled, upper.largest);
        memcpy(bins, &found, sizeof bins);
        for (int lane = 0; lane < 16; lane++) sums[bins[lane]] += weights[lane];
    }

    Member members[MEMBERS];
    Kept kept = {total, total};
    if (bounded) kept = nucleus_weight(&upper, sums, total, limit, min_p, members);
    if (!(kept.least > 0)) return -1;
    /* One token is drawn whatever the nucleus weighs, or the caller has to decide. */
    double near = MARGIN * total, reached = 0;
    double from = uniform * kept.least - near, to = uniform * kept.most + near;
    for (int bin = 0; bin < BINS - 1; bin++) {
        if (reached + sums[bin] < from) {
            reached += sums[bin];
            continue;
        }
        int count = members_of(&upper, bin, members);
        if (count < 0) return -1;
        for (int i = 0; i < count; i++) {
            reached += members[i].weight;
            if (reached > to) return members[i].index;
            if (reached >= from) return -1;
        }
    }
    return -1;
}
