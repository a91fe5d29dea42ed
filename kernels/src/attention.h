/* Causal attention of one head over an int8 cache, in integers.
 *
 *     score_p  = (Σ query16 × key8_p) × query step × key scale / √size
 *     weight_p = round(32767 × exp(score_p - max score))
 *     output   = (Σ weight_p × value8_p) × value scale / Σ weight_p
 *
 * Queries are quantised to 16 bits with a scale of their own. Every sum over positions is one of
 * integers (values: within blocks of 256 positions, which are then added in order), so a token
 * has the same bits alone, in a prompt and in any piece of it.
 *
 * Keys and values of a head lie position by position: (capacity, size), size a multiple of 16.
 */

enum { BLOCK = 256 }; /* 256 × 32767 × 128 fits an int32 */

static void store_cache(const float *source, int size, float scale, int8_t *target) {
    for (int i = 0; i < size; i += 16) {
        f32x16 value = load(source + i) / scale;
        value = as_float(pick(value < 127.0f, as_int(value), as_int(splat(127.0f))));
        i8x16 bytes = __builtin_convertvector(clamp(nearest(value), -128, 127), i8x16);
        memcpy(target + i, &bytes, sizeof bytes);
    }
}

/* 16-bit query, with zeros behind it; returns its step. */
static float quantize_query(const float *source, int size, int16_t *target) {
    memset(target + size, 0, 16 * sizeof *target);
    i32x16 most = {0};
    for (int i = 0; i < size; i += 16) most = larger(most, as_int(load(source + i)) & INT32_MAX);
    float largest = float_of_bits(largest_whole(most));
    float factor = largest == 0 ? 0 : 32767.0f / largest;
    for (int i = 0; i < size; i += 16) {
        i16x16 narrow = __builtin_convertvector(
            clamp(nearest(load(source + i) * factor), -32767, 32767), i16x16);
        memcpy(target + i, &narrow, sizeof narrow);
    }
    return largest / 32767.0f;
}

INLINE void read_ahead(const int8_t *source) { __builtin_prefetch(source, 0, 2); }

/* Scores of the first `length` positions. */
static void score(const int16_t *query, const int8_t *keys, size_t ahead, int size, int length,
                  float factor, float *scores) {
    size_t stride = (size_t)size;
    int32_t products[4];
    for (int p = 0; p < length; p += 4) {
        const int8_t *rows = keys + (size_t)p * stride;
        if (p + 4 <= length) {
            four_dots(query, rows, stride, size, products);
            if (ahead)
                for (size_t i = 0; i < 4; i++) read_ahead(rows + i * stride + ahead);
        } else {
            for (int i = 0; p + i < length; i++) {
                int32_t same[4];
                four_dots(query, rows + (size_t)i * stride, 0, size, same);
                products[i] = same[0];
            }
        }
        int count = length - p < 4 ? length - p : 4;
        for (int i = 0; i < count; i++) scores[p + i] = (float)products[i] * factor;
    }
}

/* Scores to weights; returns their sum. Behind `length` the weights are 0, up to `width`. */
static int32_t weigh(float *scores, int length, int width, int16_t *weights) {
    for (int p = length; p < width; p++) scores[p] = -3.0e38f;
    f32x16 most = splat(-3.0e38f);
    for (int p = 0; p < width; p += 16) {
        f32x16 value = load(scores + p);
        most = as_float(pick(value > most, as_int(value), as_int(most)));
    }
    float highest = most[0];
    for (int i = 1; i < 16; i++) highest = most[i] > highest ? most[i] : highest;
    i32x16 total = {0};
    for (int p = 0; p < width; p += 16) {
        i32x16 weight = nearest(32767.0f * exponential(load(scores + p) - highest));
        weight = clamp(weight, 0, 32767) & (lanes() + p < length);
        total += weight;
        i16x16 narrow = __builtin_convertvector(weight, i16x16);
        memcpy(weights + p, &narrow, sizeof narrow);
    }
    return sum_whole(total);
}

/* What `rows` queries, whose weights are `stride` apart, see in `chunks` × 16 channels. All sums
 * stay in registers: four queries of 16 channels, or one of 64. */
INLINE void mix(const int8_t *values, size_t size, const int16_t *weights, size_t stride,
                const int rows, int length, const int chunks, size_t ahead, f32x16 *totals) {
    for (int i = 0; i < rows * chunks; i++) totals[i] = (f32x16){0};
    for (int block = 0; block < length; block += BLOCK) {
        int end = block + BLOCK < length ? block + BLOCK : length;
        Sums sums[4];
        for (int i = 0; i < rows * chunks; i++) sums[i] = no_sums();
        for (int p = block; p < end; p += 2) {
            const int8_t *first = values + (size_t)p * size;
            const int8_t *second = p + 1 < end ? first + size : first; /* its weight is 0 */
            if (ahead) {
                read_ahead(first + ahead);
                read_ahead(first + size + ahead);
            }
            for (int r = 0; r < rows; r++) {
                uint32_t pair;
                memcpy(&pair, weights + (size_t)r * stride + p, sizeof pair);
                for (int c = 0; c < chunks; c++)
                    sums[r * chunks + c] = dot_pair(
                        sums[r * chunks + c], load_pair(first + c * 16, second + c * 16), pair);
            }
        }
        for (int i = 0; i < rows * chunks; i++) totals[i] += to_float(whole(sums[i]));
    }
}

static void attend(const Attention *attention, const float *queries, size_t stride, int count,
                   const int8_t *keys, const int8_t *values, size_t ahead, int length,
                   void *scratch, float *outputs, size_t output_stride) {
    size_t capacity = (size_t)padded(attention->capacity);
    int size = attention->head_size, longest = length + count - 1;
    float *scores = scratch, factors[QUERIES];
    int16_t *weights = (int16_t *)(scores + capacity);
    int16_t *query = weights + QUERIES * capacity;
    for (int q = 0; q < count; q++) {
        float step = quantize_query(queries + (size_t)q * stride, size, query);
        float factor = step * attention->key_scale / __builtin_sqrtf((float)size);
        score(query, keys, q == 0 ? ahead : 0, size, length + q, factor, scores);
        int32_t total = weigh(scores, length + q, padded(longest), weights + (size_t)q * capacity);
        /* What is not a number in the query is not one in its output. */
        factors[q] = attention->value_scale / (float)total + (factor - factor);
    }
    f32x16 totals[4];
    for (int channel = 0; channel < size;) {
        const int8_t *part = values + channel;
        if (count == QUERIES) {
            mix(part, (size_t)size, weights, capacity, QUERIES, longest, 1, 0, totals);
            for (int q = 0; q < QUERIES; q++)
                store(outputs + (size_t)q * output_stride + channel, totals[q] * factors[q]);
            channel += 16;
            continue;
        }
        int chunks = channel + 64 <= size ? 4 : 1;
        for (int q = 0; q < count; q++) {
            const int16_t *weight = weights + (size_t)q * capacity;
            if (chunks == 4)
                mix(part, (size_t)size, weight, 0, 1, length + q, 4, ahead, totals);
            else
                mix(part, (size_t)size, weight, 0, 1, length + q, 1, 0, totals);
            for (int c = 0; c < chunks; c++)
                store(outputs + (size_t)q * output_stride + channel + c * 16,
                      totals[c] * factors[q]);
        }
        channel += 16 * chunks;
    }
}
