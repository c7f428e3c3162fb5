// One step of each cell, mirroring equations/, and its gradient, for one row and one block of
// panel_width units. A block's last units may lie beyond H: loads give 0 there, stores do nothing.

// What the cells see of a layer.
template <class T>
struct Layer {
  Shape shape;
  int64_t total;  // N
  Weights<T> weights;
  const T *h0, *c0, *h;   // forward writes h through its own pointer
  T *gates, *inner;       // forward
  const T *saved_gates, *saved_inner;  // backward
  T* operand;                          // backward, [N, H] in panels that are all of one width
};

// Where a cell works.
template <class T>
struct Place {
  int64_t at;             // row of this step in the [N, ...] arrays
  int64_t previous;       // row of the step before, or -1: the initial state
  int64_t b;              // row of the state
  int64_t unit;           // first unit of the block
  int64_t saved, saved_before;  // of `at` and `previous` in arrays in panels; see panel_offset
  const T *update, *state;  // factors of the sites, or null
};

template <class T>
RECDROP_INLINE Block<T> previous_h(const Layer<T>& l, const Place<T>& p, int64_t n) {
  const int64_t width = l.shape.width;
  return load_block((p.previous < 0 ? l.h0 + p.b * width : l.h + p.previous * width) + p.unit, n);
}

// Gate number `gate` at this place, in an array with each gate in panels.
template <class T>
RECDROP_INLINE auto* gate_of(const Layer<T>& l, auto* array, const Place<T>& p, int gate) {
  return array + gate * l.shape.hidden * l.total + p.saved;
}

template <class T>
RECDROP_INLINE T* operand_of(const Layer<T>& l, const Place<T>& p) {
  return l.operand + p.unit * l.total + p.at * panel_width<T>;
}

template <bool acts, class T>
RECDROP_INLINE Block<T> drop(const Block<T>& x, const T* factors) {
  if constexpr (acts) return x * load_block(factors);
  return x;
}

// A cell's forward takes `x` [gates, panel_width], the input projection plus what W_hh made of the
// state, gate_stride apart (torch's GRU: the candidate's two terms apart, its input's as the fourth),
// and `state` [panel_width], the LSTM's c or a GRU's h of the step before,
// which it brings up to date; it returns its h in `h`. Its backward takes dh and leaves the gradients
// of the gates in `dp`, gate_stride apart; `carry` [panel_width] takes the part of dh_prev that does
// not pass through the product, `dc` is the gradient of c. Cells write to the layer's arrays what
// they do not read there: rows of equal addresses modulo a page, as they are for many H, would make
// each row's loads wait for the stores of the row before.

template <class T, Activation f>
struct Rnn {
  static void forward(const Layer<T>&, const Place<T>&, const T* x, int64_t, T*, T* h) {
    store_block(h, activate<T, f>(load_block(x)));  // Eq. 1
  }
  static void backward(const Layer<T>& l, const Place<T>& p, const T* dh, T* dp, int64_t, T*, T*) {
    const int64_t unit = p.unit, n = l.shape.hidden - unit;
    const Block<T> y = load_block(l.h + p.at * l.shape.hidden + unit, n);
    const Block<T> dx = load_block(dh) * slope<T, f>(y);
    store_block(dp, dx);
  }
};

template <class T, Activation f, bool on_update, bool on_state>
struct Lstm {
  static void forward(const Layer<T>& l, const Place<T>& p, const T* x, int64_t gate_stride, T* state, T* h) {
    const int64_t unit = p.unit, n = l.shape.hidden - unit;
    Block<T> i = load_block(x), f_gate = load_block(x + gate_stride);
    Block<T> g = load_block(x + 2 * gate_stride), o = load_block(x + 3 * gate_stride);
    lstm_gates<T, f>(i, f_gate, g, o);  // Eq. 4
    const Block<T> update = drop<on_update>(g, p.update);  // Eq. 9, this paper
    const Block<T> c = drop<on_state>(f_gate * load_block(state) + i * update, p.state);  // Eqs. 5, 8
    const Block<T> y[4] = {i, f_gate, g, o};
    for (int gate = 0; gate < 4; ++gate) store_block(gate_of(l, l.gates, p, gate), y[gate], n);
    store_block(l.inner + p.saved, c, n);
    store_block(state, c);
    store_block(h, o * activate<T, f>(c));  // Eq. 6
  }

