// The torch side of the native backend: checks what the kernels take on trust, and calls them.
// Schemas are in backends/native.py; this file only implements them, on LibTorch's stable ABI.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <atomic>
#include <optional>
#include <string>
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

std::string text(const std::vector<int64_t>& sizes) {
  std::string s = "[";
  for (auto n : sizes) s += (s.size() > 1 ? ", " : "") + std::to_string(n);
  return s + "]";
}

std::vector<int64_t> sizes_of(const Tensor& t) { return {t.sizes().begin(), t.sizes().end()}; }

// One call's tensors must agree in dtype, lie on the CPU and be contiguous.
class Door {
 public:
  explicit Door(ScalarType dtype) : dtype_(dtype) {
    STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double,
                    "the native backend computes in float32 or float64");
  }

  void* operator()(const char* name, const Tensor& t, const std::vector<int64_t>& sizes) const {
    check(name, t, sizes, dtype_);
    return t.mutable_data_ptr();
  }

  void* operator()(const char* name, const MaybeTensor& t, const std::vector<int64_t>& sizes) const {
    return t.has_value() ? (*this)(name, *t, sizes) : nullptr;
  }

  static const int64_t* integers(const char* name, const MaybeTensor& t, const std::vector<int64_t>& sizes) {
    if (!t.has_value()) return nullptr;
    check(name, *t, sizes, ScalarType::Long);
    return static_cast<const int64_t*>(t->const_data_ptr());
  }

 private:
  static void check(const char* name, const Tensor& t, const std::vector<int64_t>& sizes, ScalarType dtype) {
    STD_TORCH_CHECK(t.is_cpu(), name, " must be on the CPU");
    STD_TORCH_CHECK(t.scalar_type() == dtype, name, " must have the dtype of the other tensors");
    STD_TORCH_CHECK(sizes_of(t) == sizes, name, " must have shape ", text(sizes), ", got ", text(sizes_of(t)));
    STD_TORCH_CHECK(t.is_contiguous(), name, " must be contiguous");
  }
  ScalarType dtype_;
};

struct Config {
  recdrop::Shape shape{};
  recdrop::Dropout dropout{};
  std::vector<int64_t> offsets;
  int64_t total = 0;
};

uint32_t word(int64_t value, const char* name) {
  STD_TORCH_CHECK(value >= 0 && value <= 0xFFFFFFFFll, name, " must fit in 32 bits, got ", value);
  return uint32_t(value);
}

