// Group norm, an optional per-row scale and shift, and an optional SiLU in one sweep, forward and backward.
//
// The data is (row, position, channel) with the channel innermost, bf16 or float32; all sums are float32 over
// at most CHUNK positions and double beyond. Groups are narrow (4 to 24 channels), so the vectors run over
// channels and what belongs to a group is spread to its channels first. Every sum is over chunks that depend
// on the shape alone, in a fixed order: a row's bits do not depend on its company or on the threads.

#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace {

constexpr int LANES = 16;
constexpr int64_t CHUNK = 256;
constexpr int64_t GRAIN = 16384;  // elements below which another thread costs more than it brings

typedef float V __attribute__((vector_size(64)));
typedef int32_t I __attribute__((vector_size(64)));
typedef uint32_t U __attribute__((vector_size(64)));
typedef uint16_t H __attribute__((vector_size(32)));

inline V splat(float v) { return V{} + v; }

inline V widen(H h) { return (V)(__builtin_convertvector(h, U) << 16); }

inline H narrow(V v) {
  U u = (U)v;
  U even = u + 0x7fffu + ((u >> 16) & 1u);
  U quiet = u | 0x400000u;  // rounding would carry a full mantissa over into zero or infinity
  U picked = (u & 0x7fffffffu) > 0x7f800000u ? quiet : even;
  return __builtin_convertvector(picked >> 16, H);
}

// PART: only the first n channels of the vector exist.
template <bool PART>
inline V load(const float* p, int n) {
  V v{};
#ifdef __AVX512F__
  if (PART) return (V)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
#endif
  memcpy(&v, p, PART ? n * sizeof(float) : sizeof(V));
  return v;
}

template <bool PART>
inline V load(const uint16_t* p, int n) {
  H h{};
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  if (PART) return widen((H)_mm256_maskz_loadu_epi16((__mmask16)((1u << n) - 1), p));
#endif
  memcpy(&h, p, PART ? n * sizeof(uint16_t) : sizeof(H));
  return widen(h);
}

template <bool PART>
inline void store(float* p, V v, int n) {
#ifdef __AVX512F__
  if (PART) return _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v);
#endif
  memcpy(p, &v, PART ? n * sizeof(float) : sizeof(V));
}

template <bool PART>
inline void store(uint16_t* p, V v, int n) {
  H h = narrow(v);
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  if (PART) return _mm256_mask_storeu_epi16(p, (__mmask16)((1u << n) - 1), (__m256i)h);
#endif
  memcpy(p, &h, PART ? n * sizeof(uint16_t) : sizeof(H));
}

template <int N>
inline void fetch(V (&v)[N], const float* p) { memcpy(v, p, sizeof(v)); }

template <int N>
inline void keep(float* p, const V (&v)[N]) { memcpy(p, v, sizeof(v)); }

// 1 / (1 + exp(-z)), to a few units in the last place; exp by halves of ln 2 and a polynomial (Cephes).
inline V sigmoid(V z) {
  V v = -z;
  v = v < splat(80.f) ? v : splat(80.f);  // beyond it the result is 0 or 1 in float32 anyway
  v = v > splat(-80.f) ? v : splat(-80.f);
  V t = v * 1.44269504088896341f + 12582912.f;  // the low bits of t are now the rounded exponent
  V k = t - 12582912.f;
  V r = v - k * 0.693359375f;
  r = r + k * 2.12194440e-4f;
  V p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.f;
  V d = 1.f + (V)((U)p + ((U)t << 23));
#ifdef __AVX512F__
  V q = (V)_mm512_maskz_rcp14_ps(0xffff, (__m512)d);  // one Newton step on 14 bits is as good as the slow division
  return q * (2.f - d * q);
#else
  return 1.f / d;
#endif
}

// Calls f<vectors, part>(first channel, channels of the last vector) over all the channels.
template <class F>
inline void blocks(int64_t C, F f) {
  int64_t c = 0;
  for (; c + 2 * LANES <= C; c += 2 * LANES) f.template operator()<2, false>(c, LANES);
  if (c + LANES <= C) f.template operator()<1, false>(c, LANES), c += LANES;
  if (c < C) f.template operator()<1, true>(c, (int)(C - c));
}

