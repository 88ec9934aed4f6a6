// PID 1 of the bench `boot`: says that it runs, what it sees, and ends the machine. No library, so
// that the time until its first line is the kernel's.
#include <linux/reboot.h>
#include <sys/syscall.h>

static long call(long number, long a, long b, long c, long d) {
  long result;
  register long r10 __asm__("r10") = d;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10)
                   : "rcx", "r11", "memory");
  return result;
}

// struct ifreq, as far as SIOCGIFINDEX (0x8933) uses it.
struct interface {
  char name[16];
  char rest[24];
};

void _start(void) {
  char line[] = "init: 00 CPUs, eth0 no \n";
  unsigned long cpus[16] = {0};
  int count = 0;
  call(SYS_sched_getaffinity, 0, sizeof cpus, (long)cpus, 0);
  for (int i = 0; i < 64 * 16; i++) count += cpus[i / 64] >> (i % 64) & 1;
  line[6] += count / 10;
  line[7] += count % 10;
  struct interface eth0 = {"eth0", {0}};
  long socket = call(SYS_socket, 2, 2, 0, 0);
  if (call(SYS_ioctl, socket, 0x8933, (long)&eth0, 0) == 0) {
    line[20] = 'y';
    line[21] = 'e';
    line[22] = 's';
  }
  call(SYS_write, 1, (long)line, sizeof line - 1, 0);
  call(SYS_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_RESTART, 0);
  for (;;) {
  }
}