Config configure(const Tensor& h, const Tensor& h0, const Tensor& w_hh, const MaybeTensor& batch_sizes,
                 const MaybeTensor& rows, const MaybeTensor& key, const std::string& cell,
                 const std::string& activation, bool reverse, int64_t layer, const std::vector<int64_t>& thresholds,
                 const std::vector<double>& scales, const std::vector<int64_t>& per_step, bool tied) {
  Config c;
  auto& s = c.shape;
  STD_TORCH_CHECK(cell == "rnn" || cell == "lstm" || cell == "gru" || cell == "gru_paper",
                  "cell must be rnn, lstm, gru or gru_paper, got ", cell);
  STD_TORCH_CHECK(activation == "tanh" || activation == "relu", "activation must be tanh or relu, got ", activation);
  s.cell = cell == "rnn" ? Cell::rnn : cell == "lstm" ? Cell::lstm : cell == "gru" ? Cell::gru : Cell::gru_paper;
  s.activation = activation == "tanh" ? recdrop::Activation::tanh : recdrop::Activation::relu;
  s.reverse = reverse;
  STD_TORCH_CHECK(h0.dim() == 2 && h.dim() == 2 && w_hh.dim() == 2, "h, h0 and w_hh must have 2 dimensions");
  s.batch = h0.size(0);
  s.width = h0.size(1);
  s.hidden = w_hh.size(0) / s.gates();
  STD_TORCH_CHECK(w_hh.size(0) % s.gates() == 0 && (s.cell == Cell::lstm || s.width == s.hidden),
                  "w_hh of a ", cell, " must have shape [", s.gates(), " * H, ", s.width, "], got ", text(sizes_of(w_hh)));
  c.total = h.size(0);
  if (batch_sizes.has_value()) {
    STD_TORCH_CHECK(batch_sizes->dim() == 1, "batch_sizes must have one dimension");
    s.steps = batch_sizes->size(0);
    s.batch_sizes = Door::integers("batch_sizes", batch_sizes, {s.steps});
    c.offsets.assign(1, 0);
    for (int64_t t = 0; t < s.steps; ++t) {
      const int64_t n = s.batch_sizes[t];
      STD_TORCH_CHECK(n > 0 && n <= (t ? s.batch_sizes[t - 1] : s.batch), "batch_sizes must fall from at most ",
                      s.batch, " and stay above 0, got ", n, " at step ", t);
      c.offsets.push_back(c.offsets.back() + n);
    }
    STD_TORCH_CHECK(s.steps > 0 && s.batch_sizes[0] == s.batch && c.offsets.back() == c.total,
                    "batch_sizes must start with ", s.batch, " and sum to ", c.total);
    s.offsets = c.offsets.data();
  } else {
    s.steps = s.batch > 0 ? c.total / s.batch : 0;
    STD_TORCH_CHECK(s.steps * s.batch == c.total, "expected a multiple of ", s.batch, " rows, got ", c.total);
  }
  STD_TORCH_CHECK(thresholds.size() == 3 && scales.size() == 3 && per_step.size() == 3,
                  "thresholds, scales and per_step must have 3 values: update, hidden, state");
  auto& d = c.dropout;
  recdrop::Site* sites[] = {&d.update, &d.hidden, &d.state};
  bool masks = false;
  for (int i = 0; i < 3; ++i) {
    *sites[i] = {word(thresholds[i], "threshold"), scales[i], per_step[i] != 0, word(i + 4 * reverse + 8 * layer, "layer")};
    masks |= thresholds[i] > 0;
  }
  d.tied = tied;
  d.rows = Door::integers("rows", rows, {s.batch});
  STD_TORCH_CHECK(key.has_value() || !masks, "masks need a key");
  if (key.has_value()) d.key = uint64_t(*Door::integers("key", key, {}));
  return c;
}

template <class T>
const T* in(void* p) { return static_cast<const T*>(p); }
template <class T>
T* to(void* p) { return static_cast<T*>(p); }

// Calls f with a value of the tensor's type.
template <class F>
void for_dtype(const Tensor& t, F&& f) {
  try {
    if (t.scalar_type() == ScalarType::Float) f(float{});
    else f(double{});
  } catch (const recdrop::OutOfMemory& e) {
    STD_TORCH_CHECK(false, "out of memory: ", e.bytes, " bytes of scratch space");
  }
}

// --------------------------------------------------------------------------------------------- ops

