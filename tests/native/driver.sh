#!/bin/bash
# The kernels without torch, built and run in several ways: driver.cpp on the cases of cases.py.
#
#   tests/native/driver.sh [gcc | clang | address | thread | memory | aarch64 ...]
#
# All six without arguments; clang and memory need clang++, aarch64 a cross compiler and qemu-user.
# gcc and clang also compile ops.cpp, which needs torch, for its warnings.
# PYTHON is an interpreter with recdrop and torch (.venv/bin/python).
set -euo pipefail

cd "$(dirname "$0")"
python=$(realpath -s "${PYTHON:-../../.venv/bin/python}")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
(cd ../.. && PYTHONPATH=src "$python" tests/native/cases.py "$folder/cases")

csrc=../../src/recdrop/csrc
all=("$csrc"/kernels_{portable,avx2,avx512}.cpp)
common=(-std=c++20 -Wall -Wextra -Werror -pthread -o "$folder/driver" driver.cpp)
sanitizer=(-O1 -g -fno-omit-frame-pointer)
found=$(grep -m1 ^flags /proc/cpuinfo || true)

run() { # command before the driver, instruction set, workers
  $1 "$folder/driver" "$2" ${@:3} "$folder"/cases/*.case > "$folder/log" || { grep WRONG "$folder/log"; exit 1; }
  tail -n 1 "$folder/log"
}

ops_too() { # compiler; at -O3 GCC 12 warns of its own std::string (-Wrestrict)
  local torch
  mapfile -t torch < <("$python" -c 'from torch.utils.cpp_extension import include_paths
for path in include_paths(): print(f"-isystem{path}")')
  "$@" -O1 -std=c++20 -Wall -Wextra -Werror -DTORCH_TARGET_VERSION=0x020d000000000000 "${torch[@]}" \
    -c -o "$folder/ops.o" "$csrc/ops.cpp"
}

on_all() { # numbers of workers
  for set in portable avx2 avx512; do
    [[ $set == portable || $found == *" $set"* ]] || continue
    for workers; do run "" $set $workers; done
  done
}

[[ $# -gt 0 ]] || set -- gcc clang address thread memory aarch64
for way; do
  echo "== $way"
  case $way in
    gcc)
      ops_too g++ -Wno-psabi
      g++ -O3 -Wno-psabi "${common[@]}" "${all[@]}"
      on_all 1 3 4 "3 serial"
      ;;
    clang)
      ops_too clang++
      clang++ -O3 "${common[@]}" "${all[@]}"
      on_all 1 3
      ;;
    address)
      g++ "${sanitizer[@]}" -Wno-psabi -fno-var-tracking -fsanitize=address,undefined \
        -fno-sanitize-recover=all "${common[@]}" "${all[@]}"
      on_all 1 3
      ;;
    thread)
      g++ "${sanitizer[@]}" -Wno-psabi -fno-var-tracking -fsanitize=thread "${common[@]}" "${all[@]}"
      on_all 3 4
      ;;
    memory) # not in threads: libstdc++ is not instrumented
      clang++ "${sanitizer[@]}" -fsanitize=memory "${common[@]}" "${all[@]}"
      on_all "3 serial"
      ;;
    aarch64)
      aarch64-linux-gnu-g++ -O3 -static -Wno-psabi "${common[@]}" "$csrc/kernels_portable.cpp"
      run qemu-aarch64 portable 1
      run qemu-aarch64 portable 3
      ;;
    *)
      echo "no such way: $way" >&2
      exit 2
      ;;
  esac
done
