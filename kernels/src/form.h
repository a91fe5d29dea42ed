/* What the operators of int8 and int4 matrices share: their forms, inputs and outputs. */
#ifndef GPT2JA_FORM_H
#define GPT2JA_FORM_H

#include <sched.h>
#include <stdatomic.h>
#include <string.h>

#include "operator.h"

typedef enum { NORM = 1, GELU_AFTER = 2, ADDS = 4, BIAS = 8, TRANSPOSED = 16, TWO_BYTES = 32 } Form;

static inline Epilogue epilogue_of(Form form) {
    return form & GELU_AFTER ? GELU : form & ADDS ? RESIDUAL : PLAIN;
}

/* The norm before a matrix, inputs 1 and 2, where the form has one; `index` is the next input. */
static inline OrtStatus *read_norm(const OrtApi *api, const OrtKernelInfo *info, Form form,
                                   Tensor *gamma, Tensor *beta, float *epsilon, size_t *index) {
    *index = 1;
    if (!(form & NORM)) return NULL;
    TRY(read_constant(api, info, (*index)++, gamma));
    TRY(read_constant(api, info, (*index)++, beta));
    return ort_AttributeFloat(api)(info, "epsilon", epsilon);
}

enum { TASKS = 16 }; /* that a matrix's panels are cut into, at most */

static inline int parts(int panels) { return panels < TASKS ? panels : TASKS; }

/* What task number `index` of `tasks` gets of `count` things. */
typedef struct {
    size_t begin, end;
} Range;

static inline Range share(int count, int index, int tasks) {
    return (Range){(size_t)count * (size_t)index / (size_t)tasks,
                   (size_t)count * (size_t)(index + 1) / (size_t)tasks};
}

/* Whether a row is quantised. Every task needs all rows of its chunk: whoever comes to one first
 * quantises it, the others wait for it, which takes less time than a parallel loop of its own. */
typedef _Atomic uint8_t RowState;
enum { WANTED, TAKEN, READY };
enum { PATIENCE = 1000 }; /* looks before others may run */

/* Runs `quantize` for those of `rows` that no task has taken yet, beginning at a row of this task's
 * own, and waits for the others. */
static inline void quantize_rows(RowState *states, Range rows, int part, int parts,
                                 void (*quantize)(const void *call, size_t row, size_t task),
                                 const void *call, size_t task) {
    size_t count = rows.end - rows.begin, first = count * (size_t)part / (size_t)parts;
    for (size_t i = 0; i < count; i++) {
        size_t row = rows.begin + (first + i) % count;
        uint8_t wanted = WANTED;
        if (!atomic_compare_exchange_strong(&states[row], &wanted, TAKEN)) continue;
        quantize(call, row, task);
        atomic_store_explicit(&states[row], READY, memory_order_release);
    }
    for (size_t row = rows.begin; row < rows.end; row++)
        for (int looks = 0;
             atomic_load_explicit(&states[row], memory_order_acquire) != READY; looks++)
            if (looks < PATIENCE)
                __builtin_ia32_pause();
            else
                sched_yield(); /* to a thread that has taken the row and no processor */
}

/* The rows that a matrix is multiplied with, input 0; the residual, input number `residual_input`,
 * where the form adds one; and memory for the output, of the rows' shape but for the last axis. */
static inline OrtStatus *read_rows(const OrtApi *api, OrtKernelContext *context, Form form,
                                   size_t residual_input, int inputs, int outputs,
                                   const float **source, const float **residual, float **output,
                                   int *count) {
    Tensor rows, added;
    TRY(read_input(api, context, 0, &rows));
    if (rows.rank < 1 || rows.dims[rows.rank - 1] != inputs)
        return invalid(api, "the rows are not as wide as the matrix has inputs");
    if (rows.size / inputs > 1 << 24) return invalid(api, "there are too many rows");
    *source = rows.data;
    *count = (int)(rows.size / inputs);
    if (form & ADDS) {
        TRY(read_input(api, context, residual_input, &added));
        if (added.size != (int64_t)*count * outputs)
            return invalid(api, "the residual's shape is not the product's");
        *residual = added.data;
    }
    int64_t dims[4];
    memcpy(dims, rows.dims, sizeof dims);
    dims[rows.rank - 1] = outputs;
    return make_output(api, context, 0, dims, rows.rank, output);
}

#endif
