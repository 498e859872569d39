// The parts of a Transformer block, forward and backward, on a CPU: numbers in bf16, sums in float32. `block_pass.py`
// makes a block of them.
// Nearly all the time goes into products of matrices, and in these into one instruction, which multiplies 16 pairs of
// bf16 numbers by 16 others and adds up each pair. What follows from that:
//   pairs      what is added up lies in pairs: neighbouring features of a row, or one feature of two rows ("paired")
//   panels     the right matrix is laid out so that 32 columns of it are read from one place to the next
//   registers  a tile of 8 x 32 sums stays in them from the first pair to the last; each pair read is used many times
//   endings    whatever comes after a product (bias, activation, residual) happens while its sums are in registers
// Every function works through numbered chunks, and whichever thread is free takes the next.
#include "attention.hpp"
#include "weights.hpp"
// Two threads of ours beside those of torch would be too many for two cores: take torch's own. Without them, one works.
extern "C" void GOMP_parallel(void (*)(void*), void*, unsigned, unsigned) __attribute__((weak));
struct Chunks {
    void (*work)(const void*, int64_t, int64_t); const void* job; int64_t n; std::atomic<int64_t> next{0}, threads{0};
};
static void take_chunks(void* shared) {
    auto* c = (Chunks*)shared;
    const int64_t thread = c->threads++;
    for (int64_t i; (i = c->next++) < c->n;) c->work(c->job, i, thread);
}
// ---- processors
struct Plain {  // any
    static void add(Floats& sum, Pair a, const Pairs& b) {
        sum += (Floats)(b << 16) * __builtin_bit_cast(float, a << 16);
        sum += (Floats)(b & 0xffff0000) * __builtin_bit_cast(float, a & 0xffff0000);
    }
    static Halves round(const Floats& x) {  // to the nearest, and of two to the even one
        const Pairs bits = (Pairs)x;
        return __builtin_convertvector((bits + 0x7fff + (bits >> 16 & 1)) >> 16, Halves);
    }
};
#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#define FAST __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16"), flatten))
struct Bf16 {
    FAST static void add(Floats& sum, Pair a, const Pairs& b) {
        sum = (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(a), (__m512bh)b);
    }
    FAST static Halves round(const Floats& x) { return (Halves)_mm512_cvtneps_pbh((__m512)x); }
};
extern "C" int kernel_level() {  // what the processor has: 0 nothing for it, 1 instructions for bf16, 2 tiles (AMX) too
    unsigned a, b, c, d = 0;
    __get_cpuid_count(7, 0, &a, &b, &c, &d);
    const bool fast = __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bf16");
    return fast ? 1 + (d >> 22 & 1) : 0;
}
#else
#define FAST
typedef Plain Bf16;
extern "C" int kernel_level() { return 0; }
#endif
#define EXPORT(name, Job)                                                                                              \
    static void name##_plain(const void* job, int64_t i, int64_t thread) { name<Plain>(*(const Job*)job, i, thread); } \
    FAST static void name##_fast(const void* job, int64_t i, int64_t thread) {                                         \
        name<Bf16>(*(const Job*)job, i, thread);                                                                       \
    }                                                                                                                  \
    extern "C" void kernel_##name(const Job* job, int64_t n, int64_t threads, int fast) {                              \
        Chunks chunks{fast ? name##_fast : name##_plain, job, n};                                                      \
        if (GOMP_parallel && threads > 1 && n > 1) GOMP_parallel(take_chunks, &chunks, unsigned(threads), 0);          \
        else take_chunks(&chunks);                                                                                     \
    }
EXPORT(chain, Chain)
EXPORT(transposed, Layout)
EXPORT(paired, Layout)
EXPORT(weight_grad, WeightGrad)
EXPORT(attend, Attention)
EXPORT(attend_back, Attention)
