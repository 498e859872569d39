// What all parts of the kernel stand on: vectors of 16 numbers, the two layouts, and the tile of a product.
#pragma once
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <vector>
#define INLINE static inline __attribute__((always_inline))  // compiled anew for each processor
typedef uint16_t Half;  // bf16: the upper half of a float
typedef uint32_t Pair;  // two of them, the first in the lower half
typedef float Floats __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t Ints __attribute__((vector_size(64), aligned(4), may_alias));
typedef Pair Pairs __attribute__((vector_size(64), aligned(4), may_alias));
typedef Half Halves __attribute__((vector_size(32), aligned(2), may_alias));
constexpr int64_t LANES = 16, PANEL = 32, ROWS = 8;
typedef Floats Tile[ROWS][2];  // of the sums of a product: 16 registers
INLINE Floats load(const Half* x) { return (Floats)(__builtin_convertvector(*(const Halves*)x, Pairs) << 16); }
INLINE Floats& at(float* x) { return *(Floats*)x; }
INLINE const Floats& at(const float* x) { return *(const Floats*)x; }
#define SWAPPED(v, ...) __builtin_shufflevector(v, v, __VA_ARGS__)
INLINE float folded(Floats v, auto join) {  // all 16 lanes joined, by halves
    v = join(v, SWAPPED(v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
    v = join(v, SWAPPED(v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));
    v = join(v, SWAPPED(v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
    return join(v, SWAPPED(v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14))[0];
}
INLINE Floats smaller(Floats a, Floats b) { return a < b ? a : b; }
INLINE Floats larger(Floats a, Floats b) { return a > b ? a : b; }
INLINE Floats power_of_2(Floats x) {  // up to 127: 2^n 2^f, |f| <= 1/2, to 5e-5, a hundredth of bf16's step; 0 at -127
    x = larger(x, Floats{} - 127);
    const Floats whole = x + 12582912.f, f = x - (whole - 12582912.f);  // so large that it can only be whole
    const Floats power = 1 + f * (0.693147181f + f * (0.240226507f + f * (0.0555041087f + f * 0.00961812911f)));
    return (Floats)((Ints)power + ((Ints)whole << 23));  // n lies in the lowest bits of `whole`
}
INLINE float total(Floats v) { return folded(v, [](Floats a, Floats b) { return a + b; }); }
INLINE float largest(Floats v) { return folded(v, larger); }
// Work is done for some rows at a time, so that what one function leaves to the next is still in the processor's cache.
struct Span { int64_t first, end, number, thread; };
struct Rows {  // a matrix row by row: a whole one, or (own > 0 numbers a thread) only the rows of a thread's span
    Half* x; int64_t width, own;
    Half* of(const Span& span) const { return own ? x + span.thread * own - span.first * width : x; }
};
struct Paired { Pair* x; int64_t n_pairs; };  // (panels of 32 columns, pairs of rows, 32)
struct Out { Rows rows; Paired paired; };     // either may be missing
template <class Cpu>
INLINE void put(Half* rows, int64_t width, const Paired paired, int64_t row, int64_t col, Floats even, Floats odd) {
    const Halves low = Cpu::round(even), high = Cpu::round(odd);
    if (rows) *(Halves*)(rows + row * width + col) = low, *(Halves*)(rows + (row + 1) * width + col) = high;
    if (paired.x)
        *(Pairs*)(paired.x + (col / PANEL * paired.n_pairs + row / 2) * PANEL + col % PANEL) =
            __builtin_convertvector(low, Pairs) | __builtin_convertvector(high, Pairs) << 16;
}
template <class Cpu>
INLINE void put(const Out out, const Span span, int64_t row, int64_t col, Floats even, Floats odd) {
    put<Cpu>(out.rows.x ? out.rows.of(span) : nullptr, out.rows.width, out.paired, row, col, even, odd);
}
INLINE void fetch(const Half* x, int64_t n) {  // numbers that will be wanted: let them come while others are used
    for (int64_t i = 0; i < n; i += 2 * LANES) __builtin_prefetch(x + i);
}
// The heart. Pair k of row r of the left matrix is left[r * row + k * step]; the right one is a panel.
template <class Cpu>
INLINE void tile(const Pair* left, int64_t row, int64_t step, const Pair* right, int64_t n, Tile& sum) {
    for (auto& sums : sum) for (auto& each : sums) each = Floats{};
    for (int64_t k = 0; k < n; ++k, left += step, right += PANEL)
        for (int r = 0; r < ROWS; ++r)
            for (int v = 0; v < 2; ++v) Cpu::add(sum[r][v], left[r * row], *(const Pairs*)(right + v * LANES));
}
