/* NormLinear, NormLinearGelu, LinearResidual and NormHead: a matrix with what stands around it.
 * A16: with activations of 16 bits. */
#include <stdlib.h>
#include <string.h>

#include "arena.h"
#include "form.h"
#include "operator.h"
#include "register.h"

enum { ALONE = 47 };      /* rows at most that are not cut: reading the weights takes the time */
enum { CHUNK_ROWS = 48 }; /* at most, that meet a panel before the next is read */

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
    RowState *states;
    int rows, chunks, parts;
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

static void quantize(const void *data, size_t row, size_t task) {
    const Call *call = data;
    const LinearKernel *self = call->kernel;
    const Kernels *kernels = self->base.kernels;
    int inputs = self->linear.inputs, bytes = self->linear.bytes;
    call->largest[row] = kernels->quantize(
        call->source + row * (size_t)inputs, self->base.form & NORM ? &self->norm : NULL, inputs,
        bytes, call->scratch + task * (size_t)padded(inputs),
        call->words + row * (size_t)(row_words(kernels, inputs) * bytes));
}

/* Rows are cut into chunks, and panels into parts, chunk by chunk. Each thread takes tasks that
 * follow each other, so one mostly meets rows that it computed itself in the operator before, and
 * little passes between the caches of cores: hence an even number of chunks. */
static int chunks(int rows) {
    return rows <= ALONE ? 1 : (rows + 2 * CHUNK_ROWS - 1) / (2 * CHUNK_ROWS) * 2;
}

static void multiply_task(void *data, size_t index) {
    const Call *call = data;
    const LinearKernel *self = call->kernel;
    const Linear *linear = &self->linear;
    const Kernels *kernels = self->base.kernels;
    int chunk = (int)index / call->parts, part = (int)index % call->parts;
    Range rows = share(call->rows, chunk, call->chunks);
    Range columns = share(panels(kernels, linear->outputs), part, call->parts);
    quantize_rows(call->states, rows, part, call->parts, quantize, call, index);
    size_t outputs = rows.begin * (size_t)linear->outputs;
    size_t words = (size_t)(row_words(kernels, linear->inputs) * linear->bytes);
    kernels->multiply(linear, call->words + rows.begin * words, call->largest + rows.begin,
                      (int)(rows.end - rows.begin), (int)columns.begin, (int)columns.end,
                      epilogue_of(self->base.form),
                      call->residual == NULL ? NULL : call->residual + outputs,
                      call->output + outputs);
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
    call.chunks = chunks(call.rows);
    call.parts = parts(panels(self->base.kernels, linear->outputs));
    size_t rows = (size_t)call.rows, count = (size_t)(call.chunks * call.parts);
    size_t words = rows * (size_t)(row_words(self->base.kernels, linear->inputs) * linear->bytes);
    size_t scratch = count * (size_t)padded(linear->inputs);
    size_t numbers = scratch + words + rows; /* of four bytes each */
    call.scratch = aligned_alloc(64, aligned(numbers * sizeof(float) + rows * sizeof(RowState)));
    if (call.scratch == NULL) return out_of_memory(api);
    call.words = (uint32_t *)(call.scratch + scratch);
    call.largest = (float *)(call.words + words);
    call.states = memset(call.largest + rows, WANTED, rows * sizeof(RowState));
    OrtStatus *status = ort_ParallelFor(api)(context, multiply_task, count, count, &call);
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