void forward(MaybeTensor gates, MaybeTensor inner, Tensor h, Tensor h_n, MaybeTensor c_n, Tensor h0, MaybeTensor c0,
             Tensor w_hh, MaybeTensor b_hn, MaybeTensor w_hr, MaybeTensor batch_sizes, MaybeTensor rows,
             MaybeTensor key, std::string cell, std::string activation, bool reverse, int64_t layer,
             std::vector<int64_t> thresholds, std::vector<double> scales, std::vector<int64_t> per_step, bool tied) {
  const Config c = configure(h, h0, w_hh, batch_sizes, rows, key, cell, activation, reverse, layer, thresholds, scales,
                             per_step, tied);
  const auto& s = c.shape;
  const Door door(h.scalar_type());
  const int64_t n = c.total, H = s.hidden, W = s.width, B = s.batch;
  void* p_h = door("h", h, {n, W});
  void* p_gates = door("gates", gates, {n, s.gates() * H});
  void* p_inner = door("inner", inner, {n, H});
  void* p_h_n = door("h_n", h_n, {B, W});
  void* p_c_n = door("c_n", c_n, {B, H});
  void* p_h0 = door("h0", h0, {B, W});
  void* p_c0 = door("c0", c0, {B, H});
  void* p_w_hh = door("w_hh", w_hh, {s.gates() * H, W});
  void* p_b_hn = door("b_hn", b_hn, {H});
  void* p_w_hr = door("w_hr", w_hr, {W, H});
  STD_TORCH_CHECK((p_gates != nullptr) == (s.cell != Cell::rnn), "all cells but an rnn need gates");
  STD_TORCH_CHECK((p_inner != nullptr) == (s.cell == Cell::lstm || s.cell == Cell::gru), "lstm and gru need inner");
  STD_TORCH_CHECK((p_c0 != nullptr && p_c_n != nullptr) == (s.cell == Cell::lstm), "an lstm needs c0 and c_n");
  STD_TORCH_CHECK((p_w_hr != nullptr) == s.projected(), "w_hr is needed where h and c differ in width");
  if (n == 0) return;
  for_dtype(h, [&](auto zero) {
    using T = decltype(zero);
    const recdrop::Weights<T> w{in<T>(p_w_hh), in<T>(p_b_hn), in<T>(p_w_hr)};
    const recdrop::Forward<T> io{p_gates ? to<T>(p_gates) : to<T>(p_h), to<T>(p_inner), to<T>(p_h), to<T>(p_h_n),
                                 to<T>(p_c_n), in<T>(p_h0), in<T>(p_c0)};
    kernels<T>().forward(s, c.dropout, w, io, pool());
  });
}

void backward(Tensor dgates, MaybeTensor dproduct, MaybeTensor seen, MaybeTensor operand, MaybeTensor dh, Tensor dh0,
              MaybeTensor dc0, MaybeTensor dy, MaybeTensor dh_n, MaybeTensor dc_n, MaybeTensor gates, MaybeTensor inner,
              Tensor h, Tensor h0, MaybeTensor c0, Tensor w_hh, MaybeTensor w_hr, MaybeTensor batch_sizes,
              MaybeTensor rows, MaybeTensor key, std::string cell, std::string activation, bool reverse, int64_t layer,
              std::vector<int64_t> thresholds, std::vector<double> scales, std::vector<int64_t> per_step, bool tied) {
  const Config c = configure(h, h0, w_hh, batch_sizes, rows, key, cell, activation, reverse, layer, thresholds, scales,
                             per_step, tied);
  const auto& s = c.shape;
  const Door door(h.scalar_type());
  const int64_t n = c.total, H = s.hidden, W = s.width, B = s.batch, G = s.gates();
  void* p_dgates = door("dgates", dgates, {n, G * H});
  void* p_dproduct = door("dproduct", dproduct, {n, G * H});
  void* p_seen = tied ? door("seen", seen, {n, W}) : door("seen", seen, {G, n, W});
  void* p_operand = door("operand", operand, {n, H});
  void* p_dh = door("dh", dh, {n, W});
  void* p_dh0 = door("dh0", dh0, {B, W});
  void* p_dc0 = door("dc0", dc0, {B, H});
  void* p_dy = door("dy", dy, {n, W});
  void* p_dh_n = door("dh_n", dh_n, {B, W});
  void* p_dc_n = door("dc_n", dc_n, {B, H});
  void* p_gates = door("gates", gates, {n, G * H});
  void* p_inner = door("inner", inner, {n, H});
  void* p_h = door("h", h, {n, W});
  void* p_h0 = door("h0", h0, {B, W});
  void* p_c0 = door("c0", c0, {B, H});
  void* p_w_hh = door("w_hh", w_hh, {G * H, W});
  void* p_w_hr = door("w_hr", w_hr, {W, H});
  STD_TORCH_CHECK((p_gates != nullptr) == (s.cell != Cell::rnn), "all cells but an rnn need gates");
  STD_TORCH_CHECK((p_inner != nullptr) == (s.cell == Cell::lstm || s.cell == Cell::gru), "lstm and gru need inner");
  STD_TORCH_CHECK((p_c0 != nullptr && p_dc0 != nullptr) == (s.cell == Cell::lstm), "an lstm needs c0 and dc0");
  STD_TORCH_CHECK((p_dproduct != nullptr) == (s.cell == Cell::gru), "a gru needs dproduct");
  STD_TORCH_CHECK((p_w_hr != nullptr && p_dh != nullptr) == s.projected(), "a projected lstm needs w_hr and dh");
  STD_TORCH_CHECK((p_operand != nullptr) == (s.projected() || s.cell == Cell::gru_paper), "operand does not fit the cell");
  if (n == 0) return;
  for_dtype(h, [&](auto zero) {
    using T = decltype(zero);
    const recdrop::Weights<T> w{in<T>(p_w_hh), nullptr, in<T>(p_w_hr)};
    const recdrop::Backward<T> io{
        in<T>(p_dy), in<T>(p_dh_n), in<T>(p_dc_n), in<T>(p_gates), in<T>(p_inner), in<T>(p_h), in<T>(p_h0),
        in<T>(p_c0), to<T>(p_dgates), to<T>(p_dproduct), to<T>(p_seen), to<T>(p_operand), to<T>(p_dh),
        to<T>(p_dh0), to<T>(p_dc0)};
    kernels<T>().backward(s, c.dropout, w, io, pool());
  });
}

