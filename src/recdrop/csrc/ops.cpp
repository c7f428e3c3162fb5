// The torch side of the native backend, on LibTorch's stable ABI: checks what the kernels take on
// trust, allocates, and surrounds the loop over time with the large products. The schemas are in
// backends/ops.py and backends/native.py.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <atomic>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "system.h"

namespace {

using recdrop::Cell;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;

// ------------------------------------------------------------------------------- instruction sets

std::vector<const recdrop::Kernels*> supported() {
  std::vector<const recdrop::Kernels*> all;
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
    all.push_back(&recdrop::avx512_kernels());
  }
  if (avx2) all.push_back(&recdrop::avx2_kernels());
#endif
  all.push_back(&recdrop::portable_kernels());
  return all;
}

std::atomic<const recdrop::Kernels*>& chosen() {
  static std::atomic<const recdrop::Kernels*> kernels{supported().front()};
  return kernels;
}

template <class T>
const recdrop::Kernels::Of<T>& kernels() {
  if constexpr (sizeof(T) == 4) return chosen().load()->f32;
  else return chosen().load()->f64;
}

// All instruction sets that this machine has, best first, the one in use marked; a name chooses.
std::string instruction_set(std::string name) {
  std::string names;
  bool found = name.empty();
  for (const auto* k : supported()) {
    if (name == k->name) chosen().store(k), found = true;
  }
  for (const auto* k : supported()) {
    names += (names.empty() ? "" : " ") + std::string(k == chosen().load() ? "*" : "") + k->name;
  }
  STD_TORCH_CHECK(found, "no instruction set ", name, " here, only ", names);
  return names;
}

// ------------------------------------------------------------------------------------ torch's pool

recdrop::Pool pool() {
  return {int(torch::stable::get_num_threads()), [](int workers, void (*body)(void*, int), void* ctx) {
            torch::stable::parallel_for(0, workers, 1, [&](int64_t begin, int64_t end) {
              for (int64_t worker = begin; worker < end; ++worker) body(ctx, int(worker));
            });
          }};
}

// ------------------------------------------------------------------------------------------ checks

using Sizes = std::vector<int64_t>;

std::string text(const Sizes& sizes) {
  std::string s = "[";
  for (auto n : sizes) s += (s.size() > 1 ? ", " : "") + std::to_string(n);
  return s + "]";
}

Sizes sizes_of(const Tensor& t) { return {t.sizes().begin(), t.sizes().end()}; }

void check(const char* name, const Tensor& t, const Sizes& sizes, ScalarType dtype) {
  STD_TORCH_CHECK(t.is_cpu(), name, " must be on the CPU");
  STD_TORCH_CHECK(t.scalar_type() == dtype, name, " must have the dtype ",
                  dtype == ScalarType::Long ? "int64" : "of the other tensors");
  STD_TORCH_CHECK(sizes_of(t) == sizes, name, " must have shape ", text(sizes), ", got ", text(sizes_of(t)));
}

// Checked and contiguous.
Tensor take(const char* name, const Tensor& t, const Sizes& sizes, ScalarType dtype) {
  check(name, t, sizes, dtype);
  return t.is_contiguous() ? t : torch::stable::contiguous(t);
}

MaybeTensor take(const char* name, const MaybeTensor& t, const Sizes& sizes, ScalarType dtype) {
  if (!t.has_value()) return std::nullopt;
  return take(name, *t, sizes, dtype);
}

uint32_t word(int64_t value, const char* name) {
  STD_TORCH_CHECK(value >= 0 && value <= 0xFFFFFFFFll, name, " must fit in 32 bits, got ", value);
  return uint32_t(value);
}

template <class T>
const T* data(const Tensor& t) { return static_cast<const T*>(t.const_data_ptr()); }
template <class T>
const T* data(const MaybeTensor& t) { return t.has_value() ? data<T>(*t) : nullptr; }
template <class T>
T* writable(const Tensor& t) { return static_cast<T*>(t.mutable_data_ptr()); }
template <class T>
T* writable(const MaybeTensor& t) { return t.has_value() ? writable<T>(*t) : nullptr; }

// ------------------------------------------------------------------------------------- one scan

// The arguments of recdrop::scan, checked; see Inputs and Config in backends/ops.py.
struct Scan {
  Tensor x, h0, w_ih, w_hh;
  MaybeTensor c0, b_ih, b_hh, w_hr, batch_sizes, rows, key;
  recdrop::Shape shape{};
  recdrop::Dropout dropout{};
  std::vector<int64_t> offsets{};
  int64_t total = 0, gate_width = 0;  // N and GH

