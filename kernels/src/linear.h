/* Rows of activations times an int8 matrix, in integers.
 *
 *     output = sum × (column scale / 127) × row's largest + bias,   then GELU or + residual
 *
 * with sum = Σ round(x × 127 / largest) × weight, exact. So a row's result depends neither on the
 * other rows nor on how the work is cut up, and equals the standard body's bit for bit but for
 * GELU. Activations of two bytes (rows.h) are two rows to everything but the end, where
 *
 *     sum = sum of the high bytes + sum of the low bytes / 254
 *
 * The weights of a panel of COLUMNS × 16 columns lie together, GROUP inputs of a column side by
 * side, so that one load meets one word of a row's activations:
 *
 *     panel 0: | input 0 … GROUP-1 of column 0 | … of column 1 | … | input GROUP … of column 0 | …
 */

enum { PANEL = 16 * COLUMNS, GROUP_BYTES = PANEL * GROUP, LINES = (GROUP_BYTES + 63) / 64 };
enum { AHEAD = 1024 }; /* bytes; measured for one row: 40 GB/s, with 2 KB 25, with 8 KB 39 */

static void pack_group(const Linear *linear, const int8_t *weights, size_t row, size_t column,
                       int group, int first_column, int8_t *target) {
    memset(target, 0, GROUP_BYTES);
    int inputs = linear->inputs - group * GROUP, columns = linear->outputs - first_column;
    if (inputs > GROUP) inputs = GROUP;
    if (columns > PANEL) columns = PANEL;
    const int8_t *source = weights + (size_t)group * GROUP * row + (size_t)first_column * column;
    for (int c = 0; c < columns; c++)
        for (int i = 0; i < inputs; i++)
            target[c * GROUP + i] = source[(size_t)i * row + (size_t)c * column];
}

/* The same for whole groups and columns, of a matrix whose rows, or whose columns, lie whole. */
static void pack_rows(const int8_t *source, size_t row, int8_t *target) {
    for (int c = 0; c < PANEL; c += 16, source += 16, target += 16 * GROUP) {
        __m128i rows[GROUP], *result = (__m128i *)target;
        for (size_t i = 0; i < GROUP; i++)
            rows[i] = _mm_loadu_si128((const __m128i *)(source + i * row));
        __m128i low = _mm_unpacklo_epi8(rows[0], rows[1]);
        __m128i high = _mm_unpackhi_epi8(rows[0], rows[1]);
#if GROUP == 2
        _mm_store_si128(result, low);
        _mm_store_si128(result + 1, high);
#else
        __m128i low2 = _mm_unpacklo_epi8(rows[2], rows[3]);
        __m128i high2 = _mm_unpackhi_epi8(rows[2], rows[3]);
        _mm_store_si128(result, _mm_unpacklo_epi16(low, low2));
        _mm_store_si128(result + 1, _mm_unpackhi_epi16(low, low2));
        _mm_store_si128(result + 2, _mm_unpacklo_epi16(high, high2));
        _mm_store_si128(result + 3, _mm_unpackhi_epi16(high, high2));
#endif
    }
}

static void pack_columns(const int8_t *source, size_t column, int8_t *target) {
    for (int c = 0; c < PANEL; c++) memcpy(target + c * GROUP, source + (size_t)c * column, GROUP);
}

static void pack(const Linear *linear, const int8_t *weights, size_t row, size_t column,
                 int first, int last) {
    int groups = (linear->inputs + GROUP - 1) / GROUP;
    for (int panel = first; panel < last; panel++) {
        int8_t *target = linear->weights + (size_t)panel * (size_t)groups * GROUP_BYTES;
        int whole_columns = (panel + 1) * PANEL <= linear->outputs;
        for (int group = 0; group < groups; group++, target += GROUP_BYTES) {
            const int8_t *source =
                weights + (size_t)group * GROUP * row + (size_t)panel * PANEL * column;
            if (!whole_columns || (group + 1) * GROUP > linear->inputs)
                pack_group(linear, weights, row, column, group, panel * PANEL, target);
            else if (column == 1)
                pack_rows(source, row, target);
            else
                pack_columns(source, column, target);
        }
        int8_t *packed = linear->weights + (size_t)panel * (size_t)groups * GROUP_BYTES;
        int32_t *sums = linear->sums + panel * PANEL;
        memset(sums, 0, PANEL * sizeof *sums);
        for (int group = 0; OFFSET && group < groups; group++, packed += GROUP_BYTES)
            for (int c = 0; c < PANEL; c++)
                for (int i = 0; i < GROUP; i++) sums[c] += OFFSET * packed[c * GROUP + i];
    }
}

/* The tanh form of GELU, x × (1 + tanh u) / 2 = x / (1 + exp(-2u)), with
 * u = √(2/π) × (x + 0.044715 x³). */
INLINE f32x64 gelu(f32x64 x) {
    f32x64 slope = fused(x * x, all(-0.0713548163f), all(-1.5957691216f)); /* -2u / x */
    return x / (1.0f + exponentials(x * slope));
}

INLINE f32x16 without_offset(Sums sums, const Linear *linear, int column) {
    i32x16 offsets;
    memcpy(&offsets, linear->sums + column, sizeof offsets);
    return to_float(whole(sums) - offsets);
}

/* A row's sums of a panel, one array for each of its bytes, to its output; `residual` and `output`
 * begin at the panel. */
