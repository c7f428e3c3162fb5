// Runs the kernels without torch on the cases of cases.py:
//
//   driver portable|avx2|avx512 WORKERS [serial] CASE...
//
// as ops.cpp does around them: forward, backward, the products and sums after the loop. Checks
// all values against the reference's, each mask bit by bit, and that a second run over memory that
// held something else gives the same bits. `serial` runs the workers one after the other, the last
// one first. One line for each case and type; the exit status is the number of failures, at most 99.

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <memory>
#include <thread>
#include <vector>

#include "../../src/recdrop/csrc/system.h"

#if defined(__has_feature)
#if __has_feature(memory_sanitizer)
#include <sanitizer/msan_interface.h>
#define UNWRITTEN(p, bytes) __msan_poison(p, bytes)
#endif
#endif
#ifndef UNWRITTEN
#define UNWRITTEN(p, bytes) (void)0
#endif

namespace {

using recdrop::Cell;

// ------------------------------------------------------------------------------------------ cases

struct Array {
  char name[64], kind[8];
  int64_t size;
  std::vector<double> reals;
  std::vector<int64_t> integers;
};

class Case {
 public:
  explicit Case(const char* path) {
    FILE* file = fopen(path, "rb");
    if (file == nullptr) fail(path, "cannot be opened");
    for (;;) {
      auto a = std::make_unique<Array>();
      if (fread(a->name, 1, 64, file) != 64) break;
      if (fread(a->kind, 1, 8, file) != 8 || fread(&a->size, 8, 1, file) != 1) fail(path, "is cut off");
      const bool real = a->kind[0] == 'd';
      if (real) a->reals.resize(a->size);
      else a->integers.resize(a->size);
      void* to = real ? static_cast<void*>(a->reals.data()) : a->integers.data();
      if (a->size > 0 && fread(to, 8, a->size, file) != size_t(a->size)) fail(path, "is cut off");
      arrays_.push_back(std::move(a));
    }
    fclose(file);
  }

  const Array* find(const char* name) const {
    for (const auto& a : arrays_) {
      if (strcmp(a->name, name) == 0) return a.get();
    }
    return nullptr;
  }

  const Array& at(const char* name) const {
    const Array* a = find(name);
    if (a == nullptr) fail(name, "is missing");
    return *a;
  }

  const int64_t* integers(const char* name) const {
    const Array* a = find(name);
    return a ? a->integers.data() : nullptr;
  }

 private:
  [[noreturn]] static void fail(const char* what, const char* why) {
    fprintf(stderr, "%s %s\n", what, why);
    exit(100);
  }
  std::vector<std::unique_ptr<Array>> arrays_;
};

// ----------------------------------------------------------------------------------------- memory

// Values on the heap, exactly as many as there are, so that a sanitizer sees a step too far.
template <class T>
struct Values {
  std::vector<T> v;
  bool there = false;

  Values() = default;
  Values(int64_t n, double fill) : v(n, T(fill)), there(true) { UNWRITTEN(v.data(), n * sizeof(T)); }
  explicit Values(const Array* a) : there(a != nullptr) {
    if (a == nullptr) return;
    for (double x : a->reals) v.push_back(T(x));
    v.shrink_to_fit();
  }
  T* data() { return there ? v.data() : nullptr; }
  int64_t size() const { return int64_t(v.size()); }
};

template <class T>
recdrop::Matrix<const T> rows_of(const T* data, int64_t rows, int64_t columns, int64_t stride) {
  return {data, rows, columns, stride, 1};
}
template <class T>
recdrop::Matrix<const T> transposed(const T* data, int64_t rows, int64_t columns, int64_t stride) {
  return {data, columns, rows, 1, stride};  // of a [rows, columns] matrix
}

// -------------------------------------------------------------------------------------------- run

template <class T>
struct Results {
  Values<T> h, gates, inner, h_n, c_n, dgates, dproduct, seen, operand, dh, dx, dh0, dc0, dw_ih, dw_hh, db_ih, db_hh,
      dw_hr;

