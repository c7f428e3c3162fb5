// One step of each cell, mirroring equations/, and its gradient, for one row and one block of
// panel_width units. A block's last units may lie beyond H: loads give 0 there, stores do nothing.

// What the cells see of a layer.
template <class T>
struct Layer {
  Shape shape;
  Weights<T> weights;
  const T *h0, *c0, *h;   // forward writes h through its own pointer
  T *gates, *inner;       // forward
  const T *saved_gates, *saved_inner, *dy;  // backward
  T *dgates, *dproduct, *operand;           // backward
};

// Where a cell works.
template <class T>
struct Place {
  int64_t at;             // row of this step in the [N, ...] arrays
  int64_t previous;       // row of the step before, or -1: the initial state
  int64_t b;              // row of the state
  int64_t unit;           // first unit of the block
  const T *update, *state;  // factors of the sites, or null
};

template <class T>
RECDROP_INLINE Vec<T> previous_h(const Layer<T>& l, const Place<T>& p, int64_t unit, int64_t n) {
  const int64_t width = l.shape.width;
  return load((p.previous < 0 ? l.h0 + p.b * width : l.h + p.previous * width) + unit, n);
}

// Gate number `gate` at this place, in an [N, gates * H] array.
template <class T>
RECDROP_INLINE T* gate_of(const Layer<T>& l, T* array, int64_t at, int gate, int64_t unit) {
  return array + (at * l.shape.gates() + gate) * l.shape.hidden + unit;
}
template <class T>
RECDROP_INLINE const T* gate_of(const Layer<T>& l, const T* array, int64_t at, int gate, int64_t unit) {
  return array + (at * l.shape.gates() + gate) * l.shape.hidden + unit;
}

// A block's vectors: calls f(offset in the block, first unit, how many units are left).
template <class T, class F>
RECDROP_INLINE void for_vectors(const Layer<T>& l, const Place<T>& p, F&& f) {
  for (int half = 0; half < 2; ++half) {
    const int64_t unit = p.unit + half * lanes<T>, n = l.shape.hidden - unit;
    if (n > 0) f(half * lanes<T>, unit, n);
  }
}

template <bool acts, class T>
RECDROP_INLINE Vec<T> drop(Vec<T> x, const T* factors) {
  if constexpr (acts) return x * load(factors);
  return x;
}

template <class T>
RECDROP_INLINE Vec<T> sigmoid_slope(Vec<T> y) {
  return y * (T(1) - y);
}

// A cell's forward takes `x` [gates, panel_width], the input projection plus what W_hh made of the
// state, gate_stride apart, and `state` [panel_width], the LSTM's c or a GRU's h of the step before,
// which it brings up to date; it returns its h in `h`. Its backward takes dh and leaves the gradients
// of the gates in `dp`, gate_stride apart; `carry` [panel_width] takes the part of dh_prev that does
// not pass through the product, `dc` is the gradient of c. Cells write to the layer's arrays what
// they do not read there: rows of equal addresses modulo a page, as they are for many H, would make
// each row's loads wait for the stores of the row before.

template <class T, Activation f>
struct Rnn {
  static void forward(const Layer<T>& l, const Place<T>& p, const T* x, int64_t, T*, T* h) {
    for_vectors(l, p, [&](int64_t v, int64_t, int64_t) {
      store(h + v, activate<T, f>(load(x + v)));  // Eq. 1
    });
  }
  static void backward(const Layer<T>& l, const Place<T>& p, const T* dh, T* dp, int64_t, T*, T*) {
    for_vectors(l, p, [&](int64_t v, int64_t unit, int64_t n) {
      const Vec<T> y = load(gate_of(l, l.h, p.at, 0, unit), n);
      const Vec<T> dx = load(dh + v) * slope<T, f>(y);
      store(dp + v, dx);
    });
  }
};