INLINE void finish(Sums (*sums)[COLUMNS], const int bytes, const Linear *linear, int column,
                   float largest, Epilogue epilogue, const float *residual, float *output) {
    f32x16 values[COLUMNS];
    for (int c = 0; c < COLUMNS; c++) {
        int place = column + c * 16;
        f32x16 sum = without_offset(sums[0][c], linear, place);
        if (bytes == 2) sum += without_offset(sums[1][c], linear, place) * (1.0f / LOW_STEPS);
        values[c] = sum * load(linear->scales + place) * largest + load(linear->bias + place);
    }
    if (epilogue == GELU) {
        f32x64 all = {0};
        memcpy(&all, values, sizeof values);
        all = gelu(all);
        memcpy(values, &all, sizeof values);
    }
    for (int c = 0; c < COLUMNS; c++) {
        int count = linear->outputs - column - c * 16;
        if (count <= 0) break;
        if (epilogue == RESIDUAL) values[c] += load_some(residual + c * 16, count);
        store_some(output + c * 16, values[c], count);
    }
}

/* What is read ahead of a group of weights: `lines` cache lines from `from`, `step` bytes further
 * on for each group. */
typedef struct {
    const int8_t *from;
    int step;
} Ahead;

/* One panel times `rows` rows of `bytes` bytes, whose numbers the compiler knows: all sums stay in
 * registers. */
INLINE void multiply_panel(const Linear *linear, const uint32_t *words, size_t stride,
                           const float *largest, const int rows, const int bytes, int panel,
                           Ahead ahead, const int lines, Epilogue epilogue, const float *residual,
                           float *output) {
    int groups = (linear->inputs + GROUP - 1) / GROUP;
    const int8_t *weights = linear->weights + (size_t)panel * (size_t)groups * GROUP_BYTES;
    Sums sums[TILE_ROWS][COLUMNS];
    for (int r = 0; r < rows * bytes; r++)
        for (int c = 0; c < COLUMNS; c++) {
            int row = r / bytes, column = panel * PANEL + c * 16;
            size_t place = (size_t)row * (size_t)linear->outputs + (size_t)column;
            sums[r][c] = no_sums();
            __builtin_prefetch(output + place, 1);
            if (epilogue == RESIDUAL) __builtin_prefetch(residual + place);
        }
    for (int group = 0; group < groups; group++, weights += GROUP_BYTES) {
        Weights columns[COLUMNS];
        for (int c = 0; c < COLUMNS; c++) columns[c] = load_weights(weights + c * 16 * GROUP);
        for (int line = 0; line < lines; line++)
            __builtin_prefetch(ahead.from + line * 64, 0, 2);
        ahead.from += ahead.step;
        for (int r = 0; r < rows * bytes; r++)
            for (int c = 0; c < COLUMNS; c++)
                sums[r][c] = dot(sums[r][c], columns[c], words[(size_t)r * stride + (size_t)group]);
    }
    for (int r = 0; r < rows; r++) {
        size_t place = (size_t)r * (size_t)linear->outputs + (size_t)panel * PANEL;
        finish(sums + r * bytes, bytes, linear, panel * PANEL, largest[r], epilogue,
               residual + (epilogue == RESIDUAL ? place : 0), output + place);
    }
}

static void multiply_rows(const Linear *linear, const uint32_t *words, size_t stride,
                          const float *largest, int rows, int panel, Ahead ahead,
                          Epilogue epilogue, const float *residual, float *output) {
    int alone = ahead.step == GROUP_BYTES;
    switch (rows + (linear->bytes - 1) * TILE_ROWS) {
#define CASE(n, bytes)                                                                           \
    case n + (bytes - 1) * TILE_ROWS:                                                            \
        if (alone)                                                                               \
            multiply_panel(linear, words, stride, largest, n, bytes, panel, ahead, LINES,        \
                           epilogue, residual, output);                                          \
        else                                                                                     \
            multiply_panel(linear, words, stride, largest, n, bytes, panel, ahead,               \
                           (LINES + 1) / 2, epilogue, residual, output);                         \
        break;
        CASE(1, 1) CASE(2, 1) CASE(3, 1) CASE(4, 1) CASE(5, 1) CASE(6, 1)
        CASE(1, 2) CASE(2, 2) CASE(3, 2)
#undef CASE
    }
}

/* A panel is read from memory once, by the first tile of rows. Where there are more tiles, all of
 * them together read the next panel ahead; a single one reads a little ahead of itself. */
static void multiply(const Linear *linear, const uint32_t *words, const float *largest, int rows,
                     int first, int last, Epilogue epilogue, const float *residual,
                     float *output) {
    size_t stride = (size_t)padded(linear->inputs) / GROUP, bytes = (size_t)linear->bytes;
    size_t outputs = (size_t)linear->outputs, groups = (size_t)(linear->inputs + GROUP - 1) / GROUP;
    int most = TILE_ROWS / linear->bytes, tiles = (rows + most - 1) / most;
    for (int panel = first; panel < last; panel++)
        for (int tile = 0; tile < tiles; tile++) { /* of nearly the same number of rows */
            size_t begin = (size_t)(rows * tile / tiles), end = (size_t)(rows * (tile + 1) / tiles);
            const int8_t *weights = linear->weights + (size_t)panel * groups * GROUP_BYTES;
            size_t share = groups * (size_t)(GROUP_BYTES / tiles);
            Ahead ahead = {weights + AHEAD, GROUP_BYTES};
            if (tiles > 1)
                ahead = (Ahead){weights + groups * GROUP_BYTES + (size_t)tile * share,
                                GROUP_BYTES / tiles};
            multiply_rows(linear, words + begin * bytes * stride, stride, largest + begin,
                          (int)(end - begin), panel, ahead, epilogue,
                          residual ? residual + begin * outputs : residual,
                          output + begin * outputs);
        }
}
