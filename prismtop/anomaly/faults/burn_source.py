"""The program that burns: C, compiled with the system's compiler when it is needed.

It ends by itself after its time, and is killed by the kernel when its parent ends.
"""

SOURCE = r"""
#define _GNU_SOURCE
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

/* 16 floats are one AVX-512 register; a compiler without it splits them. 12 chains hide an FMA's latency. */
typedef float floats __attribute__((vector_size(64)));
#define CHAINS 12

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static volatile double sink;

static void fma_for(double until) {
    floats a[CHAINS], b, c;
    for (int i = 0; i < 16; i++) { b[i] = 0.999f; c[i] = 1e-3f; }
    for (int k = 0; k < CHAINS; k++) a[k] = c * (float)(k + 1); /* equal chains would be made one */
    do {
        for (int n = 0; n < 2000; n++) {
            __asm__ volatile(""); /* keeps the compiler from making one long chain of the loops */
#pragma GCC unroll 12
            for (int k = 0; k < CHAINS; k++) a[k] = a[k] * b + c;
        }
    } while (now() < until);
    for (int k = 0; k < CHAINS; k++) sink += a[k][k];
}

static void sqrt_for(double until) {
    static double a[64];
    for (int i = 0; i < 64; i++) a[i] = 2.0 + i;
    do {
        for (int n = 0; n < 500; n++)
            for (int i = 0; i < 64; i++) a[i] = __builtin_sqrt(a[i]) + 1.0;
    } while (now() < until);
    sink = a[0] + a[63];
}

static double *x, *y, *z;
static size_t words, at;

static void stream_for(double until) {
    const size_t block = 1 << 16;
    do {
        double *p = x + at, *q = y + at, *r = z + at;
        for (size_t i = 0; i < block; i++) p[i] = q[i] + 3.0 * r[i];
        at = at + block < words ? at + block : 0;
    } while (now() < until);
    sink = x[0];
}

/* burn KIND SECONDS DUTY RAMP MEGABYTES */
int main(int argc, char **argv) {
    if (argc != 6) return 2;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    double start = now(), end = start + atof(argv[2]), duty = atof(argv[3]), ramp = atof(argv[4]);
    void (*burn)(double) = NULL;
    if (!strcmp(argv[1], "fma")) burn = fma_for;
    if (!strcmp(argv[1], "sqrt")) burn = sqrt_for;
    if (!strcmp(argv[1], "stream")) {
        burn = stream_for;
        words = (size_t)atoi(argv[5]) * 1048576 / sizeof(double) / 3;
        words -= words % (1 << 16);
        if (!words) return 2;
        x = calloc(words, sizeof(double));
        y = calloc(words, sizeof(double));
        z = calloc(words, sizeof(double));
        if (!x || !y || !z) return 3;
        for (size_t i = 0; i < words; i++) { x[i] = 0; y[i] = i; z[i] = 1; }
    }
    if (!burn) return 2;
    const double period = 0.02;
    for (double t = now(); t < end; t = now()) {
        double share = duty;
        if (ramp > 0 && t - start < ramp) share = duty * (t - start) / ramp;
        double until = t + period * share;
        if (share > 0) burn(until < end ? until : end);
        double rest = t + period - now();
        if (share < 0.999 && rest > 0) {
            struct timespec pause = {0, (long)(rest * 1e9)};
            nanosleep(&pause, NULL);
        }
    }
    return 0;
}
"""