template <class T, Activation f, bool on_update, bool on_state>
struct Lstm {
  static void forward(const Layer<T>& l, const Place<T>& p, const T* x, int64_t gate_stride, T* state, T* h) {
    for_vectors(l, p, [&](int64_t v, int64_t unit, int64_t n) {
      const Vec<T> i = sigmoid<T>(load(x + v)), f_gate = sigmoid<T>(load(x + gate_stride + v));  // Eq. 4
      const Vec<T> g = activate<T, f>(load(x + 2 * gate_stride + v));
      const Vec<T> o = sigmoid<T>(load(x + 3 * gate_stride + v));
      const Vec<T> update = drop<on_update>(g, p.update + v);  // Eq. 9, this paper
      const Vec<T> c = drop<on_state>(f_gate * load(state + v) + i * update, p.state + v);  // Eqs. 5, 8
      const Vec<T> y[4] = {i, f_gate, g, o};
      for (int gate = 0; gate < 4; ++gate) store(gate_of(l, l.gates, p.at, gate, unit), y[gate], n);
      store(l.inner + p.at * l.shape.hidden + unit, c, n);
      store(state + v, c);
      store(h + v, o * activate<T, f>(c));  // Eq. 6
    });
  }

  static void backward(const Layer<T>& l, const Place<T>& p, const T* dh_, T* dp, int64_t gate_stride, T*, T* dc_) {
    for_vectors(l, p, [&](int64_t v, int64_t unit, int64_t n) {
      Vec<T> y[4];
      for (int g = 0; g < 4; ++g) y[g] = load(gate_of(l, l.saved_gates, p.at, g, unit), n);
      const Vec<T> i = y[0], f_gate = y[1], g = y[2], o = y[3];
      const Vec<T> c = load(l.saved_inner + p.at * l.shape.hidden + unit, n);
      const int64_t hidden = l.shape.hidden;
      const Vec<T> c_prev = load((p.previous < 0 ? l.c0 + p.b * hidden : l.saved_inner + p.previous * hidden) + unit, n);
      const Vec<T> fc = activate<T, f>(c), update = drop<on_update>(g, p.update + v);
      const Vec<T> dh = load(dh_ + v);
      const Vec<T> dc = drop<on_state>(load(dc_ + v) + dh * o * slope<T, f>(fc), p.state + v);
      const Vec<T> dx[4] = {
          dc * update * sigmoid_slope<T>(i), dc * c_prev * sigmoid_slope<T>(f_gate),
          drop<on_update>(dc * i, p.update + v) * slope<T, f>(g), dh * fc * sigmoid_slope<T>(o)};
      for (int gate = 0; gate < 4; ++gate) store(dp + gate * gate_stride + v, dx[gate]);
      store(dc_ + v, dc * f_gate);
      if (l.operand != nullptr) store(l.operand + p.at * l.shape.hidden + unit, o * fc, n);
    });
  }
};

// torch's GRU: reset after the product, z holds the old value.
template <class T, Activation f, bool on_update, bool on_state>
struct Gru {
  static void forward(const Layer<T>& l, const Place<T>& p, const T* x, int64_t gate_stride, T* state, T* h) {
    for_vectors(l, p, [&](int64_t v, int64_t unit, int64_t n) {
      const Vec<T> r = sigmoid<T>(load(x + v)), z = sigmoid<T>(load(x + gate_stride + v));
      Vec<T> inner = load(x + 2 * gate_stride + v);  // of the candidate, the product alone
      if (l.weights.b_hn != nullptr) inner += load(l.weights.b_hn + unit, n);
      T* y = gate_of(l, l.gates, p.at, 0, unit);
      const Vec<T> g = activate<T, f>(load(y + 2 * l.shape.hidden, n) + r * inner);
      const Vec<T> update = drop<on_update>(g, p.update + v);
      const Vec<T> h_t = drop<on_state>((T(1) - z) * update + z * load(state + v), p.state + v);
      store(y, r, n), store(y + l.shape.hidden, z, n), store(y + 2 * l.shape.hidden, g, n);
      store(l.inner + p.at * l.shape.hidden + unit, inner, n);
      store(state + v, h_t);
      store(h + v, h_t);
    });
  }

  static void backward(const Layer<T>& l, const Place<T>& p, const T* dh_, T* dp, int64_t gate_stride, T* carry, T*) {
    for_vectors(l, p, [&](int64_t v, int64_t unit, int64_t n) {
      const Vec<T> r = load(gate_of(l, l.saved_gates, p.at, 0, unit), n);
      const Vec<T> z = load(gate_of(l, l.saved_gates, p.at, 1, unit), n);
      const Vec<T> g = load(gate_of(l, l.saved_gates, p.at, 2, unit), n);
      const Vec<T> inner = load(l.saved_inner + p.at * l.shape.hidden + unit, n);
      const Vec<T> h_prev = previous_h(l, p, unit, n), update = drop<on_update>(g, p.update + v);
      const Vec<T> dh = drop<on_state>(load(dh_ + v), p.state + v);
      const Vec<T> dg = drop<on_update>(dh * (T(1) - z), p.update + v) * slope<T, f>(g);
      const Vec<T> dz = dh * (h_prev - update) * sigmoid_slope<T>(z);
      const Vec<T> dr = dg * inner * sigmoid_slope<T>(r), dinner = dg * r;
      const Vec<T> dx[4] = {dr, dz, dinner, dg};
      for (int gate = 0; gate < 4; ++gate) store(dp + gate * gate_stride + v, dx[gate]);
      store(carry + v, dh * z);
    });
  }
};

