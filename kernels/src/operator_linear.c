/* NormLinear, NormLinearGelu, LinearResidual and NormHead: a matrix with what stands around it.
 * A16: with activations of 16 bits. */
#include <stdlib.h>
#include <string.h>

#include "arena.h"
#include "form.h"
#include "operator.h"
#include "register.h"

enum { ROWS = 96 };      /* of a task: their activations stay in the cache beside a panel */

typedef struct {
    Operator base;
    Linear linear;
    Norm norm;
    Block block; /* that everything above points into */
} LinearKernel;

typedef struct {
    const LinearKernel *kernel;
    const float *source, *residual;
    float *output, *largest, *scratch;
    uint32_t *words;
    int rows, chunks, parts, rows_per_task;
} Call;

static void destroy(void *kernel) {
    LinearKernel *self = kernel;
    arena_give_back(self->block);
    free(self);
}

/* Reads the weights and packs them. */
static OrtStatus *fill(void *kernel, const OrtKernelInfo *info) {
    LinearKernel *self = kernel;
    const OrtApi *api = self->base.api;
    const Kernels *kernels = self->base.kernels;
    Linear *linear = &self->linear;
    size_t index;
    Tensor gamma, beta, weights, scales, bias;
    TRY(read_norm(api, info, self->base.form, &gamma, &beta, &self->norm.epsilon, &index));
    TRY(read_constant(api, info, index++, &weights));
    TRY(read_constant(api, info, index++, &scales));
    if (self->base.form & BIAS) TRY(read_constant(api, info, index++, &bias));
    int transposed = (self->base.form & TRANSPOSED) != 0;
    if (weights.rank != 2 || weights.dims[0] > 1 << 24 || weights.dims[1] > 1 << 24)
        return invalid(api, "the weights are not a matrix");
    linear->bytes = self->base.form & TWO_BYTES ? 2 : 1;
    linear->inputs = (int)weights.dims[transposed];
    linear->outputs = (int)weights.dims[!transposed];
    if (linear->inputs < 1 || linear->outputs < 1 || scales.size != linear->outputs ||
        (self->base.form & BIAS && bias.size != linear->outputs) ||
        (self->base.form & NORM && (gamma.size != linear->inputs || beta.size != linear->inputs)))
        return invalid(api, "the weights' sizes do not fit each other");
    size_t columns = (size_t)panels(kernels, linear->outputs) * (size_t)kernels->panel;
    size_t rows = (size_t)padded(linear->inputs);
    size_t packed = aligned(packed_bytes(kernels, linear->inputs, linear->outputs));
    self->block = arena_take(packed + 3 * aligned(columns * 4) + 2 * aligned(rows * 4));
    char *next = self->block.data;
    if (next == NULL) return out_of_memory(api);
    linear->weights = (int8_t *)next;
    next += packed;
    linear->scales = arena_part(&next, columns, scales.data, (size_t)scales.size);
    linear->bias = self->base.form & BIAS
                       ? arena_part(&next, columns, bias.data, (size_t)bias.size)
                       : arena_part(&next, columns, NULL, 0);
    linear->sums = arena_part(&next, columns, NULL, 0);
    if (self->base.form & NORM) {
        self->norm.gamma = arena_part(&next, rows, gamma.data, (size_t)gamma.size);
        self->norm.beta = arena_part(&next, rows, beta.data, (size_t)beta.size);
    }
    for (int i = 0; i < linear->outputs; i++) linear->scales[i] *= 1 / 127.0f;
    kernels->pack(linear, weights.data, transposed ? 1 : (size_t)linear->outputs,
                  transposed ? (size_t)linear->inputs : 1, 0, panels(kernels, linear->outputs));
    return NULL;
}

static void quantize_task(void *data, size_t index) {
    const Call *call = data;
    const LinearKernel *self = call->kernel;
    const Kernels *kernels = self->base.kernels;
    int inputs = self->linear.inputs;
    int bytes = self->linear.bytes;
    size_t words = (size_t)(row_words(kernels, inputs) * bytes), row = index;
    call->largest[row] = kernels->quantize(call->source + row * (size_t)inputs,
                                           self->base.form & NORM ? &self->norm : NULL, inputs,
                                           bytes, call->scratch + row * (size_t)padded(inputs),
                                           call->words + row * words);
}

