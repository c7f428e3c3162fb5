#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU: the tests for a card, the timings, the sanitizer where it is
# installed; what matters most comes first. A step that fails or takes longer than STEP_SECONDS (550)
# does not stop the next ones, a test that hangs is ended after 90 s where pytest-timeout is installed.
# Timings are saved case by case into RESULTS (out/benchmarks). PYTHON names the interpreter (python);
# torch with CUDA, Triton and pytest must be there; with pytest-xdist WORKERS (8) compile at once.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python} results=${RESULTS:-out/benchmarks} failed=0
export TRITON_INTERPRET=0 CUBLAS_WORKSPACE_CONFIG=:4096:8 PYTHONPATH=src:.${PYTHONPATH:+:$PYTHONPATH}
"$python" -c 'import torch, sys; sys.exit(None if torch.cuda.is_available() else "there is no CUDA device")' || exit 1
has() { "$python" -c "import $1" 2> /dev/null; }
pytest=("$python" -m pytest -q -W default)
if has xdist; then pytest+=(-n "${WORKERS:-8}"); fi
if has pytest_timeout; then pytest+=(--timeout 90 --timeout-method thread); fi
step() {
  echo "== $*"
  timeout -k 10 "${STEP_SECONDS:-550}" "$@" || { echo "== failed, $?: $*" >&2; failed=1; }
}
tests=tests/backends/test_gpu.py
nvidia-smi || true
step "${pytest[@]}" -x $tests -k 'test_a_launch_for_each_step or test_the_masks'
step "${pytest[@]}" $tests -k 'race or graph or replay or compiled or waits or agree or key or autocast or memory'
step "$python" -m benchmarks.gpu --cases word-lm --results "$results/first"
step "${pytest[@]}" $tests "$@"
step "$python" -m benchmarks.gpu --growth --results "$results"
if command -v compute-sanitizer > /dev/null; then
  for tool in memcheck racecheck; do
    step compute-sanitizer --tool "$tool" --error-exitcode 1 "$python" -m pytest -q -W default \
      $tests -k 'test_relu and lstm and packed'
  done
else
  echo "compute-sanitizer is not installed: not run"
fi
exit "$failed"