  static void backward(const Layer<T>& l, const Place<T>& p, const T* dh_, T* dp, int64_t gate_stride, T*, T* dc_) {
    const int64_t unit = p.unit, n = l.shape.hidden - unit;
    Block<T> y[4];
    for (int g = 0; g < 4; ++g) y[g] = load_block(gate_of(l, l.saved_gates, p, g), n);
    const Block<T> i = y[0], f_gate = y[1], g = y[2], o = y[3];
    const Block<T> c = load_block(l.saved_inner + p.saved, n);
    const int64_t hidden = l.shape.hidden;
    const Block<T> c_prev = load_block(p.previous < 0 ? l.c0 + p.b * hidden + unit : l.saved_inner + p.saved_before, n);
    const Block<T> fc = activate<T, f>(c), update = drop<on_update>(g, p.update);
    const Block<T> dh = load_block(dh_);
    const Block<T> dc = drop<on_state>(load_block(dc_) + dh * o * slope<T, f>(fc), p.state);
    const Block<T> dx[4] = {
        dc * update * sigmoid_slope<T>(i), dc * c_prev * sigmoid_slope<T>(f_gate),
        drop<on_update>(dc * i, p.update) * slope<T, f>(g), dh * fc * sigmoid_slope<T>(o)};
    for (int gate = 0; gate < 4; ++gate) store_block(dp + gate * gate_stride, dx[gate]);
    store_block(dc_, dc * f_gate);
    if (l.operand != nullptr) store_block(operand_of(l, p), o * fc);
  }
};

// torch's GRU: reset after the product, z holds the old value.
template <class T, Activation f, bool on_update, bool on_state>
struct Gru {
  static void forward(const Layer<T>& l, const Place<T>& p, const T* x, int64_t gate_stride, T* state, T* h) {
    const int64_t unit = p.unit, n = l.shape.hidden - unit;
    Block<T> r = load_block(x), z = load_block(x + gate_stride);
    sigmoids(r, z);
    Block<T> inner = load_block(x + 2 * gate_stride);
    if (l.weights.b_hn != nullptr) inner = inner + load_block(l.weights.b_hn + unit, n);
    const Block<T> g = activate<T, f>(load_block(x + 3 * gate_stride) + r * inner);
    const Block<T> update = drop<on_update>(g, p.update);
    const Block<T> h_t = drop<on_state>((T(1) - z) * update + z * load_block(state), p.state);
    store_block(gate_of(l, l.gates, p, 0), r, n), store_block(gate_of(l, l.gates, p, 1), z, n);
    store_block(gate_of(l, l.gates, p, 2), g, n);
    store_block(l.inner + p.saved, inner, n);
    store_block(state, h_t);
    store_block(h, h_t);
  }

  static void backward(const Layer<T>& l, const Place<T>& p, const T* dh_, T* dp, int64_t gate_stride, T* carry, T*) {
    const int64_t unit = p.unit, n = l.shape.hidden - unit;
    const Block<T> r = load_block(gate_of(l, l.saved_gates, p, 0), n);
    const Block<T> z = load_block(gate_of(l, l.saved_gates, p, 1), n);
    const Block<T> g = load_block(gate_of(l, l.saved_gates, p, 2), n);
    const Block<T> inner = load_block(l.saved_inner + p.saved, n);
    const Block<T> h_prev = previous_h(l, p, n), update = drop<on_update>(g, p.update);
    const Block<T> dh = drop<on_state>(load_block(dh_), p.state);
    const Block<T> dg = drop<on_update>(dh * (T(1) - z), p.update) * slope<T, f>(g);
    const Block<T> dz = dh * (h_prev - update) * sigmoid_slope<T>(z);
    const Block<T> dr = dg * inner * sigmoid_slope<T>(r), dinner = dg * r;
    const Block<T> dx[4] = {dr, dz, dinner, dg};
    for (int gate = 0; gate < 4; ++gate) store_block(dp + gate * gate_stride, dx[gate]);
    store_block(carry, dh * z);
  }
};

