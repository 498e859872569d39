// One token through a LLaMA-shaped model on a CPU: weights in 4 or 8 bits, activations in 8. Lesson 11 ends with it.
// A step reads every weight once and computes two operations with it, so memory decides. What follows from that:
//   few bytes             weights stay packed until they are in a register; no unpacked copy is ever written
//   integer dot products  one instruction multiplies 64 pairs: otherwise arithmetic would be the limit, not memory
//   one parallel region   150 times a step threads wait for each other: by looking, for to wake sleepers takes longer
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <thread>
#include <vector>
#define INLINE static inline __attribute__((always_inline))  // compiled anew in each path, with that path's vectors
template <int LANES> struct Vector {  // as wide as the processor's own
    typedef float Floats __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
    typedef int32_t Ints __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
    typedef int16_t Shorts __attribute__((vector_size(2 * LANES), aligned(2), may_alias));
};
constexpr int64_t ROWS = 16, GROUP = 32;  // a tile: 16 rows by 32 columns, of which each row has a scale
struct Matrix {  // in tiles, one after the other: codes, then with 4 bits 16 scales and 16 lows in int16; see tiles.py
    const uint8_t* tiles; const float *unit, *low_unit;  // of each row: what codes (4 bits: scales) and lows count in
    int64_t tile_rows, tile_cols, bits;
};
struct Layer { const float *attn_norm, *ffn_norm; Matrix qkv, out, gate_up, down; };
struct Model {
    int64_t d_model, n_heads, n_kv_heads, head_dim, n_turned, d_ff, n_layers, n_threads, widest;
    const Layer* layers; const float* final_norm; Matrix head; float eps, score_scale;
};
struct Token {
    float *x, *logits;                   // its vector, which becomes the residual stream; both a whole number of tiles
    const float *cosine, *sine;          // of its angles, (n_turned / 2)
    float *const *keys, *const *values;  // a pointer a layer, to (n_kv_heads, capacity, head_dim)
    int64_t *const *positions, position, capacity;  // to (capacity); tokens that the cache holds, and could hold
};
struct Own {  // what each thread has for itself, first the activations: codes, and of each group of 32 two numbers,
    int64_t n; std::vector<int8_t> code = std::vector<int8_t>(n);  // scale and scale * (sum of codes)
    std::vector<float> scale = std::vector<float>(n), sum = scale, wide = scale, q = scale, k = scale, scores = scale;
};
template <int LANES, auto fours> INLINE void product(const Matrix& m, const Own& own, int64_t i, float* y, bool add) {
    using V = Vector<LANES>; const int64_t tile_bytes = m.bits == 4 ? 256 + 64 : 512;
    for (int64_t lane = 0, row = i * ROWS; lane < ROWS; lane += LANES, row += LANES) {
        const uint8_t* tile = m.tiles + i * m.tile_cols * tile_bytes;
        typename V::Floats total = {}, lows = {};
        for (int64_t col = 0; col < m.tile_cols; ++col, tile += tile_bytes) {
            typename V::Ints sums = {};
            for (int j = 0; j < 8; ++j) {  // four columns a vector; with 4 bits four more, in the upper halves of bytes
                auto codes = *(const typename V::Ints*)(tile + (m.bits == 4 ? j / 2 : j) * 64 + lane * 4);
                if (m.bits == 4) codes = (j % 2 ? codes >> 4 : codes) & 0x0f0f0f0f;
                fours(sums, codes, ((const int32_t*)own.code.data())[col * 8 + j], m.bits == 8);
            }
            auto value = __builtin_convertvector(sums, typename V::Floats) * own.scale[col];
            if (m.bits == 4) {  // a low stands in front of every activation of its group: low * their sum
                const auto* scales = (const typename V::Shorts*)(tile + 256 + lane * 2);
                value *= __builtin_convertvector(scales[0], typename V::Floats);
                lows += __builtin_convertvector(scales[ROWS / LANES], typename V::Floats) * own.sum[col];
            }
            total += value;
        }
        const auto at = [row](const float* from) -> typename V::Floats& { return *(typename V::Floats*)(from + row); };
        total = total * at(m.unit) + lows * at(m.low_unit);
        at(y) = add ? at(y) + total : total;
    }
}
INLINE void quantize(const float* x, float factor, const float* weight, int64_t n, Own& own) {  // x * factor * weight
    for (int64_t at = 0; at < n; at += GROUP) {  // of which whole groups are there to read
        float v[GROUP], largest = 1e-30f; int32_t code[GROUP], sum = 0;  // not in `own`: only so can it use vectors
#pragma omp simd reduction(max : largest)
        for (int64_t i = 0; i < GROUP; ++i)
            v[i] = x[at + i] * (weight ? factor * weight[at + i] : 1), largest = std::max(largest, std::fabs(v[i]));
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < GROUP; ++i)  // to the nearest whole number
            sum += code[i] = int32_t(v[i] * (127 / largest) + std::copysign(0.5f, v[i]));
        std::copy_n(code, GROUP, &own.code[at]), own.sum[at / GROUP] = sum * (own.scale[at / GROUP] = largest / 127);
    }
}
INLINE float dot(const float* a, const float* b, int64_t n) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)  // in any order: only so can it use vectors
    for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
    return sum;
}
INLINE float fast_exp(float x) {  // e^x = 2^n e^f with |f| <= ln(2) / 2: no branch, so that loops vectorize
    x = std::min(std::max(x, -87.0f), 87.0f) * 1.44269504f;
    const int n = int(x + (x < 0 ? -0.5f : 0.5f));
    const float f = (x - n) * 0.693147181f, high = 1 / 6.f + f * (1 / 24.f + f * (1 / 120.f + f / 720));
    return (1 + f * (1 + f * (0.5f + f * high))) * __builtin_bit_cast(float, (n + 127) << 23);
}
// Chunks of work are numbered, from the first token's to the last's, and whoever is there takes the next. So a thread
// that is late, or never comes (as after a fork), holds up nobody, and it cannot take chunks of an old phase.
struct Decoder {
    Model m; void (*step)(Decoder&, uint64_t, Own&); Token t{}; Own own{m.widest}; std::vector<std::thread> threads{};
    std::vector<float> qkv = own.wide, heads = qkv, wide = qkv;  // what a phase leaves to the next
    alignas(64) std::atomic<uint64_t> claimed{1}, finished{1};
    alignas(64) std::atomic<uint64_t> start{0};  // first chunk of the newest token; threads sleep until it changes
};
template <class Work> INLINE void phase(Decoder& d, uint64_t& at, int64_t n, Work work) {  // n chunks, side by side
    const uint64_t first = at, end = at += n;
    for (int looks = 0; d.finished < first;)  // first, all before them must be finished
        if (++looks > 4000) std::this_thread::yield(), --looks;  // more threads than cores: let others work
    for (uint64_t chunk = d.claimed; chunk < end; chunk = d.claimed)
        if (d.claimed.compare_exchange_weak(chunk, chunk + 1)) work(int64_t(chunk - first)), ++d.finished;
}
INLINE void turn(const Model& m, const Token& t, const float* from, float* to) {  // RoPE
    std::copy(from, from + m.head_dim, to);
    for (int64_t i = 0, j = m.n_turned / 2; j < m.n_turned; ++i, ++j)
        to[i] = from[i] * t.cosine[i] - from[j] * t.sine[i], to[j] = from[j] * t.cosine[i] + from[i] * t.sine[i];
}
INLINE void attend(Decoder& d, int64_t layer, int64_t head, Own& own) {
    const Model& m = d.m; const Token& t = d.t; own.scores.resize(t.position + 1);
    const int64_t n = t.position, width = m.head_dim, sharing = m.n_heads / m.n_kv_heads, kv_head = head / sharing;
    float *q = own.q.data(), *k = own.k.data(), *v = &d.qkv[(m.n_heads + m.n_kv_heads + kv_head) * width], sum = 0;
    float *keys = t.keys[layer] + kv_head * t.capacity * width, *values = t.values[layer] + (keys - t.keys[layer]);
    float *scores = own.scores.data(), *__restrict out = &d.heads[head * width];
    turn(m, t, &d.qkv[head * width], q), turn(m, t, &d.qkv[(m.n_heads + kv_head) * width], k);
    if (head % sharing == 0)  // one of the heads that share a key writes it down; all of them use a copy of their own
        std::copy_n(k, width, keys + n * width), std::copy_n(v, width, values + n * width);
    for (int64_t i = 0; i <= n; ++i) scores[i] = dot(q, i < n ? keys + i * width : k, width) * m.score_scale;
    const float largest = *std::max_element(scores, scores + n + 1);
    for (int64_t i = 0; i <= n; ++i) scores[i] = fast_exp(scores[i] - largest);
    for (int64_t i = 0; i <= n; ++i) sum += scores[i];
    std::fill_n(out, width, 0.0f);
    for (int64_t i = 0; i <= n; ++i) {
        const float weight = scores[i] / sum, *from = i < n ? values + i * width : v;
        for (int64_t j = 0; j < width; ++j) out[j] += weight * from[j];
    }
}
template <int LANES, auto fours> INLINE void step(Decoder& d, uint64_t at, Own& own) {  // all threads run this
    const int64_t width = d.m.d_model, d_ff = d.m.d_ff, all_heads = d.m.n_heads * d.m.head_dim;
    const auto multiply = [&](const Matrix& m, float* y, bool add, auto prepare) {
        const int64_t n = std::min(m.tile_rows, 2 * d.m.n_threads);  // with 2 threads 7, 5, 3 and 1 sixteenths:
        const auto from = [&](int64_t c) { return m.tile_rows * c * (2 * n - c) / (n * n); };  // long runs, short wait
        phase(d, at, n, [&, ready = false](int64_t chunk) mutable {
            if (!ready) prepare(), ready = true;  // each thread makes its own int8 copy: cheaper than one more wait
            for (int64_t i = from(chunk), end = from(chunk + 1); i < end; ++i) product<LANES, fours>(m, own, i, y, add);
        });
    };
    const auto normalize = [&](const float* weight) {  // RMSNorm
        quantize(d.t.x, 1 / std::sqrt(dot(d.t.x, d.t.x, width) / width + d.m.eps), weight, width, own);
    };
    for (const Layer* layer = d.m.layers; layer < d.m.layers + d.m.n_layers; ++layer) {
        multiply(layer->qkv, d.qkv.data(), false, [&] { normalize(layer->attn_norm); });
        phase(d, at, d.m.n_heads, [&](int64_t head) { attend(d, layer - d.m.layers, head, own); });
        multiply(layer->out, d.t.x, true, [&] { quantize(d.heads.data(), 1, nullptr, all_heads, own); });
        multiply(layer->gate_up, d.wide.data(), false, [&] { normalize(layer->ffn_norm); });
        multiply(layer->down, d.t.x, true, [&] {  // SwiGLU
            for (int64_t j = 0; j < d_ff; ++j) own.wide[j] = d.wide[j] / (1 + fast_exp(-d.wide[j])) * d.wide[d_ff + j];
            quantize(own.wide.data(), 1, nullptr, d_ff, own);
        });
    }
    multiply(d.m.head, d.t.logits, false, [&] { normalize(d.m.final_norm); });
    phase(d, at, 0, [](int64_t) {});  // until all is finished
}
// The heart, once for each kind of processor: in each lane, add four products of bytes to a sum of 32 bits.
static void fours_portable(Vector<4>::Ints& sums, const Vector<4>::Ints& codes, int32_t four, bool) {
    for (int shift = 0; shift < 32; shift += 8) sums += (codes << (24 - shift) >> 24) * int8_t(four >> shift);
}
static void step_portable(Decoder& d, uint64_t at, Own& own) { step<4, fours_portable>(d, at, own); }
#if defined(__x86_64__)
#include <immintrin.h>
#define HAS(feature) __builtin_cpu_supports(feature)
#define AVX2 __attribute__((target("avx2,fma"), flatten))
#define VNNI __attribute__((target("avx2,fma,avx512f,avx512bw,avx512vl,avx512vnni"), flatten))
AVX2 static void fours_avx2(Vector<8>::Ints& sums, const Vector<8>::Ints& codes, int32_t four, bool negative) {
    __m256i w = (__m256i)codes, x = _mm256_set1_epi32(four);
    if (negative) x = _mm256_sign_epi8(x, w), w = _mm256_abs_epi8(w);  // one must be unsigned: the other takes its sign
    sums += (Vector<8>::Ints)_mm256_madd_epi16(_mm256_maddubs_epi16(w, x), _mm256_set1_epi16(1));
}
VNNI static void fours_vnni(Vector<16>::Ints& sums, const Vector<16>::Ints& codes, int32_t four, bool negative) {
    __m512i w = (__m512i)codes, x = _mm512_set1_epi32(four);
    if (negative) x = _mm512_mask_sub_epi8(x, _mm512_movepi8_mask(w), __m512i{}, x), w = _mm512_abs_epi8(w);
    sums = (Vector<16>::Ints)_mm512_dpbusd_epi32((__m512i)sums, w, x);  // all in one instruction
}
AVX2 static void step_avx2(Decoder& d, uint64_t at, Own& own) { step<8, fours_avx2>(d, at, own); }
VNNI static void step_vnni(Decoder& d, uint64_t at, Own& own) { step<16, fours_vnni>(d, at, own); }
static void (*const STEPS[])(Decoder&, uint64_t, Own&) = {step_portable, step_avx2, step_vnni};
extern "C" int kernel_supports(int path) {
    return path == 0 || (HAS("avx2") && HAS("fma") && (path == 1 || (HAS("avx512bw") && HAS("avx512vnni"))));
}
#else
static void (*const STEPS[])(Decoder&, uint64_t, Own&) = {step_portable};
extern "C" int kernel_supports(int path) { return path == 0; }
#endif
extern "C" Decoder* kernel_open(const Model* m, int path) {
    auto* d = new Decoder{*m, STEPS[path]};
    const auto work = [d, own = Own{m->widest}]() mutable {
        for (uint64_t seen = 0; d->start.wait(seen), (seen = d->start) != ~uint64_t(0);) d->step(*d, seen, own);
    };
    try { for (int64_t i = 1; i < m->n_threads; ++i) d->threads.emplace_back(work); } catch (...) {}  // fewer will do
    return d;
}
extern "C" void kernel_step(Decoder* d, const Token* token) {
    d->t = *token;
    for (int64_t i = 0; i < d->m.n_layers; ++i) token->positions[i][token->position] = token->position;
    d->start = d->claimed.load(), d->start.notify_all();
    d->step(*d, d->start, d->own);
}
extern "C" void kernel_close(Decoder* d) {
    d->start = ~uint64_t(0), d->start.notify_all();
    for (auto& thread : d->threads) thread.join();
    delete d;
}