// The paper's GRU: reset before the product, z opens the update. Two products in a step: the gates
// first (Eq. 10), the candidate from `operand` = r * d(h_prev) second (Eqs. 11-13).
template <class T, Activation f, bool on_update, bool on_state>
struct GruPaper {
  // seen [panel_width]: d(h_prev) of the candidate; writes r * seen.
  static void forward_gates(const Layer<T>& l, const Place<T>& p, const T* x, int64_t gate_stride, const T* seen, T* operand) {
    for_vectors(l, p, [&](int64_t v, int64_t unit, int64_t n) {
      const Vec<T> r = sigmoid<T>(load(x + v)), z = sigmoid<T>(load(x + gate_stride + v));  // Eq. 10
      store(gate_of(l, l.gates, p.at, 0, unit), r, n);
      store(gate_of(l, l.gates, p.at, 1, unit), z, n);
      store(operand + v, r * load(seen + v));
    });
  }

  static void forward(const Layer<T>& l, const Place<T>& p, const T* x, int64_t, T* state, T* h) {
    for_vectors(l, p, [&](int64_t v, int64_t unit, int64_t n) {
      const Vec<T> z = load(gate_of(l, l.gates, p.at, 1, unit), n), h_prev = load(state + v);
      const Vec<T> g = activate<T, f>(load(x + v));  // Eq. 11
      const Vec<T> update = drop<on_update>(g, p.update + v);  // Eq. 13
      const Vec<T> h_t = drop<on_state>((T(1) - z) * h_prev + z * update, p.state + v);  // Eq. 12
      store(gate_of(l, l.gates, p.at, 2, unit), g, n);
      store(state + v, h_t);
      store(h + v, h_t);
    });
  }

  // dp takes the gates' gradients, of which r's comes with backward_gates.
  static void backward(const Layer<T>& l, const Place<T>& p, const T* dh_, T* dp, int64_t gate_stride, T* carry, T*) {
    for_vectors(l, p, [&](int64_t v, int64_t unit, int64_t n) {
      const Vec<T> z = load(gate_of(l, l.saved_gates, p.at, 1, unit), n);
      const Vec<T> g = load(gate_of(l, l.saved_gates, p.at, 2, unit), n);
      const Vec<T> h_prev = previous_h(l, p, unit, n), update = drop<on_update>(g, p.update + v);
      const Vec<T> dh = drop<on_state>(load(dh_ + v), p.state + v);
      const Vec<T> dg = drop<on_update>(dh * z, p.update + v) * slope<T, f>(g);
      const Vec<T> dz = dh * (update - h_prev) * sigmoid_slope<T>(z);
      store(dp + gate_stride + v, dz);
      store(dp + 2 * gate_stride + v, dg);
      store(carry + v, dh * (T(1) - z));
    });
  }

  // doperand [panel_width]: gradient of r * seen; seen_factor: of the hidden site, or null.
  static void backward_gates(const Layer<T>& l, const Place<T>& p, const T* doperand, const T* seen_factor, T* dp, T* carry) {
    for_vectors(l, p, [&](int64_t v, int64_t unit, int64_t n) {
      const Vec<T> r = load(gate_of(l, l.saved_gates, p.at, 0, unit), n), d = load(doperand + v);
      const Vec<T> factor = seen_factor != nullptr ? load(seen_factor + v) : splat<T>(1);
      const Vec<T> seen = previous_h(l, p, unit, n) * factor;
      const Vec<T> dr = d * seen * sigmoid_slope<T>(r);
      store(dp + v, dr);
      store(carry + v, load(carry + v) + d * r * factor);
      store(l.operand + p.at * l.shape.hidden + unit, r * seen, n);
    });
  }
};
