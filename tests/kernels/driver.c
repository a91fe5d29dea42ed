/* Holds every instruction set's operators to the reference and to each other, over random shapes;
 * run by test_kernels.py, under sanitizers. Exits with 1 and a line for the first difference.
 *
 * kernels_emulated is AVX-512 without its instructions, so that its layouts are tried everywhere.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "draw.h"
#include "kernels.h"
#include "processor.h"

extern const Kernels kernels_emulated;

static uint64_t state = 1;

static uint32_t draw(void) { /* xorshift64*: Vigna, "An experimental exploration", 2016 */
    state ^= state >> 12, state ^= state << 25, state ^= state >> 27;
    return (uint32_t)(state * 2685821657736338717u >> 32);
}

static int between(int low, int high) {
    return low >= high ? low : low + (int)(draw() % (uint32_t)(high - low + 1));
}
static float uniform(void) { return (float)draw() / 2147483648.0f - 1; }
static float normal(void) { return uniform() + uniform() + uniform(); }

/* Exactly as large as asked for, so that the address sanitizer sees a read beyond. */
static void *memory(size_t bytes) {
    void *result = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (result == NULL) exit(2);
    return result;
}

static float *floats(size_t count) {
    float *result = malloc(count * sizeof *result);
    for (size_t i = 0; i < count; i++) result[i] = normal();
    return result;
}

static int8_t *bytes(size_t count) {
    int8_t *result = malloc(count);
    for (size_t i = 0; i < count; i++) result[i] = (int8_t)draw();
    return result;
}

static void fail(const char *what, const Kernels *kernels, int row, int column, double found,
                 double expected) {
    fprintf(stderr, "%s, %s: [%d, %d] is %.9g, expected %.9g\n", what, kernels->name, row, column,
            found, expected);
    _Exit(1); /* not to be told of memory that nobody freed */
}

/* NaN and infinities must meet each other; exact where `tolerance` is 0. */
static void compare(const char *what, const Kernels *kernels, const float *found,
                    const float *expected, int rows, int columns, double tolerance) {
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++) {
            double a = found[r * columns + c], b = expected[r * columns + c];
            if (isfinite(b) ? !(fabs(a - b) <= tolerance * (1 + fabs(b))) : isfinite(a))
                fail(what, kernels, r, c, a, b);
        }
}

/* Bit for bit, whatever bits a NaN has. */
static void same(const char *what, const Kernels *kernels, const float *found,
                 const float *expected, int rows, int columns) {
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++) {
            float a = found[r * columns + c], b = expected[r * columns + c];
            if (memcmp(&a, &b, sizeof a) && !(isnan(a) && isnan(b)))
                fail(what, kernels, r, c, a, b);
        }
}

static float *multiplied(const Kernels *kernels, int bytes_each, int rows, int inputs, int outputs,
                         int transposed, const float *source, const Norm *norm, const int8_t *weights,
                         const float *scales, const float *bias, Epilogue epilogue,
                         const float *residual) {
    size_t width = (size_t)panels(kernels, outputs) * (size_t)kernels->panel;
    Linear linear = {inputs, outputs, bytes_each, memory(packed_bytes(kernels, inputs, outputs)),
                     calloc(width, sizeof(float)), calloc(width, sizeof(float)),
                     calloc(width, sizeof(int32_t))};
    memcpy(linear.scales, scales, (size_t)outputs * sizeof(float));
    memcpy(linear.bias, bias, (size_t)outputs * sizeof(float));
    size_t row = transposed ? 1 : (size_t)outputs, column = transposed ? (size_t)inputs : 1;
    kernels->pack(&linear, weights, row, column, 0, panels(kernels, outputs));
    size_t words_size = (size_t)(row_words(kernels, inputs) * bytes_each);
    uint32_t *words = memory((size_t)rows * words_size * sizeof *words);
    float *largest = malloc((size_t)rows * sizeof *largest);
    float *scratch = memory((size_t)padded(inputs) * sizeof *scratch);
    memset(scratch, 255, (size_t)padded(inputs) * sizeof *scratch); /* NaN, as memory may hold */
    for (int r = 0; r < rows; r++)
        largest[r] = kernels->quantize(source + (size_t)r * (size_t)inputs, norm, inputs,
                                       bytes_each, scratch, words + (size_t)r * words_size);
    float *output = malloc((size_t)rows * (size_t)outputs * sizeof *output);
    int cut = between(0, panels(kernels, outputs)); /* in two pieces, as threads do */
    kernels->multiply(&linear, words, largest, rows, 0, cut, epilogue, residual, output);
    kernels->multiply(&linear, words, largest, rows, cut, panels(kernels, outputs), epilogue,
                      residual, output);
    free(linear.weights), free(linear.scales), free(linear.bias), free(linear.sums);
    free(words), free(largest), free(scratch);
    return output;
}

