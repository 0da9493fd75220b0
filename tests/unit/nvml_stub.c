// A stand-in for NVIDIA's driver library: the same ABI, values from a file in shared memory (path in $NVML_STUB),
// so that a test can change them while the program runs. It proves our code, not the driver.
//   cc -shared -fPIC -Wl,-soname,libnvidia-ml.so.1 [-DOLD_DRIVER] -o libnvidia-ml.so.1 nvml_stub.c
#include <stdint.h>
#include <string.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#include <fcntl.h>
#include <sys/mman.h>
#ifndef STEP_MS
#define STEP_MS 20  // how often a waiting call looks at the control file
#endif
typedef int R;
typedef unsigned long long ull;
enum { OK = 0, UNINIT = 1, INVAL = 2, NOSUP = 3, NOTFOUND = 6, INSUF = 7, TIMEOUT = 10, LOST = 15 };
struct ctl {
    uint32_t ngpu, lost_mask, gpm, xid, xid_gpu, live_sets, live_samples, misuse, inits, shutdowns, gpm_bad, nfd_calls, rubbish, spare;
    uint32_t util[16], memutil[16], sm_mhz[16], power_mw[16], temp[16], fan[16], migs[16], pid[16], other_pid[16];
    uint64_t reasons[16], used[16], total[16], ecc[16], nv_kib[16], pcie[16];
    double sm_util[16], dram_util[16];
    uint64_t now_us;  // the scene's clock
    char errors[1024];  // "nvmlDeviceGetFanSpeed=3;nvmlDeviceGetPowerUsage@1=4;"
};
static struct ctl def, *C = &def;
static int inited;
static uint64_t us(void) { return C->now_us; }
static R planned(const char *name, int gpu) {
    char key[128];
    for (int i = 0; i < 2; i++) {
        if (i) snprintf(key, sizeof key, ";%s@%d=", name, gpu); else snprintf(key, sizeof key, ";%s=", name);
        const char *at = strstr(C->errors, key);
        if (at) return atoi(at + strlen(key));
    }
    return OK;
}
#define UP if (!inited) { __sync_fetch_and_add(&C->misuse, 1); return UNINIT; }
// A handle is GPU + 1; that of a MIG device is (GPU + 1) * 100 + slot + 1.
#define D(h) int i = (int)(intptr_t)(h) - 1, mig = -1; UP if (i >= 99) { mig = (i + 1) % 100 - 1; i = (i + 1) / 100 - 1; } \
    (void)mig; if (i < 0 || i >= (int)C->ngpu) return INVAL; if (C->lost_mask & (1u << i)) return LOST; \
    { R p = planned(__func__, i); if (p) return p; }
