// The fake-quantize operator in one pass over memory, bit-equal to the composed one in fake_quant.py, and the counting
// of magnitudes that calibration does, equal to that of calibration/histogram.py.
//
// Plain C functions over contiguous arrays of float or bfloat16 (bits in uint16_t). Compiled without fused
// multiply-add and without fast-math, so that every operation rounds as torch's own; the compiler vectorizes the loops.
// A mask holds one bit a value, the lowest of a byte first: whether the value lay inside the range.

#include <ATen/Parallel.h>
#include <c10/util/Half.h>
#ifdef __F16C__
#include <immintrin.h>
#endif

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <vector>

namespace {

constexpr int64_t kBlock = 32;       // values that share a word of the mask
constexpr int64_t kGrain = 1024;     // blocks worth a thread
constexpr float kMin = -128.0f, kMax = 127.0f;

inline float load(const float* from) { return *from; }

inline float load(const uint16_t* from) {
  uint32_t bits = uint32_t(*from) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline void store(float* to, float value) { *to = value; }

inline void store(uint16_t* to, float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  uint16_t rounded = uint16_t((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);  // to the nearest, ties to even
  *to = value != value ? uint16_t(0x7fc0) : rounded;
}

inline float clip(float steps) {  // a NaN passes both comparisons
  steps = steps < kMin ? kMin : steps;
  return steps > kMax ? kMax : steps;
}

inline uint32_t is_inside(float steps) { return uint32_t(steps >= kMin) & uint32_t(steps <= kMax); }

template <typename T>
void round_span(const T* x, T* y, int64_t count, float scale) {
  for (int64_t i = 0; i < count; ++i) store(y + i, clip(std::nearbyint(load(x + i) / scale)) * scale);
}

template <typename T, typename Count>
uint32_t round_block(const T* x, T* y, Count count, float scale) {
  uint32_t word = 0;
  for (int i = 0; i < count; ++i) {
    float steps = std::nearbyint(load(x + i) / scale);
    store(y + i, clip(steps) * scale);
    word |= is_inside(steps) << i;
  }
  return word;
}

template <typename T, typename Count>
void pass_block(const T* gradient, T* passed, Count count, uint32_t word) {
  for (int i = 0; i < count; ++i) store(passed + i, load(gradient + i) * float((word >> i) & 1u));
}

template <typename T, typename Count>
void learn_block(const T* gradient, const T* x, T* passed, Count count, float scale, float* sums) {
  for (int i = 0; i < count; ++i) {
    float quotient = load(x + i) / scale, steps = std::nearbyint(quotient);
    float inside = float(is_inside(steps)), arriving = load(gradient + i);
    store(passed + i, arriving * inside);
    sums[i] += arriving * (clip(steps) - inside * quotient);
  }
}

struct Full { constexpr operator int() const { return int(kBlock); } };

template <typename Work>
void each_block(int64_t count, Work work) {  // work(first value, number of values, address in the mask)
  int64_t blocks = (count + kBlock - 1) / kBlock;
  at::parallel_for(0, blocks, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      int64_t first = block * kBlock, left = count - first;
      if (left >= kBlock) work(first, Full{}, 4 * block);
      else work(first, int(left), 4 * block);
    }
  });
}

template <typename T>
void round_masked(const T* x, T* y, uint8_t* mask, int64_t count, float scale) {
  each_block(count, [=](int64_t first, auto size, int64_t place) {
    uint32_t word = round_block(x + first, y + first, size, scale);
    std::memcpy(mask + place, &word, (int(size) + 7) / 8);
  });
}

template <typename T>
void round_rows(const T* x, T* y, const float* scales, int64_t rows, int64_t channels, int64_t inner) {
  if (rows == 1) {
    at::parallel_for(0, inner, kGrain * kBlock, [=](int64_t begin, int64_t end) {
      round_span(x + begin, y + begin, end - begin, scales[0]);
    });
    return;
  }
  at::parallel_for(0, rows, 1 + kGrain * kBlock / (inner + 1), [=](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      round_span(x + row * inner, y + row * inner, inner, scales[row % channels]);
  });
}

inline uint32_t magnitude_bits(float value) {  // as unsigned numbers they sort like magnitudes, a NaN above all
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits & 0x7fffffffu;
}

template <typename T>
uint32_t largest(const T* x, int64_t count) {
  uint32_t found = 0;
  for (int64_t i = 0; i < count; ++i) {
    uint32_t bits = magnitude_bits(load(x + i));
    found = bits > found ? bits : found;
  }
  return found;
}

template <typename T>
void amax_rows(const T* x, float* amax, int64_t rows, int64_t inner) {
  uint32_t* bits = reinterpret_cast<uint32_t*>(amax);
  if (rows == 1) {
    std::atomic<uint32_t> found{0};
    at::parallel_for(0, inner, kGrain * kBlock, [&](int64_t begin, int64_t end) {
      uint32_t mine = largest(x + begin, end - begin), before = found.load();
      while (mine > before && !found.compare_exchange_weak(before, mine)) {}
    });
    bits[0] = found;
    return;
  }
  at::parallel_for(0, rows, 1 + kGrain * kBlock / (inner + 1), [=](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) bits[row] = largest(x + row * inner, inner);
  });
}