static void try_linear(const Kernels *kernels) {
    int rows = between(0, 20), inputs = between(1, 200), outputs = between(1, 200);
    if (!between(0, 7)) outputs = 1;
    int transposed = between(0, 1), normed = between(0, 1), bytes_each = between(1, 2);
    Epilogue epilogue = (Epilogue)between(PLAIN, RESIDUAL);
    float *source = floats((size_t)(rows * inputs)), *gamma = floats((size_t)padded(inputs));
    float *beta = floats((size_t)padded(inputs)), *scales = floats((size_t)outputs);
    float *bias = floats((size_t)outputs), *residual = floats((size_t)(rows * outputs));
    int8_t *weights = bytes((size_t)(inputs * outputs));
    for (int i = 0; i < outputs; i++) scales[i] *= 1e-3f;
    const float odd[] = {0, NAN, INFINITY, -INFINITY};
    if (rows && between(0, 1)) source[between(0, rows * inputs - 1)] = odd[between(0, 3)];
    if (rows && !between(0, 3)) memset(source, 0, (size_t)inputs * sizeof *source);
    if (!between(0, 3)) memset(weights, -128, (size_t)(inputs * outputs));
    Norm norm = {gamma, beta, 1e-5f}, *given = normed ? &norm : NULL;
    const float *added = epilogue == RESIDUAL ? residual : NULL;
    float *found = multiplied(kernels, bytes_each, rows, inputs, outputs, transposed, source, given, weights,
                              scales, bias, epilogue, added);
    float *expected = multiplied(&kernels_reference, bytes_each, rows, inputs, outputs, transposed, source,
                                 given, weights, scales, bias, epilogue, added);
    /* A norm's last bits decide ties of the rounding: one step of one input, at most a few. */
    double tolerance = normed ? 0.3 / (bytes_each == 2 ? 100 : 1)
                       : epilogue == GELU || bytes_each == 2 ? 1e-5 : 0;
    compare("linear", kernels, found, expected, rows, outputs, tolerance);
    float *other = multiplied(&kernels_avx2, bytes_each, rows, inputs, outputs, transposed, source, given,
                              weights, scales, bias, epilogue, added);
    same("linear, on AVX2", kernels, found, other, rows, outputs);
    int alone = between(0, rows - 1); /* the same bits without the other rows */
    if (rows) {
        float *single = multiplied(kernels, bytes_each, 1, inputs, outputs, transposed, source + alone * inputs,
                                   given, weights, scales, bias, epilogue,
                                   added ? added + alone * outputs : NULL);
        same("linear, a row alone", kernels, single, found + alone * outputs, 1, outputs);
        free(single);
    }
    free(source), free(gamma), free(beta), free(scales), free(bias), free(residual);
    free(weights), free(found), free(expected), free(other);
}

static float *multiplied4(const Kernels *kernels, int rows, int inputs, int outputs,
                          const float *source, const Norm *norm, const uint8_t *weights,
                          const float *scales, const uint8_t *zeros, const float *bias,
                          Epilogue epilogue, const float *residual) {
    size_t blocks = (size_t)inputs / BLOCK4, packed = packed4_bytes(inputs, outputs);
    if (kernels == &kernels_reference) packed *= 2; /* it keeps a byte for each weight */
    Linear4 linear = {inputs, outputs, memory(packed),
                      calloc((size_t)panels4(outputs) * PANEL4, sizeof(float))};
    memcpy(linear.bias, bias, (size_t)outputs * sizeof(float));
    kernels->pack4(&linear, weights, scales, zeros);
    Row4 quantised = {malloc((size_t)(rows * inputs)), malloc((size_t)rows * blocks * sizeof(Scale4))};
    float *scratch = memory((size_t)inputs * 4);
    memset(scratch, 255, (size_t)inputs * 4);
    for (size_t r = 0; r < (size_t)rows; r++) {
        Row4 row = {quantised.words + r * (size_t)inputs / 4, quantised.scales + r * blocks};
        kernels->quantize4(source + r * (size_t)inputs, norm, inputs, scratch, row);
    }
    float *output = malloc((size_t)(rows * outputs) * 4);
    int cut = between(0, panels4(outputs));
    kernels->multiply4(&linear, quantised, rows, 0, cut, epilogue, residual, output);
    kernels->multiply4(&linear, quantised, rows, cut, panels4(outputs), epilogue, residual, output);
    free(linear.weights), free(linear.bias), free(quantised.words), free(quantised.scales);
    free(scratch);
    return output;
}

