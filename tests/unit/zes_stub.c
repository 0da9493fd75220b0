// A stand-in for Level Zero's loader with sysman: the ABI of zes_api.h (oneapi-src/level-zero, v1.4
// and later), values from a file in shared memory (path in $ZES_STUB). It proves our code, not the driver.
//   cc -shared -fPIC -Wl,-soname,libze_loader.so.1 [-DOLD_LOADER] -o libze_loader.so.1 zes_stub.c
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
typedef uint32_t R;
enum { OK = 0, UNINIT = 0x78000001, NULL_HANDLE = 0x78000005, NULL_POINTER = 0x78000007, BAD_SIZE = 0x78000008 };
struct ctl {
    uint32_t ndev, tiles, misuse, inits, sysman_env, reasons, temp, mem_temp, fan, has_replays, npids, pids[8];
    int32_t gen, width;
    uint64_t now_us, active_us, energy_uj, free_, size, read_, written, max_bw, rx, tx, replays, mem[8];
    double mhz, mem_mhz, max_mhz;
    int32_t limit_mw, sustained_mw;
    char errors[1024];  // ";zesFanGetState=1879113728"
};
static struct ctl def, *C = &def;
static int inited;
static R planned(const char *name) {
    char key[128];
    snprintf(key, sizeof key, ";%s=", name);
    const char *at = strstr(C->errors, key);
    return at ? (R)strtoul(at + strlen(key), 0, 10) : OK;
}
static void attach(void) {
    const char *p = getenv("ZES_STUB");
    int fd = p ? open(p, O_RDWR) : -1;
    if (fd >= 0) {
        void *m = mmap(0, sizeof(struct ctl), 3, MAP_SHARED, fd, 0);
        if (m != MAP_FAILED) C = m;
        close(fd);
    }
}
#define UP if (!inited) { C->misuse++; return UNINIT; } { R p = planned(__func__); if (p) return p; }
#define NEED(h) if (!(h)) { C->misuse++; return NULL_HANDLE; }
// The caller must have said which structure it gives, and that there is no extension of it.
#define TYPED(s, t) if (!(s) || (s)->stype != (t) || (s)->pNext) { C->misuse++; return NULL_POINTER; }
typedef struct { uint32_t stype; void *pNext; } head;
static R start(const char *name) {
    attach();
    R r = planned(name);
    if (r) return r;
    inited = 1; C->inits++;
    C->sysman_env = getenv("ZES_ENABLE_SYSMAN") != 0;
    return OK;
}
static R listed(uint32_t *count, void **out, uint32_t n, uintptr_t base) {
    if (!count) { C->misuse++; return NULL_POINTER; }
    if (!*count || !out) { *count = n; return OK; }
    if (*count > n) *count = n;
    for (uint32_t i = 0; i < *count; i++) out[i] = (void *)(base + i);
    return OK;
}
#ifndef OLD_LOADER
R zesInit(uint32_t f) { return start(__func__); }
R zesDriverGet(uint32_t *c, void **d) { UP return listed(c, d, 1, 0x100); }
R zesDeviceGet(void *h, uint32_t *c, void **d) { UP NEED(h) return listed(c, d, C->ndev, 0x1000); }
#else
R zeInit(uint32_t f) { if (f != 1) C->misuse++; return start(__func__); }
R zeDriverGet(uint32_t *c, void **d) { UP return listed(c, d, 1, 0x100); }
R zeDeviceGet(void *h, uint32_t *c, void **d) { UP NEED(h) return listed(c, d, C->ndev, 0x1000); }
#endif
typedef struct { int32_t gen, width; int64_t bandwidth; } speed;
typedef struct {
    uint32_t stype; void *pNext; uint32_t domain, bus, device, function; speed max; uint8_t bw, packets, replays;
} pci;
R zesDevicePciGetProperties(void *h, pci *p) {
    UP NEED(h) TYPED(p, 2)
    p->domain = 0; p->bus = 0xc1 + (uint32_t)((uintptr_t)h - 0x1000); p->device = 0; p->function = 0;
    p->bw = 1; p->replays = (uint8_t)C->has_replays;
    return OK;
}
typedef struct { uint32_t stype; const void *pNext; uint32_t status, quality, stability; speed now; } pcistate;
R zesDevicePciGetState(void *h, pcistate *p) {
    UP NEED(h) TYPED(p, 0x17) p->now.gen = C->gen; p->now.width = C->width; return OK;
}
typedef struct { uint64_t us, replays, packets, rx, tx; speed now; } pcistats;
R zesDevicePciGetStats(void *h, pcistats *p) {
    UP NEED(h) p->us = C->now_us; p->replays = C->replays; p->rx = C->rx; p->tx = C->tx; return OK;
}
// Engines: 0x2000 copies, 0x2001 everything.
R zesDeviceEnumEngineGroups(void *h, uint32_t *c, void **d) { UP NEED(h) return listed(c, d, 2, 0x2000); }
typedef struct { uint32_t stype; void *pNext; uint32_t type; uint8_t on; uint32_t sub; } engine;
R zesEngineGetProperties(void *h, engine *p) {
    UP NEED(h) TYPED(p, 5) p->type = (uintptr_t)h == 0x2001 ? 0 : 3; p->on = 0; return OK;
}
typedef struct { uint64_t active, us; } stats;
R zesEngineGetActivity(void *h, stats *s) {
    UP NEED(h) if ((uintptr_t)h != 0x2001) C->misuse++;
    s->active = C->active_us; s->us = C->now_us; return OK;
}
// Clocks: 0x3000.. one of each tile, 0x3010 the memory's.
R zesDeviceEnumFrequencyDomains(void *h, uint32_t *c, void **d) {
    UP NEED(h)
    R r = listed(c, d, C->tiles + 1, 0x3000);
    if (d) d[C->tiles] = (void *)0x3010;
    return r;
}
typedef struct { uint32_t stype; void *pNext; uint32_t type; uint8_t on; uint32_t sub; uint8_t can, event; double min, max; } freq;
R zesFrequencyGetProperties(void *h, freq *p) {
    UP NEED(h) TYPED(p, 9)
    p->type = (uintptr_t)h == 0x3010; p->on = C->tiles > 1 && !p->type; p->min = 300; p->max = C->max_mhz;
    return OK;
}
typedef struct { uint32_t stype; const void *pNext; double volt, request, tdp, efficient, actual; uint32_t why; } fstate;
R zesFrequencyGetState(void *h, fstate *s) {
    UP NEED(h) TYPED(s, 0x1b)
    int memory = (uintptr_t)h == 0x3010;
    s->volt = -1; s->request = C->max_mhz; s->actual = memory ? C->mem_mhz : C->mhz + 100 * (double)((uintptr_t)h - 0x3000);
    s->why = !memory && (uintptr_t)h == 0x3000 + C->tiles - 1 ? C->reasons : 0;
    return OK;
}
// Memory: 0x4000 the system's, 0x4001.. the device's.
R zesDeviceEnumMemoryModules(void *h, uint32_t *c, void **d) { UP NEED(h) return listed(c, d, C->tiles + 1, 0x4000); }
typedef struct {
    uint32_t stype; void *pNext; uint32_t type; uint8_t on; uint32_t sub, location; uint64_t size; int32_t bus, channels;
} mem;
R zesMemoryGetProperties(void *h, mem *p) {
    UP NEED(h) TYPED(p, 0xb) p->location = (uintptr_t)h != 0x4000; p->on = C->tiles > 1; p->size = C->size; return OK;
}
typedef struct { uint32_t stype; const void *pNext; uint32_t health; uint64_t free_, size; } mstate;
R zesMemoryGetState(void *h, mstate *s) {
    UP NEED(h) TYPED(s, 0x1e) if ((uintptr_t)h == 0x4000) C->misuse++;
    s->free_ = C->free_; s->size = C->size; return OK;
}
typedef struct { uint64_t read, written, max, us; } bandwidth;
R zesMemoryGetBandwidth(void *h, bandwidth *b) {
    UP NEED(h) b->read = C->read_; b->written = C->written; b->max = C->max_bw; b->us = C->now_us; return OK;
}
// Power: 0x5000 a tile's, 0x5001 the card's.
R zesDeviceEnumPowerDomains(void *h, uint32_t *c, void **d) { UP NEED(h) return listed(c, d, 2, 0x5000); }
typedef struct { uint32_t stype; void *pNext; uint8_t on; uint32_t sub; uint8_t can, threshold; int32_t def, min, max; } power;
R zesPowerGetProperties(void *h, power *p) { UP NEED(h) TYPED(p, 0xd) p->on = (uintptr_t)h == 0x5000; return OK; }
typedef struct { uint64_t uj, us; } energy;
R zesPowerGetEnergyCounter(void *h, energy *e) {
    UP NEED(h) if ((uintptr_t)h != 0x5001) C->misuse++;
    e->uj = C->energy_uj; e->us = C->now_us; return OK;
}
typedef struct {
    uint32_t stype; const void *pNext; uint32_t level, source, unit; uint8_t elocked, enabled, ilocked; int32_t interval;
    uint8_t llocked; int32_t limit;
} limit;
#ifndef OLD_LOADER
R zesPowerGetLimitsExt(void *h, uint32_t *c, limit *l) {
    UP NEED(h)
    if (!*c || !l) { *c = 2; return OK; }
    for (uint32_t i = 0; i < *c; i++) TYPED(l + i, 0x27)
    l[0].level = 3; l[0].unit = 2; l[0].enabled = 1; l[0].limit = 900000;
    l[1].level = 1; l[1].unit = 2; l[1].enabled = 1; l[1].limit = C->limit_mw;
    return OK;
}
#endif
typedef struct { uint8_t enabled; int32_t mw, interval; } sustained;
R zesPowerGetLimits(void *h, sustained *s, void *b, void *p) {
    UP NEED(h) s->enabled = C->sustained_mw > 0; s->mw = C->sustained_mw; return OK;
}
// Temperatures: 0x6000 the memory, 0x6001 the chip.
R zesDeviceEnumTemperatureSensors(void *h, uint32_t *c, void **d) { UP NEED(h) return listed(c, d, 2, 0x6000); }
typedef struct {
    uint32_t stype; void *pNext; uint32_t type; uint8_t on; uint32_t sub; double max; uint8_t critical, one, two;
} temp;
R zesTemperatureGetProperties(void *h, temp *p) {
    UP NEED(h) TYPED(p, 0x14) p->type = (uintptr_t)h == 0x6000 ? 2 : 1; p->max = 105; return OK;
}
R zesTemperatureGetState(void *h, double *t) {
    UP NEED(h) *t = (uintptr_t)h == 0x6000 ? C->mem_temp : C->temp; return OK;
}
R zesDeviceEnumFans(void *h, uint32_t *c, void **d) { UP NEED(h) return listed(c, d, C->fan ? 1 : 0, 0x7000); }
R zesFanGetState(void *h, uint32_t units, int32_t *s) { UP NEED(h) *s = units == 1 ? (int32_t)C->fan : 1500; return OK; }
R zesDeviceEnumFabricPorts(void *h, uint32_t *c, void **d) { UP NEED(h) return listed(c, d, C->tiles > 1 ? 2 : 0, 0x8000); }
typedef struct { uint64_t us, rx, tx; } fabric;
R zesFabricPortGetThroughput(void *h, fabric *f) { UP NEED(h) f->us = C->now_us; f->rx = C->rx; f->tx = C->tx; return OK; }
typedef struct { uint32_t stype; const void *pNext; uint32_t pid; uint64_t mem, shared; uint32_t engines; } process;
R zesDeviceProcessesGetState(void *h, uint32_t *c, process *p) {
    UP NEED(h)
    if (!*c || !p) { *c = C->npids; return OK; }
    if (*c < C->npids) return BAD_SIZE;
    *c = C->npids;
    for (uint32_t i = 0; i < C->npids; i++) { TYPED(p + i, 0x16) p[i].pid = C->pids[i]; p[i].mem = C->mem[i]; }
    return OK;
}
