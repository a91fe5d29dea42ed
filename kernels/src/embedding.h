/* A token's int8 embedding with its scale, plus its position's: bit for bit the standard body. */

static void embed(const int8_t *row, float scale, const float *position, int width,
                  float *output) {
    for (int i = 0; i < width; i++) output[i] = (float)row[i] * scale + position[i];
}
