/* Which kernels this processor and its system can run. */
#ifndef GPT2JA_PROCESSOR_H
#define GPT2JA_PROCESSOR_H

#include "kernels.h"

int processor_runs(const Kernels *kernels);

/* The fastest ones that run, or null. */
const Kernels *processor_kernels(void);

#endif