// Per thread or row: the chunks' sums (chunk, 2, P), the channels' vectors (8, P), doubles (2, P).
struct Scratch {
  int64_t P, chunks, stride;
  char* base;
  Scratch(int64_t C, int64_t chunks_, int64_t slots) : P((C + LANES - 1) / LANES * LANES), chunks(chunks_) {
    stride = ((chunks * 2 + 8) * P * 4 + 2 * P * 8 + 63) / 64 * 64;
    base = (char*)aligned_alloc(64, stride * slots);
  }
  ~Scratch() { free(base); }
  float* sums(int64_t slot, int64_t k) const { return (float*)(base + slot * stride) + k * 2 * P; }
  float* vec(int64_t slot, int j) const { return (float*)(base + slot * stride) + (chunks * 2 + j) * P; }
  double* wide(int64_t slot) const { return (double*)vec(slot, 8); }
  // Add up the chunks' sums, in order, into wide.
  double* gather(int64_t slot) const {
    double* out = wide(slot);
    memset(out, 0, 2 * P * sizeof(double));
    for (int64_t k = 0; k < chunks; k++) {
      const float* s = sums(slot, k);
      for (int64_t i = 0; i < 2 * P; i++) out[i] += s[i];
    }
    return out;
  }
};

struct Shape {
  int64_t B, C, S, G;
  int threads;
  int64_t chunks() const { return (S + CHUNK - 1) / CHUNK; }
  int64_t length(int64_t k) const { return k * CHUNK + CHUNK < S ? CHUNK : S - k * CHUNK; }
  bool by_row() const { return threads == 1 || B % threads == 0 || B >= 4 * threads; }
  int64_t slots() const { return by_row() ? threads : B; }
};

// Sums of every chunk, then what belongs to the row, then every chunk again: a row at a time where there are
// enough rows for the threads (it stays in the cache), else all chunks of all rows at once.
template <class O, class A, class M, class Z>
void drive(const Shape& sh, O open, A first, M middle, Z last) {
  const int64_t B = sh.B, chunks = sh.chunks();
  const int n = sh.threads;
  if (sh.by_row()) {
#pragma omp parallel for num_threads(n) schedule(static) if (n > 1)
    for (int64_t b = 0; b < B; b++) {
      const int slot = omp_get_thread_num();
      open(b, slot);
      for (int64_t k = 0; k < chunks; k++) first(b, slot, k);
      middle(b, slot);
      for (int64_t k = 0; k < chunks; k++) last(b, slot, k);
    }
    return;
  }
#pragma omp parallel num_threads(n)
  {
#pragma omp for schedule(static)
    for (int64_t b = 0; b < B; b++) open(b, b);
#pragma omp for collapse(2) schedule(static)
    for (int64_t b = 0; b < B; b++)
      for (int64_t k = 0; k < chunks; k++) first(b, b, k);
#pragma omp for schedule(static)
    for (int64_t b = 0; b < B; b++) middle(b, b);
#pragma omp for collapse(2) schedule(static)
    for (int64_t b = 0; b < B; b++)
      for (int64_t k = 0; k < chunks; k++) last(b, b, k);
  }
}

struct Affine {
  const float *w, *b, *scale, *shift;  // each may be null
  // The row's vectors: the group's mean, what multiplies (x - mean), what is added.
  void spread(const Shape& sh, int64_t row, const float* mean, const float* rstd, const Scratch& scratch,
              int64_t slot) const {
    const int64_t D = sh.C / sh.G;
    float *m = scratch.vec(slot, 0), *a = scratch.vec(slot, 1), *o = scratch.vec(slot, 2);
    mean += row * sh.G, rstd += row * sh.G;
    for (int64_t g = 0, c = 0; g < sh.G; g++)
      for (int64_t i = 0; i < D; i++, c++) {
        const float by = scale ? 1.f + scale[row * sh.C + c] : 1.f;
        m[c] = mean[g];
        a[c] = rstd[g] * (w ? w[c] : 1.f) * by;
        o[c] = (b ? b[c] : 0.f) * by + (shift ? shift[row * sh.C + c] : 0.f);
      }
  }
};

