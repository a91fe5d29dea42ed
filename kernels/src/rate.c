/* How fast this processor multiplies int8 numbers: what a step of many rows is held against. */
#define _DEFAULT_SOURCE /* clock_gettime */
#include <time.h>

#include "arena.h"
#include "register.h"

#define EXPORT __attribute__((visibility("default")))

/* The whole register tile of `multiply` on one panel, whose weights fit into the second-level
 * cache and are long enough that quantised sums, not their epilogue, take the time. */
enum { TILE_INPUTS = 3072, PANELS_A_LOOK = 100 };

static const double SECONDS = 0.05;

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* Products a second of the calling thread, over `SECONDS`; 0 without memory or without
 * kernels for this processor. */
EXPORT double gpt2ja_multiply_rate(void) {
    const Kernels *kernels = chosen_kernels();
    if (kernels == NULL) return 0;
    const int panel = kernels->panel;
    const size_t weights = packed_bytes(kernels, TILE_INPUTS, panel);
    const size_t words = (size_t)(TILE_ROWS * row_words(kernels, TILE_INPUTS));
    const size_t outputs = (size_t)(TILE_ROWS * panel);
    const size_t numbers = words + TILE_ROWS + (size_t)(3 * panel) + outputs;
    Block block = arena_take(weights + numbers * 4 + 8 * 64);
    if (block.data == NULL) return 0;
    char *next = block.data;
    Linear linear = {.inputs = TILE_INPUTS, .outputs = panel, .bytes = 1};
    linear.weights = arena_part(&next, weights / 4, NULL, 0);
    linear.scales = arena_part(&next, (size_t)panel, NULL, 0);
    linear.bias = arena_part(&next, (size_t)panel, NULL, 0);
    linear.sums = arena_part(&next, (size_t)panel, NULL, 0);
    uint32_t *rows = arena_part(&next, words, NULL, 0);
    float *largest = arena_part(&next, TILE_ROWS, NULL, 0);
    float *output = arena_part(&next, outputs, NULL, 0);
    double started = seconds(), taken = 0, panels_done = 0;
    while (taken < SECONDS) {
        for (int i = 0; i < PANELS_A_LOOK; i++)
            kernels->multiply(&linear, rows, largest, TILE_ROWS, 0, 1, PLAIN, NULL, output);
        panels_done += PANELS_A_LOOK;
        taken = seconds() - started;
    }
    arena_give_back(block);
    return panels_done * TILE_ROWS * TILE_INPUTS * panel / taken;
}
