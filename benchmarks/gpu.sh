#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU, in the order in which it matters: the tests for a card, the
# sanitizer where it is installed, the timings. Results: benchmarks/results/gpu-<card>.json.
# PYTHON names the interpreter (python); torch with CUDA, Triton and this package must be there.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
export TRITON_INTERPRET=0 CUBLAS_WORKSPACE_CONFIG=:4096:8
"$python" -c 'import torch, sys; sys.exit(None if torch.cuda.is_available() else "there is no CUDA device")'
nvidia-smi || true
"$python" -m pytest -q -W default tests/backends/test_gpu.py "${@}"
if command -v compute-sanitizer > /dev/null; then
  for tool in memcheck racecheck; do
    compute-sanitizer --tool "$tool" --error-exitcode 1 "$python" -m pytest -q \
      tests/backends/test_gpu.py -k 'test_relu and lstm and packed'
  done
else
  echo "compute-sanitizer is not installed: not run"
fi
"$python" -m benchmarks.gpu --growth
