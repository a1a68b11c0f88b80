// Forced into llama.cpp's sources by `peer_build` where GCC before 15 compiles them for a processor with AMX.
//
// There, amxtileintrin.h tells the compiler that ldtilecfg reads 8 bytes (a pointer) instead of 64, and tileloadd none at
// all. So the stores that fill the tile configuration may be dropped, and the processor faults on what is left. These
// say what the instructions read.
#if defined(__AMX_TILE__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>

#define _tile_loadconfig(config) __asm__ volatile("ldtilecfg %0" ::"m"(*(const char(*)[64])(config)) : "memory")
#define _tile_storeconfig(config) __asm__ volatile("sttilecfg %0" : "=m"(*(char(*)[64])(config))::"memory")

#undef _tile_loadd_internal
#define _tile_loadd_internal(tile, base, stride) \
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile ::"r"((const void*)(base)), "r"((long)(stride)) : "memory")

#undef _tile_stream_loadd_internal
#define _tile_stream_loadd_internal(tile, base, stride) \
  __asm__ volatile("tileloaddt1 (%0,%1,1), %%tmm" #tile ::"r"((const void*)(base)), "r"((long)(stride)) : "memory")
#endif
