/* What the operators of int8 and int4 matrices share: their forms, inputs and outputs. */
#ifndef GPT2JA_FORM_H
#define GPT2JA_FORM_H

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

enum { TASKS = 16 };   /* that a matrix's panels are cut into, at most */
enum { FEW_ROWS = 4 }; /* are quantised by the calling thread */

static inline OrtStatus *quantize_rows(const OrtApi *api, const OrtKernelContext *context,
                                       void (*task)(void *call, size_t row), size_t rows,
                                       void *call) {
    if (rows > FEW_ROWS) return ort_ParallelFor(api)(context, task, rows, 0, call);
    for (size_t row = 0; row < rows; row++) task(call, row);
    return NULL;
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
