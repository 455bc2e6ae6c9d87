/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Leaves a process behind that holds a VM with one vCPU, which never runs, and prints its number;
 * tools/kvm-host-init says why.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

int main(void) {
    const int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    const int vm = ioctl(kvm, KVM_CREATE_VM, 0);
    if (vm < 0 || ioctl(vm, KVM_CREATE_IRQCHIP, 0) < 0 || ioctl(vm, KVM_CREATE_VCPU, 0) < 0) {
        perror("hold-vm");
        return 1;
    }
    const pid_t holder = fork();
    if (holder < 0) {
        perror("hold-vm: fork");
        return 1;
    }
    if (holder > 0) {
        printf("%d\n", holder);
        return 0;
    }
    close(STDOUT_FILENO);
    for (;;)
        pause();
}
