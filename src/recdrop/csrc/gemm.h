// Products of matrices: panels of the right-hand side, packed once, and one small kernel over them.
//
// A panel holds `panel_width` columns of B [K, N]: K rows of that many values, missing columns 0.

template <class T>
constexpr int panel_width = 2 * lanes<T>;
constexpr int tile_rows = RECDROP_VECTOR_BYTES == 64 ? 12 : 6;  // as many as registers hold

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

// The first `halves` vectors of each row of out [rows, panel_width] = a [rows, K] * panel + add, if
// there is any. `a` is row-major, or where `columns` is set column-major; a_stride is that of its rows
// or columns. Few rows take several sums side by side, since one sum would wait for itself. With
// `ahead` the panel that lies behind this one, and will be asked for next, is on its way to the second
// cache meanwhile.
template <class T, int rows, int halves, bool columns, bool ahead = false>
void small_product(
    const T* a, int64_t a_stride, const T* panel, int64_t k, T* out, int64_t out_stride, const T* add, int64_t add_stride) {
  constexpr int chains = rows * halves >= 8 ? 1 : rows * halves >= 4 ? 2 : 4;
  constexpr int L = lanes<T>;
  Vec<T> sum[chains][rows][halves];
  RECDROP_UNROLLED(c, chains, RECDROP_UNROLLED(i, rows, RECDROP_UNROLLED(j, halves, (sum[c][i][j] = Vec<T>{}))));
  const T* row[rows];
  RECDROP_UNROLLED(i, rows, row[i] = a + i * a_stride);
  auto step = [&](int64_t at, auto chain_) __attribute__((always_inline)) {
    constexpr int c = decltype(chain_)::value;
    Vec<T> b[halves];
    RECDROP_UNROLLED(j, halves, {
      b[j] = load(panel + at * 2 * L + j * L);
      if (ahead) __builtin_prefetch(panel + (k + at) * 2 * L + j * L, 0, 2);
    });
    RECDROP_UNROLLED(i, rows, {
      const T x = columns ? a[at * a_stride + i] : row[i][at];
      RECDROP_UNROLLED(j, halves, sum[c][i][j] += x * b[j]);
    });
  };
  int64_t at = 0;
  for (; at + chains <= k; at += chains) {
    unrolled<chains>([&](auto c) __attribute__((always_inline)) { step(at + decltype(c)::value, c); });
  }
  for (; at < k; ++at) step(at, Int<0>{});
  RECDROP_UNROLLED(i, rows, RECDROP_UNROLLED(j, halves, {
    Vec<T> total = sum[0][i][j];
    for (int c = 1; c < chains; ++c) total += sum[c][i][j];
    if (add != nullptr) total += load(add + i * add_stride + j * L);
    store(out + i * out_stride + j * L, total);
  }));
}

