// One set of functions per instruction set; the best one that this processor has is picked once at run time.
#pragma once

#include <cstdint>

namespace fpm {

enum class InstructionSet { kBaseline, kAvx2, kAvx512 };

// What the operators use from now on; at first the best this processor has.
InstructionSet instruction_set();

enum class ElementType { kFloat32, kBfloat16, kFloat16 };

// Tensors of fewer elements than this are worked on by one thread: waking another costs a few microseconds.
constexpr int64_t kElementsPerThread = 16384;

}  // namespace fpm

// A name that differs between instruction sets: FPM_ISA is set on the compiler's command line.
#define FPM_CONCATENATE(a, b) a##_##b
#define FPM_EXPAND(a, b) FPM_CONCATENATE(a, b)
#define FPM_ISA_NAME(name) FPM_EXPAND(name, FPM_ISA)

// The table `name` of the instruction set in use. Builds for other processors have the baseline alone.
#ifdef FPM_X86
#define FPM_PICK(name)                                                             \
    (::fpm::instruction_set() == ::fpm::InstructionSet::kAvx512 ? name##_avx512    \
     : ::fpm::instruction_set() == ::fpm::InstructionSet::kAvx2 ? name##_avx2      \
                                                                : name##_baseline)
#else
#define FPM_PICK(name) name##_baseline
#endif
