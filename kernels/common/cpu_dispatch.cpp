// Which instruction set the CPU operators use; `fpm kernels list` and the tests reach it through the C functions.
#include "cpu_dispatch.h"

namespace fpm {
namespace {

InstructionSet best_instruction_set() {
#ifdef FPM_X86
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                      __builtin_cpu_supports("f16c");
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
    if (avx2 && avx512) return InstructionSet::kAvx512;
    if (avx2) return InstructionSet::kAvx2;
#endif
    return InstructionSet::kBaseline;
}

InstructionSet current = best_instruction_set();

}  // namespace

InstructionSet instruction_set() {
    return current;
}

}  // namespace fpm

// 0 the baseline, 1 AVX2, 2 AVX-512.
extern "C" __attribute__((visibility("default"))) int fpm_instruction_set() {
    return static_cast<int>(fpm::instruction_set());
}

// Uses `wanted`, or the best this processor has where that is less; gives back what is used.
extern "C" __attribute__((visibility("default"))) int fpm_use_instruction_set(int wanted) {
    const int best = static_cast<int>(fpm::best_instruction_set());
    fpm::current = static_cast<fpm::InstructionSet>(wanted < best ? wanted : best);
    return static_cast<int>(fpm::current);
}