void product(Tensor out, Tensor a, Tensor b, MaybeTensor bias, bool accumulate) {
  STD_TORCH_CHECK(out.dim() == 2 && a.dim() == 2 && b.dim() == 2, "a product is of matrices");
  STD_TORCH_CHECK(a.size(1) == b.size(0) && out.size(0) == a.size(0) && out.size(1) == b.size(1), "cannot multiply ",
                  text(sizes_of(a)), " and ", text(sizes_of(b)), " into ", text(sizes_of(out)));
  STD_TORCH_CHECK(out.stride(1) == 1 || out.size(1) <= 1, "rows of the result must be contiguous");
  const Door door(out.scalar_type());
  void* p_bias = door("bias", bias, {out.size(1)});
  for (const Tensor* t : {&a, &b}) {
    STD_TORCH_CHECK(t->is_cpu() && t->scalar_type() == out.scalar_type(), "factors must share the result's dtype and device");
  }
  if (out.numel() == 0) return;
  for_dtype(out, [&](auto zero) {
    using T = decltype(zero);
    auto matrix = [](const Tensor& t) {
      return recdrop::Matrix<const T>{static_cast<const T*>(t.const_data_ptr()), t.size(0), t.size(1), t.stride(0), t.stride(1)};
    };
    kernels<T>().product({static_cast<T*>(out.mutable_data_ptr()), out.size(0), out.size(1), out.stride(0), 1},
                         matrix(a), matrix(b), in<T>(p_bias), accumulate, pool());
  });
}

void nonlinearity(Tensor out, Tensor x, std::string name) {
  STD_TORCH_CHECK(name == "sigmoid" || name == "tanh", "expected sigmoid or tanh, got ", name);
  const Door door(out.scalar_type());
  void *p_out = door("out", out, sizes_of(out)), *p_x = door("x", x, sizes_of(out));
  for_dtype(out, [&](auto zero) {
    using T = decltype(zero);
    kernels<T>().nonlinearity(name == "tanh", in<T>(p_x), to<T>(p_out), out.numel());
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(recdrop, CPU, m) {
  m.impl("native_forward", TORCH_BOX(&forward));
  m.impl("native_backward", TORCH_BOX(&backward));
  m.impl("native_product", TORCH_BOX(&product));
  m.impl("native_nonlinearity", TORCH_BOX(&nonlinearity));
}

STABLE_TORCH_LIBRARY_IMPL(recdrop, CompositeExplicitAutograd, m) {
  m.impl("native_instruction_set", TORCH_BOX(&instruction_set));
}