  bool is(Cell cell) const { return shape.cell == cell; }
  bool has_inner() const { return is(Cell::lstm) || is(Cell::gru); }
  ScalarType dtype() const { return h0.scalar_type(); }
  Tensor empty(const Sizes& sizes) const { return torch::stable::new_empty(h0, sizes); }
  MaybeTensor empty_if(bool wanted, const Sizes& sizes) const {
    return wanted ? MaybeTensor(empty(sizes)) : std::nullopt;
  }
  template <class T>
  recdrop::Weights<T> weights(const std::vector<T>& bias) const {
    const T* b_hn = is(Cell::gru) && b_hh ? data<T>(b_hh) + 2 * shape.hidden : nullptr;
    return {data<T>(w_ih), data<T>(w_hh), bias.empty() ? nullptr : bias.data(), b_hn, data<T>(w_hr)};
  }
  // Of the input projection: both biases, but for the part that torch's GRU adds to its product.
  template <class T>
  std::vector<T> bias() const {
    if (!b_ih.has_value()) return {};
    const T *ih = data<T>(b_ih), *hh = data<T>(b_hh);
    std::vector<T> sum(ih, ih + gate_width);
    for (int64_t i = 0; i < (is(Cell::gru) ? 2 * shape.hidden : gate_width); ++i) sum[i] += hh[i];
    return sum;
  }
};

Tensor or_empty(const Scan& s, const MaybeTensor& t) { return t ? *t : s.empty({0}); }

void set_cell(Scan& s, const std::string& cell, const std::string& activation, bool reverse) {
  STD_TORCH_CHECK(cell == "rnn" || cell == "lstm" || cell == "gru" || cell == "gru_paper",
                  "cell must be rnn, lstm, gru or gru_paper, got ", cell);
  STD_TORCH_CHECK(activation == "tanh" || activation == "relu", "activation must be tanh or relu, got ", activation);
  s.shape.cell = cell == "rnn" ? Cell::rnn : cell == "lstm" ? Cell::lstm : cell == "gru" ? Cell::gru : Cell::gru_paper;
  s.shape.activation = activation == "tanh" ? recdrop::Activation::tanh : recdrop::Activation::relu;
  s.shape.reverse = reverse;
}

void set_steps(Scan& s) {
  auto& shape = s.shape;
  if (!s.batch_sizes.has_value()) {
    shape.steps = shape.batch > 0 ? s.total / shape.batch : 0;
    STD_TORCH_CHECK(shape.steps * shape.batch == s.total, "expected a multiple of ", shape.batch, " rows, got ", s.total);
    return;
  }
  STD_TORCH_CHECK(s.batch_sizes->dim() == 1, "batch_sizes must have one dimension");
  shape.steps = s.batch_sizes->size(0);
  s.batch_sizes = take("batch_sizes", s.batch_sizes, {shape.steps}, ScalarType::Long);
  shape.batch_sizes = data<int64_t>(s.batch_sizes);
  s.offsets.assign(1, 0);
  for (int64_t t = 0; t < shape.steps; ++t) {
    const int64_t n = shape.batch_sizes[t];
    STD_TORCH_CHECK(n > 0 && n <= (t ? shape.batch_sizes[t - 1] : shape.batch), "batch_sizes must fall from at most ",
                    shape.batch, " and stay above 0, got ", n, " at step ", t);
    s.offsets.push_back(s.offsets.back() + n);
  }
  STD_TORCH_CHECK(shape.steps > 0 && shape.batch_sizes[0] == shape.batch && s.offsets.back() == s.total,
                  "batch_sizes must start with ", shape.batch, " and sum to ", s.total);
  shape.offsets = s.offsets.data();
}

void set_dropout(Scan& s, int64_t layer, const std::vector<int64_t>& thresholds, const std::vector<double>& scales,
                 const std::vector<int64_t>& per_step, bool tied) {
  STD_TORCH_CHECK(thresholds.size() == 3 && scales.size() == 3 && per_step.size() == 3,
                  "thresholds, scales and per_step must have 3 values: update, hidden, state");
  auto& d = s.dropout;
  recdrop::Site* sites[] = {&d.update, &d.hidden, &d.state};
  bool masks = false;
  for (int i = 0; i < 3; ++i) {
    *sites[i] = {word(thresholds[i], "threshold"), scales[i], per_step[i] != 0,
                 word(i + 4 * s.shape.reverse + 8 * layer, "layer")};
    masks |= thresholds[i] > 0;
  }
  d.tied = tied;
  s.rows = take("rows", s.rows, {s.shape.batch}, ScalarType::Long);
  d.rows = data<int64_t>(s.rows);
  STD_TORCH_CHECK(s.key.has_value() || !masks, "masks need a key");
  s.key = take("key", s.key, {}, ScalarType::Long);
  if (s.key.has_value()) d.key = uint64_t(*data<int64_t>(s.key));
}

