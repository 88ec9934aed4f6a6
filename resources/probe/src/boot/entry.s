# Ring 0, all of it. Two entries (PVH, 32-bit protected mode; Linux boot protocol, 64-bit), tables that need no code to
# build, the way into ring 3, and the few services that ring 3 asks for with int3. Everything is kept to a handful of
# instructions: a software KVM emulates ring 0 one instruction at a time and runs ring 3 natively.

.set GDT,       0x101000
.set TSS,       0x101080
.set IDT,       0x102000
.set PML4,      0x103000
.set EXC_STUBS, 0x100400

.set SEL_CODE0, 0x08
.set SEL_DATA0, 0x10
.set SEL_DATA3, 0x1b
.set SEL_CODE3, 0x23
.set SEL_TSS,   0x28

.set CR4_BITS,  0x620        # PAE, OSFXSR, OSXMMEXCPT: no XSAVE, no SMEP or SMAP (ring 0 runs on user pages)
.set CR0_BITS,  0x80010033   # PG, WP, NE, ET, MP, PE: no EM, no TS, so SSE works

# ---------------------------------------------------------------- entries
.section .boot.text, "ax"
.global pvh_entry, exc_stubs, gdt
.global entry64
.code32
# Xen PVH: flat 32-bit protected mode, paging off, EBX = hvm_start_info.
pvh_entry:
    rdtsc
    movl %eax, tsc_entry
    movl %edx, tsc_entry + 4
    movl %ebx, boot_info
    movl $CR4_BITS, %eax
    movl %eax, %cr4
    movl $PML4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx   # EFER
    movl $0x100, %eax        # LME
    xorl %edx, %edx
    wrmsr
    movl $CR0_BITS, %eax
    movl %eax, %cr0
    lgdt gdtr
    ljmpl $SEL_CODE0, $common64

.balign 16
.code64
# Linux 64-bit boot protocol: long mode, some identity map, RSI = boot_params.
entry64:
    rdtsc
    movl %eax, tsc_entry
    movl %edx, tsc_entry + 4
    movq %rsi, boot_info
    movl $1, boot_proto
    movl $CR4_BITS, %eax
    movq %rax, %cr4
    movl $PML4, %eax
    movq %rax, %cr3
    movl $CR0_BITS, %eax
    movq %rax, %cr0
    lgdt gdtr
    movl $ring0_top, %esp
    pushq $SEL_CODE0
    pushq $common64
    lretq

common64:
    lidt idtr
    movl $SEL_DATA0, %eax
    movl %eax, %ss
    movl $SEL_TSS, %eax
    ltr %ax
    movl $ring0_top, %esp
    pushq $SEL_DATA3
    pushq $ring3_top
    pushq $2                 # RFLAGS: interrupts stay off in ring 3
    pushq $SEL_CODE3
    pushq $ring3_start
    rdtsc
    movl %eax, tsc_leave
    movl %edx, tsc_leave + 4
    iretq

# ---------------------------------------------------------------- services: int3, RAX = number (src/ring0.rs)
# An exception is the one gate that works everywhere: a software KVM emulates neither `int n` nor leaves `syscall`
# in ring 0.
.balign 16
service:
    jmpq *services(,%rax,8)

# 0: write RSI[..RDX] to port RDI
svc_outs:
    movq %rdx, %rcx
    movl %edi, %edx
    rep outsb
    iretq
# 1: sleep until an interrupt, or for RDI timer ticks if that is not 0
svc_sleep:
    testl %edi, %edi
    jz 2f
    cmpl $0, x2apic
    je 1f
    movl $0x838, %ecx        # timer initial count
    movl %edi, %eax
    xorl %edx, %edx
    wrmsr
    jmp 2f
1:  movl $0xfee00380, %eax
    movl %edi, (%rax)
2:  sti
    hlt
    cli
    iretq
# 2: RAX = MSR RDI
svc_rdmsr:
    movl %edi, %ecx
    rdmsr
    shlq $32, %rdx
    orq %rdx, %rax
    iretq
# 3: MSR RDI = RSI
svc_wrmsr:
    movl %edi, %ecx
    movl %esi, %eax
    movq %rsi, %rdx
    shrq $32, %rdx
    wrmsr
    iretq
# 4, 5: port RDI = RSI, 8 and 32 bits
svc_out8:
    movl %edi, %edx
    movl %esi, %eax
    outb %al, %dx
    iretq
svc_out32:
    movl %edi, %edx
    movl %esi, %eax
    outl %eax, %dx
    iretq
# 6: RAX = port RDI, 32 bits
svc_in32:
    movl %edi, %edx
    inl %dx, %eax
    iretq
# 7: CPUID leaf RDI, subleaf RSI -> four u32 at RDX (in ring 3 a software KVM would show the host's)
svc_cpuid:
    movq %rbx, %r9
    movq %rdx, %r8
    movl %edi, %eax
    movl %esi, %ecx
    cpuid
    movl %eax, (%r8)
    movl %ebx, 4(%r8)
    movl %ecx, 8(%r8)
    movl %edx, 12(%r8)
    movq %r9, %rbx
    iretq
# 8: triple fault
svc_triple:
    lidt idtr_null
    ud2
# 9: stop for good
svc_halt:
    cli
    hlt
    jmp svc_halt

