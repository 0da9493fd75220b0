"""The kernel that keeps a GPU busy, as PTX: the driver compiles it for the device it finds.

It ends by itself after the nanoseconds it was given, by the GPU's own clock, also when its host is gone.
"""

PTX = b"""
.version 6.3
.target sm_75
.address_size 64

.visible .entry burn(.param .u64 out, .param .u64 nanoseconds)
{
    .reg .pred %p<4>;
    .reg .f32 %f<10>;
    .reg .b32 %r<4>;
    .reg .b64 %rd<8>;

    ld.param.u64 %rd1, [out];
    ld.param.u64 %rd2, [nanoseconds];
    mov.u64 %rd3, %globaltimer;
    mov.u32 %r1, %tid.x;
    cvt.rn.f32.u32 %f1, %r1;
    mov.f32 %f2, %f1;
    mov.f32 %f3, %f1;
    mov.f32 %f4, %f1;
    mov.f32 %f5, 0f3F7FFFFE;
    mov.f32 %f6, 0f3F000000;
OUTER:
    mov.u32 %r2, 1024;
INNER:
    fma.rn.f32 %f1, %f1, %f5, %f6;
    fma.rn.f32 %f2, %f2, %f5, %f6;
    fma.rn.f32 %f3, %f3, %f5, %f6;
    fma.rn.f32 %f4, %f4, %f5, %f6;
    add.s32 %r2, %r2, -1;
    setp.ne.s32 %p1, %r2, 0;
    @%p1 bra INNER;
    mov.u64 %rd4, %globaltimer;
    sub.s64 %rd5, %rd4, %rd3;
    setp.lt.u64 %p2, %rd5, %rd2;
    @%p2 bra OUTER;
    add.f32 %f1, %f1, %f2;
    add.f32 %f3, %f3, %f4;
    add.f32 %f1, %f1, %f3;
    setp.neu.f32 %p3, %f1, 0f4640E400;
    @%p3 bra DONE;
    st.global.f32 [%rd1], %f1;
DONE:
    ret;
}
"""
