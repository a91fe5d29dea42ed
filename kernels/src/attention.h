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
 * A cache of 16 bits has two bytes of each number, those of a head's low ones behind the high ones:
 *
 *     254 × high + low = round(254 × x / scale)        both from -127 to 127
 *     score_p  = (Σ query16 × high_p + Σ round(query16 / 254) × low_p) × …
 *     output   = (Σ weight_p × high_p + Σ weight_p × low_p / 254) × …
 *
 * Keys and values of a head lie position by position: (capacity, size), size a multiple of 16,
 * the sizes of both bytes together where there are two. One
 * query reads them as they are. For the queries of a prompt they are packed first, to 16 bits, so
 * that one load serves several queries and each sum has a lane of its own:
 *
 *     keys    | inputs 0, 1 of positions 0 … 15 | inputs 2, 3 of positions 0 … 15 | … |   by 16
 *     values  | positions 0, 1 of channel 0 | positions 0, 1 of channel 1 | … |           by 2
 */

enum { BLOCK = 256 }; /* 256 × 32767 × 128 fits an int32 */
/* Queries of a prompt that share loads, and 16-channel chunks of values: as many as there are
 * registers for their sums. */
enum { TOGETHER = COLUMNS == 4 ? MOST_TOGETHER : 4, CHUNKS = COLUMNS == 4 ? 2 : 1 };

/* Of numbers beyond `low` and 127, the bounds. */
INLINE i32x16 whole_byte(f32x16 value, int low) {
    value = as_float(pick(value < 127.0f, as_int(value), as_int(splat(127.0f))));
    return clamp(nearest(value), low, 127);
}

INLINE void store_int8(i32x16 whole, int8_t *target) {
    i8x16 bytes = __builtin_convertvector(whole, i8x16);
    memcpy(target, &bytes, sizeof bytes);
}

static void store_cache(const float *source, int size, int bytes, float scale, int8_t *target) {
    for (int i = 0; i < size; i += 16) {
        f32x16 value = load(source + i) / scale;
        i32x16 high = whole_byte(value, bytes == 1 ? -128 : -127);
        store_int8(high, target + i);
        if (bytes == 1) continue;
        store_int8(whole_byte((value - to_float(high)) * (float)LOW_STEPS, -127),
                    target + size + i);
    }
}

INLINE void store_int16(i32x16 whole, int16_t *target) {
    i16x16 words = __builtin_convertvector(whole, i16x16);
    memcpy(target, &words, sizeof words);
}

/* 16-bit query, and what of it low bytes are multiplied by, with zeros behind; returns its step. */
static float quantize_query(const float *source, int size, int bytes, int16_t *target) {
    memset(target + size * bytes, 0, 16 * sizeof *target);
    i32x16 most = {0};
    for (int i = 0; i < size; i += 16) most = larger(most, as_int(load(source + i)) & INT32_MAX);
    float largest = float_of_bits(largest_whole(most));
    float factor = largest == 0 ? 0 : 32767.0f / largest;
    for (int i = 0; i < size; i += 16) {
        f32x16 value = load(source + i) * factor;
        store_int16(clamp(nearest(value), -32767, 32767), target + i);
        if (bytes == 1) continue;
        store_int16(clamp(nearest(value / (float)LOW_STEPS), -129, 129), target + size + i);
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
        store_int16(weight, weights + p);
    }
    return sum_whole(total);
}

INLINE uint32_t pair_at(const int16_t *source) {
    uint32_t pair;
    memcpy(&pair, source, sizeof pair);
    return pair;
}

/* What one query sees in `chunks` × 16 channels, whose sums stay in registers. */
INLINE void mix(const int8_t *values, size_t size, const int16_t *weights, int length,
                const int chunks, size_t ahead, f32x16 *totals) {
    for (int c = 0; c < chunks; c++) totals[c] = (f32x16){0};
    for (int block = 0; block < length; block += BLOCK) {
        int end = block + BLOCK < length ? block + BLOCK : length;
        Sums sums[4];
        for (int c = 0; c < chunks; c++) sums[c] = no_sums();
        for (int p = block; p < end; p += 2) {
            const int8_t *first = values + (size_t)p * size;
            const int8_t *second = p + 1 < end ? first + size : first; /* its weight is 0 */
            if (ahead) {
                read_ahead(first + ahead);
                read_ahead(first + size + ahead);
            }
            for (int c = 0; c < chunks; c++)
                sums[c] = dot_pair(sums[c], load_pair(first + c * 16, second + c * 16),
                                   pair_at(weights + p));
        }
        for (int c = 0; c < chunks; c++) totals[c] += to_float(whole(sums[c]));
    }
}