static void try_linear4(const Kernels *kernels) {
    int rows = between(0, 9), inputs = BLOCK4 * between(1, 8), outputs = between(1, 70);
    size_t blocks = (size_t)inputs / BLOCK4, columns = (size_t)outputs;
    Epilogue epilogue = (Epilogue)between(PLAIN, RESIDUAL);
    float *source = floats((size_t)(rows * inputs)), *scales = floats(columns * blocks);
    float *gamma = floats((size_t)inputs), *beta = floats((size_t)inputs), *bias = floats(columns);
    float *residual = floats((size_t)rows * columns);
    uint8_t *weights = (uint8_t *)bytes(columns * blocks * BLOCK4 / 2);
    uint8_t *zeros = (uint8_t *)bytes(columns * (blocks + 1) / 2 + columns);
    if (!between(0, 3)) memset(weights, 255, columns * blocks * BLOCK4 / 2);
    if (!between(0, 3)) /* the largest products there are */
        for (int i = 0; i < rows * inputs; i++) source[i] = i % 7 ? 1 : -1;
    for (size_t i = 0; i < columns * blocks; i++) scales[i] *= 1e-2f;
    const float odd[] = {0, NAN, INFINITY, -INFINITY};
    if (rows && !between(0, 2)) source[between(0, rows * inputs - 1)] = odd[between(0, 3)];
    Norm norm = {gamma, beta, 1e-5f}, *given = between(0, 1) ? &norm : NULL;
    const float *added = epilogue == RESIDUAL ? residual : NULL;
    float *found = multiplied4(kernels, rows, inputs, outputs, source, given, weights, scales,
                               zeros, bias, epilogue, added);
    float *expected = multiplied4(&kernels_reference, rows, inputs, outputs, source, given, weights,
                                  scales, zeros, bias, epilogue, added);
    compare("linear4", kernels, found, expected, rows, outputs, given ? 0.3 : 1e-4);
    float *other = multiplied4(&kernels_avx2, rows, inputs, outputs, source, given, weights,
                               scales, zeros, bias, epilogue, added);
    same("linear4, on AVX2", kernels, found, other, rows, outputs);
    int alone = between(0, rows - 1);
    if (rows) {
        float *single = multiplied4(kernels, 1, inputs, outputs, source + alone * inputs, given,
                                    weights, scales, zeros, bias, epilogue,
                                    added ? added + alone * outputs : NULL);
        same("linear4, a row alone", kernels, single, found + alone * outputs, 1, outputs);
        free(single);
    }
    free(source), free(scales), free(gamma), free(beta), free(bias), free(residual);
    free(weights), free(zeros), free(found), free(expected), free(other);
}

/* Heads lie among others: what is between them must stay as it is. */
static void attended(const Kernels *kernels, const Attention *attention, const float *queries,
                     int stride, int first, int count, const int8_t *keys, const int8_t *values,
                     int length, float *output, int output_stride) {
    size_t bytes_needed = attention_scratch(attention, count, length + first + count - 1);
    void *scratch = memory(bytes_needed);
    memset(scratch, 255, bytes_needed);
    kernels->attend(attention, queries + first * stride, (size_t)stride, count, keys, values, 0,
                    length + first, scratch, output + first * output_stride,
                    (size_t)output_stride);
    free(scratch);
}

static void try_attention(const Kernels *kernels) {
    int size = 16 * between(1, LARGEST_HEAD / 16), count = between(1, between(0, 1) ? 7 : 21);
    int length = between(1, between(0, 1) ? 20 : 700), capacity = length + count - 1 + between(0, 3);
    int stride = size + 16 * between(0, 2), wide = size + between(0, 5), all = count * wide;
    Attention attention = {1, size, capacity, between(1, 2), 0.02f, 0.01f};
    int numbers = capacity * cached_size(&attention);
    /* The last row ends with its head. */
    float *queries = floats((size_t)((count - 1) * stride + size));
    int8_t *keys = bytes((size_t)numbers), *values = bytes((size_t)numbers);
    const float odd[] = {NAN, INFINITY, -INFINITY};
    if (!between(0, 3))
        queries[between(0, count - 1) * stride + between(0, size - 1)] = odd[between(0, 2)];
    if (!between(0, 3)) memset(queries, 0, (size_t)size * sizeof *queries);
    if (!between(0, 3)) memset(keys, 0, (size_t)numbers); /* the largest sums there are */
    if (!between(0, 3)) memset(values, -128, (size_t)numbers);
    float *found = floats((size_t)all), *expected = floats((size_t)all);
    float *other = floats((size_t)all), *single = floats((size_t)all);
    memcpy(expected, found, (size_t)all * sizeof *found);
    memcpy(other, found, (size_t)all * sizeof *found);
    memcpy(single, found, (size_t)all * sizeof *found);
    attended(kernels, &attention, queries, stride, 0, count, keys, values, length, found, wide);
    attended(&kernels_reference, &attention, queries, stride, 0, count, keys, values, length,
             expected, wide);
    compare("attention", kernels, found, expected, count, wide, 2e-4);
    attended(&kernels_avx2, &attention, queries, stride, 0, count, keys, values, length, other,
             wide);
    same("attention, on AVX2", kernels, found, other, count, wide);
    for (int q = 0; q < count; q++) /* the same bits alone */
        attended(kernels, &attention, queries, stride, q, 1, keys, values, length, single, wide);
    same("attention, a query alone", kernels, found, single, count, wide);
    free(queries), free(keys), free(values), free(found), free(expected), free(other);
    free(single);
}

