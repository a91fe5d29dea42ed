/* One row of activations: normalised, then quantised with a scale of its own.
 *
 *     normed = (x - mean) / √(variance + epsilon) × gamma + beta
 *     quantised = round(normed × 127 / largest),   largest = max |normed|
 *
 * or, in two bytes, 254 × high + low = round(normed × 254 × 127 / largest), each from -127 to 127.
 *
 * A NaN or an infinity makes `largest` one, so that it reaches every output of its row, and of its
 * row alone.
 */

INLINE f32x16 load_at(const float *source, int index, int width) {
    return load_some(source + index, width - index);
}

/* The first `count` numbers; those behind the row become 0. */
INLINE f32x16 only(f32x16 value, int count) {
    return as_float(as_int(value) & (lanes() < count));
}

static void normalise(const float *source, const Norm *norm, int width, float *target) {
    f32x16 total = {0}, squares = {0};
    for (int i = 0; i < width; i += 16) total += load_at(source, i, width);
    float mean = sum(total) / (float)width;
    for (int i = 0; i < width; i += 16) {
        f32x16 away = only(load_at(source, i, width) - mean, width - i);
        squares += away * away;
    }
    float factor = 1.0f / __builtin_sqrtf(sum(squares) / (float)width + norm->epsilon);
    for (int i = 0; i < width; i += 16) {
        f32x16 away = (load_at(source, i, width) - mean) * factor;
        f32x16 value = away * load(norm->gamma + i) + load(norm->beta + i);
        store(target + i, only(value, width - i));
    }
}

/* The normed row, whole vectors long; it may be the source itself. */
static const float *prepared(const float *source, const Norm *norm, int width, float *scratch) {
    if (norm != NULL) {
        normalise(source, norm, width, scratch);
        return scratch;
    }
    if (width % 16 == 0) return source;
    memset(scratch + width / 16 * 16, 0, 16 * sizeof *scratch);
    return memcpy(scratch, source, (size_t)width * sizeof *source);
}

static float largest_of(const float *source, int width) {
    i32x16 most = {0}; /* as whole numbers, absolute floats keep their order, and NaN is above */
    for (int i = 0; i < width; i += 16) most = larger(most, as_int(load(source + i)) & INT32_MAX);
    return float_of_bits(largest_whole(most));
}

INLINE i32x16 quantized(const float *source, float factor, const int most) {
    return clamp(nearest(load(source) * factor), -most, most);
}

static float quantize(const float *source, const Norm *norm, int width, int bytes, float *scratch,
                      uint32_t *words) {
    source = prepared(source, norm, width, scratch);
    float largest = largest_of(source, width);
    const int most = bytes == 2 ? 127 * LOW_STEPS : 127;
    float factor = largest == 0 ? 0 : (float)most / largest;
    uint32_t *low_words = words + padded(width) / GROUP;
    for (int i = 0; i < width; i += 16)
        if (bytes == 1) {
            store_words(quantized(source + i, factor, 127), words + i / GROUP);
        } else {
            i32x16 both = quantized(source + i, factor, 127 * LOW_STEPS);
            i32x16 high = nearest(to_float(both) * (1.0f / LOW_STEPS));
            store_words(high, words + i / GROUP);
            store_words(both - high * LOW_STEPS, low_words + i / GROUP);
        }
    return largest;
}

/* For int4: signed bytes, with a step for each block. */
static void quantize4(const float *source, const Norm *norm, int width, float *scratch,
                      Row4 row) {
    source = prepared(source, norm, width, scratch);
    for (int i = 0; i < width; i += BLOCK4) {
        float largest = largest_of(source + i, BLOCK4);
        float factor = largest == 0 ? 0 : 127.0f / largest;
        i32x16 total = {0};
        for (int half = 0; half < BLOCK4; half += 16) {
            i32x16 values = quantized(source + i + half, factor, 127);
            i8x16 bytes = __builtin_convertvector(values, i8x16);
            memcpy(row.words + (i + half) / 4, &bytes, sizeof bytes);
            total += values;
        }
        row.scales[i / BLOCK4] = (Scale4){largest * (1 / 127.0f), (float)sum_whole(total)};
    }
}