// The paper's GRU: reset before the product, z opens the update. Two products in a step: the gates
// first (Eq. 10), the candidate from `operand` = r * d(h_prev) second (Eqs. 11-13).
template <class T, Activation f, bool on_update, bool on_state>
struct GruPaper {
  // seen [panel_width]: d(h_prev) of the candidate; writes r * seen.
  static void forward_gates(const Layer<T>& l, const Place<T>& p, const T* x, int64_t gate_stride, const T* seen, T* operand) {
    const int64_t unit = p.unit, n = l.shape.hidden - unit;
    Block<T> r = load_block(x), z = load_block(x + gate_stride);
    sigmoids(r, z);  // Eq. 10
    store_block(gate_of(l, l.gates, p, 0), r, n);
    store_block(gate_of(l, l.gates, p, 1), z, n);
    store_block(operand, r * load_block(seen));
  }

  static void forward(const Layer<T>& l, const Place<T>& p, const T* x, int64_t, T* state, T* h) {
    const int64_t unit = p.unit, n = l.shape.hidden - unit;
    const Block<T> z = load_block(gate_of(l, l.gates, p, 1), n), h_prev = load_block(state);
    const Block<T> g = activate<T, f>(load_block(x));  // Eq. 11
    const Block<T> update = drop<on_update>(g, p.update);  // Eq. 13
    const Block<T> h_t = drop<on_state>((T(1) - z) * h_prev + z * update, p.state);  // Eq. 12
    store_block(gate_of(l, l.gates, p, 2), g, n);
    store_block(state, h_t);
    store_block(h, h_t);
  }

  // dp takes the gates' gradients, of which r's comes with backward_gates.
  static void backward(const Layer<T>& l, const Place<T>& p, const T* dh_, T* dp, int64_t gate_stride, T* carry, T*) {
    const int64_t unit = p.unit, n = l.shape.hidden - unit;
    const Block<T> z = load_block(gate_of(l, l.saved_gates, p, 1), n);
    const Block<T> g = load_block(gate_of(l, l.saved_gates, p, 2), n);
    const Block<T> h_prev = previous_h(l, p, n), update = drop<on_update>(g, p.update);
    const Block<T> dh = drop<on_state>(load_block(dh_), p.state);
    const Block<T> dg = drop<on_update>(dh * z, p.update) * slope<T, f>(g);
    const Block<T> dz = dh * (update - h_prev) * sigmoid_slope<T>(z);
    store_block(dp + gate_stride, dz);
    store_block(dp + 2 * gate_stride, dg);
    store_block(carry, dh * (T(1) - z));
  }

  // doperand [panel_width]: gradient of r * seen; seen_factor: of the hidden site, or null.
  static void backward_gates(const Layer<T>& l, const Place<T>& p, const T* doperand, const T* seen_factor, T* dp, T* carry) {
    const int64_t unit = p.unit, n = l.shape.hidden - unit;
    const Block<T> r = load_block(gate_of(l, l.saved_gates, p, 0), n), d = load_block(doperand);
    const Block<T> factor = seen_factor != nullptr ? load_block(seen_factor) : Block<T>{{splat<T>(1), splat<T>(1)}};
    const Block<T> seen = previous_h(l, p, n) * factor;
    const Block<T> dr = d * seen * sigmoid_slope<T>(r);
    store_block(dp, dr);
    store_block(carry, load_block(carry) + d * r * factor);
    store_block(operand_of(l, p), r * seen);
  }
};
