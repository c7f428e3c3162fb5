// Cross entropy of rows of logits, which become its gradient in the same memory.

template <class T>
RECDROP_INLINE T largest_of(const T* x, int64_t n) {
  constexpr int L = lanes<T>, chains = 4;
  Vec<T> most_of[chains];
  for (auto& m : most_of) m = splat<T>(x[0]);
  int64_t i = 0;
  for (; i + chains * L <= n; i += chains * L) {
#pragma GCC unroll 4
    for (int c = 0; c < chains; ++c) {
      const Vec<T> v = load(x + i + c * L);
      most_of[c] = v > most_of[c] ? v : most_of[c];
    }
  }
  alignas(RECDROP_VECTOR_BYTES) T lane[chains * L];
  for (int c = 0; c < chains; ++c) store(lane + c * L, most_of[c]);
  T largest = lane[0];
  for (int l = 1; l < chains * L; ++l) largest = lane[l] > largest ? lane[l] : largest;
  for (; i < n; ++i) largest = x[i] > largest ? x[i] : largest;
  return largest;
}

// x = e**(x - largest), 0 where that has no digits; returns the sum.
template <class T>
RECDROP_INLINE double exponentials_of(T* x, int64_t n, T largest) {
  using C = ExpConstants<T>;
  constexpr int L = lanes<T>, chains = 4;
  constexpr int64_t stretch = 64 * chains * L;  // summed in T; sums of stretches in double
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += stretch) {
    const int64_t end = least(n, begin + stretch);
    Vec<T> sums[chains] = {};
    for (int64_t i = begin; i < end; i += chains * L) {
      Vec<T> r[chains], p[chains], two_k[chains], low[chains];
#pragma GCC unroll 4
      for (int c = 0; c < chains; ++c) {
        low[c] = load(x + i + c * L, end - i - c * L) - largest;
        r[c] = clamp<T>(low[c], C::least, C::most);
      }
      exponentials<T, chains>(r, p, two_k);
#pragma GCC unroll 4
      for (int c = 0; c < chains; ++c) {
        const int64_t valid = end - i - c * L;
        const Vec<T> y = low[c] < C::least ? Vec<T>{} : two_k[c] * p[c] + two_k[c];
        if (valid >= L) {
          store(x + i + c * L, y);
          sums[c] += y;
        } else {
          store(x + i + c * L, y, valid);
          for (int64_t l = 0; l < valid; ++l) total += x[i + c * L + l];
        }
      }
    }
    alignas(RECDROP_VECTOR_BYTES) T lane[L];
    for (auto& s : sums) {
      store(lane, s);
      for (T one : lane) total += one;
    }
  }
  return total;
}

// Rows of logits [R, V] into softmax(logits) less 1 at the row's target, which is the gradient of
// -log softmax(logits)[target]; that goes to nats [R], the gradient's sum over rows is added to
// column_sums [V] unless null. A row with NaN or +infinity has NaN, as torch's.
template <class T>
void cross_entropy(const Matrix<T>& logits, const int64_t* targets, T* nats, T* column_sums, const Pool& pool) {
  constexpr int L = lanes<T>;
  const int64_t rows = logits.rows, n = logits.columns, stride = divide_up(n, 64) * 64;
  const int64_t strips = least(most(1, pool.workers), rows);
  Scratch<T> sums(column_sums ? strips * stride : 0);
  in_parallel(pool, strips, [&](int64_t strip) {
    T* sum = column_sums ? sums + strip * stride : nullptr;
    if (sum) __builtin_memset(sum, 0, stride * sizeof(T));
    for (int64_t row = strip * rows / strips; row < (strip + 1) * rows / strips; ++row) {
      T* x = logits.data + row * logits.row_stride;
      const int64_t target = targets[row];
      const T right = x[target], largest = largest_of(x, n);
      const double total = exponentials_of(x, n, largest);
      nats[row] = T(__builtin_log(total) - (double(right) - double(largest)));
      const T scale = T(1 / total);
      for (int64_t i = 0; i < n; i += L) {
        const Vec<T> y = load(x + i, n - i) * scale;
        store(x + i, y, n - i);
        if (sum) store(sum + i, load(sum + i) + y);
      }
      x[target] -= 1;
      if (sum) sum[target] -= 1;
    }
  });
  if (!column_sums) return;
  for (int64_t strip = 0; strip < strips; ++strip) {
    for (int64_t i = 0; i < n; ++i) column_sums[i] += (sums + strip * stride)[i];
  }
}