# A device or timer interrupt: only ever taken at the hlt of svc_sleep, so it ends that call instead of returning to it.
irq:
    cmpl $0, x2apic
    je 1f
    movl $0x80b, %ecx        # EOI
    xorl %eax, %eax
    xorl %edx, %edx
    wrmsr
    jmp 2f
1:  movl $0xfee000b0, %eax
    movl $0, (%rax)
2:  movl $ring0_top - 40, %esp
    iretq

# An exception: keep the facts, then report them from ring 3 (src/crash.rs).
exc:
    popq crash_record        # vector
    popq crash_record + 8    # error code
    popq crash_record + 16   # RIP
    popq crash_record + 24   # CS
    popq crash_record + 32   # RFLAGS
    popq crash_record + 40   # RSP
    movq %cr2, %rax
    movq %rax, crash_record + 48
    incl crashes
    cmpl $1, crashes
    jne svc_triple           # the report itself crashed
    movl $ring0_top, %esp
    pushq $SEL_DATA3
    pushq $crash_top
    pushq $2
    pushq $SEL_CODE3
    pushq $ring3_crash
    iretq

# One 16-byte stub per vector, at EXC_STUBS.
.org 0x400
exc_stubs:
.set vec, 0
.rept 32
    .balign 16
    .if !(vec == 8 || (vec >= 10 && vec <= 14) || vec == 17 || vec == 21 || vec == 29 || vec == 30)
    pushq $0
    .endif
    pushq $vec
    jmp exc
    .set vec, vec + 1
.endr
.balign 16
    jmp irq                  # stub 32
.balign 16
    jmp service              # stub 33

# ---------------------------------------------------------------- tables
.section .boot.data, "aw"
gdt:
    .quad 0
    .quad 0x00af9b000000ffff  # 08 code, ring 0
    .quad 0x00cf93000000ffff  # 10 data, ring 0
    .quad 0x00cff3000000ffff  # 18 data, ring 3
    .quad 0x00affb000000ffff  # 20 code, ring 3
    .quad ((TSS & 0xffffff) << 16) | ((TSS >> 24) << 56) | 0x0000890000000067
    .quad 0
gdtr:
    .word gdtr - gdt - 1
    .quad GDT
idtr:
    .word 0x50 * 16 - 1
    .quad IDT
idtr_null:
    .word 0
    .quad 0

.org TSS - GDT
    .long 0
    .quad ring0_top          # RSP0
    .fill 92, 1, 0

.balign 8
.global tsc_entry, tsc_leave, boot_info, boot_proto, x2apic, crash_record
tsc_entry:    .quad 0
tsc_leave:    .quad 0
boot_info:    .quad 0
boot_proto:   .long 0        # 0 PVH, 1 Linux
x2apic:       .long 0
crashes:      .long 0
              .long 0
crash_record: .fill 7, 8, 0
services:
    .quad svc_outs, svc_sleep, svc_rdmsr, svc_wrmsr, svc_out8, svc_out32, svc_in32, svc_cpuid, svc_triple, svc_halt

.balign 16
    .fill 1024, 1, 0
ring0_top:

.org IDT - GDT
.set vec, 0
.rept 0x50
    .if vec == 3
    .set target, EXC_STUBS + 33 * 16
    .elseif vec < 32
    .set target, EXC_STUBS + vec * 16
    .else
    .set target, EXC_STUBS + 32 * 16
    .endif
    .word target & 0xffff
    .word SEL_CODE0
    .byte 0
    .if vec == 3
    .byte 0xee               # ring 3 may ask
    .else
    .byte 0x8e
    .endif
    .word target >> 16
    .quad 0
    .set vec, vec + 1
.endr

# Identity map of the first 4 GiB, 2 MiB pages, user, accessed and dirty: nothing for the CPU to write back.
.org PML4 - GDT
.global page_tables
page_tables:
    .quad PML4 + 0x1000 + 0x27
    .fill 511, 8, 0
    .quad PML4 + 0x2000 + 0x27
    .quad PML4 + 0x3000 + 0x27
    .quad PML4 + 0x4000 + 0x27
    .quad PML4 + 0x5000 + 0x27
    .fill 508, 8, 0
.set page, 0
.rept 2048
    .quad page * 0x200000 + 0xe7
    .set page, page + 1
.endr
# For BARs above 4 GiB (src/paging.rs).
.global spare_tables
spare_tables:
    .fill 4 * 4096, 1, 0

# ---------------------------------------------------------------- ring 3's first steps
.section .text.ring3_start, "ax"
ring3_start:
    rdtsc
    shlq $32, %rdx
    orq %rax, %rdx
    movl $bss_start, %edi
    movl $bss_end, %ecx
    subl %edi, %ecx
    xorl %eax, %eax
    rep stosb
    movq %rdx, %rdi
    call ring3_main
    ud2
ring3_crash:
    call ring3_report_crash
    ud2

.section .bss.stacks, "aw", @nobits
.balign 16
    .fill 64 * 1024, 1, 0
ring3_top:
    .fill 8 * 1024, 1, 0
crash_top:

# ---------------------------------------------------------------- the PVH note: ELFNOTE(Xen, XEN_ELFNOTE_PHYS32_ENTRY)
.section .note.pvh, "a", @note
.balign 4
    .long 4, 8, 18
    .asciz "Xen"
    .quad pvh_entry
