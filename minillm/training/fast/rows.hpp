// What is done to each token by itself: products with weights, norms, gates, rotations; for a span of rows at a time.
#pragma once
#include "tiles.hpp"
// ---- activations: the value, and the slope that the backward pass will want
enum { NONE, GELU, GELU_TANH, RELU, RELU_SQUARED, SILU };
template <int N> INLINE Floats polynomial(Floats x, const float (&c)[N]) {
    Floats y = x * c[N - 1] + c[N - 2];
    for (int i = N - 3; i >= 0; --i) y = y * x + c[i];
    return y;
}
INLINE Floats sigmoid(Floats u) { return 1 / (1 + power_of_2(smaller(u * -1.44269504f, Floats{} + 120))); }
template <int KIND> INLINE Floats bend(Floats u, Floats& slope) {
    if constexpr (KIND == GELU) {  // x Phi(x), Phi and the slope as polynomials up to 4.4 (least errors 4e-5, 2e-4)
        constexpr float VALUE[] = {0.398761875f, -0.0660769405f, 0.00964335784f, -0.00105509415f, 8.43101558e-05f,
                                   -4.72653733e-06f, 1.7417832e-07f, -3.75685262e-09f, 3.57290282e-11f};
        constexpr float SLOPE[] = {0.797106564f, -0.263248303f, 0.0570366557f, -0.00815038031f, 0.00078879318f,
                                   -5.09739334e-05f, 2.09382412e-06f, -4.9182218e-08f, 5.01044804e-10f};
        const Floats x = larger(smaller(u, Floats{} + 4.4f), Floats{} - 4.4f), square = x * x;
        slope = 0.5f + x * polynomial(square, SLOPE);
        return u * (0.5f + x * polynomial(square, VALUE));
    } else if constexpr (KIND == GELU_TANH) {  // tanh written as a sigmoid
        const Floats share = sigmoid(1.595769122f * (u + 0.044715f * u * u * u));
        slope = share + u * share * (1 - share) * 1.595769122f * (1 + 0.134145f * u * u);
        return u * share;
    } else if constexpr (KIND == SILU) {
        const Floats share = sigmoid(u);
        slope = share * (1 + u * (1 - share));
        return u * share;
    } else {
        const Floats positive = larger(u, Floats{});
        slope = KIND == RELU_SQUARED ? 2 * positive : u > 0 ? Floats{} + 1 : Floats{};
        return KIND == RELU_SQUARED ? positive * positive : positive;
    }
}
INLINE void with_kind(int64_t kind, auto call) {
    if (kind == GELU) call.template operator()<GELU>();
    else if (kind == GELU_TANH) call.template operator()<GELU_TANH>();
    else if (kind == RELU) call.template operator()<RELU>();
    else if (kind == RELU_SQUARED) call.template operator()<RELU_SQUARED>();
    else call.template operator()<SILU>();
}
// ---- out = act(left @ right + bias) * factor + residual
struct Product {
    Rows left; const Pair* right; int64_t n_panels; const Half* bias; Rows factor, residual; Out out; int64_t kind;
    Rows slope;
};
template <class Cpu> INLINE void ending(Half* rows, int64_t width, const Paired paired, int64_t row, int64_t col,
                                        const Tile& sum, auto each) {
    for (int i = 0; i < ROWS; i += 2)
        for (int v = 0; v < 2; ++v)
            put<Cpu>(rows, width, paired, row + i, col + v * LANES, each(sum[i][v], i, v),
                     each(sum[i + 1][v], i + 1, v));
}
template <class Cpu> INLINE void product(const Product j, const Span span) {
    const int64_t width = j.n_panels * PANEL, pairs = j.left.width / 2;
    const Pair* left = (const Pair*)j.left.of(span);
    Half *out = j.out.rows.x ? j.out.rows.of(span) : nullptr, *slope = j.slope.of(span);
    const Half *factor = j.factor.of(span), *residual = j.residual.of(span);
    for (int64_t col = 0; col < width; col += PANEL) {
        const Floats none{}, bias[2] = {j.bias ? load(j.bias + col) : none, j.bias ? load(j.bias + col + LANES) : none};
        for (int64_t r = span.first; r < span.end; r += ROWS) {
            const int64_t top = std::min(r, span.end - ROWS);  // the last tile may do some rows again
            const auto place = [&](int i, int v) { return (top + i) * width + col + v * LANES; };
            Tile sum;
            tile<Cpu>(left + top * pairs, pairs, 1, j.right + col * pairs, pairs, sum);
            const auto end = [&](auto each) { ending<Cpu>(out, j.out.rows.width, j.out.paired, top, col, sum, each); };
            if (j.kind)
                with_kind(j.kind, [&]<int KIND>() {
                    end([&](Floats y, int i, int v) {
                        Floats steep;
                        y = bend<KIND>(y + bias[v], steep);
                        *(Halves*)(slope + place(i, v)) = Cpu::round(steep);
                        return y;
                    });
                });
            else if (j.factor.x) end([&](Floats y, int i, int v) { return y * load(factor + place(i, v)); });
            else if (j.residual.x)
                end([&](Floats y, int i, int v) { return y + bias[v] + load(residual + place(i, v)); });
            else end([&](Floats y, int, int v) { return y + bias[v]; });
        }
    }
}
// ---- the same rows in the other layout
struct Pairing { Rows x; Out out; };
template <class Cpu> INLINE void pairing(const Pairing j, const Span span) {
    const Half* x = j.x.of(span);
    for (int64_t row = span.first; row < span.end; row += 2)
        for (int64_t col = 0; col < j.x.width; col += LANES) {
            const Half* from = x + row * j.x.width + col;
            put<Cpu>(j.out, span, row, col, load(from), load(from + j.x.width));
        }
}
// ---- LayerNorm (centred) and RMSNorm, and back
struct Norm {
    Rows x; const Half *weight, *bias; int64_t centred; double eps; Out out;
    float* stats;  // (rows, 2): what is taken off, what is multiplied by
    Rows grad, residual; float* partial;  // backward: (spans, 2, width), gradients of weight and bias
};
template <class Cpu> INLINE void norm(const Norm j, const Span span) {  // two rows at a time
    const int64_t width = j.x.width;
    const Half* from = j.x.of(span);
    for (int64_t row = span.first; row < span.end; row += 2) {
        const Half *x = from + row * width, *y = x + width;
        Floats sum[2] = {}, squares[2] = {};
        for (int64_t c = 0; j.centred && c < width; c += LANES) sum[0] += load(x + c), sum[1] += load(y + c);
        const float mean[2] = {total(sum[0]) / width, total(sum[1]) / width};
        for (int64_t c = 0; c < width; c += LANES) {
            const Floats off = load(x + c) - mean[0], other = load(y + c) - mean[1];
            squares[0] += off * off, squares[1] += other * other;
        }
        float scale[2];
        for (int odd = 0; odd < 2; ++odd) {
            scale[odd] = 1 / std::sqrt(total(squares[odd]) / width + (float)j.eps);
            j.stats[2 * (row + odd)] = mean[odd], j.stats[2 * (row + odd) + 1] = scale[odd];
        }
        for (int64_t c = 0; c < width; c += LANES) {
            const Floats weight = load(j.weight + c), bias = j.bias ? load(j.bias + c) : Floats{};
            put<Cpu>(j.out, span, row, c, (load(x + c) - mean[0]) * scale[0] * weight + bias,
                     (load(y + c) - mean[1]) * scale[1] * weight + bias);
        }
    }
}
template <class Cpu> INLINE void norm_back(const Norm j, const Span span) {
    const int64_t width = j.x.width;
    const Half *from = j.x.of(span), *from_grad = j.grad.of(span), *from_residual = j.residual.of(span);
    float *to_weight = j.partial + span.number * 2 * width, *to_bias = to_weight + width;
    std::fill_n(to_weight, 2 * width, 0.0f);
    for (int64_t row = span.first; row < span.end; row += 2) {
        const float* stats = j.stats + 2 * row;
        const float off[2] = {stats[0], stats[2]}, scale[2] = {stats[1], stats[3]};
        const Half *x = from + row * width, *grad = from_grad + row * width, *residual = from_residual + row * width;
        Floats sum[2] = {}, dot[2] = {};
        for (int64_t c = 0; c < width; c += LANES) {
            const Floats weight = load(j.weight + c), a = load(grad + c), b = load(grad + width + c);
            const Floats p = (load(x + c) - off[0]) * scale[0], q = (load(x + width + c) - off[1]) * scale[1];
            at(to_weight + c) += a * p + b * q, at(to_bias + c) += a + b;
            sum[0] += a * weight, sum[1] += b * weight, dot[0] += a * weight * p, dot[1] += b * weight * q;
        }
        const float centre = j.centred ? 1.0f / width : 0, mean[2] = {total(sum[0]) * centre, total(sum[1]) * centre};
        const float along[2] = {total(dot[0]) / width, total(dot[1]) / width};
        for (int64_t c = 0; c < width; c += LANES) {
            const auto back = [&](int64_t odd) {
                const int64_t i = odd * width + c;
                const Floats normal = (load(x + i) - off[odd]) * scale[odd];
                return (load(grad + i) * load(j.weight + c) - mean[odd] - normal * along[odd]) * scale[odd] +
                       load(residual + i);
            };
            put<Cpu>(j.out, span, row, c, back(0), back(1));
        }
    }
}
// ---- act(gate) * up, of both side by side; and back, from a gradient to both
struct Gate { Rows both, grad; int64_t kind; Out out; };
template <class Cpu> INLINE void gate(const Gate j, const Span span) {
    const int64_t width = j.both.width / 2;
    const Half *both = j.both.of(span), *from = j.grad.of(span);
    with_kind(j.kind, [&]<int KIND>() {
        for (int64_t row = span.first; row < span.end; row += 2)
            for (int64_t c = 0; c < width; c += LANES) {
                Floats y[2], to_gate[2], to_up[2];
                for (int64_t odd = 0; odd < 2; ++odd) {
                    const Half* x = both + (row + odd) * 2 * width + c;
                    Floats slope;
                    const Floats open = bend<KIND>(load(x), slope), up = load(x + width);
                    const Floats grad = j.grad.x ? load(from + (row + odd) * width + c) : Floats{};
                    y[odd] = open * up, to_gate[odd] = grad * up * slope, to_up[odd] = grad * open;
                }
                if (!j.grad.x) put<Cpu>(j.out, span, row, c, y[0], y[1]);
                else put<Cpu>(j.out, span, row, c, to_gate[0], to_gate[1]),
                     put<Cpu>(j.out, span, row, width + c, to_up[0], to_up[1]);
            }
    });
}
// ---- RoPE, in place: features i and i + turned / 2 of each head turn together; back, the other way round
struct Turn { Rows x; const float *cosine, *sine; int64_t length, n_heads, head_dim, turned; double way; };
template <class Cpu> INLINE void turn(const Turn j, const Span span) {
    const int64_t half = j.turned / 2;
    for (int64_t row = span.first; row < span.end; ++row)
        for (int64_t head = 0; head < j.n_heads; ++head)
            for (int64_t i = 0; i < half; i += LANES) {
                Half* x = j.x.of(span) + row * j.x.width + head * j.head_dim + i;
                const Floats c = at(j.cosine + row % j.length * half + i), a = load(x), b = load(x + half);
                const Floats s = at(j.sine + row % j.length * half + i) * (float)j.way;
                *(Halves*)x = Cpu::round(a * c - b * s), *(Halves*)(x + half) = Cpu::round(b * c + a * s);
            }
}
// ---- one after the other, for some rows at a time
struct Step { int64_t what; const void* job; };
struct Chain { const Step* steps; int64_t n_steps, rows, rows_each; };
template <class Cpu> INLINE void chain(const Chain& j, int64_t number, int64_t thread) {
    const int64_t first = number * j.rows_each, rest = j.rows - first;
    const Span span{first, rest < 2 * j.rows_each ? j.rows : first + j.rows_each, number, thread};  // none is short
    for (const Step* step = j.steps; step < j.steps + j.n_steps; ++step) {
        if (step->what == 0) product<Cpu>(*(const Product*)step->job, span);
        else if (step->what == 1) pairing<Cpu>(*(const Pairing*)step->job, span);
        else if (step->what == 2) norm<Cpu>(*(const Norm*)step->job, span);
        else if (step->what == 3) norm_back<Cpu>(*(const Norm*)step->job, span);
        else if (step->what == 4) gate<Cpu>(*(const Gate*)step->job, span);
        else turn<Cpu>(*(const Turn*)step->job, span);
    }
}
