/* Rows of activations times an int4 matrix: integers within a block of 32 inputs, floats between.
 *
 *     output = Σ_blocks (sum - zero point × sum of the activations) × largest / 127 × scale + bias
 *
 * with sum = Σ round(x × 127 / largest) × weight, exact, and largest = max |x| of the block. Blocks are added in their order, so a row
 * has the same bits whatever the other rows are.
 *
 * For each block of a panel of 16 columns there lie, one after another,
 *
 *     | 16 scales, float | 16 zero points, byte | 4 × 64 bytes of weights |
 *
 * Byte i of the 64 holds in its low half input i % 4 of column i / 4, and in its high half the
 * input 4 behind that: two groups of four inputs for one load.
 */

/* Four halves of bytes, each to the low half of one. */
INLINE uint32_t to_bytes(uint32_t halves) {
    halves = (halves | halves << 8) & 0x00ff00ff;
    return (halves | halves << 4) & 0x0f0f0f0f;
}

static void pack4(const Linear4 *linear, const uint8_t *weights, const float *scales,
                  const uint8_t *zeros) {
    size_t blocks = (size_t)linear->inputs / BLOCK4, zero_bytes = (blocks + 1) / 2;
    uint8_t *target = linear->weights;
    for (int panel = 0; panel < panels4(linear->outputs); panel++)
        for (size_t block = 0; block < blocks; block++, target += BLOCK4_BYTES) {
            memset(target, 0, BLOCK4_BYTES);
            uint8_t *points = target + PANEL4 * sizeof(float), *packed = points + PANEL4;
            for (size_t c = 0; c < PANEL4; c++) {
                size_t column = (size_t)panel * PANEL4 + c;
                if (column >= (size_t)linear->outputs) break;
                memcpy(target + c * sizeof(float), scales + column * blocks + block, sizeof(float));
                points[c] = zeros[column * zero_bytes + block / 2] >> 4 * (block % 2) & 15;
                const uint8_t *source = weights + (column * blocks + block) * (BLOCK4 / 2);
                for (size_t pair = 0; pair < 4; pair++) {
                    uint32_t inputs;
                    memcpy(&inputs, source + pair * 4, 4);
                    inputs = to_bytes(inputs & 0xffff) | to_bytes(inputs >> 16) << 4;
                    memcpy(packed + pair * 64 + c * 4, &inputs, 4);
                }
            }
        }
}

INLINE void multiply4_panel(const Linear4 *linear, Row4 rows, const int count, int panel,
                            Epilogue epilogue, const float *residual, float *output) {
    size_t blocks = (size_t)linear->inputs / BLOCK4, stride = (size_t)linear->inputs / 4;
    const uint8_t *weights = linear->weights + (size_t)panel * blocks * BLOCK4_BYTES;
    f32x16 totals[4];
    for (int r = 0; r < count; r++) totals[r] = (f32x16){0};
    for (size_t block = 0; block < blocks; block++, weights += BLOCK4_BYTES) {
        Partial sums[4];
        for (int r = 0; r < count; r++) sums[r] = no_partial();
        const uint8_t *packed = weights + PANEL4 * (sizeof(float) + 1);
        for (size_t pair = 0; pair < 4; pair++) {
            __builtin_prefetch(packed + pair * 64 + AHEAD, 0, 2);
            Nibbles low, high;
            load_nibbles(packed + pair * 64, &low, &high);
            for (int r = 0; r < count; r++) {
                const uint32_t *words = rows.words + (size_t)r * stride + block * 8 + pair * 2;
                sums[r] = dot_nibbles(dot_nibbles(sums[r], low, words[0]), high, words[1]);
            }
        }
        f32x16 scale;
        u8x16 points;
        memcpy(&scale, weights, sizeof scale);
        memcpy(&points, weights + sizeof scale, sizeof points);
        f32x16 zero = to_float(__builtin_convertvector(points, i32x16));
        for (int r = 0; r < count; r++) {
            Scale4 row = rows.scales[(size_t)r * blocks + block];
            totals[r] += (to_float(whole_partial(sums[r])) - zero * row.sum) * row.step * scale;
        }
    }
    for (int r = 0; r < count; r++) {
        int column = panel * PANEL4;
        int width = linear->outputs - column < PANEL4 ? linear->outputs - column : PANEL4;
        size_t place = (size_t)r * (size_t)linear->outputs + (size_t)column;
        f32x16 value = totals[r] + load(linear->bias + column);
        if (epilogue == GELU) value = first_of(gelu(followed_by_zeros(value)));
        if (epilogue == RESIDUAL) value += load_some(residual + place, width);
        store_some(output + place, value, width);
    }
}

static void multiply4(const Linear4 *linear, Row4 rows, int count, int first, int last,
                      Epilogue epilogue, const float *residual, float *output) {
    size_t words = (size_t)linear->inputs / 4, blocks = (size_t)linear->inputs / BLOCK4;
    for (int panel = first; panel < last; panel++)
        for (int row = 0; row < count;) {
            size_t done = (size_t)row, outputs = done * (size_t)linear->outputs;
            Row4 tile = {rows.words + done * words, rows.scales + done * blocks};
            const float *added = residual == NULL ? residual : residual + outputs;
            if (count - row >= 4) {
                multiply4_panel(linear, tile, 4, panel, epilogue, added,
                                output + outputs);
                row += 4;
            } else if (count - row >= 2) {
                multiply4_panel(linear, tile, 2, panel, epilogue, added,
                                output + outputs);
                row += 2;
            } else {
                multiply4_panel(linear, tile, 1, panel, epilogue, added,
                                output + outputs);
                row += 1;
            }
        }
}