  std::vector<Values<T>*> all() {
    return {&h,  &gates, &inner, &h_n, &c_n,   &dgates, &dproduct, &seen,  &operand,
            &dh, &dx,    &dh0,   &dc0, &dw_ih, &dw_hh,  &db_ih,    &db_hh, &dw_hr};
  }
};

template <class T>
struct Run {
  Run(const Case& c, const recdrop::Kernels::Of<T>& kernels, const recdrop::Pool& pool) : c(c), kernels(kernels), pool(pool) {
    const int64_t* config = c.at("config").integers.data();
    s.cell = static_cast<Cell>(config[0]);
    s.activation = config[1] ? recdrop::Activation::relu : recdrop::Activation::tanh;
    s.reverse = config[2] != 0;
    d.tied = config[4] != 0;
    d.key = uint64_t(config[5]);
    s.steps = config[6], s.batch = config[7], inputs = config[8], s.hidden = config[9], s.width = config[10];
    s.batch_sizes = c.integers("batch_sizes");
    offsets.push_back(0);
    for (int64_t t = 0; t < s.steps; ++t) offsets.push_back(offsets.back() + s.rows(t));
    s.offsets = s.batch_sizes ? offsets.data() : nullptr;
    n = offsets.back(), gate_width = s.gates() * s.hidden;
    d.rows = c.integers("rows");
    recdrop::Site* sites[] = {&d.update, &d.hidden, &d.state};
    for (int i = 0; i < 3; ++i) {
      sites[i]->threshold = uint32_t(c.at("thresholds").integers[i]);
      sites[i]->scale = c.at("scales").reals[i];
      sites[i]->per_step = c.at("per_step").integers[i] != 0;
      sites[i]->where = uint32_t(i + 4 * s.reverse + 8 * config[3]);
    }
    for (auto [to, name] : {std::pair{&x, "x"}, {&h0, "h0"}, {&c0, "c0"}, {&w_ih, "w_ih"}, {&w_hh, "w_hh"},
                            {&b_ih, "b_ih"}, {&b_hh, "b_hh"}, {&w_hr, "w_hr"}, {&dy, "dy"}, {&dh_n, "dh_n"},
                            {&dc_n, "dc_n"}}) {
      *to = Values<T>(c.find(name));
    }
  }

  Results<T> run(double fill) {
    Results<T> r;
    const int64_t B = s.batch, H = s.hidden, W = s.width;
    const bool lstm = s.cell == Cell::lstm, gru = s.cell == Cell::gru, paper = s.cell == Cell::gru_paper;
    auto output = [&](bool wanted, int64_t size) { return wanted ? Values<T>(size, fill) : Values<T>(); };
    r.h = output(true, n * W), r.gates = output(s.cell != Cell::rnn, n * gate_width), r.inner = output(lstm || gru, n * H);
    r.h_n = output(true, B * W), r.c_n = output(lstm, B * H);

    Values<T> bias, b_hn;
    if (b_ih.there) {
      bias = b_ih;
      const int64_t added = gru ? 2 * H : gate_width;
      for (int64_t i = 0; i < added; ++i) bias.v[i] += b_hh.v[i];
      if (gru) b_hn = output(true, H), memcpy(b_hn.data(), b_hh.data() + added, H * sizeof(T));
    }
    const recdrop::Weights<T> weights{w_ih.data(), w_hh.data(), bias.data(), b_hn.data(), w_hr.data()};
    kernels.forward(s, d, weights,
                    {r.gates.there ? r.gates.data() : r.h.data(), r.inner.data(), r.h.data(), r.h_n.data(),
                     r.c_n.data(), x.data(), h0.data(), c0.data(), inputs},
                    pool);

    r.dgates = output(true, n * gate_width), r.dproduct = output(gru, n * gate_width);
    r.operand = output(s.projected() || paper, n * H), r.dh = output(s.projected(), n * W);
    r.seen = output(d.hidden.acts() || s.batch_sizes, (d.tied ? 1 : s.gates()) * n * W);
    r.dh0 = output(true, B * W), r.dc0 = output(lstm, B * H);
    r.dx = output(true, n * inputs), r.dw_ih = output(true, gate_width * inputs), r.dw_hh = output(true, gate_width * W);
    kernels.backward(s, d, {w_ih.data(), w_hh.data(), nullptr, b_hn.data(), w_hr.data()},
                     {dy.data(), dh_n.data(), dc_n.data(), r.gates.data(), r.inner.data(), r.h.data(), h0.data(),
                      c0.data(), r.dgates.data(), r.dproduct.data(), r.seen.data(), r.operand.data(), r.dh.data(),
                      r.dx.data(), r.dh0.data(), r.dc0.data(), inputs},
                     pool);

    weight_gradients(r);
    if (b_ih.there) {
      Values<T>& through = r.dproduct.there ? r.dproduct : r.dgates;
      r.db_ih = output(true, gate_width), r.db_hh = output(true, gate_width);
      kernels.sum_columns(rows_of<T>(r.dgates.data(), n, gate_width, gate_width), r.db_ih.data(), pool);
      kernels.sum_columns(rows_of<T>(through.data(), n, gate_width, gate_width), r.db_hh.data(), pool);
    }
    if (s.projected()) {
      r.dw_hr = output(true, W * H);
      times(transposed<T>(r.dh.data(), n, W, W), {side(r.dw_hr.data(), W, H, r.operand.data(), n)});
    }
    return r;
  }

