#!/bin/bash
# The battery on an extension built with AddressSanitizer and UBSan, in a folder of its own.
#
#   tests/native/sanitize.sh [pytest arguments]
#
# Without arguments: tests/backends, but for what is slow. PYTHON is an interpreter with torch and
# what the tests need (.venv/bin/python). Output is not captured by file descriptor, so that a
# report is seen.
set -euo pipefail

cd "$(dirname "$0")/../.."
python=$(realpath -s "${PYTHON:-.venv/bin/python}")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cp -r src tests setup.py pyproject.toml README.md LICENSE "$folder"
cd "$folder"
rm -f src/recdrop/_native*.so

# setup.py's own command, with the sanitizers' flags last and the symbols left in.
cat > compiler <<'SH'
#!/bin/bash
flags=()
for flag; do [[ $flag == -Wl,-s ]] || flags+=("$flag"); done
# Without -fno-var-tracking this takes thrice as long; without -fexpensive-optimizations products and
# sums are not fused, and values round differently from those of a usual build.
exec g++ "${flags[@]}" -O1 -fexpensive-optimizations -g -fno-var-tracking -fno-omit-frame-pointer \
  -fsanitize=address,undefined -fno-sanitize-recover=all
SH
chmod +x compiler
CC=./compiler CXX=./compiler "$python" setup.py --quiet build_ext --inplace
nm -D src/recdrop/_native.so > symbols
if ! grep -q __asan_report symbols; then echo "no instrumented extension" >&2; exit 1; fi

# A pytest plugin: the library under test is that one.
cat > sanitized.py <<'PY'
from pathlib import Path

from recdrop.backends import native

assert native.missing() is None, native.missing()
assert f"{Path.cwd()}/src/recdrop/_native.so" in Path("/proc/self/maps").read_text()

print(f"sanitized extension: {native.instruction_sets()}, using {native.instruction_set()}")
PY

# libstdc++ too, or AddressSanitizer finds no __cxa_throw to stand in for.
preload=
for library in libasan.so libubsan.so libstdc++.so; do
  preload+=:$(realpath "$(g++ -print-file-name=$library)")
done
[[ $# -gt 0 ]] || set -- tests/backends -m "not slow"
PYTHONPATH="$folder/src:$folder" LD_PRELOAD=${preload#:} \
  ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 \
  UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
  "$python" -m pytest -q --capture=sys -p sanitized -p no:cacheprovider "$@"
