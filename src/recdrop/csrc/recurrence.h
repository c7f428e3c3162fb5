// The time loop, forward and backward, for every cell; cells.h has what happens inside a step.
//
// A step is one or two phases, each a product with packed weights and the cell on its result, cut
// into blocks of panel_width units. Rows are split into groups that never meet. A group has one
// worker where there are rows enough; else several workers share its blocks, phase by phase.

// ---------------------------------------------------------------------------------------- workers

struct Group {
  int64_t index;
  int64_t begin, end;  // rows
  int workers;
  int64_t* claimed;    // [blocks], the phase that a block is to be claimed for next
  int64_t done;        // blocks done in all phases so far
};

RECDROP_INLINE void wait_a_little(int& spins) {
  if (++spins < 4096) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  } else {
    sched_yield();
  }
}

// Runs task(phase, block) for all blocks of all phases in order. Workers of a group claim blocks,
// each from its own share on, and take over what a slower one has not begun: nobody waits for a
// worker that has not started.
template <class Blocks, class Task>
void work(Group& group, int me, int64_t phases, Blocks&& blocks_of, Task&& task) {
  int64_t target = 0;
  for (int64_t phase = 0; phase < phases; ++phase) {
    const int64_t blocks = blocks_of(phase);
    if (group.workers == 1) {
      for (int64_t block = 0; block < blocks; ++block) task(phase, block);
      continue;
    }
    const int64_t own = me * blocks / group.workers;
    for (int64_t i = 0; i < blocks; ++i) {
      const int64_t block = (own + i) % blocks;
      int64_t seen = __atomic_load_n(&group.claimed[block], __ATOMIC_RELAXED);
      if (seen > phase) continue;
      if (!__atomic_compare_exchange_n(
              &group.claimed[block], &seen, phase + 1, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
        continue;
      }
      task(phase, block);
      __atomic_fetch_add(&group.done, 1, __ATOMIC_RELEASE);
    }
    target += blocks;
    for (int spins = 0; __atomic_load_n(&group.done, __ATOMIC_ACQUIRE) < target;) wait_a_little(spins);
  }
}

// Calls f(group, worker in the group) for all workers of all groups of rows. Groups have about
// equally many steps to do, counted over all their rows, and no fewer rows than fill a tile.
template <class F>
void for_groups(const Shape& shape, int64_t blocks, int64_t weights, const Pool& pool, F&& f) {
  const int64_t total = shape.offset(shape.steps);
  const bool small = total * shape.hidden * shape.width * shape.gates() < 1 << 16;
  const int64_t workers = small ? 1 : pool.workers;
  const int64_t groups = weights > second_cache / 2 ? 1 : most(1, least(workers, shape.batch / tile_rows));
  Scratch<Group> group(groups);
  Scratch<int64_t> claimed(groups * blocks);
  for (int64_t i = 0; i < groups * blocks; ++i) claimed[i] = 0;
  int64_t row = 0, steps = 0, longest = shape.steps;
  for (int64_t g = 0; g < groups; ++g) {
    group[g] = Group{g, row, row, int(workers / groups), claimed + g * blocks, 0};
    while (row < shape.batch && (g + 1 == groups || steps * groups < total * (g + 1))) {
      while (longest > 0 && shape.rows(longest - 1) <= row) --longest;
      steps += longest;
      ++row;
    }
    group[g].end = row;
  }
  in_parallel(pool, workers / groups * groups, [&](int64_t worker) {
    f(group[worker % groups], int(worker / groups));
  });
}

// ------------------------------------------------------------------------------- what a step needs

// A weight matrix of `gates` stacked parts as panels. In `transposed` the panels hold columns of
// W^T (for W h, K = columns of W); else columns of W (for W^T d, K = rows of a part).
template <class T>
struct Weight : Panels<T> {
  Weight(const T* w, int gates, int64_t rows, int64_t columns, bool transposed, const Pool& pool)
      : Panels<T>(gates, transposed ? columns : rows, transposed ? rows : columns) {
    this->pack(pool, 0, [&](int64_t gate) {
      const T* part = w + gate * rows * columns;
      return transposed ? Matrix<const T>{part, columns, rows, 1, columns} : Matrix<const T>{part, rows, columns, columns, 1};
    });
  }
};

// What one site multiplies one block of some rows by; nothing at all where it does not act.
template <class T>
struct RowFactors {
  const T* first;
  int64_t stride;
  const T* at(int64_t row) const { return first != nullptr ? first + row * stride : nullptr; }
};

// What one site multiplies by: drawn per step; drawn once per row; or one number.
template <class T>
class Factors {
 public:
  Factors(const Site& site, const Dropout& dropout, const Shape& shape, int64_t units, int views, const Pool& pool)
      : acts(site.acts()), site_(site), dropout_(dropout), units_(units), views_(views),
        row_stride_(views * divide_up(units, panel_width<T>) * panel_width<T>),
        per_row_(site.threshold > 0 && !site.per_step),
        table_(per_row_ ? shape.batch * row_stride_ : panel_width<T>) {
    if (per_row_) {
      in_parallel(pool, shape.batch, [&](int64_t b) {
        T* row = table_ + b * row_stride_;
        for (int view = 0; view < views; ++view) {
          for (int64_t unit = 0; unit < units; unit += panel_width<T>, row += panel_width<T>) {
            draw(0, b, 1, view, unit, row);
          }
        }
      });
    } else {
      for (int i = 0; i < panel_width<T>; ++i) table_[i] = T(site.scale);
    }
  }

  // Of rows [b, b + n), n <= rows_at_once, in the block that starts at `unit`. What is drawn goes to
  // scratch [rows_at_once, panel_width].
  RowFactors<T> rows(int64_t t, int64_t b, int64_t n, int view, int64_t unit, T* scratch) const {
    if (!acts) return {nullptr, 0};
    if (per_row_) return {table_ + b * row_stride_ + row_stride_ / views_ * view + unit, row_stride_};
    if (site_.threshold == 0) return {table_, 0};
    draw(t, b, n, view, unit, scratch);
    return {scratch, panel_width<T>};
  }
  const bool acts;

 private:
  __attribute__((noinline)) void draw(int64_t t, int64_t b, int64_t n, int view, int64_t unit, T* out) const {
    uint32_t rows[rows_at_once];
    for (int64_t j = 0; j < rows_at_once; ++j) {
      const int64_t row = b + least(j, n - 1);
      rows[j] = uint32_t(dropout_.rows ? dropout_.rows[row] : row);
    }
    const int64_t first = view * units_ + unit;
    if (n == 1) {
      draw_factors<T, 1>(site_, dropout_.key, uint32_t(t), {rows[0]}, first, out);
    } else {
      draw_factors<T, rows_at_once>(site_, dropout_.key, uint32_t(t), rows, first, out);
    }
  }
  const Site site_;
  const Dropout& dropout_;
  const int64_t units_;
  const int views_;
  const int64_t row_stride_;
  const bool per_row_;
  Scratch<T> table_;
};

// Values of all rows for a product's left side: [views, B, stride]. Rows keep off each other's
// cache sets.
template <class T>
class Operand {
 public:
  Operand(int64_t views, int64_t rows, int64_t width)
      : stride(divide_up(width, panel_width<T>) * panel_width<T> + 64 / sizeof(T)),
        rows_(rows), data_(views * rows * stride) {}
  T* at(int64_t view, int64_t b) const { return data_ + (view * rows_ + b) * stride; }
  const int64_t stride;

 private:
  const int64_t rows_;
  Scratch<T> data_;
};

template <class T>
struct CellFunctions {
  void (*forward)(const Layer<T>&, const Place<T>&, const T*, int64_t, T*, T*);
  void (*backward)(const Layer<T>&, const Place<T>&, const T*, T*, int64_t, T*, T*);
  void (*forward_gates)(const Layer<T>&, const Place<T>&, const T*, int64_t, const T*, T*);
  void (*backward_gates)(const Layer<T>&, const Place<T>&, const T*, const T*, T*, T*);
};

template <class T, Activation f, bool on_update, bool on_state>
CellFunctions<T> cell_functions(Cell cell) {
  using Paper = GruPaper<T, f, on_update, on_state>;
  switch (cell) {
    case Cell::rnn:
      return {Rnn<T, f>::forward, Rnn<T, f>::backward, nullptr, nullptr};
    case Cell::lstm:
      return {Lstm<T, f, on_update, on_state>::forward, Lstm<T, f, on_update, on_state>::backward, nullptr, nullptr};
    case Cell::gru:
      return {Gru<T, f, on_update, on_state>::forward, Gru<T, f, on_update, on_state>::backward, nullptr, nullptr};
    default:
      return {Paper::forward, Paper::backward, Paper::forward_gates, Paper::backward_gates};
  }
}

template <class T>
CellFunctions<T> cell_functions(const Shape& shape, const Dropout& dropout) {
  const int which = 4 * (shape.activation == Activation::relu) + 2 * dropout.update.acts() + dropout.state.acts();
  switch (which) {
    case 0: return cell_functions<T, Activation::tanh, false, false>(shape.cell);
    case 1: return cell_functions<T, Activation::tanh, false, true>(shape.cell);
    case 2: return cell_functions<T, Activation::tanh, true, false>(shape.cell);
    case 3: return cell_functions<T, Activation::tanh, true, true>(shape.cell);
    case 4: return cell_functions<T, Activation::relu, false, false>(shape.cell);
    case 5: return cell_functions<T, Activation::relu, false, true>(shape.cell);
    case 6: return cell_functions<T, Activation::relu, true, false>(shape.cell);
    default: return cell_functions<T, Activation::relu, true, true>(shape.cell);
  }
}

// What forward and backward share.
template <class T>
struct Loop {
  static constexpr int width = panel_width<T>;
  static constexpr int chunk = 4 * tile_rows;  // rows whose products are made before the cell runs

  Loop(const Shape& s, const Dropout& d, const Pool& pool)
      : shape(s), total(s.offset(s.steps)), cell(cell_functions<T>(s, d)), views(d.tied ? 1 : s.gates()),
        paper(s.cell == Cell::gru_paper), two_phases(paper || s.projected()),
        units(divide_up(s.hidden, width)), outputs(divide_up(s.width, width)),
        update(d.update, d, s, s.hidden, 1, pool), hidden(d.hidden, d, s, s.width, views, pool),
        state(d.state, d, s, s.hidden, 1, pool) {}

  // Whether the products with W_ih go into the loop. With rows enough in a step they cost no more
  // there, and the gates' side of them never travels through memory; with few rows, or weights that
  // push W_hh out of the cache, one product for all steps is better; and so it is for the rounding of
  // long sums, which it takes in parts.
  bool projects(int64_t inputs) const {
    constexpr int64_t enough_rows = 16, small = 1 << 19, longest_sum = 1024;
    return shape.batch >= enough_rows && inputs <= longest_sum && shape.gates() * shape.hidden * inputs * int64_t(sizeof(T)) <= small;
  }

  // The row of the step before t in the direction of the recurrence, or -1.
  int64_t previous(int64_t t, int64_t b) const {
    const int64_t before = shape.reverse ? t + 1 : t - 1;
    if (before < 0 || before >= shape.steps || b >= shape.rows(before)) return -1;
    return shape.offset(before) + b;
  }

  // Calls f(place, i) for each of rows [b, b + n), n <= rows_at_once, i counting them.
  template <class F>
  RECDROP_INLINE void places(int64_t t, int64_t b, int64_t n, int64_t unit, F&& f) const {
    alignas(64) T scratch[2][rows_at_once * width];
    const RowFactors<T> of_update = update.rows(t, b, n, 0, unit, scratch[0]);
    const RowFactors<T> of_state = state.rows(t, b, n, 0, unit, scratch[1]);
    for (int64_t i = 0; i < n; ++i) {
      Place<T> here = place(t, b + i, unit);
      here.update = of_update.at(i), here.state = of_state.at(i);
      f(here, i);
    }
  }
  Place<T> place(int64_t t, int64_t b, int64_t unit) const {
    const int64_t at = shape.offset(t) + b, before = previous(t, b);
    return {at, before, b, unit, in_panels(at, unit), before < 0 ? -1 : in_panels(before, unit), nullptr, nullptr};
  }
  int64_t in_panels(int64_t row, int64_t unit) const { return panel_offset<T>(total, shape.hidden, row, unit); }

  // Asks for a block's lines of rows [begin, end) of step t in an [N, row_width] array. The rows of
  // one block lie far apart, where no hardware looks ahead: without this the cell waits for memory.
  // Inlined by force: GCC takes a function that only prefetches for one without effect.
  template <int write>
  RECDROP_INLINE void expect(const T* array, int64_t row_width, int64_t column, int64_t t, int64_t begin, int64_t end) const {
    if (array == nullptr) return;
    const T* p = array + (shape.offset(t) + begin) * row_width + column;
    for (int64_t b = begin; b < end; ++b, p += row_width) {
      for (int i = 0; i < width; i += 64 / sizeof(T)) __builtin_prefetch(p + i, write, 3);
    }
  }

  // Rows [begin, end) of `a` (one view) times a panel, plus `add` if there is any: to out
  // [end - begin, width].
  void rows_times(const Operand<T>& a, int64_t view, int64_t begin, int64_t end, const Panels<T>& right, int64_t part,
                         int64_t block, T* out, const T* add = nullptr) const {
    const Tiles tiles(end - begin);
    for (int64_t tile = 0; tile < tiles.number; ++tile) {
      const int64_t at = tiles.first(tile);
      tile_product<T, false>(tiles.height(tile), right.valid(block), a.at(view, begin + at), a.stride, right.at(part, block),
                             right.depth, out + at * width, width, add ? add + at * width : nullptr, width, far);
    }
  }

  const Shape& shape;
  const int64_t total;  // N
  const CellFunctions<T> cell;
  const int views;
  const bool paper, two_phases;
  const int64_t units, outputs;  // blocks of H and of W
  const Factors<T> update, hidden, state;
  bool far = false;  // whether the weights of a step are more than the second cache holds
};

// ---------------------------------------------------------------------------------------- forward

template <class T>
struct ForwardLoop : Loop<T> {
  using Base = Loop<T>;
  using Base::cell, Base::chunk, Base::far, Base::hidden, Base::outputs, Base::paper, Base::shape, Base::total,
      Base::two_phases, Base::units, Base::views, Base::width;

  ForwardLoop(const Shape& s, const Dropout& d, const Weights<T>& w, const Forward<T>& io, const Pool& pool)
      : Base(s, d, pool), io(io), within(Base::projects(io.inputs)),
        input(w.w_ih, within ? s.gates() : 0, s.hidden, io.inputs, true, pool),
        recurrent(w.w_hh, s.gates(), s.hidden, s.width, true, pool),
        projection(w.w_hr, s.projected(), s.width, s.hidden, true, pool),
        seen{{views, s.batch, s.width}, {views, s.batch, s.width}},
        operand(1, two_phases ? s.batch : 0, s.hidden), state(1, s.batch, s.hidden), bias(s.gates(), 1, s.hidden) {
    for (int gate = 0; gate < s.gates(); ++gate) {
      for (int64_t i = 0; i < bias.stride; ++i) {
        bias.at(gate, 0)[i] = w.bias != nullptr && i < s.hidden ? w.bias[gate * s.hidden + i] : T(0);
      }
    }
    far = input.bytes() + recurrent.bytes() > second_cache;
    layer = {};
    layer.shape = s, layer.total = total, layer.weights = w, layer.h0 = io.h0, layer.c0 = io.c0, layer.h = io.h;
    layer.gates = io.gates, layer.inner = io.inner;
  }

  void start(const Group& group) {
    int64_t length = shape.steps;
    for (int64_t b = group.begin; b < group.end; ++b) {
      while (length > 0 && shape.rows(length - 1) <= b) --length;
      for (int64_t block = 0; block < outputs; ++block) {
        alignas(64) T h[width];
        const int64_t unit = block * width, n = shape.width - unit;
        store_block(h, load_block(io.h0 + b * shape.width + unit, n));
        const int64_t first = shape.reverse ? length - 1 : 0;
        for (int to = 0; to < 2; ++to) show(h, first, b, 1, unit, to);
      }
      const T* state_0 = shape.cell == Cell::lstm ? io.c0 : io.h0;
      __builtin_memcpy(state.at(0, b), state_0 + b * shape.hidden, shape.hidden * sizeof(T));
    }
  }

  // seen[to] = d(h) as step t sees it, of rows [b, b + n): h [n, panel_width].
  void show(const T* h, int64_t t, int64_t b, int64_t n, int64_t unit, int to) {
    alignas(64) T scratch[rows_at_once * width];
    for (int view = 0; view < views; ++view) {
      const RowFactors<T> factors = hidden.rows(t, b, n, view, unit, scratch);
      for (int64_t i = 0; i < n; ++i) {
        const T* factor = factors.at(i);
        const Block<T> h_i = load_block(h + i * width);
        store_block(seen[to].at(view, b + i) + unit, factor ? h_i * load_block(factor) : h_i);
      }
    }
  }

  // What rows [b, b + n) of step t came to: to the output, and to the step that comes next.
  void publish(const T* h, int64_t s, int64_t t, int64_t b, int64_t n, int64_t unit) {
    T* out = io.h + (shape.offset(t) + b) * shape.width + unit;
    for (int64_t i = 0; i < n; ++i, out += shape.width) store_block(out, load_block(h + i * width), shape.width - unit);
    const int64_t next = shape.reverse ? t - 1 : t + 1;
    if (next < 0 || next >= shape.steps) return;
    const int64_t left = least(n, shape.rows(next) - b);
    if (left > 0) show(h, next, b, left, unit, (s + 1) & 1);
  }

  void task(const Group& group, int64_t phase, int64_t block) {
    const bool second = two_phases && phase % 2 == 1;
    const int64_t s = two_phases ? phase / 2 : phase, t = shape.reverse ? shape.steps - 1 - s : s;
    const int64_t last = least(group.end, shape.rows(t));
    const Operand<T>& view_of_h = seen[s & 1];
    constexpr int64_t gate_stride = chunk * width;
    const int64_t unit = block * width;
    alignas(64) T x[4 * gate_stride], h[rows_at_once * width];
    for (int64_t begin = group.begin; begin < last; begin += chunk) {
      const int64_t end = least(last, begin + chunk);
      if (second && !paper) {
        Base::rows_times(operand, 0, begin, end, projection, 0, block, x);
        for (int64_t b = begin; b < end; b += rows_at_once) {
          publish(x + (b - begin) * width, s, t, b, least(rows_at_once, end - b), unit);
        }
        continue;
      }
      Base::template expect<1>(io.h, shape.width, unit, t, begin, end);
      const int first_gate = second ? 2 : 0, gates = second ? 1 : paper ? 2 : shape.gates();
      for (int gate = 0; gate < gates; ++gate) {
        const bool apart = shape.cell == Cell::gru && gate == 2;  // r comes between its two terms
        const int of = first_gate + gate, view = second || views == 1 ? 0 : gate;
        T *sum = x + gate * gate_stride, *from_input = apart ? x + 3 * gate_stride : sum;
        project(of, block, t, begin, end, from_input);
        Base::rows_times(second ? operand : view_of_h, view, begin, end, recurrent, of, block, sum, apart ? nullptr : sum);
      }
      for (int64_t b = begin; b < end; b += rows_at_once) {
        const int64_t n = least(rows_at_once, end - b);
        const T* rows = x + (b - begin) * width;
        if (paper && !second) {
          for (int64_t i = 0; i < n; ++i) {
            cell.forward_gates(layer, Base::place(t, b + i, unit), rows + i * width, gate_stride,
                               view_of_h.at(views - 1, b + i) + unit, operand.at(0, b + i) + unit);
          }
          continue;
        }
        Base::places(t, b, n, unit, [&](const Place<T>& place, int64_t i) {
          T* to = shape.projected() ? operand.at(0, place.b) + unit : h + i * width;
          cell.forward(layer, place, rows + i * width, gate_stride, state.at(0, place.b) + unit, to);
        });
        if (!shape.projected()) publish(h, s, t, b, n, unit);
      }
    }
  }

  // One gate of one block of the input projection, for some rows of step t, to x.
  void project(int gate, int64_t block, int64_t t, int64_t begin, int64_t end, T* x) const {
    const int64_t at = shape.offset(t) + begin, unit = block * width;
    if (within) {
      const Tiles tiles(end - begin);
      for (int64_t tile = 0; tile < tiles.number; ++tile) {
        const int64_t first = tiles.first(tile);
        tile_product<T, false>(tiles.height(tile), input.valid(block), io.x + (at + first) * io.inputs, io.inputs,
                               input.at(gate, block), input.depth, x + first * width, width, bias.at(gate, 0) + unit, 0, far);
      }
    } else {  // there already
      const Target<T> from = projected(gate, block);
      for (int64_t row = at; row < at + end - begin; ++row, x += width) {
        store_block(x, load_block(from.out + row * from.out_stride, shape.hidden - unit));
      }
    }
  }

  // Where the input projection of all steps lies until its step overwrites it.
  Target<T> projected(int64_t gate, int64_t block) const {
    const int64_t unit = block * width;
    const T* added = bias.at(gate, 0) + unit;
    if (shape.cell == Cell::rnn) return {io.h + unit, shape.hidden, added};
    return {io.gates + gate * shape.hidden * total + unit * total, least(width, shape.hidden - unit), added};
  }

  // h_n and c_n: each row's last state.
  void finish(const Group& group) {
    int64_t length = shape.steps;
    for (int64_t b = group.begin; b < group.end; ++b) {
      while (length > 0 && shape.rows(length - 1) <= b) --length;
      const int64_t at = shape.offset(shape.reverse ? 0 : length - 1) + b;
      __builtin_memcpy(io.h_n + b * shape.width, io.h + at * shape.width, shape.width * sizeof(T));
      if (io.c_n != nullptr) __builtin_memcpy(io.c_n + b * shape.hidden, state.at(0, b), shape.hidden * sizeof(T));
    }
  }

  int64_t phases() const { return two_phases ? 2 * shape.steps : shape.steps; }
  int64_t most_blocks() const { return most(units, outputs); }
  int64_t blocks_of(int64_t phase) const { return two_phases && phase % 2 == 1 ? outputs : units; }

  const Forward<T>& io;
  const bool within;  // the input projection
  const Weight<T> input, recurrent, projection;
  const Operand<T> seen[2], operand, state, bias;
  Layer<T> layer;
};

template <class T>
void forward(const Shape& shape, const Dropout& dropout, const Weights<T>& weights, const Forward<T>& io, const Pool& pool) {
  ForwardLoop<T> loop(shape, dropout, weights, io, pool);
  if (!loop.within) {
    product(loop.total, rows_of(Matrix<const T>{io.x, loop.total, io.inputs, io.inputs, 1}),
            Weight<T>(weights.w_ih, shape.gates(), shape.hidden, io.inputs, true, pool),
            [&](int64_t gate, int64_t block) { return loop.projected(gate, block); }, pool);
  }
  loop.start(Group{0, 0, shape.batch, 1, nullptr, 0});
  for_groups(shape, loop.most_blocks(), loop.input.bytes() + loop.recurrent.bytes(), pool, [&](Group& group, int me) {
    work(group, me, loop.phases(), [&](int64_t phase) { return loop.blocks_of(phase); },
         [&](int64_t phase, int64_t block) { loop.task(group, phase, block); });
  });
  loop.finish(Group{0, 0, shape.batch, 1, nullptr, 0});
}

// --------------------------------------------------------------------------------------- backward

// Step q takes t against the recurrence. Its first phase ends what step q - 1 began: the product
// with W_hh turns the gradients of the gates into that of h_prev, which is h of this step.
template <class T>
struct BackwardLoop : Loop<T> {
  using Base = Loop<T>;
  using Base::cell, Base::chunk, Base::far, Base::hidden, Base::outputs, Base::paper, Base::shape, Base::total,
      Base::two_phases, Base::units, Base::views, Base::width;

  BackwardLoop(const Shape& s, const Dropout& d, const Weights<T>& w, const Backward<T>& io, const Pool& pool)
      : Base(s, d, pool), io(io), workers(pool.workers), direct(s.cell == Cell::gru || paper),
        within(io.dx != nullptr && Base::projects(io.inputs)),
        input(w.w_ih, within ? s.gates() : 0, s.hidden, io.inputs, false, pool),
        recurrent(w.w_hh, s.gates(), s.hidden, s.width, false, pool),
        projection(w.w_hr, s.projected(), s.width, s.hidden, false, pool),
        dp{{4, s.batch, s.hidden}, {4, s.batch, s.hidden}},
        carry(1, s.batch, s.width), dc(1, s.batch, s.hidden),
        dh(1, s.projected() ? s.batch : 0, s.width), sums(parts(), pool.workers, s.hidden),
        dgates(parts() * s.hidden * total), whole_dh(s.projected() ? total * s.width : 0),
        operand(two_phases, total, s.hidden), masks_h(d.hidden.acts() || s.batch_sizes != nullptr), seen(views, total, s.width) {
    far = input.bytes() + recurrent.bytes() > second_cache;
    layer = {};
    layer.shape = s, layer.total = total, layer.weights = w, layer.h0 = io.h0, layer.c0 = io.c0, layer.h = io.h;
    layer.saved_gates = io.gates, layer.saved_inner = io.inner, layer.operand = two_phases ? operand.at(0, 0) : nullptr;
    for (int part = 0; part < parts(); ++part) {
      for (int64_t group = 0; group < pool.workers; ++group) {
        __builtin_memset(sums.at(part, group), 0, sums.stride * sizeof(T));
      }
    }
  }

  // Gates whose gradients are kept: torch's GRU has its candidate's twice, of W_hh's product and of W_ih's.
  int parts() const { return shape.cell == Cell::gru ? 4 : shape.gates(); }

  void start(const Group& group) {
    for (int64_t b = group.begin; b < group.end; ++b) {
      fill(carry.at(0, b), io.dh_n, b, shape.width);
      fill(dc.at(0, b), io.dc_n, b, shape.hidden);
    }
  }

  static void fill(T* to, const T* from, int64_t b, int64_t n) {
    if (from != nullptr) {
      __builtin_memcpy(to, from + b * n, n * sizeof(T));
    } else {
      __builtin_memset(to, 0, n * sizeof(T));
    }
  }

  int64_t time(int64_t q) const { return shape.reverse ? q : shape.steps - 1 - q; }

  // The first phase's product: gradient of h_prev of step q - 1, for one chunk of its rows.
  void through_the_product(int64_t q, int64_t block, int64_t begin, int64_t end) {
    const int64_t t = time(q - 1), unit = block * width;
    const int gates = paper ? 2 : shape.gates();
    alignas(64) T product[4 * chunk * width], scratch[rows_at_once * width];
    for (int gate = 0; gate < gates; ++gate) {
      const bool own = views > 1;  // each gate's mask before their sum
      Base::rows_times(dp[(q - 1) & 1], gate, begin, end, recurrent, gate, block, product + (own ? gate * chunk * width : 0),
                       own || gate == 0 ? nullptr : product);
    }
    for (int64_t b = begin; b < end; b += rows_at_once) {
      const int64_t n = least(rows_at_once, end - b);
      for (int view = 0; view < views; ++view) {
        if (paper && view == 2) continue;  // the candidate's product has been in the second phase
        const RowFactors<T> factors = hidden.rows(t, b, n, view, unit, scratch);
        const T* from = product + (view * chunk + b - begin) * width;
        for (int64_t i = 0; i < n; ++i, from += width) {
          T* to = carry.at(0, b + i) + unit;
          const T* factor = factors.at(i);
          Block<T> d = load_block(from);
          if (factor != nullptr) d = d * load_block(factor);
          store_block(to, view > 0 || direct ? load_block(to) + d : d);
          if (!masks_h) continue;
          const Place<T> here{shape.offset(t) + b + i, Base::previous(t, b + i), b + i, unit, -1, -1, nullptr, nullptr};
          Block<T> h_prev = previous_h(layer, here, shape.width - unit);
          if (factor != nullptr) h_prev = h_prev * load_block(factor);
          store_block(seen.at(view, block) + here.at * width, h_prev);
        }
      }
    }
  }

  // dx of step q - 1, one block of it.
  void input_gradient(const Group& group, int64_t q, int64_t block) {
    const int64_t t = time(q - 1), last = least(group.end, shape.rows(t)), unit = block * width;
    alignas(64) T product[chunk * width];
    for (int64_t begin = group.begin; begin < last; begin += chunk) {
      const int64_t end = least(last, begin + chunk);
      for (int gate = 0; gate < shape.gates(); ++gate) {
        Base::rows_times(dp[(q - 1) & 1], input_view(gate), begin, end, input, gate, block, product,
                         gate == 0 ? nullptr : product);
      }
      T* to = io.dx + (shape.offset(t) + begin) * io.inputs + unit;
      for (int64_t b = begin; b < end; ++b, to += io.inputs) {
        store_block(to, load_block(product + (b - begin) * width), io.inputs - unit);
      }
    }
  }

  // Where the gradient of a gate's input projection is in dp and dgates.
  int input_view(int gate) const { return shape.cell == Cell::gru && gate == 2 ? 3 : gate; }

  void task(const Group& group, int64_t phase, int64_t block) {
    const bool second = two_phases && phase % 2 == 1;
    const int64_t q = two_phases ? phase / 2 : phase, unit = block * width;
    if (!second && block >= outputs) return input_gradient(group, q, block - outputs);
    const bool ended = q == shape.steps;
    if (!ended && !second) {
      const int64_t t = time(q);
      Base::template expect<0>(io.dy, shape.width, unit, t, group.begin, least(group.end, shape.rows(t)));
    }
    if (!second && q > 0) {
      const int64_t last = least(group.end, shape.rows(time(q - 1)));
      for (int64_t begin = group.begin; begin < last; begin += chunk) {
        through_the_product(q, block, begin, least(last, begin + chunk));
      }
    }
    if (ended) {
      for (int64_t b = group.begin; b < group.end; ++b) {
        if (!second) copy_out(io.dh0, carry, b, unit, shape.width);
        if (io.dc0 != nullptr && (second || !two_phases)) copy_out(io.dc0, dc, b, unit, shape.hidden);
      }
      return;
    }
    const int64_t t = time(q), last = least(group.end, shape.rows(t));
    if (!second) {
      for (int64_t b = group.begin; b < last; b += rows_at_once) first_phase(t, q, b, least(rows_at_once, last - b), unit);
      if (!two_phases) record(group, t, q, last, unit);
      return;
    }
    alignas(64) T product[chunk * width], scratch[rows_at_once * width];
    for (int64_t begin = group.begin; begin < last; begin += chunk) {
      const int64_t end = least(last, begin + chunk);
      Base::rows_times(paper ? dp[q & 1] : dh, paper ? 2 : 0, begin, end, paper ? recurrent : projection, paper ? 2 : 0, block,
                       product);
      for (int64_t b = begin; b < end; b += rows_at_once) {
        const int64_t n = least(rows_at_once, end - b);
        const T* rows = product + (b - begin) * width;
        if (paper) {
          const RowFactors<T> factors = hidden.rows(t, b, n, views - 1, unit, scratch);
          for (int64_t i = 0; i < n; ++i) candidate(t, q, b + i, unit, rows + i * width, factors.at(i));
        } else {
          Base::places(t, b, n, unit, [&](const Place<T>& place, int64_t i) {
            cell.backward(layer, place, rows + i * width, dp[q & 1].at(0, place.b) + unit, gate_stride(), nullptr,
                          dc.at(0, place.b) + unit);
          });
        }
      }
    }
    record(group, t, q, last, unit);
  }

  // The gradients of the gates, from where the next product finds them to where those of the weights
  // will; and their sums, which are the biases'.
  void record(const Group& group, int64_t t, int64_t q, int64_t last, int64_t unit) {
    const int64_t n = shape.hidden - unit, at = shape.offset(t) + group.begin;
    for (int part = 0; part < parts(); ++part) {
      T* to = dgates + part * shape.hidden * total + Base::in_panels(at, unit);
      Block<T> sum{};
      for (int64_t b = group.begin; b < last; ++b, to += least(width, n)) {
        const Block<T> d = load_block(dp[q & 1].at(part, b) + unit);
        store_block(to, d, n);
        sum = sum + d;
      }
      T* all = sums.at(part, group.index) + unit;
      store_block(all, load_block(all) + sum);
    }
  }

  // dh of this step is whole now: the cell, or for a projected LSTM the way to its product.
  void first_phase(int64_t t, int64_t q, int64_t b, int64_t n, int64_t unit) {
    if (shape.projected()) {
      for (int64_t i = 0; i < n; ++i) {
        const Block<T> d = whole(t, b + i, unit);
        store_block(whole_dh + panel_offset<T>(total, shape.width, shape.offset(t) + b + i, unit), d, shape.width - unit);
        store_block(dh.at(0, b + i) + unit, d);
      }
      return;
    }
    Base::places(t, b, n, unit, [&](const Place<T>& place, int64_t) {
      alignas(64) T d[width];
      store_block(d, whole(t, place.b, unit));
      cell.backward(layer, place, d, dp[q & 1].at(0, place.b) + unit, gate_stride(), carry.at(0, place.b) + unit,
                    dc.at(0, place.b) + unit);
    });
  }

  Block<T> whole(int64_t t, int64_t b, int64_t unit) const {
    const Block<T> d = load_block(carry.at(0, b) + unit);
    if (io.dy == nullptr) return d;
    return d + load_block(io.dy + (shape.offset(t) + b) * shape.width + unit, shape.width - unit);
  }

  // The paper's GRU: from the gradient of r * seen to r and to h_prev.
  void candidate(int64_t t, int64_t q, int64_t b, int64_t unit, const T* doperand, const T* factor) {
    cell.backward_gates(layer, Base::place(t, b, unit), doperand, factor, dp[q & 1].at(0, b) + unit, carry.at(0, b) + unit);
  }

  void copy_out(T* to, const Operand<T>& from, int64_t b, int64_t unit, int64_t units_in_all) {
    const int64_t n = least(width, units_in_all - unit);
    if (n > 0) __builtin_memcpy(to + b * units_in_all + unit, from.at(0, b) + unit, n * sizeof(T));
  }

  // Gradients of the weights: what came back times what had gone in.
  void weights(const Pool& pool) {
    Panels<T> x(1, total, io.inputs);
    x.pack(pool, 0, [&](int64_t) { return Matrix<const T>{io.x, total, io.inputs, io.inputs, 1}; });
    if (!masks_h) {  // h0, and every h but the last
      const int64_t W = shape.width, rest = total - shape.batch;
      const T* h = shape.reverse ? io.h + shape.batch * W : io.h;
      seen.pack(pool, shape.reverse ? rest : 0, [&](int64_t) { return Matrix<const T>{io.h0, shape.batch, W, W, 1}; });
      seen.pack(pool, shape.reverse ? 0 : shape.batch, [&](int64_t) { return Matrix<const T>{h, rest, W, W, 1}; });
    }
    const int64_t H = shape.hidden;
    Scratch<Transposed<T>> all(max_products);
    int count = 0;
    for (int gate = 0; gate < shape.gates(); ++gate) {
      const bool candidate = paper && gate == 2;
      const T *from_input = dgates + input_view(gate) * H * total, *from_product = dgates + gate * H * total;
      all[count++] = {from_input, H, &x, 0, io.dw_ih + gate * H * io.inputs};
      all[count++] = {from_product, H, candidate ? &operand : &seen, candidate ? 0 : gate % views, io.dw_hh + gate * H * shape.width};
    }
    if (shape.projected()) all[count++] = {whole_dh, shape.width, &operand, 0, io.dw_hr};
    products<T>(all, count, pool);
  }

  void biases() const {
    for (int gate = 0; io.db_ih != nullptr && gate < shape.gates(); ++gate) {
      for (int64_t i = 0; i < shape.hidden; ++i) {
        T ih = 0, hh = 0;
        for (int64_t group = 0; group < workers; ++group) ih += sums.at(input_view(gate), group)[i], hh += sums.at(gate, group)[i];
        io.db_ih[gate * shape.hidden + i] = ih, io.db_hh[gate * shape.hidden + i] = hh;
      }
    }
  }

  int64_t gate_stride() const { return dp[0].at(1, 0) - dp[0].at(0, 0); }
  int64_t phases() const { return (two_phases ? 2 : 1) * (shape.steps + 1); }
  int64_t most_blocks() const { return most(units, outputs + input.blocks); }
  int64_t blocks_of(int64_t phase) const {
    if (two_phases && phase % 2 == 1) return units;
    return phase > 0 && within ? outputs + input.blocks : outputs;
  }

  const Backward<T>& io;
  const int64_t workers;
  const bool direct;
  const bool within;  // the product that gives dx
  const Weight<T> input, recurrent, projection;
  const Operand<T> dp[2], carry, dc, dh;
  const Operand<T> sums;      // [parts, workers, H]
  const Scratch<T> dgates;    // [parts, N, H], each part in panels
  const Scratch<T> whole_dh;  // [N, P] in panels
  Panels<T> operand;          // what the second product saw: a projected LSTM's o * f(c), the paper's GRU's r * d(h_prev)
  const bool masks_h;         // or finds it scattered
  Panels<T> seen;             // d(h_prev), what the product saw
  Layer<T> layer;
};

template <class T>
void backward(const Shape& shape, const Dropout& dropout, const Weights<T>& weights, const Backward<T>& io, const Pool& pool) {
  BackwardLoop<T> loop(shape, dropout, weights, io, pool);
  loop.start(Group{0, 0, shape.batch, 1, nullptr, 0});
  for_groups(shape, loop.most_blocks(), loop.input.bytes() + loop.recurrent.bytes(), pool, [&](Group& group, int me) {
    work(group, me, loop.phases(), [&](int64_t phase) { return loop.blocks_of(phase); },
         [&](int64_t phase, int64_t block) { loop.task(group, phase, block); });
  });
  loop.weights(pool);
  loop.biases();
  if (io.dx == nullptr || loop.within) return;
  int views[4];
  for (int gate = 0; gate < shape.gates(); ++gate) views[gate] = loop.input_view(gate);
  product(loop.total, rows_of_panels<T>(loop.dgates, loop.total, shape.hidden, views),
          Weight<T>(weights.w_ih, 1, shape.gates() * shape.hidden, io.inputs, false, pool),
          [&](int64_t, int64_t block) { return Target<T>{io.dx + block * panel_width<T>, io.inputs, nullptr}; }, pool);
}

// out = a b + bias, out's rows contiguous.
template <class T>
void plain_product(const Matrix<const T>& a, const Matrix<const T>& b, const T* bias, const Matrix<T>& out, const Pool& pool) {
  Panels<T> right(1, b.rows, b.columns);
  right.pack(pool, 0, [&](int64_t) { return b; });
  product(a.rows, rows_of(a), right, [&](int64_t, int64_t block) {
    const int64_t column = block * panel_width<T>;
    return Target<T>{out.data + column, out.row_stride, bias ? bias + column : nullptr};
  }, pool);
}

template <class T>
void nonlinearity(int which, const T* x, T* y, int64_t n) {
  for (int64_t i = 0; i < n; i += panel_width<T>) {
    Block<T> v = load_block(x + i, n - i), other{};
    if (which == 0) sigmoids(v, other);
    else v = activate<T, Activation::tanh>(v);
    store_block(y + i, v, n - i);
  }
}