// Checks all shapes against each other and makes everything contiguous.
Scan checked(const Tensor& x, const Tensor& h0, const MaybeTensor& c0, const Tensor& w_ih, const Tensor& w_hh,
             const MaybeTensor& b_ih, const MaybeTensor& b_hh, const MaybeTensor& w_hr, const MaybeTensor& batch_sizes,
             const MaybeTensor& rows, const MaybeTensor& key, const std::string& cell, const std::string& activation,
             bool reverse, int64_t layer, const std::vector<int64_t>& thresholds, const std::vector<double>& scales,
             const std::vector<int64_t>& per_step, bool tied) {
  Scan s{x, h0, w_ih, w_hh, c0, b_ih, b_hh, w_hr, batch_sizes, rows, key};
  const ScalarType dtype = x.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double,
                  "the native backend computes in float32 or float64");
  STD_TORCH_CHECK(x.dim() == 2 && h0.dim() == 2 && w_hh.dim() == 2, "x, h0 and w_hh must have 2 dimensions");
  set_cell(s, cell, activation, reverse);
  auto& shape = s.shape;
  shape.batch = h0.size(0);
  shape.width = h0.size(1);
  s.gate_width = w_hh.size(0);
  shape.hidden = s.gate_width / shape.gates();
  STD_TORCH_CHECK(s.gate_width % shape.gates() == 0 && (s.is(Cell::lstm) || shape.width == shape.hidden),
                  "w_hh of this cell must have shape [", shape.gates(), " * H, ", shape.width, "], got ",
                  text(sizes_of(w_hh)));
  const int64_t B = shape.batch, W = shape.width, H = shape.hidden, GH = s.gate_width;
  s.total = x.size(0);
  s.x = take("x", x, {s.total, x.size(1)}, dtype);
  s.h0 = take("h0", h0, {B, W}, dtype);
  s.c0 = take("c0", c0, {B, H}, dtype);
  s.w_ih = take("w_ih", w_ih, {GH, x.size(1)}, dtype);
  s.w_hh = take("w_hh", w_hh, {GH, W}, dtype);
  s.b_ih = take("b_ih", b_ih, {GH}, dtype);
  s.b_hh = take("b_hh", b_hh, {GH}, dtype);
  s.w_hr = take("w_hr", w_hr, {W, H}, dtype);
  STD_TORCH_CHECK(c0.has_value() == s.is(Cell::lstm), "an LSTM, and nothing else, has c0");
  STD_TORCH_CHECK(w_hr.has_value() == shape.projected(), "w_hr is there if and only if h and c differ in width");
  STD_TORCH_CHECK(b_ih.has_value() == b_hh.has_value(), "there are two biases or none");
  set_steps(s);
  set_dropout(s, layer, thresholds, scales, per_step, tied);
  return s;
}

// Calls f with a zero of the dtype.
template <class F>
void for_dtype(ScalarType dtype, F&& f) {
  try {
    if (dtype == ScalarType::Float) f(float{});
    else f(double{});
  } catch (const recdrop::OutOfMemory& e) {
    STD_TORCH_CHECK(false, "out of memory: ", e.bytes, " bytes of scratch space");
  }
}

// --------------------------------------------------------------------------------------------- ops

using FiveTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;
using EightTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