template <class T, bool SILU>
int forward(const Shape& sh, const T* x, T* y, const Affine& affine, float* mean, float* rstd, float eps) {
  const int64_t C = sh.C, S = sh.S, G = sh.G, D = C / G;
  const Scratch scratch(C, sh.chunks(), sh.slots());
  if (!scratch.base) return 1;
  const int64_t P = scratch.P;

  // Sums of x and x² about the row's first position, so that a mean far from zero does not eat the variance.
  auto first = [&](int64_t row, int64_t slot, int64_t k) {
    const T* origin = x + row * S * C;
    const T* from = origin + k * CHUNK * C;
    const int64_t len = sh.length(k);
    float* out = scratch.sums(slot, k);
    blocks(C, [&]<int N, bool PART>(int64_t c, int n) {
      V zero[N], s[N]{}, q[N]{};
      for (int j = 0; j < N; j++) zero[j] = load<PART>(origin + c + j * LANES, n);
      for (int64_t i = 0; i < len; i++)
        for (int j = 0; j < N; j++) {
          const V d = load<PART>(from + i * C + c + j * LANES, n) - zero[j];
          s[j] += d;
          q[j] += d * d;
        }
      keep(out + c, s), keep(out + P + c, q);
    });
  };
  auto middle = [&](int64_t row, int64_t slot) {
    double* sum = scratch.gather(slot);
    float* zero = scratch.vec(slot, 0);
    const T* origin = x + row * S * C;
    blocks(C, [&]<int N, bool PART>(int64_t c, int n) {
      V v[N];
      for (int j = 0; j < N; j++) v[j] = load<PART>(origin + c + j * LANES, n);
      keep(zero + c, v);
    });
    for (int64_t g = 0; g < G; g++) {
      double m = 0, v = 0;
      for (int64_t c = g * D; c < (g + 1) * D; c++) {
        const double d = sum[c] / S;
        v += sum[P + c] - sum[c] * d;
        sum[c] = zero[c] + d;
        m += sum[c];
      }
      m /= D;
      for (int64_t c = g * D; c < (g + 1) * D; c++) v += S * (sum[c] - m) * (sum[c] - m);
      v /= (double)S * D;
      mean[row * G + g] = (float)m;
      rstd[row * G + g] = (float)(1.0 / sqrt((v < 0 ? 0 : v) + eps));
    }
    affine.spread(sh, row, mean, rstd, scratch, slot);
  };
  auto last = [&](int64_t row, int64_t slot, int64_t k) {
    const int64_t at = (row * S + k * CHUNK) * C, len = sh.length(k);
    const float *mv = scratch.vec(slot, 0), *av = scratch.vec(slot, 1), *ov = scratch.vec(slot, 2);
    blocks(C, [&]<int N, bool PART>(int64_t c, int n) {
      V m[N], a[N], o[N];
      fetch(m, mv + c), fetch(a, av + c), fetch(o, ov + c);
      for (int64_t i = 0; i < len; i++)
        for (int j = 0; j < N; j++) {
          const int64_t p = at + i * C + c + j * LANES;
          V z = (load<PART>(x + p, n) - m[j]) * a[j] + o[j];
          if (SILU) z *= sigmoid(z);
          store<PART>(y + p, z, n);
        }
    });
  };
  drive(sh, [](int64_t, int64_t) {}, first, middle, last);
  return 0;
}

struct Grads {
  float *dw, *db, *dscale, *dshift;  // (C,), (C,), (B, C), (B, C); the last two may be null
};

