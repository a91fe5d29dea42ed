/* Every operator for the instruction set whose header was included before. */
#include "attention.h"
#include "candidates.h"
#include "embedding.h"
#include "linear.h"
#include "linear4.h"
#include "rows.h"

#include "exponentials.h"
#include "nucleus.h"

#define KERNELS(set)                                                                         \
    {                                                                                        \
        .name = set, .group = GROUP, .panel = PANEL, .pack = pack, .quantize = quantize,     \
        .multiply = multiply, .pack4 = pack4, .quantize4 = quantize4,                        \
        .multiply4 = multiply4, .store = store_cache, .attend = attend, .embed = embed,      \
        .best = best, .sum_exponentials = sum_exponentials, .draw_nucleus = draw_nucleus,    \
    }