FiveTensors scan(Tensor x, Tensor h0, MaybeTensor c0, Tensor w_ih, Tensor w_hh, MaybeTensor b_ih, MaybeTensor b_hh,
                 MaybeTensor w_hr, MaybeTensor batch_sizes, MaybeTensor rows, MaybeTensor key, std::string cell,
                 std::string activation, bool reverse, int64_t layer, std::vector<int64_t> thresholds,
                 std::vector<double> scales, std::vector<int64_t> per_step, bool tied) {
  const Scan s = checked(x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, batch_sizes, rows, key, cell, activation, reverse,
                         layer, thresholds, scales, per_step, tied);
  const int64_t N = s.total, B = s.shape.batch, H = s.shape.hidden, GH = s.gate_width;
  const Tensor h = s.empty({N, s.shape.width}), h_n = s.empty({B, s.shape.width});
  const MaybeTensor gates = s.empty_if(!s.is(Cell::rnn), {N, GH}), inner = s.empty_if(s.has_inner(), {N, H});
  const MaybeTensor c_n = s.empty_if(s.is(Cell::lstm), {B, H});
  if (N > 0) {
    for_dtype(s.dtype(), [&](auto zero) {
      using T = decltype(zero);
      const std::vector<T> bias = s.bias<T>();
      const recdrop::Forward<T> io{
          writable<T>(gates), writable<T>(inner), writable<T>(h), writable<T>(h_n), writable<T>(c_n),
          data<T>(s.x), data<T>(s.h0), data<T>(s.c0), x.size(1)};
      kernels<T>().forward(s.shape, s.dropout, s.weights<T>(bias), io, pool());
    });
  }
  return {h, h_n, or_empty(s, c_n), or_empty(s, gates), or_empty(s, inner)};
}

EightTensors scan_backward(MaybeTensor dh, MaybeTensor dh_n, MaybeTensor dc_n, Tensor x, Tensor h0, MaybeTensor c0,
                           Tensor w_ih, Tensor w_hh, MaybeTensor b_ih, MaybeTensor b_hh, MaybeTensor w_hr,
                           MaybeTensor batch_sizes, MaybeTensor rows, MaybeTensor key, Tensor h, Tensor gates,
                           Tensor inner, std::string cell, std::string activation, bool reverse, int64_t layer,
                           std::vector<int64_t> thresholds, std::vector<double> scales, std::vector<int64_t> per_step,
                           bool tied, bool need_dx) {
  const Scan s = checked(x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, batch_sizes, rows, key, cell, activation, reverse,
                         layer, thresholds, scales, per_step, tied);
  const auto& shape = s.shape;
  const int64_t N = s.total, B = shape.batch, H = shape.hidden, W = shape.width, GH = s.gate_width;
  dh = take("dh", dh, {N, W}, s.dtype());
  dh_n = take("dh_n", dh_n, {B, W}, s.dtype());
  dc_n = s.is(Cell::lstm) ? take("dc_n", dc_n, {B, H}, s.dtype()) : std::nullopt;
  h = take("h", h, {N, W}, s.dtype());
  const MaybeTensor saved_gates = s.is(Cell::rnn) ? std::nullopt : take("gates", MaybeTensor(gates), {N, GH}, s.dtype());
  const MaybeTensor saved_inner = s.has_inner() ? take("inner", MaybeTensor(inner), {N, H}, s.dtype()) : std::nullopt;

  const Tensor dx = need_dx ? s.empty({N, x.size(1)}) : s.empty({0});
  const Tensor dh0 = s.empty({B, W}), dw_ih = s.empty({GH, x.size(1)}), dw_hh = s.empty({GH, W});
  const MaybeTensor dc0 = s.empty_if(s.is(Cell::lstm), {B, H}), dw_hr = s.empty_if(shape.projected(), {W, H});
  const MaybeTensor db_ih = s.empty_if(s.b_ih.has_value(), {GH}), db_hh = s.empty_if(s.b_ih.has_value(), {GH});

  for_dtype(s.dtype(), [&](auto zero) {
    using T = decltype(zero);
    if (N == 0) {
      for (const MaybeTensor& t : {MaybeTensor(dh0), MaybeTensor(dw_ih), MaybeTensor(dw_hh), dc0, dw_hr, db_ih, db_hh}) {
        if (t) std::fill_n(writable<T>(t), t->numel(), T(0));
      }
      return;
    }
    const recdrop::Backward<T> io{
        data<T>(dh), data<T>(dh_n), data<T>(dc_n), data<T>(saved_gates), data<T>(saved_inner), data<T>(h), data<T>(s.x),
        data<T>(s.h0), data<T>(s.c0), need_dx ? writable<T>(dx) : nullptr, writable<T>(dw_ih), writable<T>(dw_hh),
        writable<T>(db_ih), writable<T>(db_hh), writable<T>(dw_hr), writable<T>(dh0), writable<T>(dc0), x.size(1)};
    kernels<T>().backward(shape, s.dropout, s.weights<T>({}), io, pool());
  });
  return {dx, dh0, or_empty(s, dc0), dw_ih, dw_hh, or_empty(s, db_ih), or_empty(s, db_hh), or_empty(s, dw_hr)};
}