// For up to tile_rows rows; of `valid` columns, where one vector holds them, only that one.
template <class T, bool columns>
void tile_product(
    int rows, int64_t valid, const T* a, int64_t a_stride, const T* panel, int64_t k, T* out, int64_t out_stride,
    const T* add = nullptr, int64_t add_stride = 0, bool ahead = false) {
  using Product = void(const T*, int64_t, const T*, int64_t, T*, int64_t, const T*, int64_t);
#define RECDROP_ROWS(n) \
  {small_product<T, n, 1, columns>, small_product<T, n, 2, columns>, small_product<T, n, 2, columns, !columns>}
  static constexpr Product* products[tile_rows][3] = {
    RECDROP_ROWS(1), RECDROP_ROWS(2), RECDROP_ROWS(3), RECDROP_ROWS(4), RECDROP_ROWS(5), RECDROP_ROWS(6),
#if RECDROP_VECTOR_BYTES == 64
    RECDROP_ROWS(7), RECDROP_ROWS(8), RECDROP_ROWS(9), RECDROP_ROWS(10), RECDROP_ROWS(11), RECDROP_ROWS(12),
#endif
#undef RECDROP_ROWS
  };
  products[rows - 1][valid <= lanes<T> ? 0 : ahead ? 2 : 1](a, a_stride, panel, k, out, out_stride, add, add_stride);
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
  if (k == 0) return;  // b may be null, which takes no offsets
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

constexpr int64_t second_cache = 3 << 19;  // of what is read at every step, more does not stay near

// Right-hand sides of products, several of one shape: [blocks][parts][depth][panel_width].
template <class T>
class Panels {
 public:
  Panels(int64_t parts, int64_t depth, int64_t columns)
      : parts(parts), depth(depth), columns(columns), blocks(divide_up(columns, panel_width<T>)),
        data_(parts * blocks * depth * panel_width<T>) {}

  // Rows [from, from + k) of every part, k the rows of what matrix_of(part) returns.
  template <class F>
  void pack(const Pool& pool, int64_t from, F&& matrix_of) {
    in_parallel(pool, parts * blocks, [&](int64_t i) {
      const int64_t part = i % parts, block = i / parts;
      const Matrix<const T> b = matrix_of(part);
      pack_panel(b, block * panel_width<T>, 0, b.rows, at(part, block) + from * panel_width<T>);
    });
  }
  T* at(int64_t part, int64_t block) const { return data_ + (block * parts + part) * depth * panel_width<T>; }
  int64_t bytes() const { return parts * blocks * depth * panel_width<T> * int64_t(sizeof(T)); }
  int64_t valid(int64_t block) const { return least(panel_width<T>, columns - block * panel_width<T>); }

  const int64_t parts, depth, columns, blocks;

 private:
  Scratch<T> data_;
};

constexpr int64_t part_of_depth = 384;  // so much of K at a time that what is read again stays near

// Some rows of the columns of one panel: to = a * panel, plus what is there if `more`, else plus bias.
template <class T, bool columns>
void tile_into(int rows, const T* a, int64_t a_stride, const T* panel, int64_t k, T* to, int64_t to_stride, int64_t valid,
               bool more, const T* bias) {
  constexpr int width = panel_width<T>;
  if (valid == width) {
    return tile_product<T, columns>(rows, valid, a, a_stride, panel, k, to, to_stride, more ? to : bias, more ? to_stride : 0);
  }
  alignas(64) T edge[tile_rows * width];
  tile_product<T, columns>(rows, valid, a, a_stride, panel, k, edge, width);
  for (int i = 0; i < rows; ++i, to += to_stride) {
    Block<T> sum = load_block(edge + i * width, valid);
    if (more) sum = sum + load_block(to, valid);
    else if (bias != nullptr) sum = sum + load_block(bias, valid);
    store_block(to, sum, valid);
  }
}

// Where the columns of one panel of a product go: rows of out_stride values.
template <class T>
struct Target {
  T* out;
  int64_t out_stride;
  const T* bias;
};

// left [rows, K] times right, for all of its parts. pack(first, tiles, from, k, stride, block) copies
// rows [first, first + tiles.rows) and columns [from, from + k) of left to rows of `stride` values,
// each tile's at tile_rows * stride; target(part, block) says where a panel's product goes.
template <class T, class Pack, class Place>
void product(int64_t rows, Pack&& pack, const Panels<T>& right, Place&& target, const Pool& pool) {
  constexpr int64_t height = 8 * tile_rows;  // rows at a time: they stay in the second cache
  constexpr int64_t breadth = 16;             // panels per task
  const int64_t panels = right.parts * right.blocks, parts = most(1, divide_up(right.depth, part_of_depth));
  const int64_t strips = divide_up(panels, breadth);
  const int64_t blocks = divide_up(rows, height);
  in_parallel(pool, blocks * strips, [&](int64_t task) {  // the same panels for all rows, then others
    const int64_t first = task % blocks * height;
    const int64_t begin = task / blocks * breadth, end = least(panels, begin + breadth);
    constexpr int64_t stride = part_of_depth + 16;  // not a power of two: rows must not share cache sets
    alignas(64) T block[height * stride];
    const Tiles tiles(least(height, rows - first));
    for (int64_t part = 0; part < parts; ++part) {
      const int64_t from = part * part_of_depth, k = least(part_of_depth, right.depth - from);
      pack(first, tiles, from, k, stride, block);
      for (int64_t panel = begin; panel < end; ++panel) {
        const int64_t of = panel % right.parts, column = panel / right.parts;
        const Target<T> to = target(of, column);
        const T* here = right.at(of, column) + from * panel_width<T>;
        for (int64_t tile = 0; tile < tiles.number; ++tile) {
          tile_into<T, false>(tiles.height(tile), block + tile * tile_rows * stride, stride,
                              here, k,
                              to.out + (first + tiles.first(tile)) * to.out_stride, to.out_stride, right.valid(column),
                              part > 0, to.bias);
        }
      }
    }
  });
}

// Packs a matrix for `product`.
template <class T>
auto rows_of(const Matrix<const T>& a) {
  return [a](int64_t first, const Tiles& tiles, int64_t from, int64_t k, int64_t stride, T* block) {
    if (k == 0) return;  // a may be null, which neither takes offsets nor is copied from
    for (int64_t tile = 0; tile < tiles.number; ++tile) {
      for (int i = 0; i < tiles.height(tile); ++i) {
        const T* row = a.data + (first + tiles.first(tile) + i) * a.row_stride + from * a.column_stride;
        T* to = block + (tile * tile_rows + i) * stride;
        if (a.column_stride == 1) {
          __builtin_memcpy(to, row, k * sizeof(T));
        } else {
          for (int64_t c = 0; c < k; ++c) to[c] = row[c * a.column_stride];
        }
      }
    }
  };
}

// Arrays [n, columns] in panels: the columns of a panel lie together, [n, w], and one panel after the
// other, w being panel_width but in the last. What a step needs of a block of units is one stretch.
template <class T>
constexpr int64_t panel_offset(int64_t n, int64_t columns, int64_t row, int64_t column) {
  return column * n + row * least(panel_width<T>, columns - column);
}

// Packs an [n, parts * columns] array, each part in panels, for `product`.
template <class T>
auto rows_of_panels(const T* a, int64_t n, int64_t columns, const int* parts) {
  return [=](int64_t first, const Tiles& tiles, int64_t from, int64_t k, int64_t stride, T* block) {
    for (int64_t done = 0; done < k;) {
      const int64_t part = (from + done) / columns, column = (from + done) % columns;
      const int64_t begin = column / panel_width<T> * panel_width<T>, w = least(panel_width<T>, columns - begin);
      const int64_t count = least(w - (column - begin), k - done);
      const T* row = a + parts[part] * columns * n + panel_offset<T>(n, columns, first, begin) + (column - begin);
      for (int64_t tile = 0; tile < tiles.number; ++tile) {
        for (int i = 0; i < tiles.height(tile); ++i, row += w) {
          __builtin_memcpy(block + (tile * tile_rows + i) * stride + done, row, count * sizeof(T));
        }
      }
      done += count;
    }
  };
}

// out [rows, C] = left^T right: left [K, rows] in panels, right a part of K rows and C columns.
template <class T>
struct Transposed {
  const T* left;
  int64_t rows;
  const Panels<T>* right;
  int64_t part;
  T* out;
};

constexpr int max_products = 9;  // that one layer's gradients take: two for each gate, and the projection's

template <class T>
void products(const Transposed<T>* all, int count, const Pool& pool) {
  constexpr int width = panel_width<T>;
  constexpr int64_t height = 3, breadth = 16, depth = 192;  // panels of the left, of the right per task
  int64_t tasks[max_products + 1] = {};
  for (int i = 0; i < count; ++i) {
    tasks[i + 1] = tasks[i] + divide_up(all[i].rows, height * width) * divide_up(all[i].right->blocks, breadth);
  }
  in_parallel(pool, tasks[count], [&](int64_t task) {
    int i = 0;
    while (task >= tasks[i + 1]) ++i;
    const Transposed<T>& p = all[i];
    const int64_t n = p.right->depth, blocks = divide_up(p.rows, height * width);
    const int64_t first = (task - tasks[i]) % blocks * height * width, last = least(p.rows, first + height * width);
    const int64_t begin = (task - tasks[i]) / blocks * breadth, end = least(p.right->blocks, begin + breadth);
    int64_t from = 0;
    do {
      const int64_t k = least(depth, n - from);
      for (int64_t panel = begin; panel < end; ++panel) {
        for (int64_t row = first; row < last; row += width) {
          const int64_t w = least(width, p.rows - row);
          const Tiles tiles(w);
          for (int64_t tile = 0; tile < tiles.number; ++tile) {
            tile_into<T, true>(tiles.height(tile), p.left + panel_offset<T>(n, p.rows, from, row) + tiles.first(tile), w,
                               p.right->at(p.part, panel) + from * width, k,
                               p.out + (row + tiles.first(tile)) * p.right->columns + panel * width, p.right->columns,
                               p.right->valid(panel), from > 0, nullptr);
          }
        }
      }
    } while ((from += depth) < n);
  });
}