template <typename T>
void pass_masked(const T* gradient, const uint8_t* mask, T* passed, int64_t count) {
  each_block(count, [=](int64_t first, auto size, int64_t place) {
    uint32_t word = 0;
    std::memcpy(&word, mask + place, (int(size) + 7) / 8);
    pass_block(gradient + first, passed + first, size, word);
  });
}

template <typename T>
double learn_span(const T* gradient, const T* x, T* passed, int64_t count, float scale) {
  float sums[kBlock] = {};  // one a lane: the compiler may not reorder a single sum
  int64_t full = count - count % kBlock;
  for (int64_t i = 0; i < full; i += kBlock) learn_block(gradient + i, x + i, passed + i, Full{}, scale, sums);
  learn_block(gradient + full, x + full, passed + full, int(count - full), scale, sums);
  double sum = 0.0;
  for (float each : sums) sum += each;
  return sum;
}

template <typename T>
double learn(const T* gradient, const T* x, T* passed, int64_t count, float scale) {
  constexpr int64_t chunk = 4096;  // fixed, so that the sum does not depend on the number of threads
  std::vector<double> sums((count + chunk - 1) / chunk);
  at::parallel_for(0, int64_t(sums.size()), kGrain * kBlock / chunk, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      int64_t first = i * chunk, size = count - first < chunk ? count - first : chunk;
      sums[i] = learn_span(gradient + first, x + first, passed + first, size, scale);
    }
  });
  double sum = 0.0;
  for (double each : sums) sum += each;
  return sum;
}

constexpr int64_t kBins = 32768;  // the bit patterns of FP16 magnitudes

template <typename T>
void half_bits(const T* x, uint16_t* bits, int64_t count) {  // of the nearest FP16 magnitude, ties to even
  int64_t i = 0;
#ifdef __F16C__
  float values[8];
  for (; i + 8 <= count; i += 8) {
    for (int lane = 0; lane < 8; ++lane) values[lane] = std::fabs(load(x + i + lane));
    __m128i halves = _mm256_cvtps_ph(_mm256_loadu_ps(values), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(bits + i), halves);
  }
#endif
  for (; i < count; ++i) bits[i] = c10::Half(std::fabs(load(x + i))).x;
}

// Adds to counts and raises peaks, one a column, by the rows that are listed, or by all where there is no list; returns
// the largest magnitude, a NaN where there is one.
template <typename T>
float count_rows(const T* x, const int64_t* listed, int64_t rows, int64_t width, int64_t* counts, uint16_t* peaks) {
  std::mutex merging;
  uint32_t found = 0;
  at::parallel_for(0, rows, 1 + kGrain * kBlock / (width + 1), [&](int64_t begin, int64_t end) {
    std::vector<uint32_t> own(kBins);
    std::vector<uint16_t> bits(width), tops(width);
    uint32_t mine = 0;
    for (int64_t row = begin; row < end; ++row) {
      const T* values = x + (listed ? listed[row] : row) * width;
      half_bits(values, bits.data(), width);
      mine = std::max(mine, largest(values, width));
      for (int64_t i = 0; i < width; ++i) tops[i] = std::max(tops[i], bits[i]);
      for (int64_t i = 0; i < width; ++i) ++own[bits[i]];
    }
    std::lock_guard<std::mutex> guard(merging);
    found = std::max(found, mine);
    for (int64_t i = 0; i < width; ++i) peaks[i] = std::max(peaks[i], tops[i]);
    for (int64_t bin = 0; bin < kBins; ++bin) counts[bin] += own[bin];
  });
  float top;
  std::memcpy(&top, &found, sizeof top);
  return top;
}

}  // namespace

#define QDQ_EXPORT(T, NAME)                                                                                        \
  extern "C" void round_masked_##NAME(const T* x, T* y, uint8_t* mask, int64_t count, const float* scale) {        \
    round_masked(x, y, mask, count, *scale);                                                                       \
  }                                                                                                                \
  extern "C" void round_rows_##NAME(const T* x, T* y, const float* scales, int64_t rows, int64_t channels,         \
                                    int64_t inner) {                                                               \
    round_rows(x, y, scales, rows, channels, inner);                                                               \
  }                                                                                                                \
  extern "C" void amax_rows_##NAME(const T* x, float* amax, int64_t rows, int64_t inner) {                          \
    amax_rows(x, amax, rows, inner);                                                                               \
  }                                                                                                                \
  extern "C" void pass_masked_##NAME(const T* gradient, const uint8_t* mask, T* passed, int64_t count) {           \
    pass_masked(gradient, mask, passed, count);                                                                    \
  }                                                                                                                \
  extern "C" float count_rows_##NAME(const T* x, const int64_t* listed, int64_t rows, int64_t width,               \
                                     int64_t* counts, uint16_t* peaks) {                                           \
    return count_rows(x, listed, rows, width, counts, peaks);                                                      \
  }                                                                                                                \
  extern "C" double learn_##NAME(const T* gradient, const T* x, T* passed, int64_t count, const float* scale) {    \
    return learn(gradient, x, passed, count, *scale);                                                              \
  }

QDQ_EXPORT(float, float32)
QDQ_EXPORT(uint16_t, bfloat16)
