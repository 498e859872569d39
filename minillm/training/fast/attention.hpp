// Causal attention: forward, the scores of 8 queries at a time are written down; backward, those of one head.
#pragma once
#include "rows.hpp"
constexpr int64_t AHEAD = 16;  // rows of one head lie far apart: they are fetched so long before they are read
// One sequence and one head of keys and values a chunk, with all the queries that read it.
struct Attention {
    const Half* qkv; int64_t length, n_heads, n_kv_heads, head_dim; double scale;
    Out out;       // forward: what is read, (rows, heads); backward: the gradient of qkv
    float* peaks;  // (batch, heads, length): of each query the logarithm, to base 2, of the sum of its exponentials
    const Half *seen, *grad;  // backward: what the forward pass gave, and its gradient
};
struct Head {  // of a chunk: sizes, its queries (heads first to end), where its keys stand in qkv, room to work in
    int64_t width, wide, length, padded, pairs, halves, batch, first, end, out_width;
    float scale;
    const Half *k, *v;
    Pair* free;
    Head(const Attention& j, int64_t chunk) : width(j.head_dim), wide((j.n_heads + 2 * j.n_kv_heads) * width),
        length(j.length), padded((length + PANEL - 1) / PANEL * PANEL), pairs(padded / 2), halves(width / 2),
        batch(chunk / j.n_kv_heads), first(chunk % j.n_kv_heads * (j.n_heads / j.n_kv_heads)),
        end(first + j.n_heads / j.n_kv_heads), out_width(j.n_heads * width), scale(j.scale * 1.44269504),  // to base 2
        k(j.qkv + batch * length * wide + (j.n_heads + chunk % j.n_kv_heads) * width), v(k + j.n_kv_heads * width) {
        static thread_local std::vector<Pair> memory;
        memory.resize(padded * (5 * width + 2 * pairs + 2 * ROWS) + 8 * LANES);
        free = (Pair*)((uintptr_t(memory.data()) + 63) / 64 * 64);  // where a line of the cache begins
    }
    template <class T> T* room(int64_t n) {
        T* taken = (T*)free;
        free += n * sizeof(T) / sizeof(Pair);
        return taken;
    }
    Pair* in_panels(const Half* x) {  // keys, to (panel of keys, pair, 32)
        Pair* out = room<Pair>(padded * halves);
        std::fill_n(out, padded * halves, 0);
        for (int64_t t = 0; t < length; ++t) {
            fetch(x + std::min(t + AHEAD, length - 1) * wide, width);
            const Pair* from = (const Pair*)(x + t * wide);
            Pair* to = out + t / PANEL * halves * PANEL + t % PANEL;
            for (int64_t i = 0; i < halves; ++i) to[i * PANEL] = from[i];
        }
        return out;
    }
};
template <class Cpu> INLINE Paired pair_rows(const Half* x, int64_t stride, int64_t length, int64_t width, Paired out) {
    for (int64_t t = 0; t < out.n_pairs * 2; t += 2) {
        const int64_t later = std::min(t + AHEAD, length - 2);
        fetch(x + later * stride, width), fetch(x + (later + 1) * stride, width);
        for (int64_t c = 0; c < width; c += LANES) {
            const Floats none{}, even = t < length ? load(x + t * stride + c) : none;
            put<Cpu>(nullptr, 0, out, t, c, even, t < length ? load(x + (t + 1) * stride + c) : none);
        }
    }
    return out;
}
// Scores of 8 queries from `top` on and one panel of keys, not yet scaled; what a query may not see is far below.
template <class Cpu> INLINE void scores(const Half* q, int64_t wide, const Pair* keys, int64_t halves, int64_t top,
                                        int64_t panel, Tile& sum) {
    tile<Cpu>((const Pair*)(q + top * wide), wide / 2, 1, keys + panel * halves * PANEL, halves, sum);
    const Ints lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    if ((panel + 1) * PANEL > top)
        for (int r = 0; r < ROWS; ++r)
            for (int v = 0; v < 2; ++v)
                sum[r][v] = lane + int(panel * PANEL + v * LANES) > int(top + r) ? Floats{} - 1e30f : sum[r][v];
}
// 8 rows of weights times a matrix in pairs of rows: what the queries from `top` on read, of which each does `each`.
template <class Cpu> INLINE void read(const Half* weights, int64_t padded, const Paired& from, int64_t width,
                                      int64_t top, const Out& out, int64_t row, int64_t col, auto each) {
    const Paired paired = out.paired;
    for (int64_t c = 0; c < width; c += PANEL) {
        Tile sum;
        tile<Cpu>((const Pair*)weights, padded / 2, 1, from.x + c * from.n_pairs, (top + ROWS) / 2, sum);
        ending<Cpu>(out.rows.x, out.rows.width, paired, row + top, col + c, sum, each);
    }
}
template <class Cpu> INLINE void attend(const Attention j, int64_t chunk, int64_t) {
    Head h(j, chunk);
    const int64_t width = h.width, wide = h.wide, length = h.length, padded = h.padded, halves = h.halves;
    const float scale = h.scale;
    const Pair* keys = h.in_panels(h.k);
    const Paired values = pair_rows<Cpu>(h.v, wide, length, width, {h.room<Pair>(h.pairs * width), h.pairs});
    float* score = h.room<float>(ROWS * padded);
    Half* weights = h.room<Half>(ROWS * padded);
    for (int64_t head = h.first; head < h.end; ++head) {
        const Half* q = j.qkv + h.batch * length * wide + head * width;
        float* peaks = j.peaks + (h.batch * j.n_heads + head) * length;
        for (int64_t r = 0; r < length; r += ROWS) {
            const int64_t top = std::min(r, length - ROWS), n_keys = ((top + ROWS - 1) / PANEL + 1) * PANEL;
            Floats high[ROWS];
            for (auto& each : high) each = Floats{} - 1e30f;
            for (int64_t panel = 0; panel < n_keys / PANEL; ++panel) {
                Tile sum;
                scores<Cpu>(q, wide, keys, halves, top, panel, sum);
                for (int i = 0; i < ROWS; ++i) {
                    for (int v = 0; v < 2; ++v) at(score + i * padded + panel * PANEL + v * LANES) = sum[i][v];
                    high[i] = larger(high[i], larger(sum[i][0], sum[i][1]));
                }
            }
            float share[ROWS];  // of what all exponentials together are: divided by at the end
            for (int i = 0; i < ROWS; ++i) {
                Floats sum{};
                const float *row = score + i * padded, peak = largest(high[i]) * scale;
                for (int64_t c = 0; c < n_keys; c += LANES) {
                    const Floats power = power_of_2(at(row + c) * scale - peak);
                    *(Halves*)(weights + i * padded + c) = Cpu::round(power), sum += power;
                }
                const float all = total(sum);
                share[i] = 1 / all, peaks[top + i] = peak + std::log2(all);
            }
            read<Cpu>(weights, padded, values, width, top, j.out, h.batch * length, head * width,
                      [&](Floats y, int i, int) { return y * share[i]; });
        }
    }
}
// The weights are made again from their peaks. With w = softmax(s): grad of s = w * (grad of w - seen . grad).
template <class Cpu> INLINE void attend_back(const Attention j, int64_t chunk, int64_t) {
    Head h(j, chunk);
    const int64_t width = h.width, wide = h.wide, length = h.length, padded = h.padded, halves = h.halves;
    const int64_t pairs = h.pairs, out_width = h.out_width;
    const float scale = h.scale, plain_scale = j.scale;
    const Pair *keys = h.in_panels(h.k), *values = h.in_panels(h.v);
    const auto room = [&] { return Paired{h.room<Pair>(pairs * width), pairs}; };
    const Paired key_rows = pair_rows<Cpu>(h.k, wide, length, width, room()), q_rows = room(), grad_rows = room();
    const Paired w_pairs{h.room<Pair>(pairs * padded), pairs}, s_pairs{h.room<Pair>(pairs * padded), pairs};
    float *to_k = h.room<float>(padded * width), *to_v = h.room<float>(padded * width);
    Half* back = h.room<Half>(ROWS * padded);
    std::fill_n(to_k, padded * width, 0.0f), std::fill_n(to_v, padded * width, 0.0f);
    for (int64_t head = h.first; head < h.end; ++head) {
        const Half* q = j.qkv + h.batch * length * wide + head * width;
        const Half *grad = j.grad + h.batch * length * out_width + head * width, *seen = j.seen + (grad - j.grad);
        const float* peaks = j.peaks + (h.batch * j.n_heads + head) * length;
        pair_rows<Cpu>(q, wide, length, width, q_rows), pair_rows<Cpu>(grad, out_width, length, width, grad_rows);
        for (int64_t r = 0; r < length; r += ROWS) {
            const int64_t top = std::min(r, length - ROWS), n_panels = (top + ROWS - 1) / PANEL + 1;
            float along[ROWS];
            for (int i = 0; i < ROWS; ++i) {
                fetch(seen + std::min(top + i + ROWS, length - 1) * out_width, width);
                Floats sum{};
                for (int64_t c = 0, from = (top + i) * out_width; c < width; c += LANES)
                    sum += load(seen + from + c) * load(grad + from + c);
                along[i] = total(sum);
            }
            for (int64_t panel = 0; panel < n_panels; ++panel) {
                Tile w, s;
                scores<Cpu>(q, wide, keys, halves, top, panel, w);
                for (int i = 0; i < ROWS; ++i)
                    for (int v = 0; v < 2; ++v) w[i][v] = power_of_2(w[i][v] * scale - peaks[top + i]);
                tile<Cpu>((const Pair*)(grad + top * out_width), out_width / 2, 1,
                          values + panel * halves * PANEL, halves, s);
                for (int i = 0; i < ROWS; i += 2)
                    for (int v = 0; v < 2; ++v) {
                        const Floats even = w[i][v] * ((s[i][v] - along[i]) * plain_scale);
                        const Floats odd = w[i + 1][v] * ((s[i + 1][v] - along[i + 1]) * plain_scale);
                        const int64_t col = panel * PANEL + v * LANES;
                        put<Cpu>(nullptr, 0, w_pairs, top + i, col, w[i][v], w[i + 1][v]);
                        put<Cpu>(back - top * padded, padded, s_pairs, top + i, col, even, odd);
                    }
            }
            read<Cpu>(back, padded, key_rows, width, top, j.out, h.batch * length, head * width,
                      [](Floats y, int, int) { return y; });
        }
        for (int64_t t = 0; t < padded; t += ROWS)  // a key is seen by queries from itself on
            for (int64_t c = 0; c < width; c += PANEL) {
                const int64_t first = t / PANEL * PANEL / 2, n = length / 2 - first;
                const int64_t left = (t / PANEL * pairs + first) * PANEL + t % PANEL, right = c * pairs + first * PANEL;
                Tile sum;
                const auto add = [&](const Paired& weights, const Paired& from, float* to) {
                    tile<Cpu>(weights.x + left, 1, PANEL, from.x + right, n, sum);
                    for (int i = 0; i < ROWS; ++i)
                        for (int v = 0; v < 2; ++v) at(to + (t + i) * width + c + v * LANES) += sum[i][v];
                };
                add(w_pairs, grad_rows, to_v), add(s_pairs, q_rows, to_k);
            }
    }
    const Out out = j.out;
    for (int64_t t = 0; t < length; t += 2)
        for (int64_t c = 0; c < width; c += LANES) {
            const int64_t row = h.batch * length + t, col = (h.k - j.qkv) % wide + c;
            const float *k = to_k + t * width + c, *v = to_v + t * width + c;
            put<Cpu>(out.rows.x, out.rows.width, out.paired, row, col, at(k), at(k + width));
            put<Cpu>(out.rows.x, out.rows.width, out.paired, row, col + j.n_kv_heads * width, at(v), at(v + width));
        }
}