static void try_store(const Kernels *kernels) {
    int size = 16 * between(1, 8);
    float *source = floats((size_t)size);
    const float odd[] = {0, 1e30f, INFINITY, -INFINITY, 1.275f, -1.285f, 0.005f};
    source[between(0, size - 1)] = odd[between(0, 6)];
    int each = between(1, 2), stored = size * each;
    int8_t *found = bytes((size_t)stored), *expected = bytes((size_t)stored);
    kernels->store(source, size, each, 0.01f, found);
    kernels_reference.store(source, size, each, 0.01f, expected);
    for (int i = 0; i < stored; i++)
        if (found[i] != expected[i]) fail("store", kernels, 0, i, found[i], expected[i]);
    free(source), free(found), free(expected);
}

static void try_embed(const Kernels *kernels) {
    int width = between(1, 300);
    int8_t *row = bytes((size_t)width);
    float *position = floats((size_t)width), scale = normal();
    float *found = floats((size_t)width), *expected = floats((size_t)width);
    kernels->embed(row, scale, position, width, found);
    kernels_reference.embed(row, scale, position, width, expected);
    same("embed", kernels, found, expected, 1, width);
    free(row), free(position), free(found), free(expected);
}

static void try_best(const Kernels *kernels) {
    int size = between(0, 3) ? between(1, 3000) : between(3000, 80000), most = between(0, 3) ? 64 : 256;
    int count = between(1, size < most ? size : most);
    float *scores = floats((size_t)size), step = between(0, 1) ? 0.5f : 1e-6f;
    for (int i = 0; i < size; i++) scores[i] = rintf(scores[i] / step) * step;
    float found[256], expected[256];
    int64_t ids[256], expected_ids[256];
    int few = !between(0, 2);
    uint8_t *bits = (uint8_t *)bytes((size_t)(size + 7) / 8), *allowed = between(0, 1) ? bits : NULL;
    for (int i = 0; few && i < (size + 7) / 8; i++) bits[i] &= bits[(i * 7 + 1) % ((size + 7) / 8)] & 9;
    kernels->best(scores, size, allowed, count, found, ids);
    kernels_reference.best(scores, size, allowed, count, expected, expected_ids);
    for (int i = 0; i < count; i++)
        if (ids[i] != expected_ids[i] || found[i] != expected[i])
            fail("best", kernels, i, 0, (double)ids[i], (double)expected_ids[i]);
    int odd = between(0, size - 1); /* NaN is the worst */
    scores[odd] = NAN;
    kernels->best(scores, size, allowed, count, found, ids);
    scores[odd] = -INFINITY;
    kernels_reference.best(scores, size, allowed, count, expected, expected_ids);
    for (int i = 0; i < count; i++)
        if (ids[i] != expected_ids[i])
            fail("best of NaN", kernels, i, 0, (double)ids[i], (double)expected_ids[i]);
    free(scores), free(bits);
}

static void try_exponentials(const Kernels *kernels) {
    int size = between(1, 3000);
    float *scores = floats((size_t)size), largest, expected_largest;
    double total, expected;
    for (int i = 0; i < size; i++) scores[i] = scores[i] * 20 - 30;
    const float odd[] = {NAN, INFINITY, -INFINITY};
    if (!between(0, 2)) scores[between(0, size - 1)] = odd[between(0, 2)];
    kernels->sum_exponentials(scores, size, &largest, &total);
    kernels_reference.sum_exponentials(scores, size, &expected_largest, &expected);
    if (isfinite(expected) ? !(fabs(total - expected) <= 2e-6 * expected) : isfinite(total))
        fail("sum of exponentials", kernels, size, 0, total, expected);
    if (isfinite(expected) && largest != expected_largest)
        fail("largest score", kernels, size, 0, largest, expected_largest);
    free(scores);
}

