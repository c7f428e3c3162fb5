#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU, in stages; what matters most comes first. STAGES picks some:
#   first      the tests that tell soonest what is wrong, those for races only where no step hung or was
#              wrong before, and the word LM's timings, into RESULTS/first
#   tests      all tests for a card; arguments go to pytest
#   timings    every shape beside cuDNN, by itself and in a CUDA graph
#   growth     over H, B and T
#   lab        an epoch of Table 2's word model, and workers that share the card; DATA is the folder with
#              Mikolov's Penn Treebank, without it the stage is not run
#   sanitizer  memcheck and racecheck, where compute-sanitizer is installed
# A step that fails or takes longer than STEP_SECONDS (550) does not stop the next ones, a test that
# hangs is ended after TEST_SECONDS (120) where pytest-timeout is installed. Figures are saved one by one
# into RESULTS (out/benchmarks); how they come to the page is told at the end. PYTHON names the interpreter
# (python, else python3); torch with CUDA, Triton and pytest must be there; with pytest-xdist WORKERS (8)
# compile at once. COMMIT is written beside the figures where there is no git.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-$(command -v python || echo python3)}
results=${RESULTS:-out/benchmarks} data=${DATA:-} failed=0
all="first tests timings growth lab sanitizer"
stages=${STAGES:-$all}
export TRITON_INTERPRET=0 CUBLAS_WORKSPACE_CONFIG=:4096:8 PYTHONPATH=src:.${PYTHONPATH:+:$PYTHONPATH}
asked() { [[ " $stages " == *" $1 "* ]]; }
for stage in $stages; do
  [[ " $all " == *" $stage "* ]] || { echo "STAGES: there is no $stage; there are: $all" >&2; exit 2; }
done
needed=(torch triton)
if asked first || asked tests || asked sanitizer; then needed+=(pytest); fi
"$python" - "${needed[@]}" << 'END' || exit 1
import importlib, sys
print("Python", sys.version.split()[0])
missing = []
for name in sys.argv[1:]:
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        missing.append(f"{name} ({error})")
    else:
        print(name, getattr(module, "__version__", "of an unknown version"))
if missing:
    sys.exit(f"not installed for {sys.executable}: {', '.join(missing)}")
import torch
print("CUDA", torch.version.cuda, "cuDNN", torch.backends.cudnn.version())
if not torch.cuda.is_available():
    sys.exit("there is no CUDA device")
print(torch.cuda.get_device_name())
END
nvidia-smi || true
has() { "$python" -c "import $1" 2> /dev/null; }
pytest=("$python" -m pytest -q -W default)
if has xdist; then pytest+=(-n "${WORKERS:-8}"); fi
if has pytest_timeout; then pytest+=(--timeout "${TEST_SECONDS:-120}" --timeout-method thread); fi
step() {
  echo "== $*"
  timeout -k 10 "${STEP_SECONDS:-550}" "$@" || { echo "== failed, $?: $*" >&2; failed=1; return 1; }
}
tests=tests/backends/test_gpu.py
if asked first; then
  step "${pytest[@]}" -x $tests -k 'test_a_launch_for_each_step or test_the_masks' &&
    step "${pytest[@]}" --maxfail 8 $tests \
      -k 'graph or replay or compiled or waits or agree or key or autocast or memory' &&
    step "${pytest[@]}" --maxfail 4 $tests -k race
  step "$python" -m benchmarks.gpu --cases word-lm --results "$results/first"
fi
if asked tests; then step "${pytest[@]}" $tests "$@"; fi
if asked timings; then step "$python" -m benchmarks.gpu --results "$results"; fi
if asked growth; then step "$python" -m benchmarks.gpu_growth --results "$results"; fi
if asked lab && [[ -z $data ]]; then
  echo "== lab: not run, DATA names no folder with the Penn Treebank"
elif asked lab && ! { has pydantic && has rich && has safetensors; }; then
  echo "== lab: not run, it needs pydantic, rich and safetensors" >&2
  failed=1
elif asked lab; then
  step "$python" -m benchmarks.gpu_lab --data "$data" --device cuda --results "$results"
fi
if asked sanitizer && command -v compute-sanitizer > /dev/null; then
  # Errors of calls to CUDA are torch's to tell: some are asked for, and no fault.
  for tool in "memcheck --report-api-errors no" racecheck; do
    # Without torch's cache of memory, in whose blocks an access outside a tensor is inside another.
    step env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool $tool --error-exitcode 1 \
      "$python" -m pytest -q -W default $tests -k sanitizer
  done
elif asked sanitizer; then
  echo "== sanitizer: not run, compute-sanitizer is not installed"
fi
if compgen -G "$results/gpu*.json" > /dev/null; then
  echo "== Figures are in $results. To keep them and write docs/benchmarks/gpu.md:"
  echo "cp $results/gpu*.json benchmarks/results/"
  echo "$python -m benchmarks.draw"
  echo "Then tell in that page's table what was run."
fi
exit "$failed"