static void multiply_task(void *data, size_t index) {
    const Call *call = data;
    const LinearKernel *self = call->kernel;
    const Linear *linear = &self->linear;
    const Kernels *kernels = self->base.kernels;
    int chunk = (int)index / call->parts, part = (int)index % call->parts;
    int count = panels(kernels, linear->outputs);
    size_t begin = (size_t)(chunk * call->rows_per_task);
    size_t end = begin + (size_t)call->rows_per_task;
    if (end > (size_t)call->rows) end = (size_t)call->rows;
    size_t outputs = begin * (size_t)linear->outputs;
    size_t words = (size_t)(row_words(kernels, linear->inputs) * linear->bytes);
    kernels->multiply(linear, call->words + begin * words, call->largest + begin, (int)(end - begin), count * part / call->parts,
                      count * (part + 1) / call->parts, epilogue_of(self->base.form),
                      call->residual == NULL ? NULL : call->residual + outputs,
                      call->output + outputs);
}

static OrtStatus *run(const LinearKernel *self, OrtKernelContext *context, Call *call) {
    const OrtApi *api = self->base.api;
    size_t rows = (size_t)call->rows;
    TRY(quantize_rows(api, context, quantize_task, rows, call));
    int count = panels(self->base.kernels, self->linear.outputs);
    call->parts = count < TASKS ? count : TASKS;
    call->chunks = (call->rows + ROWS - 1) / ROWS;
    call->rows_per_task = (call->rows + call->chunks - 1) / call->chunks;
    size_t tasks = (size_t)(call->chunks * call->parts);
    return ort_ParallelFor(api)(context, multiply_task, tasks, tasks, call);
}

static OrtStatus *compute(void *kernel, OrtKernelContext *context) {
    const LinearKernel *self = kernel;
    const OrtApi *api = self->base.api;
    const Linear *linear = &self->linear;
    Call call = {.kernel = self};
    TRY(read_rows(api, context, self->base.form, 4, linear->inputs, linear->outputs, &call.source,
                  &call.residual, &call.output, &call.rows));
    count_call();
    if (call.rows == 0) return NULL;
    size_t rows = (size_t)call.rows;
    size_t width = (size_t)padded(linear->inputs), words = rows * width * (size_t)linear->bytes;
    size_t bytes = rows * width * sizeof(float) + words * sizeof(uint32_t);
    call.scratch = aligned_alloc(64, bytes + aligned(rows * sizeof(float)));
    if (call.scratch == NULL) return out_of_memory(api);
    call.words = (uint32_t *)(call.scratch + rows * width);
    call.largest = (float *)(call.words + words);
    OrtStatus *status = run(self, context, &call);
    free(call.scratch);
    return status;
}

static const int norm_types[] = {ORT_FLOAT, ORT_FLOAT, ORT_FLOAT, ORT_INT8, ORT_FLOAT, ORT_FLOAT};
static const int plain_types[] = {ORT_FLOAT, ORT_INT8, ORT_FLOAT, ORT_FLOAT, ORT_FLOAT};
static const int result[] = {ORT_FLOAT};

DEFINE_OPERATOR(norm_linear, "NormLinear", LinearKernel, norm_types, result, NORM | BIAS)
DEFINE_OPERATOR(norm_linear_gelu, "NormLinearGelu", LinearKernel, norm_types, result,
                NORM | BIAS | GELU_AFTER)
DEFINE_OPERATOR(linear_residual, "LinearResidual", LinearKernel, plain_types, result, BIAS | ADDS)
DEFINE_OPERATOR(norm_linear_a16, "NormLinearA16", LinearKernel, norm_types, result,
                NORM | BIAS | TWO_BYTES)
DEFINE_OPERATOR(norm_linear_gelu_a16, "NormLinearGeluA16", LinearKernel, norm_types, result,
                NORM | BIAS | GELU_AFTER | TWO_BYTES)
DEFINE_OPERATOR(linear_residual_a16, "LinearResidualA16", LinearKernel, plain_types, result,
                BIAS | ADDS | TWO_BYTES)
static const int head_types[] = {ORT_FLOAT, ORT_FLOAT, ORT_FLOAT, ORT_INT8, ORT_FLOAT};
DEFINE_OPERATOR(norm_head, "NormHead", LinearKernel, head_types, result, NORM | TRANSPOSED)