static void try_nucleus(const Kernels *kernels) {
    int size = between(1, 2000), left = 0;
    float *scores = floats((size_t)size), step = between(0, 1) ? 0.5f : 1e-6f;
    float spread = between(0, 1) ? 1 : 6, temperature = between(0, 1) ? 1 : 0.5f + 0.1f * uniform();
    for (int i = 0; i < size; i++) scores[i] = rintf(scores[i] * spread / step) * step;
    if (!between(0, 3)) scores[between(0, size - 1)] = -INFINITY;
    void *scratch = memory(nucleus_scratch(size));
    for (int i = 0; i < 20; i++) {
        double number = (uniform() + 1) / 2;
        double limit = between(0, 2) ? 0.02 + 0.4 * (uniform() + 1) : -1;
        double min_p = between(0, 2) ? 0 : 0.01 + 0.1 * (uniform() + 1);
        int found = kernels->draw_nucleus(scores, size, temperature, limit, min_p, number,
                                          scratch);
        int expected = kernels_reference.draw_nucleus(scores, size, temperature, limit, min_p,
                                                      number, NULL);
        left += found == -1;
        if (found != -1 && found != expected)
            fail("nucleus", kernels, size, i, found, expected);
    }
    if (left > 10) fail("left to the caller", kernels, size, 0, left, 0);
    scores[between(0, size - 1)] = between(0, 1) ? NAN : INFINITY;
    if (kernels->draw_nucleus(scores, size, 1, 0.1, 0, 0.5, scratch) != -1)
        fail("nucleus of NaN", kernels, size, 0, 0, -1);
    free(scratch);
    free(scores);
}

static int falling(const void *a, const void *b) {
    float left = *(const float *)a, right = *(const float *)b;
    return (left < right) - (left > right);
}

/* Top-k of all scores is no bound, so that the draw is that of the nucleus. */
static void try_draw(void) {
    int size = between(1, 256), left = 0;
    float *scores = floats((size_t)size);
    qsort(scores, (size_t)size, sizeof *scores, falling);
    for (int i = 0; i < size; i++) scores[i] -= (float)i * 1e-4f; /* equal ones are the caller's */
    for (int i = 0; i < 20; i++) {
        Cut cut = {0.5f + 2 * (float)(uniform() + 1), size, -1, 0};
        if (between(0, 2)) cut.limit = 0.02 + 0.4 * (uniform() + 1);
        if (!between(0, 2)) cut.min_p = 0.01 + 0.1 * (uniform() + 1);
        int most = between(1, size);
        double number = (uniform() + 1) / 2;
        int found = draw_best(scores, size, cut, number);
        int expected = kernels_reference.draw_nucleus(scores, size, cut.temperature, cut.limit,
                                                      cut.min_p, number, NULL);
        left += found == -1;
        if (found != -1 && found != expected) fail("draw", &kernels_reference, size, i, found, expected);
        cut.top_k = most;
        found = draw_best(scores, size, cut, number); /* as if there were no other scores */
        expected = draw_best(scores, most, cut, number);
        if (found != expected && found != -1)
            fail("draw of top-k", &kernels_reference, most, i, found, expected);
    }
    if (left > 10) fail("left to the caller", &kernels_reference, size, 0, left, 0);
    scores[size / 2] = NAN;
    if (size > 2 && draw_best(scores, size, (Cut){1, size, -1, 0}, 0.5) != -1)
        fail("draw of NaN", &kernels_reference, size, 0, 0, -1);
    free(scores);
}

int main(int argc, char **argv) {
    int rounds = argc > 1 ? atoi(argv[1]) : 300;
    if (!processor_runs(&kernels_avx2)) return puts("this processor has no AVX2"), 2;
    const Kernels *tried[] = {&kernels_avx2, &kernels_avx512, &kernels_emulated};
    for (int i = 0; i < 3; i++) {
        if (i < 2 && !processor_runs(tried[i])) continue;
        for (int round = 0; round < rounds; round++) {
            try_linear(tried[i]);
            try_linear4(tried[i]);
            try_attention(tried[i]);
            try_store(tried[i]);
            try_exponentials(tried[i]);
            try_embed(tried[i]);
            try_best(tried[i]);
            try_nucleus(tried[i]);
            try_draw();
        }
        printf("%s%s: %d rounds agree\n", tried[i]->name, i == 2 ? ", emulated" : "", rounds);
    }
    return 0;
}
