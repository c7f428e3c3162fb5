// Products of matrices: panels of the right-hand side, packed once, and one small kernel over them.
//
// A panel holds `panel_width` columns of B [K, N]: K rows of that many values, missing columns 0.

template <class T>
constexpr int panel_width = 2 * lanes<T>;
constexpr int tile_rows = RECDROP_VECTOR_BYTES == 64 ? 8 : 6;  // as many as registers hold

constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

template <int n>
struct Int {
  static constexpr int value = n;
};

// f(Int<0>), f(Int<1>), ...: loops that are gone before registers are given out.
template <int n, class F>
RECDROP_INLINE void unrolled(F&& f) {
  if constexpr (n > 0) {
    unrolled<n - 1>(f);
    f(Int<n - 1>{});
  }
}

#define RECDROP_UNROLLED(i, n, ...) \
  unrolled<n>([&](auto i##_) __attribute__((always_inline)) { constexpr int i = decltype(i##_)::value; __VA_ARGS__; })

// out [rows, panel_width] = a [rows, K] * panel + add [rows, panel_width], if there is any. `a` is
// row-major, or where `columns` is set column-major with tile_rows values to a column. Few rows take
// several sums side by side, since one sum would wait for itself.
template <class T, int rows, bool columns>
void small_product(
    const T* a, int64_t a_stride, const T* panel, int64_t k, T* out, int64_t out_stride, const T* add, int64_t add_stride) {
  constexpr int chains = rows >= 4 ? 1 : rows >= 2 ? 2 : 4;
  constexpr int L = lanes<T>;
  Vec<T> sum[chains][rows][2];
  RECDROP_UNROLLED(c, chains, RECDROP_UNROLLED(i, rows, (sum[c][i][0] = Vec<T>{}, sum[c][i][1] = Vec<T>{})));
  const T* row[rows];
  RECDROP_UNROLLED(i, rows, row[i] = a + i * a_stride);
  auto step = [&](int64_t at, auto chain_) __attribute__((always_inline)) {
    constexpr int c = decltype(chain_)::value;
    const Vec<T> b0 = load(panel + at * 2 * L), b1 = load(panel + at * 2 * L + L);
    RECDROP_UNROLLED(i, rows, {
      const T x = columns ? a[at * tile_rows + i] : row[i][at];
      sum[c][i][0] += x * b0;
      sum[c][i][1] += x * b1;
    });
  };
  int64_t at = 0;
  for (; at + chains <= k; at += chains) {
    unrolled<chains>([&](auto c) __attribute__((always_inline)) { step(at + decltype(c)::value, c); });
  }
  for (; at < k; ++at) step(at, Int<0>{});
  RECDROP_UNROLLED(i, rows, {
    Vec<T> low = sum[0][i][0], high = sum[0][i][1];
    for (int c = 1; c < chains; ++c) low += sum[c][i][0], high += sum[c][i][1];
    T* to = out + i * out_stride;
    if (add != nullptr) low += load(add + i * add_stride), high += load(add + i * add_stride + L);
    store(to, low);
    store(to + L, high);
  });
}

template <class T, bool columns>
void tile_product(
    int rows, const T* a, int64_t a_stride, const T* panel, int64_t k, T* out, int64_t out_stride, const T* add = nullptr,
    int64_t add_stride = 0) {
  switch (rows) {
#define RECDROP_ROWS(n) \
  case n: return small_product<T, n, columns>(a, a_stride, panel, k, out, out_stride, add, add_stride);
    RECDROP_ROWS(1) RECDROP_ROWS(2) RECDROP_ROWS(3) RECDROP_ROWS(4) RECDROP_ROWS(5) RECDROP_ROWS(6)
#if RECDROP_VECTOR_BYTES == 64
    RECDROP_ROWS(7) RECDROP_ROWS(8)
#endif
#undef RECDROP_ROWS
  }
}

// Rows in tiles of as equal a height as possible.
struct Tiles {
  explicit Tiles(int64_t rows) : rows(rows), number(divide_up(rows, tile_rows)), each(number ? rows / number : 0), taller(number ? rows % number : 0) {}
  int64_t first(int64_t tile) const { return tile * each + least(tile, taller); }
  int height(int64_t tile) const { return int(each + (tile < taller)); }
  const int64_t rows, number, each, taller;
};

// to [4][to_stride] = from [4][from_stride], transposed.
template <class T>
RECDROP_INLINE void transpose_4x4(const T* from, int64_t from_stride, T* to, int64_t to_stride) {
  typedef T Four __attribute__((vector_size(4 * sizeof(T))));
  Four row[4];
  for (int i = 0; i < 4; ++i) __builtin_memcpy(&row[i], from + i * from_stride, sizeof(Four));
  const Four low01 = __builtin_shufflevector(row[0], row[1], 0, 4, 1, 5), high01 = __builtin_shufflevector(row[0], row[1], 2, 6, 3, 7);
  const Four low23 = __builtin_shufflevector(row[2], row[3], 0, 4, 1, 5), high23 = __builtin_shufflevector(row[2], row[3], 2, 6, 3, 7);
  row[0] = __builtin_shufflevector(low01, low23, 0, 1, 4, 5);
  row[1] = __builtin_shufflevector(low01, low23, 2, 3, 6, 7);
  row[2] = __builtin_shufflevector(high01, high23, 0, 1, 4, 5);
  row[3] = __builtin_shufflevector(high01, high23, 2, 3, 6, 7);
  for (int i = 0; i < 4; ++i) __builtin_memcpy(to + i * to_stride, &row[i], sizeof(Four));
}

// Columns [first, first + panel_width) of b, rows [from, from + k).
template <class T>
void pack_panel(const Matrix<const T>& b, int64_t first, int64_t from, int64_t k, T* panel) {
  constexpr int width = panel_width<T>;
  const int64_t valid = least(width, b.columns - first);
  const T* source = b.data + first * b.column_stride + from * b.row_stride;
  if (b.column_stride == 1) {
    for (int64_t r = 0; r < k; ++r, source += b.row_stride, panel += width) {
      store_block(panel, load_block(source, valid));
    }
    return;
  }
  const bool fours = b.row_stride == 1 && valid == width;
  const int64_t whole = fours ? k / 4 * 4 : 0;
  for (int64_t r = 0; r < whole; r += 4) {
    for (int64_t c = 0; c < width; c += 4) {
      transpose_4x4(source + c * b.column_stride + r, b.column_stride, panel + r * width + c, width);
    }
  }
  for (int64_t r = whole; r < k; ++r) {
    for (int64_t c = 0; c < width; ++c) {
      panel[r * width + c] = c < valid ? source[c * b.column_stride + r * b.row_stride] : T(0);
    }
  }
}

// A block of A as tiles, tile_rows * stride apart: by rows, `stride` values each, or where A's
// columns are contiguous by columns of tile_rows values.
template <class T>
void pack_tiles(const T* a, int64_t row_stride, int64_t column_stride, const Tiles& tiles, int64_t k, bool columns, int64_t stride, T* block) {
  for (int64_t c = 0; columns && c < k; ++c, a += column_stride) {
    T* to = block + c * tile_rows;
    const T* from = a;
    const T* ahead = a + (c + 8 < k ? 8 * column_stride : 0);  // too short and too far apart for hardware
    for (int64_t i = 0; i < tiles.rows; i += 64 / sizeof(T)) __builtin_prefetch(ahead + i, 0, 3);
    for (int64_t tile = 0; tile < tiles.number; ++tile, to += tile_rows * stride) {
      const int height = tiles.height(tile);
      if (height == tile_rows) {
        __builtin_memcpy(to, from, tile_rows * sizeof(T));
      } else {
        for (int i = 0; i < height; ++i) to[i] = from[i];
      }
      from += height;
    }
  }
  if (columns) return;
  for (int64_t tile = 0; tile < tiles.number; ++tile) {
    for (int i = 0; i < tiles.height(tile); ++i) {
      const T* row = a + (tiles.first(tile) + i) * row_stride;
      T* to = block + (tile * tile_rows + i) * stride;
      if (column_stride == 1) {
        __builtin_memcpy(to, row, k * sizeof(T));
      } else {
        for (int64_t c = 0; c < k; ++c) to[c] = row[c * column_stride];
      }
    }
  }
}

// Memory that is not initialised and ends with its owner.
template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t n) {
    const int64_t bytes = divide_up(most(n, 1) * int64_t(sizeof(T)), 64) * 64;
    data_ = static_cast<T*>(aligned_alloc(64, bytes));
    if (data_ == nullptr) throw OutOfMemory{bytes};
  }
  ~Scratch() { free(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  operator T*() const { return data_; }

 private:
  T* data_;
};

template <class F>
void in_parallel(const Pool& pool, int64_t tasks, F&& f) {
  // Workers take the next task until there is none.
  struct Shared {
    F& f;
    int64_t tasks;
    int64_t next;
  } shared{f, tasks, 0};
  auto body = [](void* ctx, int) {
    auto* s = static_cast<Shared*>(ctx);
    for (int64_t i; (i = __atomic_fetch_add(&s->next, 1, __ATOMIC_RELAXED)) < s->tasks;) s->f(i);
  };
  const int workers = int(least(pool.workers, tasks));
  if (workers <= 1) {
    body(&shared, 0);
  } else {
    pool.run(workers, body, &shared);
  }
}

// Rows [from, from + k) of b, some columns, of which some may be its top's.
template <class T>
void pack_panel(const RightSide<T>& right, int64_t first, int64_t from, int64_t k, T* panel) {
  const int64_t above = most(0, least(k, right.top.rows - from));
  if (above > 0) pack_panel(right.top, first, from, above, panel);
  if (above < k) pack_panel(right.rest, first, from + above - right.top.rows, k - above, panel + above * panel_width<T>);
}

template <class T>
void product(const Matrix<const T>& a, const RightSide<T>* right, int sides, const Pool& pool) {
  constexpr int width = panel_width<T>;
  constexpr int64_t depth = 384;       // of K at a time: a panel's part stays in the first cache
  constexpr int64_t height = 12 * tile_rows;  // rows of A at a time: they stay in the second
  constexpr int64_t breadth = 16;      // panels per task
  const int64_t first_side = divide_up(right[0].out.columns, width);
  const int64_t panels = first_side + (sides > 1 ? divide_up(right[1].out.columns, width) : 0);
  const int64_t parts = most(1, divide_up(a.columns, depth));
  Scratch<T> packed(panels * width * a.columns);
  auto panel_at = [&](int64_t panel, int64_t part) {
    return packed + (part * depth * panels + panel * least(depth, a.columns - part * depth)) * width;
  };
  auto side_of = [&](int64_t panel) -> const RightSide<T>& { return right[panel >= first_side]; };
  auto column_of = [&](int64_t panel) { return (panel >= first_side ? panel - first_side : panel) * width; };
  in_parallel(pool, panels, [&](int64_t panel) {
    for (int64_t part = 0; part < parts; ++part) {
      const int64_t k = least(depth, a.columns - part * depth);
      pack_panel(side_of(panel), column_of(panel), part * depth, k, panel_at(panel, part));
    }
  });
  const bool columns = a.row_stride == 1 && a.column_stride != 1;
  const int64_t blocks = divide_up(a.rows, height), strips = divide_up(panels, breadth);
  in_parallel(pool, blocks * strips, [&](int64_t task) {
    const int64_t first = task / strips * height;
    const int64_t begin = task % strips * breadth, end = least(panels, begin + breadth);
    constexpr int64_t stride = depth + 16;  // not a power of two: rows must not share cache sets
    alignas(64) T block[height * stride];
    const Tiles tiles(least(height, a.rows - first));
    for (int64_t part = 0; part < parts; ++part) {
      const int64_t from = part * depth, k = least(depth, a.columns - from);
      pack_tiles(a.data + first * a.row_stride + from * a.column_stride, a.row_stride, a.column_stride, tiles, k, columns,
                 stride, block);
      for (int64_t panel = begin; panel < end; ++panel) {
        const RightSide<T>& side = side_of(panel);
        const Matrix<T>& out = side.out;
        const int64_t column = column_of(panel), valid = out.columns - column;
        const bool whole = valid >= width;
        const T* bias = part == 0 && side.bias ? side.bias + column : nullptr;
        for (int64_t tile = 0; tile < tiles.number; ++tile) {
          const T* left = block + tile * tile_rows * stride;
          T* to = out.data + (first + tiles.first(tile)) * out.row_stride + column;
          alignas(64) T edge[tile_rows * width];
          T* target = whole ? to : edge;
          const int64_t target_stride = whole ? out.row_stride : width;
          const T* term = !whole ? nullptr : part > 0 ? to : bias;
          const int tall = tiles.height(tile);
          (columns ? tile_product<T, true> : tile_product<T, false>)(
              tall, left, stride, panel_at(panel, part), k, target, target_stride, term, part > 0 ? target_stride : 0);
          if (whole) continue;
          for (int i = 0; i < tall; ++i, to += out.row_stride) {
            Block<T> sum = load_block(edge + i * width);
            if (part > 0) sum = sum + load_block(to, valid);
            if (bias != nullptr) sum = sum + load_block(bias, valid);
            store_block(to, sum, valid);
          }
        }
      }
    }
  });
}

// sums [columns] of a, whose rows are contiguous.
template <class T>
void sum_columns(const Matrix<const T>& a, T* out, const Pool& pool) {
  constexpr int64_t strip = 8 * panel_width<T>;
  in_parallel(pool, divide_up(a.columns, strip), [&](int64_t task) {
    const int64_t begin = task * strip, end = least(a.columns, begin + strip);
    alignas(64) T sum[strip] = {};
    for (int64_t row = 0; row < a.rows; ++row) {
      const T* from = a.data + row * a.row_stride;
      for (int64_t c = begin; c < end; ++c) sum[c - begin] += from[c];
    }
    for (int64_t c = begin; c < end; ++c) out[c] = sum[c - begin];
  });
}
