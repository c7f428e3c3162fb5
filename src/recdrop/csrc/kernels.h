// What the native backend computes, as plain C++ without torch: one layer and direction, forward
// and backward, large matrix products and the loss behind them. One such table for each instruction set.
#pragma once

#include <cstdint>

namespace recdrop {

enum class Cell { rnn, lstm, gru, gru_paper };
enum class Activation { tanh, relu };

// torch's own thread pool: runs body(ctx, worker) for every worker in [0, workers). Workers may run
// one after the other, so no worker waits for one that may not have started.
struct Pool {
  int workers;
  void (*run)(int workers, void (*body)(void* ctx, int worker), void* ctx);
};

// One site of dropout. A mask where threshold > 0; a constant factor where only scale != 1.
struct Site {
  uint32_t threshold = 0;  // a unit is kept iff its random word is smaller
  double scale = 1;        // factor of a kept unit, or of every unit where there is no mask
  bool per_step = false;   // else one mask for all steps
  uint32_t where = 0;      // fourth counter word: site + 4 * direction + 8 * layer
  bool acts() const { return threshold > 0 || scale != 1; }
};

// One layer and direction. T steps; step t has rows(t) rows, which are the first ones of the state
// and lie at offset(t) in all [N, ...] arrays, N the sum of rows(t). W = P with a projection, else H.
struct Shape {
  Cell cell;
  Activation activation;
  int64_t steps, batch, hidden, width;  // T, B, H, W
  const int64_t* batch_sizes;  // [T], falling; null: every step has all rows
  const int64_t* offsets;      // [T + 1]; null with batch_sizes
  bool reverse;

  int64_t rows(int64_t t) const { return batch_sizes ? batch_sizes[t] : batch; }
  int64_t offset(int64_t t) const { return offsets ? offsets[t] : t * batch; }
  bool projected() const { return width != hidden; }
  int gates() const { return cell == Cell::rnn ? 1 : cell == Cell::lstm ? 4 : 3; }
};

struct Dropout {
  Site update, hidden, state;
  bool tied = true;
  uint64_t key = 0;
  const int64_t* rows = nullptr;  // [B], each row's place in the caller's batch; null: in order
};

template <class T>
struct Weights {
  const T* w_ih;                // [GH, I]
  const T* w_hh;                // [GH, W]
  const T* bias = nullptr;      // [GH], all that is added to the input projection
  const T* b_hn = nullptr;      // [H], GRU reset after the product only
  const T* w_hr = nullptr;      // [P, H], projected LSTM only
};

// x     [N, I]   read only
// gates [N, GH]  written: the gates after their nonlinearities; null for an RNN, whose h says it all
// inner [N, H]   written: LSTM c; GRU reset after: U_n h + b_hn; else null
// h     [N, W]   written: the output
// h0 [B, W], c0 [B, H] read only; h_n, c_n of the same shapes written; c0, c_n of an LSTM only
//
// Backward needs gates and inner as they are; their values lie in an order of the kernels' own (see
// panel_offset), so that a step's share of some units is one stretch of memory.
template <class T>
struct Forward {
  T *gates, *inner, *h, *h_n, *c_n;
  const T *x, *h0, *c0;
  int64_t inputs;  // I
};

// dy [N, W], dh_n [B, W], dc_n [B, H]  gradients of the outputs; null where there is none
// gates, inner, h, x, h0, c0           as forward took and left them
// dx [N, I]                            written if not null
// dw_ih [GH, I], dw_hh [GH, W], dh0 [B, W]  written
// db_ih, db_hh [GH]                    written if not null
// dc0 [B, H], dw_hr [P, H]             written; dc0 of an LSTM, dw_hr of a projected one only
template <class T>
struct Backward {
  const T *dy, *dh_n, *dc_n, *gates, *inner, *h, *x, *h0, *c0;
  T *dx, *dw_ih, *dw_hh, *db_ih, *db_hh, *dw_hr, *dh0, *dc0;
  int64_t inputs;  // I
};

// A matrix of any strides, in elements.
template <class T>
struct Matrix {
  T* data;
  int64_t rows, columns, row_stride, column_stride;
};

struct Kernels {
  const char* name;
  template <class T>
  struct Of {
    void (*forward)(const Shape&, const Dropout&, const Weights<T>&, const Forward<T>&, const Pool&);
    void (*backward)(
        const Shape&, const Dropout&, const Weights<T>&, const Backward<T>&, const Pool&);
    // out [M, N] = a [M, K] b [K, N] + bias [N]; out's rows contiguous, bias may be null
    void (*product)(const Matrix<const T>& a, const Matrix<const T>& b, const T* bias, const Matrix<T>& out, const Pool&);
    // see loss.h; logits' rows contiguous
    void (*cross_entropy)(const Matrix<T>& logits, const int64_t* targets, T* nats, T* column_sums, const Pool&);
    // y = f(x) of n values, f the sigmoid (0) or tanh (1); for tests of their errors
    void (*nonlinearity)(int which, const T* x, T* y, int64_t n);
  };
  Of<float> f32;
  Of<double> f64;
};

const Kernels& portable_kernels();
#if defined(__x86_64__)
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();
#endif

}  // namespace recdrop