/* What the sums of a query of such a step are multiplied by. */
static float score_factor(const Attention *attention, float step) {
    return step * attention->key_scale / __builtin_sqrtf((float)attention->head_size);
}

/* What the outputs of a query are multiplied by; what is not a number in it is not one in them. */
static float output_factor(const Attention *attention, float factor, int32_t total) {
    return attention->value_scale / (float)total + (factor - factor);
}

/* Outputs of `chunks` × 16 channels from the sums of a byte; the low one's, the second, are added. */
INLINE void put(const f32x16 *totals, int chunks, int byte, float factor, float *output) {
    if (byte) factor /= (float)LOW_STEPS;
    for (int c = 0; c < chunks; c++) {
        f32x16 value = totals[c] * factor;
        if (byte) value += load(output + c * 16);
        store(output + c * 16, value);
    }
}

static void attend_one(const Attention *attention, const float *source, const int8_t *keys,
                       const int8_t *values, size_t ahead, int length, void *scratch,
                       float *output) {
    int head = attention->head_size, size = cached_size(attention), width = padded(length);
    float *scores = scratch;
    int16_t *weights = (int16_t *)(scores + width), *query = weights + width;
    float step = quantize_query(source, head, attention->bytes, query);
    float factor = score_factor(attention, step);
    score(query, keys, ahead, size, length, factor, scores);
    factor = output_factor(attention, factor, weigh(scores, length, width, weights));
    f32x16 totals[4];
    for (int byte = 0; byte < attention->bytes; byte++, values += head)
        for (int channel = 0; channel < head;) {
            int chunks = channel + 64 <= head ? 4 : 1;
            if (chunks == 4)
                mix(values + channel, (size_t)size, weights, length, 4, ahead, totals);
            else
                mix(values + channel, (size_t)size, weights, length, 1, 0, totals);
            put(totals, chunks, byte, factor, output + channel);
            channel += 16 * chunks;
        }
}

/* Of the first `length` positions, with zeros up to whole vectors. */
static void pack_keys(const int8_t *keys, int size, int length, int16_t *packed) {
    for (int p = 0; p < padded(length); p += 4) {
        int16_t *target = packed + (size_t)(p / 16 * 16) * (size_t)size + p % 16 * 2;
        for (int i = 0; i < size; i += 8, target += 4 * 32) {
            __m128i rows[4]; /* of 8 inputs, four pairs: transposed */
            for (int r = 0; r < 4; r++) {
                const int8_t *row = keys + (size_t)(p + r) * (size_t)size + i;
                rows[r] = p + r < length
                              ? _mm_cvtepi8_epi16(_mm_loadl_epi64((const __m128i *)row))
                              : _mm_setzero_si128();
            }
            __m128i low = _mm_unpacklo_epi32(rows[0], rows[1]);
            __m128i low2 = _mm_unpacklo_epi32(rows[2], rows[3]);
            __m128i high = _mm_unpackhi_epi32(rows[0], rows[1]);
            __m128i high2 = _mm_unpackhi_epi32(rows[2], rows[3]);
            _mm_store_si128((__m128i *)target, _mm_unpacklo_epi64(low, low2));
            _mm_store_si128((__m128i *)(target + 32), _mm_unpackhi_epi64(low, low2));
            _mm_store_si128((__m128i *)(target + 64), _mm_unpacklo_epi64(high, high2));
            _mm_store_si128((__m128i *)(target + 96), _mm_unpackhi_epi64(high, high2));
        }
    }
}

static void pack_values(const int8_t *values, int size, int length, int16_t *packed) {
    for (int p = 0; p < length; p += 2)
        for (int i = 0; i < size; i += 16, packed += 32) {
            const __m128i *row = (const __m128i *)(values + (size_t)p * (size_t)size + i);
            const __m128i *next = (const __m128i *)((const int8_t *)row + size);
            __m128i first = _mm_loadu_si128(row);
            __m128i second = p + 1 < length ? _mm_loadu_si128(next) : _mm_setzero_si128();
            _mm256_store_si256((__m256i *)packed,
                               _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(first, second)));
            _mm256_store_si256((__m256i *)packed + 1,
                               _mm256_cvtepi8_epi16(_mm_unpackhi_epi8(first, second)));
        }
}

/* Scores of TOGETHER queries, `stride` numbers apart, at all positions. */
static void score_together(const int16_t *queries, size_t stride, const int16_t *keys, int size,
                           int width, const float *factors, float *scores) {
    for (int p = 0; p < width; p += 16) {
        Sums sums[TOGETHER];
        for (int q = 0; q < TOGETHER; q++) sums[q] = no_sums();
        for (int i = 0; i < size; i += 2, keys += 32) {
            Pairs pairs = load_pairs(keys);
            for (int q = 0; q < TOGETHER; q++)
                sums[q] = dot_pair(sums[q], pairs, pair_at(queries + (size_t)q * stride + i));
        }
        for (int q = 0; q < TOGETHER; q++)
            store(scores + (size_t)q * (size_t)width + p, to_float(whole(sums[q])) * factors[q]);
    }
}

