/* The library's entry: registers every operator with a session's options, or none. */
#include <stdlib.h>

#include "choose.h"
#include "processor.h"
#include "register.h"

#define EXPORT __attribute__((visibility("default")))

static const char domain_name[] = "gpt2ja";

const Kernels *chosen_kernels(void) {
    static const Kernels *chosen; /* the same answer, whoever asks first */
    if (chosen == NULL) chosen = processor_kernels();
    return chosen;
}

/* See VERSION in gpt2ja_kernels. */
EXPORT int gpt2ja_version(void) { return 6; }

/* The instruction set that the operators use here; null where none of them runs. */
EXPORT const char *gpt2ja_instruction_set(void) {
    const Kernels *kernels = chosen_kernels();
    return kernels == NULL ? NULL : kernels->name;
}

/* Of `rows` rows of `size` scores: see sum_exponentials in kernels.h. */
EXPORT void gpt2ja_sum_exponentials(const float *scores, size_t rows, int size, float *largest,
                                    double *totals) {
    const Kernels *kernels = chosen_kernels();
    for (size_t row = 0; row < rows; row++)
        kernels->sum_exponentials(scores + row * (size_t)size, size, largest + row, totals + row);
}

/* Of `rows` rows of `size` scores: see draw_nucleus in kernels.h. */
EXPORT void gpt2ja_draw_nucleus(const float *scores, size_t rows, int size,
                                const float *temperature, const double *limit,
                                const double *min_p, const double *uniform, int64_t *drawn) {
    const Kernels *kernels = chosen_kernels();
    void *scratch = malloc(nucleus_scratch(size));
    for (size_t row = 0; row < rows; row++)
        drawn[row] = scratch == NULL ? -1
                                     : kernels->draw_nucleus(scores + row * (size_t)size, size,
                                                             temperature[row], limit[row],
                                                             min_p[row], uniform[row], scratch);
    free(scratch);
}

/* The `count` largest of `size` scores: see best in kernels.h. */
EXPORT void gpt2ja_best(const float *scores, int size, int count, float *best, int64_t *places) {
    chosen_kernels()->best(scores, size, NULL, count, best, places);
}

/* Choose a token for each of `rows` rows: see choose.h. */
EXPORT void gpt2ja_choose(const Choice *choices, size_t rows, const float *best,
                          const int64_t *ids, int count, const float *all, int size,
                          const double *uniform, int64_t *tokens, int changed) {
    ChoiceScores scores = {best, ids, all, count, size};
    choose_tokens(chosen_kernels(), choices, rows, &scores, uniform, changed, tokens);
}

EXPORT OrtStatus *RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base) {
    const OrtApi *api = base->GetApi(ORT_API);
    if (chosen_kernels() == NULL)
        return ort_CreateStatus(api)(ORT_FAIL, "no native operator runs on this processor");
    static const OrtCustomOp *const operators[] = {
        &operator_embed,           &operator_norm_linear, &operator_norm_linear_gelu,
        &operator_linear_residual, &operator_attention,   &operator_attention_kv16,
        &operator_norm_head,       &operator_candidates,  &operator_norm_linear_a16,
        &operator_norm_linear_gelu_a16,  &operator_linear_residual_a16,
        &operator_norm_linear_int4,
        &operator_norm_linear_gelu_int4, &operator_linear_residual_int4,
    };
    static OrtCustomOpDomain *domain; /* for the process: sessions keep pointers to it */
    if (domain == NULL) {
        OrtCustomOpDomain *made;
        TRY(ort_CreateDomain(api)(domain_name, &made));
        for (size_t i = 0; i < LENGTH(operators); i++)
            TRY(ort_DomainAdd(api)(made, operators[i]));
        domain = made;
    }
    return ort_AddDomain(api)(options, domain);
}
