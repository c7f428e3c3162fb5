// Masks: Philox4x32-10 of Random123, one counter per 64-bit lane; recdrop/rng.py is the definition.
// A lane keeps a 32-bit word in its low half; its high half may hold anything until the end.

typedef uint64_t Words __attribute__((vector_size(RECDROP_VECTOR_BYTES)));
constexpr int counters = RECDROP_VECTOR_BYTES / 8;  // in one vector, four units each

RECDROP_INLINE Words multiply_low_halves(Words a, Words b) {
#if RECDROP_VECTOR_BYTES == 64
  return (Words)_mm512_maskz_mul_epu32(0xFF, (__m512i)a, (__m512i)b);
#elif RECDROP_VECTOR_BYTES == 32
  return (Words)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif defined(__x86_64__)
  return (Words)_mm_mul_epu32((__m128i)a, (__m128i)b);
#else
  return (a & 0xFFFFFFFFu) * (b & 0xFFFFFFFFu);
#endif
}

// Rows drawn side by side: one alone would wait for its own multiplications.
constexpr int rows_at_once = RECDROP_VECTOR_BYTES == 64 ? 4 : 2;

// The random words of 4 * counters units from 4 * first on, in the order of the units, of several
// rows: to out [rows][stride].
template <int rows>
RECDROP_INLINE void random_words(
    uint64_t key, uint32_t first, uint32_t t, const uint32_t (&row)[rows], uint32_t where, uint32_t* out, int64_t stride) {
  Words c0[rows], c1[rows], c2[rows], c3[rows], units{};
  for (int i = 0; i < counters; ++i) units[i] = first + i;
#pragma GCC unroll 4
  for (int j = 0; j < rows; ++j) {
    c0[j] = units;
    c1[j] = (Words{}) + uint64_t(t);
    c2[j] = (Words{}) + uint64_t(row[j]);
    c3[j] = (Words{}) + uint64_t(where);
  }
  uint32_t k0 = uint32_t(key), k1 = uint32_t(key >> 32);
  const Words m0 = (Words{}) + 0xD2511F53u, m1 = (Words{}) + 0xCD9E8D57u;
#pragma GCC unroll 10
  for (int round = 0; round < 10; ++round) {
#pragma GCC unroll 4
    for (int j = 0; j < rows; ++j) {
      const Words p0 = multiply_low_halves(c0[j], m0), p1 = multiply_low_halves(c2[j], m1);
      c0[j] = (p1 >> 32) ^ c1[j] ^ uint64_t(k0);
      c2[j] = (p0 >> 32) ^ c3[j] ^ uint64_t(k1);
      c1[j] = p1;
      c3[j] = p0;
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  const Words low = (Words{}) + 0xFFFFFFFFu;
#pragma GCC unroll 4
  for (int j = 0; j < rows; ++j) {
    const Words w01 = (c0[j] & low) | (c1[j] << 32), w23 = (c2[j] & low) | (c3[j] << 32);
#if RECDROP_VECTOR_BYTES == 64
    const Words a = __builtin_shufflevector(w01, w23, 0, 8, 1, 9, 2, 10, 3, 11);
    const Words b = __builtin_shufflevector(w01, w23, 4, 12, 5, 13, 6, 14, 7, 15);
#elif RECDROP_VECTOR_BYTES == 32
    const Words a = __builtin_shufflevector(w01, w23, 0, 4, 1, 5);
    const Words b = __builtin_shufflevector(w01, w23, 2, 6, 3, 7);
#else
    const Words a = __builtin_shufflevector(w01, w23, 0, 2);
    const Words b = __builtin_shufflevector(w01, w23, 1, 3);
#endif
    __builtin_memcpy(out + j * stride, &a, sizeof a);
    __builtin_memcpy(out + j * stride + 2 * counters, &b, sizeof b);
  }
}

template <class T>
constexpr int units_at_once = 2 * lanes<T>;

// What units_at_once units from `unit` on are multiplied by, scale if kept, else 0, of several rows:
// to out [rows][units_at_once].
template <class T, int rows>
RECDROP_INLINE void draw_factors(
    const Site& site, uint64_t key, uint32_t t, const uint32_t (&row)[rows], int64_t unit, T* out) {
  constexpr int each = 4 * counters, stride = 2 * each + 16;  // whole cache lines
  alignas(RECDROP_VECTOR_BYTES) uint32_t words[rows * stride];
  const int skip = unit % 4;  // not 0 only where gates have masks of their own
  const uint32_t step = site.per_step ? t : 0;
  random_words(key, uint32_t(unit / 4), step, row, site.where, words, stride);
  if (skip + units_at_once<T> > each) {
    random_words(key, uint32_t(unit / 4 + counters), step, row, site.where, words + each, stride);
  }
  const T scale = T(site.scale);
  for (int j = 0; j < rows; ++j) {
    for (int i = 0; i < units_at_once<T>; ++i) {
      out[j * units_at_once<T> + i] = words[j * stride + skip + i] < site.threshold ? scale : T(0);
    }
  }
}