  // As its namesake in ops.cpp.
  void weight_gradients(Results<T>& r) {
    using Side = recdrop::RightSide<T>;
    const int64_t B = s.batch, H = s.hidden, W = s.width;
    const T* through = r.dproduct.there ? r.dproduct.data() : r.dgates.data();
    const bool paper = s.cell == Cell::gru_paper, untied = r.seen.there && !d.tied;
    auto part = [&](int64_t first, int64_t count) { return transposed<T>(through + first, n, count, gate_width); };
    const Side from_x = side(r.dw_ih.data(), gate_width, inputs, x.data(), n);
    Side from_h = side(r.dw_hh.data(), gate_width, W, r.seen.data(), n);
    if (!r.seen.there && s.reverse) {
      from_h.top = rows_of<T>(r.h.data() + B * W, n - B, W, W), from_h.rest = rows_of<T>(h0.data(), B, W, W);
    } else if (!r.seen.there) {
      from_h.top = rows_of<T>(h0.data(), B, W, W), from_h.rest = rows_of<T>(r.h.data(), n - B, W, W);
    }
    if (!paper && !untied && !r.dproduct.there) return times(part(0, gate_width), {from_x, from_h});
    times(transposed<T>(r.dgates.data(), n, gate_width, gate_width), {from_x});
    const int64_t gates = paper ? 2 : s.gates();
    if (paper) times(part(2 * H, H), {side(r.dw_hh.data() + 2 * H * W, H, W, r.operand.data(), n)});
    if (!untied) {
      from_h.out.rows = gates * H;
      return times(part(0, gates * H), {from_h});
    }
    for (int64_t g = 0; g < gates; ++g) {
      times(part(g * H, H), {side(r.dw_hh.data() + g * H * W, H, W, r.seen.data() + g * n * W, n)});
    }
  }

  static recdrop::RightSide<T> side(T* out, int64_t rows, int64_t columns, const T* b, int64_t depth) {
    return {{out, rows, columns, columns, 1}, {b, 0, columns, 0, 1}, rows_of<T>(b, depth, columns, columns)};
  }

  void times(const recdrop::Matrix<const T>& a, const std::vector<recdrop::RightSide<T>>& sides) {
    kernels.product(a, sides.data(), int(sides.size()), pool);
  }

  const Case& c;
  const recdrop::Kernels::Of<T>& kernels;
  const recdrop::Pool& pool;
  recdrop::Shape s{};
  recdrop::Dropout d{};
  int64_t inputs = 0, n = 0, gate_width = 0;
  std::vector<int64_t> offsets;
  Values<T> x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, dy, dh_n, dc_n;
};

// ----------------------------------------------------------------------------------------- checks

struct Report {
  const char *path, *type;
  bool ok = true;
  double worst = 0;  // error by what is allowed
  int64_t masked = 0;  // factors compared