template <class T, bool SILU>
int backward(const Shape& sh, const T* x, const T* dy, T* dx, const Affine& affine, const float* mean,
             const float* rstd, const Grads& grads) {
  const int64_t B = sh.B, C = sh.C, S = sh.S, G = sh.G, D = C / G;
  const Scratch scratch(C, sh.chunks(), sh.slots());
  float* rows = (float*)malloc(2 * B * C * sizeof(float));  // each row's share of dw and db
  if (!scratch.base || !rows) return free(rows), 1;
  const int64_t P = scratch.P;

  // The gradient before the SiLU, recomputed in both sweeps: cheaper than a float32 copy through the memory.
  auto before = [](V d, V g, V a, V o) {
    if (!SILU) return g;
    const V z = d * a + o, s = sigmoid(z);
    return g * (s * (1.f + z * (1.f - s)));
  };
  auto open = [&](int64_t row, int64_t slot) { affine.spread(sh, row, mean, rstd, scratch, slot); };
  auto first = [&](int64_t row, int64_t slot, int64_t k) {
    float *mv = scratch.vec(slot, 0), *av = scratch.vec(slot, 1), *ov = scratch.vec(slot, 2);
    const int64_t at = (row * S + k * CHUNK) * C, len = sh.length(k);
    float* out = scratch.sums(slot, k);
    blocks(C, [&]<int N, bool PART>(int64_t c, int n) {
      V m[N], a[N], o[N], s[N]{}, q[N]{};
      fetch(m, mv + c), fetch(a, av + c), fetch(o, ov + c);
      for (int64_t i = 0; i < len; i++)
        for (int j = 0; j < N; j++) {
          const int64_t p = at + i * C + c + j * LANES;
          const V d = load<PART>(x + p, n) - m[j];
          const V g = before(d, load<PART>(dy + p, n), a[j], o[j]);
          s[j] += g;
          q[j] += g * d;
        }
      keep(out + c, s), keep(out + P + c, q);
    });
  };
  auto middle = [&](int64_t row, int64_t slot) {
    const double* sum = scratch.gather(slot);
    const float *w = affine.w, *b = affine.b, *scale = affine.scale;
    float *k1 = scratch.vec(slot, 3), *k2 = scratch.vec(slot, 4);
    for (int64_t g = 0; g < G; g++) {
      const double r = rstd[row * G + g];
      double one = 0, two = 0;  // means over the group of w·dz and of w·dz·x̂
      for (int64_t c = g * D; c < (g + 1) * D; c++) {
        const int64_t rc = row * C + c;
        const double by = scale ? 1.0 + scale[rc] : 1.0, wc = w ? w[c] : 1.0;
        const double p = sum[c], q = sum[P + c] * r;
        one += wc * by * p;
        two += wc * by * q;
        rows[rc] = (float)(q * by);
        rows[B * C + rc] = (float)(p * by);
        if (grads.dscale) grads.dscale[rc] = (float)(wc * q + (b ? b[c] : 0.f) * p);
        if (grads.dshift) grads.dshift[rc] = (float)p;
      }
      const double N = (double)S * D;
      for (int64_t c = g * D; c < (g + 1) * D; c++) {
        k1[c] = (float)(r * one / N);
        k2[c] = (float)(r * r * two / N);
      }
    }
  };
  auto last = [&](int64_t row, int64_t slot, int64_t k) {
    if (!dx) return;
    const int64_t at = (row * S + k * CHUNK) * C, len = sh.length(k);
    const float *mv = scratch.vec(slot, 0), *av = scratch.vec(slot, 1), *ov = scratch.vec(slot, 2);
    const float *pv = scratch.vec(slot, 3), *qv = scratch.vec(slot, 4);
    blocks(C, [&]<int N, bool PART>(int64_t c, int n) {
      V m[N], a[N], o[N], k1[N], k2[N];
      fetch(m, mv + c), fetch(a, av + c), fetch(o, ov + c), fetch(k1, pv + c), fetch(k2, qv + c);
      for (int64_t i = 0; i < len; i++)
        for (int j = 0; j < N; j++) {
          const int64_t p = at + i * C + c + j * LANES;
          const V d = load<PART>(x + p, n) - m[j];
          const V g = before(d, load<PART>(dy + p, n), a[j], o[j]);
          store<PART>(dx + p, a[j] * g - k1[j] - d * k2[j], n);
        }
    });
  };
  drive(sh, open, first, middle, last);

  // Over the rows in order, a few channels at a time in double.
  for (int64_t c = 0; c < C; c += LANES) {
    const int64_t n = C - c < LANES ? C - c : LANES;
    double w[LANES]{}, b[LANES]{};
    for (int64_t row = 0; row < B; row++)
      for (int64_t i = 0; i < n; i++)
        w[i] += rows[row * C + c + i], b[i] += rows[(B + row) * C + c + i];
    for (int64_t i = 0; i < n; i++) grads.dw[c + i] = (float)w[i], grads.db[c + i] = (float)b[i];
  }
  free(rows);
  return 0;
}

Shape shape(int64_t B, int64_t C, int64_t S, int64_t G, int threads) {
  const int64_t worth = B * C * S / GRAIN;
  if (threads > worth) threads = (int)worth;
  return Shape{B, C, S, G, threads < 1 ? 1 : threads};
}

}  // namespace

#define PICK(call)                                                             \
  if (bf16) return silu ? call(uint16_t, true) : call(uint16_t, false);        \
  return silu ? call(float, true) : call(float, false);

extern "C" int norm_silu_forward(const void* x, void* y, const float* w, const float* b, const float* scale,
                                 const float* shift, float* mean, float* rstd, int64_t B, int64_t C, int64_t S,
                                 int64_t G, float eps, int bf16, int silu, int threads) {
  const Affine affine{w, b, scale, shift};
  const Shape sh = shape(B, C, S, G, threads);
#define CALL(T, SILU) forward<T, SILU>(sh, (const T*)x, (T*)y, affine, mean, rstd, eps)
  PICK(CALL)
#undef CALL
}

extern "C" int norm_silu_backward(const void* x, const void* dy, void* dx, const float* w, const float* b,
                                  const float* scale, const float* shift, const float* mean, const float* rstd,
                                  float* dw, float* db, float* dscale, float* dshift, int64_t B, int64_t C,
                                  int64_t S, int64_t G, int bf16, int silu, int threads) {
  const Affine affine{w, b, scale, shift};
  const Grads grads{dw, db, dscale, dshift};
  const Shape sh = shape(B, C, S, G, threads);
#define CALL(T, SILU) backward<T, SILU>(sh, (const T*)x, (const T*)dy, (T*)dx, affine, mean, rstd, grads)
  PICK(CALL)
#undef CALL
}
