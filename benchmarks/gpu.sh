#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU: the tests for a card, the timings, the sanitizer where it is
# installed. A step that fails or takes longer than STEP_SECONDS (550) does not stop the next ones.
# Timings are saved case by case into RESULTS (out/benchmarks). PYTHON names the interpreter (python);
# torch with CUDA, Triton and what tests/conftest.py imports must be there.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python} results=${RESULTS:-out/benchmarks} failed=0
export TRITON_INTERPRET=0 CUBLAS_WORKSPACE_CONFIG=:4096:8 PYTHONPATH=src:.${PYTHONPATH:+:$PYTHONPATH}
"$python" -c 'import torch, sys; sys.exit(None if torch.cuda.is_available() else "there is no CUDA device")' || exit 1
step() {
  echo "== $*"
  timeout "${STEP_SECONDS:-550}" "$@" || { echo "== failed, $?: $*" >&2; failed=1; }
}
nvidia-smi || true
step "$python" -m pytest -q -x -W default tests/backends/test_gpu.py -k 'test_a_launch_for_each_step or test_the_masks'
step "$python" -m benchmarks.gpu --cases word-lm --results "$results/first"
step "$python" -m pytest -q -W default tests/backends/test_gpu.py "$@"
step "$python" -m benchmarks.gpu --growth --results "$results"
if command -v compute-sanitizer > /dev/null; then
  for tool in memcheck racecheck; do
    step compute-sanitizer --tool "$tool" --error-exitcode 1 "$python" -m pytest -q -W default \
      tests/backends/test_gpu.py -k 'test_relu and lstm and packed'
  done
else
  echo "compute-sanitizer is not installed: not run"
fi
exit "$failed"