  void wrong(const char* name, const char* what, int64_t at, double got, double expected) {
    if (ok) printf("WRONG %s %s: %s %s at %lld: %.17g, expected %.17g\n", path, type, name, what, (long long)at, got, expected);
    ok = false;
  }
};

template <class T>
void compare(Report& report, const Case& c, const char* name, Values<T>& found) {
  char label[64];
  snprintf(label, sizeof label, "%s true", name);
  const Array* truth = c.find(label);
  if ((truth != nullptr) != found.there || (truth && truth->size != found.size())) {
    report.wrong(name, "size", 0, double(found.size()), truth ? double(truth->size) : -1);
    return;
  }
  if (truth == nullptr) return;
  snprintf(label, sizeof label, "%s %d", name, int(8 * sizeof(T)));
  const double allowed = c.at(label).reals[0];
  for (int64_t i = 0; i < found.size(); ++i) {
    const double error = fabs(double(found.v[i]) - truth->reals[i]);
    if (!(error <= allowed)) report.wrong(name, "value", i, double(found.v[i]), truth->reals[i]);
    if (error > 0 && error / allowed > report.worst) report.worst = error / allowed;
  }
}

// Masks, to the bit. The hidden site's: what the product saw is h_prev times the factor. The others':
// what a dropped unit makes zero is zero, and what a kept one leaves is not, unless something else
// made it zero: a flat curve, a closed gate, another site.
template <class T>
void masks(Report& report, const Run<T>& run, Results<T>& r) {
  const auto& s = run.s;
  const int64_t H = s.hidden, W = s.width, n = run.n;
  const bool paper = s.cell == Cell::gru_paper;
  const Array *hidden = run.c.find("hidden factors"), *update = run.c.find("update factors"),
              *state = run.c.find("state factors");
  for (int64_t t = 0; t < s.steps; ++t) {
    for (int64_t b = 0; b < s.rows(t); ++b) {
      const int64_t before = s.reverse ? t + 1 : t - 1, at = run.offsets[t] + b;
      const bool first = before < 0 || before >= s.steps || b >= s.rows(before);
      const T* h_prev = first ? run.h0.v.data() + b * W : r.h.v.data() + (run.offsets[before] + b) * W;
      for (int view = 0; r.seen.there && view < (run.d.tied ? 1 : s.gates()); ++view) {
        const bool in_operand = paper && view == 2;  // the candidate's product has one of its own
        for (int64_t j = 0; j < W; ++j) {
          const int64_t i = (view * n + at) * W + j;
          const T expected = h_prev[j] * (hidden ? T(hidden->reals[i]) : T(run.d.hidden.scale));
          if (!in_operand && memcmp(&expected, &r.seen.v[i], sizeof(T)) != 0) {
            report.wrong("seen", "bits", i, double(r.seen.v[i]), double(expected));
          }
          report.masked += hidden != nullptr;
          if (!paper || !(in_operand || run.d.tied)) continue;
          const T reset = r.gates.v[at * run.gate_width + j] * expected;
          if (memcmp(&reset, &r.operand.v[at * W + j], sizeof(T)) != 0) {
            report.wrong("operand", "bits", at * W + j, double(r.operand.v[at * W + j]), double(reset));
          }
        }
      }
      for (int64_t j = 0; j < H && (state != nullptr || update != nullptr); ++j) {
        const int64_t i = at * H + j;
        const T* gate = r.gates.v.data() + at * run.gate_width + j;
        const bool lstm = s.cell == Cell::lstm, smooth = s.activation == recdrop::Activation::tanh;
        const bool kept_state = state == nullptr || state->reals[i] != 0;
        const bool kept = update == nullptr || update->reals[i] != 0;
        const T through = lstm ? gate[0] : paper ? gate[H] : T(1) - gate[H];
        if (state != nullptr) {
          const T found = lstm ? r.inner.v[i] : r.h.v[i];
          const bool open = smooth && kept && through != 0;
          if (kept_state ? open && found == 0 : found != 0) report.wrong("state", "mask", i, double(found), kept_state);
          report.masked += !kept_state || open;
        }
        if (update != nullptr) {
          const T found = gate[2 * H], d = r.dgates.v[at * run.gate_width + 2 * H + j];
          const bool open = smooth && kept_state && found * found != 1 && through != 0;
          if (kept ? open && d == 0 : d != 0) report.wrong("update", "mask", i, double(d), kept);
          report.masked += !kept || open;
        }
      }
    }
  }
}

template <class T>
bool check(const char* path, const char* type, const Case& c, const recdrop::Kernels::Of<T>& kernels, const recdrop::Pool& pool) {
  Report report{path, type};
  Run<T> run(c, kernels, pool);
  Results<T> r = run.run(NAN), again = run.run(1e30);
  auto before = r.all(), after = again.all();
  for (size_t i = 0; i < before.size(); ++i) {
    int64_t size = before[i]->size();
    if (before[i] == &r.seen && run.s.cell == Cell::gru_paper && !run.d.tied) size = size / 3 * 2;  // see operand
    if (before[i]->there && memcmp(before[i]->data(), after[i]->data(), size * sizeof(T)) != 0) {
      report.wrong("second run", "bits of array", int64_t(i), 1, 0);
    }
  }
  const std::pair<const char*, Values<T>*> named[] = {
      {"h", &r.h}, {"h_n", &r.h_n}, {"c_n", &r.c_n}, {"dx", &r.dx}, {"dh0", &r.dh0}, {"dc0", &r.dc0},
      {"dw_ih", &r.dw_ih}, {"dw_hh", &r.dw_hh}, {"db_ih", &r.db_ih}, {"db_hh", &r.db_hh}, {"dw_hr", &r.dw_hr}};
  for (auto [name, values] : named) compare(report, c, name, *values);
  masks(report, run, r);
  const char* slash = strrchr(path, '/');
  printf("%s %s %s: error %.2f of allowed, %lld factors\n", report.ok ? "ok   " : "WRONG", slash ? slash + 1 : path, type,
         report.worst, (long long)report.masked);
  return report.ok;
}

// ---------------------------------------------------------------------------------------- workers

void in_threads(int workers, void (*body)(void*, int), void* ctx) {
  std::vector<std::thread> threads;
  for (int worker = 1; worker < workers; ++worker) threads.emplace_back(body, ctx, worker);
  body(ctx, 0);
  for (auto& thread : threads) thread.join();
}

void one_by_one(int workers, void (*body)(void*, int), void* ctx) {
  while (workers-- > 0) body(ctx, workers);
}

const recdrop::Kernels* named(const char* name) {
  std::vector<const recdrop::Kernels*> all{&recdrop::portable_kernels()};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) all.push_back(&recdrop::avx2_kernels());
  if (__builtin_cpu_supports("avx512dq")) all.push_back(&recdrop::avx512_kernels());
#endif
  for (const auto* kernels : all) {
    if (strcmp(kernels->name, name) == 0) return kernels;
  }
  return nullptr;
}

}  // namespace

int main(int argc, char** argv) {
  const recdrop::Kernels* kernels = argc > 3 ? named(argv[1]) : nullptr;
  const int workers = argc > 3 ? atoi(argv[2]) : 0;
  if (kernels == nullptr || workers < 1) {
    fprintf(stderr, "usage: driver portable|avx2|avx512 WORKERS [serial] CASE...\n");
    return 100;
  }
  const bool serial = strcmp(argv[3], "serial") == 0;
  const recdrop::Pool pool{workers, serial ? one_by_one : in_threads};
  int wrong = 0;
  for (int i = 3 + serial; i < argc; ++i) {
    const Case c(argv[i]);
    wrong += !check<float>(argv[i], "float32", c, kernels->f32, pool);
    wrong += !check<double>(argv[i], "float64", c, kernels->f64, pool);
  }
  printf("%d wrong of %d: %s, %d workers%s\n", wrong, 2 * (argc - 3 - serial), kernels->name, workers, serial ? " one by one" : "");
  return wrong < 99 ? wrong : 99;
}
