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

struct Counter {
  uint32_t t, row, where;  // words 1 to 3; word 0 is unit / 4
};

// The random words of 4 * counters units from 4 * first on, in the order of the units.
RECDROP_INLINE void random_words(uint64_t key, uint32_t first, Counter at, uint32_t* out) {
  Words c0, c1, c2, c3;
  for (int i = 0; i < counters; ++i) c0[i] = first + i;
  c1 = (Words{}) + uint64_t(at.t);
  c2 = (Words{}) + uint64_t(at.row);
  c3 = (Words{}) + uint64_t(at.where);
  uint32_t k0 = uint32_t(key), k1 = uint32_t(key >> 32);
  const Words m0 = (Words{}) + 0xD2511F53u, m1 = (Words{}) + 0xCD9E8D57u;
#pragma GCC unroll 10
  for (int round = 0; round < 10; ++round) {
    const Words p0 = multiply_low_halves(c0, m0), p1 = multiply_low_halves(c2, m1);
    c0 = (p1 >> 32) ^ c1 ^ uint64_t(k0);
    c2 = (p0 >> 32) ^ c3 ^ uint64_t(k1);
    c1 = p1;
    c3 = p0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  const Words low = (Words{}) + 0xFFFFFFFFu;
  const Words w01 = (c0 & low) | (c1 << 32), w23 = (c2 & low) | (c3 << 32);
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
  __builtin_memcpy(out, &a, sizeof a);
  __builtin_memcpy(out + 2 * counters, &b, sizeof b);
}

// What n <= units_at_once units from `unit` on are multiplied by: scale if kept, else 0.
template <class T>
constexpr int units_at_once = 2 * lanes<T>;

template <class T>
RECDROP_INLINE void draw_factors(
    const Site& site, uint64_t key, uint32_t t, uint32_t row, int64_t unit, T* out) {
  constexpr int each = 4 * counters;
  alignas(RECDROP_VECTOR_BYTES) uint32_t words[2 * each + 4];
  const int skip = unit % 4;  // not 0 only where gates have masks of their own
  const Counter at{site.per_step ? t : 0, row, site.where};
  random_words(key, uint32_t(unit / 4), at, words);
  if (skip + units_at_once<T> > each) {
    random_words(key, uint32_t(unit / 4 + counters), at, words + each);
  }
  const T scale = T(site.scale);
  for (int i = 0; i < units_at_once<T>; ++i) out[i] = words[skip + i] < site.threshold ? scale : T(0);
}
