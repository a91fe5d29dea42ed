/* The operators for AVX2. */
#include "kernels.h"
#include "vector.h"

#include "avx2.h"

#include "instruction_set.h"

const Kernels kernels_avx2 = KERNELS("avx2");