R nvmlInitWithFlags(unsigned f) {
    const char *p = getenv("NVML_STUB");
    int fd = p ? open(p, O_RDWR) : -1;
    if (fd >= 0) {
        void *m = mmap(0, sizeof(struct ctl), 3, MAP_SHARED, fd, 0);
        if (m != MAP_FAILED) C = m;
        close(fd);
    }
    R r = planned(__func__, 0);
    if (r) return r;
    inited = 1; C->inits++;
    return OK;
}
R nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
R nvmlShutdown(void) { UP inited = 0; C->shutdowns++; if (C->live_sets || C->live_samples) C->misuse++; return OK; }
const char *nvmlErrorString(R r) { return "an error of the stub"; }
R nvmlDeviceGetCount_v2(unsigned *c) { UP R r = planned(__func__, 0); if (r) return r; *c = C->ngpu; return OK; }
R nvmlDeviceGetHandleByIndex_v2(unsigned i, void **h) {
    UP R r = planned(__func__, i); if (r) return r;
    if (i >= C->ngpu) return INVAL;
    *h = (void *)(intptr_t)(i + 1); return OK;
}
R nvmlDeviceGetUtilizationRates(void *h, unsigned *u) { D(h) if (C->migs[i]) return NOSUP; u[0] = C->util[i]; u[1] = C->memutil[i]; return OK; }
typedef struct { ull total, free, used; } mem1;
R nvmlDeviceGetMemoryInfo(void *h, mem1 *m) {
    D(h) unsigned part = mig < 0 ? 1 : C->migs[i];
    m->total = C->total[i] / part; m->used = C->used[i] / part; m->free = m->total - m->used; return OK;
}
R nvmlDeviceGetClockInfo(void *h, int t, unsigned *c) { D(h) *c = t == 2 ? 3201 : C->sm_mhz[i]; return OK; }
R nvmlDeviceGetMaxClockInfo(void *h, int t, unsigned *c) { D(h) *c = t == 2 ? 3201 : 1980; return OK; }
R nvmlDeviceGetPowerUsage(void *h, unsigned *p) { D(h) *p = C->power_mw[i] + 1000; return OK; }
R nvmlDeviceGetEnforcedPowerLimit(void *h, unsigned *p) { D(h) *p = 700000; return OK; }
R nvmlDeviceGetFanSpeed(void *h, unsigned *p) { D(h) if (!C->fan[i]) return NOSUP; *p = C->fan[i]; return OK; }
R nvmlDeviceGetTemperature(void *h, int s, unsigned *t) { D(h) *t = C->temp[i]; return OK; }
R nvmlDeviceGetCurrPcieLinkGeneration(void *h, unsigned *p) { D(h) *p = 5; return OK; }
R nvmlDeviceGetCurrPcieLinkWidth(void *h, unsigned *p) { D(h) *p = 16; return OK; }
#ifndef OLD_DRIVER
R nvmlDeviceGetCurrentClocksEventReasons(void *h, ull *r) { D(h) *r = C->reasons[i]; return OK; }
#endif
R nvmlDeviceGetCurrentClocksThrottleReasons(void *h, ull *r) { D(h) *r = C->reasons[i]; return OK; }
R nvmlDeviceGetTotalEccErrors(void *h, int t, int c, ull *n) { D(h) *n = t ? C->ecc[i] : C->ecc[i] * 10; return OK; }
R nvmlDeviceGetPcieThroughput(void *h, int c, unsigned *v) { D(h) usleep(20000); C->misuse += 1000; *v = 1; return OK; }  // must not be called
typedef struct { unsigned pid; ull ts; unsigned sm, mem, enc, dec; } pu;
R nvmlDeviceGetProcessUtilization(void *h, pu *b, unsigned *n, ull since) {
    D(h) if (!C->pid[i] || !C->util[i]) return NOTFOUND;
    int rubbish = C->rubbish * 2;  // drivers do that
    if (!b || *n < 4) { *n = 4; return INSUF; }
    *n = 1 + (C->other_pid[i] != 0) + rubbish;
    b[0] = (pu){C->pid[i], us(), C->util[i], C->memutil[i], 0, 0};
    if (C->other_pid[i]) b[1] = (pu){C->other_pid[i], us(), 15, 5, 0, 0};
    if (rubbish) b[*n - 2] = (pu){C->pid[i], us(), 4294966000u, 5, 0, 0}, b[*n - 1] = (pu){C->pid[i], 1, 1, 0, 0, 0};
    return OK;
}
typedef struct { unsigned pid; ull used; unsigned gi, ci; } pi;
R nvmlDeviceGetComputeRunningProcesses_v3(void *h, unsigned *n, pi *b) {
    D(h) unsigned have = (C->pid[i] != 0) + (C->other_pid[i] != 0);
    if (!have) { *n = 0; return OK; }
    if (!b || *n < have) { *n = have; return INSUF; }
    unsigned at = 0;
    if (C->pid[i]) b[at++] = (pi){C->pid[i], C->used[i] / 2, -1, -1};
    if (C->other_pid[i]) b[at++] = (pi){C->other_pid[i], C->used[i] / 4, -1, -1};
    *n = have; return OK;
}
R nvmlDeviceGetMigMode(void *h, unsigned *now, unsigned *later) { D(h) *now = *later = C->migs[i] != 0; return OK; }
R nvmlDeviceGetMaxMigDeviceCount(void *h, unsigned *n) { D(h) *n = 7; return OK; }
R nvmlDeviceGetMigDeviceHandleByIndex(void *h, unsigned slot, void **m) {
    D(h) if (slot >= C->migs[i]) return NOTFOUND;
    *m = (void *)(intptr_t)((i + 1) * 100 + slot + 1); return OK;
}
R nvmlDeviceGetGpuInstanceId(void *h, unsigned *n) { D(h) *n = mig + 3; return OK; }
R nvmlDeviceGetComputeInstanceId(void *h, unsigned *n) { D(h) *n = 0; return OK; }
#ifndef OLD_DRIVER
typedef struct { unsigned fieldId, scopeId; long long ts, lat; unsigned vt; R ret; union { double d; unsigned ui; ull ull_; } v; } fv;
R nvmlDeviceGetFieldValues(void *h, int n, fv *f) {
    D(h) C->nfd_calls++;
    for (int k = 0; k < n; k++) {
        f[k].ts = us(); f[k].vt = 3; f[k].ret = OK;
        char key[32]; snprintf(key, sizeof key, "field%u", f[k].fieldId);
        R p = planned(key, i);
        if (p == 1000) { f[k].v.ull_ = 1024 * C->nv_kib[i]; continue; } /* one that newer drivers have */
        if (p) { f[k].ret = p; continue; }
        switch (f[k].fieldId) {
        case 138: case 139: if (f[k].scopeId != 0xffffffffu) f[k].ret = INVAL; f[k].v.ull_ = C->nv_kib[i]; break;
        case 197: f[k].v.ull_ = C->pcie[i]; break;
        case 198: f[k].v.ull_ = 2 * C->pcie[i]; break;
        case 186: f[k].vt = 1; f[k].v.ui = C->power_mw[i]; break;
        case 82: f[k].vt = 1; f[k].v.ui = C->temp[i] + 10; break;
        case 94: f[k].vt = 1; f[k].v.ui = 5; break;
        case 45: case 52: case 59: f[k].v.ull_ = 7; break;
        default: f[k].ret = NOSUP;
        }
    }
    return OK;
}
typedef struct { unsigned version, supported; } gs;
typedef struct { uint64_t at; int gpu, instance; } sample;
R nvmlGpmQueryDeviceSupport(void *h, gs *s) { D(h) s->supported = C->gpm; return OK; }
R nvmlGpmSampleAlloc(void **s) { UP *s = calloc(1, sizeof(sample)); C->live_samples++; return OK; }
R nvmlGpmSampleFree(void *s) { UP free(s); C->live_samples--; return OK; }
R nvmlGpmSampleGet(void *h, void *s) { D(h) if (!C->gpm || C->migs[i]) return NOSUP; *(sample *)s = (sample){us(), i, -1}; return OK; }
R nvmlGpmMigSampleGet(void *h, unsigned instance, void *s) { D(h) if (!C->gpm) return NOSUP; *(sample *)s = (sample){us(), i, (int)instance}; return OK; }
typedef struct { unsigned id; R ret; double value; const char *a, *b, *c; } gm;
typedef struct { unsigned version, n; void *s1, *s2; gm m[]; } gg;
R nvmlGpmMetricsGet(gg *g) {
    UP sample *a = g->s1, *b = g->s2;
    if (g->version != 1 || b->at < a->at + 90000 || a->gpu != b->gpu) return INVAL;
    int i = a->gpu;
    for (unsigned k = 0; k < g->n; k++) {
        g->m[k].ret = OK;
        switch (g->m[k].id) {
        case 2: g->m[k].value = a->instance < 0 ? C->sm_util[i] : a->instance; break;
        case 3: g->m[k].value = 25.0; break;
        case 5: g->m[k].value = 12.5; break;
        case 10: g->m[k].value = C->dram_util[i]; break;
        case 20: case 21: case 60: case 61: g->m[k].value = 3.0; break;
        default: g->m[k].ret = NOSUP;
        }
        if (g->m[k].id == C->gpm_bad) g->m[k].ret = NOSUP;
    }
    return OK;
}
#endif
R nvmlEventSetCreate(void **s) { UP R r = planned(__func__, 0); if (r) return r; *s = calloc(1, 8); C->live_sets++; return OK; }
R nvmlEventSetFree(void *s) { UP free(s); C->live_sets--; return OK; }
R nvmlDeviceRegisterEvents(void *h, ull m, void *s) { D(h) *(ull *)s |= 1ull << i; return OK; }
typedef struct { void *dev; ull type, data; unsigned gi, ci; } ev;
R nvmlEventSetWait_v2(void *s, ev *e, unsigned ms) {
    UP if (!C->live_sets) { C->misuse++; return INVAL; }
    for (unsigned t = 0; t < ms; t += STEP_MS) {
        R r = planned(__func__, 0); if (r) return r;
        if (C->xid) { e->dev = (void *)(intptr_t)(C->xid_gpu + 1); e->type = 8; e->data = C->xid; C->xid = 0; return OK; }
        if (*(ull *)s & C->lost_mask) return LOST;  // one of the set is enough (nvml.h)
        usleep(STEP_MS * 1000);
    }
    return TIMEOUT;
}
