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

// As many values as a panel is wide: two registers that go through every operation side by side,
// which keeps twice as many chains of dependent instructions under way.
template <class T>
struct Block {
  Vec<T> half[2];
};

#define RECDROP_OPERATOR(op)                                                                  \
  template <class T>                                                                          \
  RECDROP_INLINE Block<T> operator op(const Block<T>& a, const Block<T>& b) {                 \
    return {{a.half[0] op b.half[0], a.half[1] op b.half[1]}};                                \
  }                                                                                           \
  template <class T>                                                                          \
  RECDROP_INLINE Block<T> operator op(T a, const Block<T>& b) {                               \
    return {{a op b.half[0], a op b.half[1]}};                                                \
  }                                                                                           \
  template <class T>                                                                          \
  RECDROP_INLINE Block<T> operator op(const Block<T>& a, T b) {                               \
    return {{a.half[0] op b, a.half[1] op b}};                                                \
  }
RECDROP_OPERATOR(+)
RECDROP_OPERATOR(-)
RECDROP_OPERATOR(*)
RECDROP_OPERATOR(/)
#undef RECDROP_OPERATOR

template <class T>
RECDROP_INLINE Block<T> load_block(const T* p) {
  return {{load(p), load(p + lanes<T>)}};
}
template <class T>
RECDROP_INLINE Block<T> load_block(const T* p, int64_t n) {
  return {{load(p, n), n > lanes<T> ? load(p + lanes<T>, n - lanes<T>) : Vec<T>{}}};
}
template <class T>
RECDROP_INLINE void store_block(T* p, const Block<T>& b) {
  store(p, b.half[0]);
  store(p + lanes<T>, b.half[1]);
}
template <class T>
RECDROP_INLINE void store_block(T* p, const Block<T>& b, int64_t n) {
  store(p, b.half[0], n);
  if (n > lanes<T>) store(p + lanes<T>, b.half[1], n - lanes<T>);
}

template <class T>
struct ExpConstants;
template <>
struct ExpConstants<float> {
  static constexpr float round = 0x1.8p23f, ln2_high = 0x1.62e4p-1f, ln2_low = 0x1.7f7d1cp-20f;
  static constexpr int mantissa = 23, bias = 127, terms = 7;
  static constexpr float least = -87.0f, most = 88.0f, flat = 20;  // tanh(flat / 2) rounds to 1
};
template <>
struct ExpConstants<double> {
  static constexpr double round = 0x1.8p52, ln2_high = 0x1.62e42fefap-1, ln2_low = 0x1.cf79abc9e3b39p-40;
  static constexpr int mantissa = 52, bias = 1023, terms = 14;
  static constexpr double least = -708.0, most = 709.0, flat = 40;
};

template <class T>
RECDROP_INLINE Vec<T> clamp(Vec<T> x, T least, T most) {  // keeps NaN
  x = x < least ? splat<T>(least) : x;
  return x > most ? splat<T>(most) : x;
}

enum class Curve { sigmoid, tanh, relu };

constexpr Curve curve(Activation f) { return f == Activation::tanh ? Curve::tanh : Curve::relu; }

// e**x = 2**k (1 + p) of n vectors at a time, so that no chain waits for itself: k = round(x / ln 2),
// p = e**r - 1 by its Taylor series on |r| <= ln 2 / 2, cut where the next term is below half a unit
// in the last place. Takes x in r, within [least, most].
template <class T, int n>
RECDROP_INLINE void exponentials(Vec<T> (&r)[n], Vec<T> (&p)[n], Vec<T> (&two_k)[n]) {
  using C = ExpConstants<T>;
  using I = typename V<T>::ints;
#pragma GCC unroll 16
  for (int i = 0; i < n; ++i) {
    const Vec<T> shifted = r[i] * T(1.44269504088896340736) + C::round;  // its low bits are k
    const Vec<T> k = shifted - C::round, magic = splat<T>(C::round);
    r[i] = (r[i] - k * C::ln2_high) - k * C::ln2_low;
    I bits, magic_bits;
    __builtin_memcpy(&bits, &shifted, sizeof bits);
    __builtin_memcpy(&magic_bits, &magic, sizeof magic_bits);
    bits = (bits - (magic_bits - C::bias)) << C::mantissa;
    __builtin_memcpy(&two_k[i], &bits, sizeof bits);
  }
  T inverse_factorial[C::terms] = {}, f = 1;
  for (int j = 0; j < C::terms; ++j) inverse_factorial[j] = T(1) / (f *= T(j + 1));
#pragma GCC unroll 16
  for (int i = 0; i < n; ++i) p[i] = splat<T>(inverse_factorial[C::terms - 1]);
#pragma GCC unroll 16
  for (int j = C::terms - 2; j >= 0; --j) {
#pragma GCC unroll 16
    for (int i = 0; i < n; ++i) p[i] = p[i] * r[i] + inverse_factorial[j];
  }
#pragma GCC unroll 16
  for (int i = 0; i < n; ++i) p[i] = p[i] * r[i];
}

