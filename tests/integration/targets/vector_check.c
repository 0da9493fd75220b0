/* Keeps a pattern in ymm0-15 (or xmm) and general registers and checks it for ever: any foreign write is noticed.
   int vector_check(volatile long *turns, volatile long *bad, double seconds) */
#include <immintrin.h>
#include <string.h>
#include <time.h>
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec * 1e-9; }
int vector_check(volatile long *turns, volatile long *bad, double seconds) {
  double end = now() + seconds;
  unsigned char in[32], out[16][32];
  while (now() < end) {
    for (int i = 0; i < 32; i++) in[i] = (unsigned char)(*turns * 7 + i + 1);
    unsigned long n = 200000, a = 0x1122334455667788UL ^ (unsigned long)*turns, b = a, df = 0;
    __asm__ volatile(
      "vmovdqu (%[in]), %%ymm0\n" "vmovdqa %%ymm0, %%ymm1\n" "vmovdqa %%ymm0, %%ymm2\n" "vmovdqa %%ymm0, %%ymm3\n"
      "vmovdqa %%ymm0, %%ymm4\n" "vmovdqa %%ymm0, %%ymm5\n" "vmovdqa %%ymm0, %%ymm6\n" "vmovdqa %%ymm0, %%ymm7\n"
      "vmovdqa %%ymm0, %%ymm8\n" "vmovdqa %%ymm0, %%ymm9\n" "vmovdqa %%ymm0, %%ymm10\n" "vmovdqa %%ymm0, %%ymm11\n"
      "vmovdqa %%ymm0, %%ymm12\n" "vmovdqa %%ymm0, %%ymm13\n" "vmovdqa %%ymm0, %%ymm14\n" "vmovdqa %%ymm0, %%ymm15\n"
      "mov %[b], -8(%%rsp)\n" "mov %[b], -120(%%rsp)\n"      /* the red zone is ours, too */
      "1: dec %[n]\n" "jnz 1b\n"
      "xor %[df], %[df]\n" "cmp %[b], -8(%%rsp)\n" "setne %b[df]\n" "cmp %[b], -120(%%rsp)\n" "je 2f\n" "or $2, %b[df]\n" "2:\n"
      "vmovdqu %%ymm0, (%[out])\n" "vmovdqu %%ymm1, 32(%[out])\n" "vmovdqu %%ymm2, 64(%[out])\n" "vmovdqu %%ymm3, 96(%[out])\n"
      "vmovdqu %%ymm4, 128(%[out])\n" "vmovdqu %%ymm5, 160(%[out])\n" "vmovdqu %%ymm6, 192(%[out])\n" "vmovdqu %%ymm7, 224(%[out])\n"
      "vmovdqu %%ymm8, 256(%[out])\n" "vmovdqu %%ymm9, 288(%[out])\n" "vmovdqu %%ymm10, 320(%[out])\n" "vmovdqu %%ymm11, 352(%[out])\n"
      "vmovdqu %%ymm12, 384(%[out])\n" "vmovdqu %%ymm13, 416(%[out])\n" "vmovdqu %%ymm14, 448(%[out])\n" "vmovdqu %%ymm15, 480(%[out])\n"
      : [n] "+r"(n), [b] "+r"(b), [df] "+r"(df)
      : [in] "r"(in), [out] "r"(out)
      : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12",
        "xmm13", "xmm14", "xmm15");
    for (int i = 0; i < 16; i++) if (memcmp(in, out[i], 32)) ++*bad;
    if (a != b || df) ++*bad;
    ++*turns;
  }
  return 0;
}
/* Called from outside on the stopped thread: spoils every vector register that the checker keeps. */
int clobber(void) {
  __asm__ volatile("vzeroall\n" ::: "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
                   "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
  return -77;
}
