#!/bin/sh
# check.sh NAME...: build and run the checks for instruction sets (baseline avx2 avxvnni avx512 avx512bf16 amx neon).
# On x86-64, neon is cross-compiled and emulated: Debian's g++-aarch64-linux-gnu and qemu-user-static.
set -eu
cd "$(dirname "$0")/.."
out=${OUT:-../build/check}
common="-std=c++20 -O3 -fno-math-errno -I. -pthread"
kernel="-fno-trapping-math -ffp-contract=off -Wno-psabi"  # as in CMakeLists.txt, like the flags below
avx2="-mavx2 -mfma -mf16c"
avx512="$avx2 -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mprefer-vector-width=512"

check() { # name, header, flags
  name=$1 vec=$2 flags=$3
  mkdir -p "$out/$name"
  for file in probe packing threads; do $cxx $common $link -c $file.cpp -o "$out/$name/$file.o"; done
  $cxx $common $kernel $flags -DWHIMBREL_TARGET=$name -c target.cpp -o "$out/$name/target.o"
  parts="$out/$name/target.o $out/$name/probe.o $out/$name/packing.o $out/$name/threads.o"
  for test in check_kernels check_selection; do
    $cxx $common $link -DWHIMBREL_TARGET=$name tests/$test.cpp $parts -o "$out/$name/$test"
  done
  $cxx $common $kernel $link $flags "-DWHIMBREL_VEC=\"vec/$vec.h\"" tests/check_target.cpp -o "$out/$name/check_target"
  for test in check_kernels check_selection check_target; do $run "$out/$name/$test" || exit 1; done
}

for name in "$@"; do
  cxx=${CXX:-g++} run="" link=""
  case $name in
    baseline) check baseline baseline "" ;;
    avx2) check avx2 avx2 "$avx2" ;;
    avxvnni) check avxvnni avx2 "$avx2 -mavxvnni" ;;
    avx512) check avx512 avx512 "$avx512" ;;
    avx512bf16) check avx512bf16 avx512 "$avx512 -mavx512bf16" ;;
    amx) check amx avx512 "$avx512 -mavx512bf16 -mamx-tile -mamx-int8 -mamx-bf16 -DWHIMBREL_AMX" ;;
    neon)
      [ "$(uname -m)" = aarch64 ] || cxx=aarch64-linux-gnu-g++ run=qemu-aarch64-static link=-static
      check neon neon "-march=armv8.2-a+dotprod+fp16 -DWHIMBREL_NEON" ;;
    *) echo "no such instruction set: $name" >&2; exit 2 ;;
  esac
done
