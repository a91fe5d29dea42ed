/* NormLinearInt4, NormLinearGeluInt4 and LinearResidualInt4: an int4 matrix and what is around. */
#include <stdlib.h>
#include <string.h>

#include "arena.h"
#include "form.h"
#include "operator.h"
#include "register.h"


typedef struct {
    Operator base;
    Linear4 linear;
    Norm norm;
    Block block; /* that everything above points into */
} Linear4Kernel;

typedef struct {
    const Linear4Kernel *kernel;
    const float *source, *residual;
    float *output, *scratch;
    Row4 rows;
    RowState *states;
    int count, parts;
} Call;

static void destroy(void *kernel) {
    Linear4Kernel *self = kernel;
    arena_give_back(self->block);
    free(self);
}

/* Reads the weights and packs them. */
static OrtStatus *fill(void *kernel, const OrtKernelInfo *info) {
    Linear4Kernel *self = kernel;
    const OrtApi *api = self->base.api;
    Linear4 *linear = &self->linear;
    size_t index;
    Tensor gamma, beta, weights, scales, zeros, bias;
    TRY(read_norm(api, info, self->base.form, &gamma, &beta, &self->norm.epsilon, &index));
    TRY(read_constant(api, info, index++, &weights));
    TRY(read_constant(api, info, index++, &scales));
    TRY(read_constant(api, info, index++, &zeros));
    TRY(read_constant(api, info, index++, &bias));
    if (weights.rank != 3 || weights.dims[2] != BLOCK4 / 2 || weights.dims[0] < 1 ||
        weights.dims[0] > 1 << 24 || weights.dims[1] < 1 || weights.dims[1] > 1 << 18)
        return invalid(api, "the weights are not of shape (outputs, blocks, 16)");
    int64_t blocks = weights.dims[1];
    linear->outputs = (int)weights.dims[0];
    linear->inputs = (int)blocks * BLOCK4;
    if (scales.size != blocks * linear->outputs ||
        zeros.size != (blocks + 1) / 2 * linear->outputs || bias.size != linear->outputs ||
        (self->base.form & NORM && (gamma.size != linear->inputs || beta.size != linear->inputs)))
        return invalid(api, "the weights' sizes do not fit each other");
    size_t columns = (size_t)panels4(linear->outputs) * PANEL4, rows = (size_t)linear->inputs;
    size_t packed = aligned(packed4_bytes(linear->inputs, linear->outputs));
    self->block = arena_take(packed + aligned(columns * 4) + 2 * aligned(rows * 4));
    char *next = self->block.data;
    if (next == NULL) return out_of_memory(api);
    linear->weights = (uint8_t *)next;
    next += packed;
    linear->bias = arena_part(&next, columns, bias.data, (size_t)bias.size);
    if (self->base.form & NORM) {
        self->norm.gamma = arena_part(&next, rows, gamma.data, rows);
        self->norm.beta = arena_part(&next, rows, beta.data, rows);
    }
    self->base.kernels->pack4(linear, weights.data, scales.data, zeros.data);
    return NULL;
}

static void quantize(const void *data, size_t row, size_t task) {
    const Call *call = data;
    const Linear4Kernel *self = call->kernel;
    size_t inputs = (size_t)self->linear.inputs;
    Row4 target = {call->rows.words + row * inputs / 4, call->rows.scales + row * inputs / BLOCK4};
    self->base.kernels->quantize4(call->source + row * inputs,
                                  self->base.form & NORM ? &self->norm : NULL, (int)inputs,
                                  call->scratch + task * inputs, target);
}

static void multiply_task(void *data, size_t index) {
    const Call *call = data;
    const Linear4Kernel *self = call->kernel;
    Range rows = {0, (size_t)call->count};
    Range columns = share(panels4(self->linear.outputs), (int)index, call->parts);
    quantize_rows(call->states, rows, (int)index, call->parts, quantize, call, index);
    self->base.kernels->multiply4(&self->linear, call->rows, call->count, (int)columns.begin,
                                  (int)columns.end, epilogue_of(self->base.form), call->residual,
                                  call->output);
}

static OrtStatus *compute(void *kernel, OrtKernelContext *context) {
    const Linear4Kernel *self = kernel;
    const OrtApi *api = self->base.api;
    const Linear4 *linear = &self->linear;
    Call call = {.kernel = self};
    TRY(read_rows(api, context, self->base.form, 5, linear->inputs, linear->outputs, &call.source,
                  &call.residual, &call.output, &call.count));
    count_call();
    if (call.count == 0) return NULL;
    call.parts = parts(panels4(linear->outputs));
    size_t rows = (size_t)call.count, inputs = (size_t)linear->inputs;
    size_t count = (size_t)call.parts, scratch = count * inputs;
    size_t each = inputs + inputs / BLOCK4 * sizeof(Scale4) + sizeof(RowState);
    call.scratch = malloc(scratch * sizeof(float) + rows * each);
    if (call.scratch == NULL) return out_of_memory(api);
    call.rows.words = (uint32_t *)(call.scratch + scratch);
    call.rows.scales = (Scale4 *)(call.rows.words + rows * inputs / 4);
    call.states = memset(call.rows.scales + rows * inputs / BLOCK4, WANTED,
                         rows * sizeof(RowState));
    OrtStatus *status = ort_ParallelFor(api)(context, multiply_task, count, count, &call);
    free(call.scratch);
    return status;
}

static const int norm_types[] = {ORT_FLOAT, ORT_FLOAT, ORT_FLOAT, ORT_UINT8,
                                 ORT_FLOAT, ORT_UINT8, ORT_FLOAT};
static const int plain_types[] = {ORT_FLOAT, ORT_UINT8, ORT_FLOAT,
                                  ORT_UINT8, ORT_FLOAT, ORT_FLOAT};
static const int result[] = {ORT_FLOAT};

DEFINE_OPERATOR(norm_linear_int4, "NormLinearInt4", Linear4Kernel, norm_types, result, NORM | BIAS)
DEFINE_OPERATOR(norm_linear_gelu_int4, "NormLinearGeluInt4", Linear4Kernel, norm_types, result,
                NORM | BIAS | GELU_AFTER)
DEFINE_OPERATOR(linear_residual_int4, "LinearResidualInt4", Linear4Kernel, plain_types, result,
                BIAS | ADDS)
