// Runs the kernels without torch on the cases of cases.py:
//
//   driver portable|avx2|avx512 WORKERS [serial] CASE...
//
// as ops.cpp does: forward, then backward. Checks all values against the reference's, the masks bit
// for bit against Python's where a case shows them, and that a second run over memory that held
// something else gives the same bits. `serial` runs the workers one after the other, the last one
// first. One line for each case and type; the exit status is the number of failures, at most 99.

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

// -------------------------------------------------------------------------------------------- run

template <class T>
struct Results {
  Values<T> h, gates, inner, h_n, c_n, dx, dh0, dc0, dw_ih, dw_hh, db_ih, db_hh, dw_hr;

  std::vector<Values<T>*> all() {
    return {&h, &gates, &inner, &h_n, &c_n, &dx, &dh0, &dc0, &dw_ih, &dw_hh, &db_ih, &db_hh, &dw_hr};
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
    const bool lstm = s.cell == Cell::lstm, gru = s.cell == Cell::gru;
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
                    {r.gates.data(), r.inner.data(), r.h.data(), r.h_n.data(), r.c_n.data(), x.data(), h0.data(),
                     c0.data(), inputs},
                    pool);

    r.dx = output(true, n * inputs), r.dw_ih = output(true, gate_width * inputs), r.dw_hh = output(true, gate_width * W);
    r.db_ih = output(b_ih.there, gate_width), r.db_hh = output(b_ih.there, gate_width);
    r.dw_hr = output(s.projected(), W * H), r.dh0 = output(true, B * W), r.dc0 = output(lstm, B * H);
    kernels.backward(s, d, {w_ih.data(), w_hh.data(), nullptr, b_hn.data(), w_hr.data()},
                     {dy.data(), dh_n.data(), dc_n.data(), r.gates.data(), r.inner.data(), r.h.data(), x.data(),
                      h0.data(), c0.data(), r.dx.data(), r.dw_ih.data(), r.dw_hh.data(), r.db_ih.data(),
                      r.db_hh.data(), r.dw_hr.data(), r.dh0.data(), r.dc0.data(), inputs},
                     pool);
    return r;
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
  double worst = 0;      // error by what is allowed
  int64_t mask_bits = 0;  // compared

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

// Every bit of a mask, read off a case's outputs as cases.py says.
template <class T>
void compare_mask(Report& report, const Case& c, Values<T>& h) {
  const Array* kept = c.find("kept");
  if (kept == nullptr) return;
  if (kept->size != h.size()) return report.wrong("mask", "size", 0, double(h.size()), double(kept->size));
  for (int64_t i = 0; i < h.size(); ++i) {
    const int64_t bit = h.v[i] > T(1.5);
    if (bit != kept->integers[i]) report.wrong("mask", "bit", i, double(bit), double(kept->integers[i]));
  }
  report.mask_bits = h.size();
}

template <class T>
Report check(const char* path, const char* type, const Case& c, const recdrop::Kernels::Of<T>& kernels, const recdrop::Pool& pool) {
  Report report{path, type};
  Run<T> run(c, kernels, pool);
  Results<T> r = run.run(NAN), again = run.run(1e30);
  auto before = r.all(), after = again.all();
  for (size_t i = 0; i < before.size(); ++i) {
    const int64_t bytes = before[i]->size() * int64_t(sizeof(T));
    if (before[i]->there && memcmp(before[i]->data(), after[i]->data(), bytes) != 0) {
      report.wrong("second run", "bits of array", int64_t(i), 1, 0);
    }
  }
  const std::pair<const char*, Values<T>*> named[] = {
      {"h", &r.h}, {"h_n", &r.h_n}, {"c_n", &r.c_n}, {"dx", &r.dx}, {"dh0", &r.dh0}, {"dc0", &r.dc0},
      {"dw_ih", &r.dw_ih}, {"dw_hh", &r.dw_hh}, {"db_ih", &r.db_ih}, {"db_hh", &r.db_hh}, {"dw_hr", &r.dw_hr}};
  compare_mask(report, c, r.h);
  for (auto [name, values] : named) compare(report, c, name, *values);
  const char* slash = strrchr(path, '/');
  printf("%s %s %s: error %.2f of allowed\n", report.ok ? "ok   " : "WRONG", slash ? slash + 1 : path, type, report.worst);
  return report;
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
  int64_t mask_bits = 0;
  for (int i = 3 + serial; i < argc; ++i) {
    const Case c(argv[i]);
    for (const Report& report : {check<float>(argv[i], "float32", c, kernels->f32, pool),
                                 check<double>(argv[i], "float64", c, kernels->f64, pool)}) {
      wrong += !report.ok;
      mask_bits += report.mask_bits;
    }
  }
  printf("%d wrong of %d, %lld bits of masks compared: %s, %d workers%s\n", wrong, 2 * (argc - 3 - serial),
         (long long)mask_bits, kernels->name, workers, serial ? " one by one" : "");
  return wrong < 99 ? wrong : 99;
}
