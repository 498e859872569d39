// What is done to weights: laying them out for products, and adding up their gradients over all tokens.
#pragma once
#include "tiles.hpp"
struct Layout { const Half* x; int64_t rows, width; Pair* out; int64_t out_pairs, first; };  // first: pair to begin at
template <class Cpu> INLINE void transposed(const Layout j, int64_t panel, int64_t) {  // panels of 32 rows
    const Pair* x = (const Pair*)j.x + panel * PANEL * (j.width / 2);
    Pair* out = j.out + panel * j.out_pairs * PANEL;
    for (int64_t k = 0; k < j.width / 2; k += LANES)
        for (int64_t c = 0; c < PANEL; ++c) {
            const Pairs some = *(const Pairs*)(x + c * (j.width / 2) + k);
            for (int64_t i = 0; i < LANES; ++i) out[(k + i) * PANEL + c] = some[i];
        }
}
template <class Cpu> INLINE void paired(const Layout j, int64_t panel, int64_t) {  // panels of 32 columns
    const Paired out{j.out + j.first * PANEL, j.out_pairs};
    for (int64_t row = 0; row < j.rows; row += 2)
        for (int64_t col = panel * PANEL; col < (panel + 1) * PANEL; col += LANES)
            put<Cpu>(nullptr, 0, out, row, col, load(j.x + row * j.width + col), load(j.x + (row + 1) * j.width + col));
}
// ---- grad += left^T @ right, the gradient of a weight, and the sums of left, that of a bias
struct WeightGrad { const Pair *left, *right; int64_t pairs, n_panels; float *grad, *bias; };  // n_panels: of right
template <class Cpu> INLINE void weight_grad(const WeightGrad j, int64_t panel, int64_t) {  // 32 rows of grad
    constexpr int64_t SOME = 512;  // pairs of which left and right stay in a cache
    const Pair* left = j.left + panel * j.pairs * PANEL;
    const int64_t width = j.n_panels * PANEL;
    for (int64_t k = 0; k < j.pairs; k += SOME)
        for (int64_t col = 0; col < width; col += PANEL)
            for (int64_t r = 0; r < PANEL; r += ROWS) {
                Tile sum;
                tile<Cpu>(left + k * PANEL + r, 1, PANEL, j.right + col * j.pairs + k * PANEL,
                          std::min(SOME, j.pairs - k), sum);
                for (int i = 0; i < ROWS; ++i)
                    for (int v = 0; v < 2; ++v)
                        at(j.grad + (panel * PANEL + r + i) * width + col + v * LANES) += sum[i][v];
            }
    if (!j.bias) return;
    Floats sum[2] = {};
    for (int64_t k = 0; k < j.pairs; ++k)
        for (int v = 0; v < 2; ++v) {
            const Pairs two = *(const Pairs*)(left + k * PANEL + v * LANES);
            sum[v] += (Floats)(two << 16) + (Floats)(two & 0xffff0000);
        }
    for (int v = 0; v < 2; ++v) at(j.bias + panel * PANEL + v * LANES) += sum[v];
}
