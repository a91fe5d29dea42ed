/* The library's entry: registers every operator with a session's options, or none. */
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
EXPORT int gpt2ja_version(void) { return 1; }

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

EXPORT OrtStatus *RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base) {
    const OrtApi *api = base->GetApi(ORT_API);
    if (chosen_kernels() == NULL)
        return ort_CreateStatus(api)(ORT_FAIL, "no native operator runs on this processor");
    static const OrtCustomOp *const operators[] = {
        &operator_embed,           &operator_norm_linear, &operator_norm_linear_gelu,
        &operator_linear_residual, &operator_attention,   &operator_norm_head,
        &operator_candidates,      &operator_norm_linear_int4,
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