// n vectors at a time, all through one exponential:
//   sigmoid(x) = 1 / (1 + e**-x)
//   tanh(x), a = |x|, E = e**2a: (E - 1) / (E + 1) where a is small, with E - 1 free of cancellation;
//     else 1 - 2 / (E + 1), exact to the last place, where gradients need 1 - y * y
template <class T, int n>
RECDROP_INLINE void curves(const Curve (&kind)[n], Vec<T> (&x)[n]) {
  using C = ExpConstants<T>;
  Vec<T> r[n], p[n], two_k[n];
#pragma GCC unroll 16
  for (int i = 0; i < n; ++i) {
    r[i] = kind[i] == Curve::sigmoid ? clamp<T>(-x[i], C::least, C::most)
                                     : clamp<T>(2 * (x[i] < T(0) ? -x[i] : x[i]), T(0), C::flat);
  }
  exponentials<T, n>(r, p, two_k);
#pragma GCC unroll 16
  for (int i = 0; i < n; ++i) {
    const Vec<T> expm1 = two_k[i] * p[i] + (two_k[i] - T(1));
    if (kind[i] == Curve::sigmoid) {
      x[i] = T(1) / (expm1 + T(2));
    } else {
      const auto small = x[i] < T(0.5) && x[i] > T(-0.5);
      const Vec<T> ratio = (small ? expm1 : splat<T>(2)) / (expm1 + T(2));
      const Vec<T> y = small ? ratio : T(1) - ratio;
      x[i] = x[i] < T(0) ? -y : y;
    }
  }
}

template <class T>
RECDROP_INLINE Block<T> relu(const Block<T>& x) {  // keeps NaN, as torch's
  return {{x.half[0] < T(0) ? Vec<T>{} : x.half[0], x.half[1] < T(0) ? Vec<T>{} : x.half[1]}};
}

// One block through f.
template <class T, Activation f>
RECDROP_INLINE Block<T> activate(const Block<T>& x) {
  if constexpr (f == Activation::relu) return relu(x);
  Vec<T> y[2] = {x.half[0], x.half[1]};
  curves<T, 2>({Curve::tanh, Curve::tanh}, y);
  return {{y[0], y[1]}};
}

// Two gates through the sigmoid.
template <class T>
RECDROP_INLINE void sigmoids(Block<T>& a, Block<T>& b) {
  Vec<T> y[4] = {a.half[0], a.half[1], b.half[0], b.half[1]};
  curves<T, 4>({Curve::sigmoid, Curve::sigmoid, Curve::sigmoid, Curve::sigmoid}, y);
  a = {{y[0], y[1]}}, b = {{y[2], y[3]}};
}

// The LSTM's four gates: i, f, o through the sigmoid, g through the activation.
template <class T, Activation f>
RECDROP_INLINE void lstm_gates(Block<T>& i, Block<T>& f_gate, Block<T>& g, Block<T>& o) {
  constexpr auto s = Curve::sigmoid;
  if constexpr (f == Activation::tanh) {
    Vec<T> y[8] = {i.half[0], i.half[1], f_gate.half[0], f_gate.half[1], g.half[0], g.half[1], o.half[0], o.half[1]};
    curves<T, 8>({s, s, s, s, Curve::tanh, Curve::tanh, s, s}, y);
    i = {{y[0], y[1]}}, f_gate = {{y[2], y[3]}}, g = {{y[4], y[5]}}, o = {{y[6], y[7]}};
  } else {
    Vec<T> y[6] = {i.half[0], i.half[1], f_gate.half[0], f_gate.half[1], o.half[0], o.half[1]};
    curves<T, 6>({s, s, s, s, s, s}, y);
    i = {{y[0], y[1]}}, f_gate = {{y[2], y[3]}}, o = {{y[4], y[5]}};
    g = relu(g);
  }
}

// The derivative of f, from the value y = f(x).
template <class T, Activation f>
RECDROP_INLINE Block<T> slope(const Block<T>& y) {
  if constexpr (f == Activation::tanh) return T(1) - y * y;
  return {{y.half[0] > T(0) ? splat<T>(1) : Vec<T>{}, y.half[1] > T(0) ? splat<T>(1) : Vec<T>{}}};
}

template <class T>
RECDROP_INLINE Block<T> sigmoid_slope(const Block<T>& y) {
  return y * (T(1) - y);
}