// out = a b + bias: the products of the scan alone, for tests and benchmarks.
void product(Tensor out, Tensor a, Tensor b, MaybeTensor bias) {
  STD_TORCH_CHECK(out.dim() == 2 && a.dim() == 2 && b.dim() == 2, "a product is of matrices");
  STD_TORCH_CHECK(a.size(1) == b.size(0) && out.size(0) == a.size(0) && out.size(1) == b.size(1), "cannot multiply ",
                  text(sizes_of(a)), " and ", text(sizes_of(b)), " into ", text(sizes_of(out)));
  STD_TORCH_CHECK(out.stride(1) == 1 || out.size(1) <= 1, "rows of the result must be contiguous");
  const ScalarType dtype = out.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double, "a product is of float32 or float64");
  check("out", out, sizes_of(out), dtype);
  check("a", a, sizes_of(a), dtype);
  check("b", b, sizes_of(b), dtype);
  const MaybeTensor added = take("bias", bias, {out.size(1)}, dtype);
  for_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    if (out.numel() == 0) return;
    const recdrop::Matrix<const T> left{data<T>(a), a.size(0), a.size(1), a.stride(0), a.stride(1)};
    const recdrop::Matrix<const T> right{data<T>(b), b.size(0), b.size(1), b.stride(0), b.stride(1)};
    const recdrop::Matrix<T> to{writable<T>(out), out.size(0), out.size(1), out.stride(0), 1};
    kernels<T>().product(left, right, data<T>(added), to, pool());
  });
}

// Rows of logits into the gradient of their cross entropies, which go to nats; see loss.h.
void cross_entropy(Tensor logits, Tensor targets, Tensor nats, MaybeTensor column_sums) {
  STD_TORCH_CHECK(logits.dim() == 2, "logits must be a matrix");
  STD_TORCH_CHECK(logits.stride(1) == 1 || logits.size(1) <= 1, "rows of logits must be contiguous");
  const int64_t rows = logits.size(0), columns = logits.size(1);
  STD_TORCH_CHECK(rows <= 1 || logits.stride(0) >= columns, "rows of logits must lie apart");
  const ScalarType dtype = logits.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double, "logits must be of float32 or float64");
  check("logits", logits, {rows, columns}, dtype);
  const Tensor right = take("targets", targets, {rows}, ScalarType::Long);
  check("nats", nats, {rows}, dtype);
  if (column_sums.has_value()) check("column_sums", *column_sums, {columns}, dtype);
  STD_TORCH_CHECK(nats.is_contiguous() && (!column_sums.has_value() || column_sums->is_contiguous()),
                  "nats and column_sums must be contiguous");
  const int64_t* target = data<int64_t>(right);
  for (int64_t row = 0; row < rows; ++row) {
    STD_TORCH_CHECK(0 <= target[row] && target[row] < columns, "target ", target[row], " of row ", row,
                    " is not among ", columns, " columns");
  }
  if (rows == 0) return;
  for_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    const recdrop::Matrix<T> to{writable<T>(logits), rows, columns, logits.stride(0), 1};
    kernels<T>().cross_entropy(to, target, writable<T>(nats), writable<T>(column_sums), pool());
  });
}

// out = name(x): for tests of the error.
void nonlinearity(Tensor out, Tensor x, std::string name) {
  STD_TORCH_CHECK(name == "sigmoid" || name == "tanh", "expected sigmoid or tanh, got ", name);
  const ScalarType dtype = out.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double, "expected float32 or float64");
  STD_TORCH_CHECK(out.is_contiguous(), "out must be contiguous");
  check("out", out, sizes_of(out), dtype);
  const Tensor from = take("x", x, sizes_of(out), dtype);
  for_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    kernels<T>().nonlinearity(name == "tanh", data<T>(from), writable<T>(out), out.numel());
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(recdrop, CPU, m) {
  m.impl("scan", TORCH_BOX(&scan));
  m.impl("scan_backward", TORCH_BOX(&scan_backward));
  m.impl("native_product", TORCH_BOX(&product));
  m.impl("native_cross_entropy", TORCH_BOX(&cross_entropy));
  m.impl("native_nonlinearity", TORCH_BOX(&nonlinearity));
}

STABLE_TORCH_LIBRARY_IMPL(recdrop, CompositeExplicitAutograd, m) {
  m.impl("native_instruction_set", TORCH_BOX(&instruction_set));
}
