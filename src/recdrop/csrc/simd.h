// Vectors as the compiler has them, and the nonlinearities on them. Included once per instruction
// set, inside its namespace: nothing here may come from the standard library's templates, whose
// code the linker would share between instruction sets.

// V<T>::type holds one machine register of T.
template <class T>
struct V;
template <>
struct V<float> {
  typedef float type __attribute__((vector_size(RECDROP_VECTOR_BYTES)));
  typedef int32_t ints __attribute__((vector_size(RECDROP_VECTOR_BYTES)));
  typedef int32_t bits;
};
template <>
struct V<double> {
  typedef double type __attribute__((vector_size(RECDROP_VECTOR_BYTES)));
  typedef int64_t ints __attribute__((vector_size(RECDROP_VECTOR_BYTES)));
  typedef int64_t bits;
};
template <class T>
using Vec = typename V<T>::type;

template <class T>
constexpr int lanes = RECDROP_VECTOR_BYTES / sizeof(T);

#define RECDROP_INLINE inline __attribute__((always_inline))

template <class T>
RECDROP_INLINE Vec<T> load(const T* p) {
  Vec<T> v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

template <class T>
RECDROP_INLINE void store(T* p, Vec<T> v) {
  __builtin_memcpy(p, &v, sizeof v);
}

// The first n lanes, n possibly more than there are or less than one; the others are 0.
template <class T>
RECDROP_INLINE Vec<T> load(const T* p, int64_t n) {
  if (n >= lanes<T>) return load(p);
  alignas(RECDROP_VECTOR_BYTES) T lane[lanes<T>] = {};
  for (int64_t i = 0; i < n; ++i) lane[i] = p[i];
  return load(lane);
}

template <class T>
RECDROP_INLINE void store(T* p, Vec<T> v, int64_t n) {
  if (n >= lanes<T>) return store(p, v);
  alignas(RECDROP_VECTOR_BYTES) T lane[lanes<T>];
  store(lane, v);
  for (int64_t i = 0; i < n; ++i) p[i] = lane[i];
}

template <class T>
RECDROP_INLINE Vec<T> splat(T x) {
  return x - Vec<T>{};
}

// e**x as 2**n (1 + p): n = round(x / ln 2), p = e**r - 1 by its Taylor series on |r| <= ln 2 / 2,
// cut where the next term is below half a unit in the last place.
template <class T>
struct PowerOfE {
  Vec<T> two_n, p;
};

template <class T>
struct ExpConstants;
template <>
struct ExpConstants<float> {
  static constexpr float round = 0x1.8p23f, ln2_high = 0x1.62e4p-1f, ln2_low = 0x1.7f7d1cp-20f;
  static constexpr int mantissa = 23, bias = 127, terms = 7;
  static constexpr float least = -87.0f, most = 88.0f;
};
template <>
struct ExpConstants<double> {
  static constexpr double round = 0x1.8p52, ln2_high = 0x1.62e42fefap-1, ln2_low = 0x1.cf79abc9e3b39p-40;
  static constexpr int mantissa = 52, bias = 1023, terms = 14;
  static constexpr double least = -708.0, most = 709.0;
};

template <class T>
RECDROP_INLINE PowerOfE<T> power_of_e(Vec<T> x) {
  using C = ExpConstants<T>;
  using I = typename V<T>::ints;
  const Vec<T> shifted = x * T(1.44269504088896340736) + C::round;  // its low bits are n
  const Vec<T> n = shifted - C::round;
  const Vec<T> r = (x - n * C::ln2_high) - n * C::ln2_low;
  I bits;
  __builtin_memcpy(&bits, &shifted, sizeof bits);
  Vec<T> magic = splat<T>(C::round);
  I magic_bits;
  __builtin_memcpy(&magic_bits, &magic, sizeof magic_bits);
  bits = (bits - magic_bits + C::bias) << C::mantissa;
  PowerOfE<T> e;
  __builtin_memcpy(&e.two_n, &bits, sizeof bits);
  T inverse_factorial[C::terms] = {};
  T f = 1;
  for (int i = 0; i < C::terms; ++i) inverse_factorial[i] = T(1) / (f *= T(i + 1));
  Vec<T> p = splat<T>(inverse_factorial[C::terms - 1]);
#pragma GCC unroll 16
  for (int i = C::terms - 2; i >= 0; --i) p = p * r + inverse_factorial[i];
  e.p = p * r;
  return e;
}

template <class T>
RECDROP_INLINE Vec<T> clamp(Vec<T> x, T least, T most) {  // keeps NaN
  x = x < least ? splat<T>(least) : x;
  return x > most ? splat<T>(most) : x;
}

// 1 / (1 + e**-x)
template <class T>
RECDROP_INLINE Vec<T> sigmoid(Vec<T> x) {
  const auto e = power_of_e<T>(clamp<T>(-x, ExpConstants<T>::least, ExpConstants<T>::most));
  return T(1) / (T(1) + e.two_n + e.two_n * e.p);
}

// For a = |x| and E = e**2a: (E - 1) / (E + 1) where a is small, with E - 1 free of cancellation;
// else 1 - 2 / (E + 1), which is exact to the last place where gradients need 1 - y * y.
template <class T>
RECDROP_INLINE Vec<T> tanh(Vec<T> x) {
  constexpr T flat = sizeof(T) == 4 ? 20 : 40;  // tanh(flat / 2) rounds to 1
  const Vec<T> a = x < T(0) ? -x : x;
  const auto e = power_of_e<T>(clamp<T>(a + a, T(0), flat));
  const Vec<T> expm1 = e.two_n * e.p + (e.two_n - T(1));
  const auto small = a < T(0.5);
  const Vec<T> ratio = (small ? expm1 : splat<T>(2)) / (expm1 + T(2));
  const Vec<T> y = small ? ratio : T(1) - ratio;
  return x < T(0) ? -y : y;
}

// The activation f and its derivative, the latter from the value y = f(x).
template <class T, Activation f>
RECDROP_INLINE Vec<T> activate(Vec<T> x) {
  if constexpr (f == Activation::tanh) return tanh<T>(x);
  return x < T(0) ? Vec<T>{} : x;  // keeps NaN, as torch's relu
}

template <class T, Activation f>
RECDROP_INLINE Vec<T> slope(Vec<T> y) {
  if constexpr (f == Activation::tanh) return T(1) - y * y;
  return y > T(0) ? splat<T>(1) : Vec<T>{};
}