/* What TOGETHER queries, whose weights are `width` apart, see in `chunks` × 16 channels. */
INLINE void mix_together(const int16_t *values, int size, const int16_t *weights, int width,
                         int length, const int chunks, f32x16 *totals) {
    for (int i = 0; i < TOGETHER * chunks; i++) totals[i] = (f32x16){0};
    for (int block = 0; block < length; block += BLOCK) {
        int end = block + BLOCK < length ? block + BLOCK : length;
        Sums sums[TOGETHER * CHUNKS];
        for (int i = 0; i < TOGETHER * chunks; i++) sums[i] = no_sums();
        for (int p = block; p < end; p += 2) {
            Pairs pairs[CHUNKS];
            for (int c = 0; c < chunks; c++)
                pairs[c] = load_pairs(values + (size_t)p * (size_t)size + c * 32);
            for (int q = 0; q < TOGETHER; q++)
                for (int c = 0; c < chunks; c++)
                    sums[q * chunks + c] =
                        dot_pair(sums[q * chunks + c], pairs[c],
                                 pair_at(weights + (size_t)q * (size_t)width + p));
        }
        for (int i = 0; i < TOGETHER * chunks; i++) totals[i] += to_float(whole(sums[i]));
    }
}

static void attend_together(const Attention *attention, const float *sources, size_t stride,
                            int count, const int16_t *keys, const int16_t *values, int length,
                            void *scratch, float *outputs, size_t output_stride) {
    int head = attention->head_size, size = cached_size(attention);
    int longest = length + count - 1, width = padded(longest);
    size_t query_size = (size_t)size + 16;
    float *scores = scratch, factors[TOGETHER];
    int16_t *weights = (int16_t *)(scores + TOGETHER * width);
    int16_t *queries = weights + TOGETHER * width;
    for (int q = 0; q < TOGETHER; q++) { /* where there are fewer, the last one again */
        const float *source = sources + (size_t)(q < count ? q : count - 1) * stride;
        int16_t *query = queries + (size_t)q * query_size;
        float step = quantize_query(source, head, attention->bytes, query);
        factors[q] = score_factor(attention, step);
    }
    score_together(queries, query_size, keys, size, width, factors, scores);
    for (int q = 0; q < TOGETHER; q++) {
        int seen = length + (q < count ? q : count - 1);
        int32_t total = weigh(scores + q * width, seen, width, weights + q * width);
        factors[q] = output_factor(attention, factors[q], total);
    }
    f32x16 totals[TOGETHER * CHUNKS];
    for (int byte = 0; byte < attention->bytes; byte++, values += head * 2)
        for (int channel = 0; channel < head;) {
            int chunks = channel + CHUNKS * 16 <= head ? CHUNKS : 1;
            if (chunks == CHUNKS)
                mix_together(values + channel * 2, size, weights, width, longest, CHUNKS, totals);
            else
                mix_together(values + channel * 2, size, weights, width, longest, 1, totals);
            for (int q = 0; q < count; q++)
                put(totals + q * chunks, chunks, byte, factors[q],
                    outputs + (size_t)q * output_stride + channel);
            channel += 16 * chunks;
        }
}

static void attend(const Attention *attention, const float *queries, size_t stride, int count,
                   const int8_t *keys, const int8_t *values, size_t ahead, int length,
                   void *scratch, float *outputs, size_t output_stride) {
    if (count <= FEW_QUERIES) {
        for (int q = 0; q < count; q++)
            attend_one(attention, queries + (size_t)q * stride, keys, values, q == 0 ? ahead : 0,
                       length + q, scratch, outputs + (size_t)q * output_stride);
        return;
    }
    int size = cached_size(attention), longest = length + count - 1;
    size_t numbers = (size_t)padded(longest) * (size_t)size;
    int16_t *packed_keys = scratch, *packed_values = packed_keys + numbers;
    pack_keys(keys, size, longest, packed_keys);
    pack_values(values, size, longest, packed_values);
    for (int q = 0; q < count; q += TOGETHER)
        attend_together(attention, queries + (size_t)q * stride, stride,
                        count - q < TOGETHER ? count - q : TOGETHER, packed_keys, packed_values,
                        length + q, packed_values + numbers, outputs + (size_t)q * output_stride,
                        output_stride);
}
