/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Leaves a process behind that holds two VMs of one vCPU, which never runs: with a local APIC in KVM and
 * without. Prints its number; tools/kvm-host-init says why.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

static int hold(int kvm, int with_apic) {
    const int vm = ioctl(kvm, KVM_CREATE_VM, 0);
    return vm >= 0 && (!with_apic || ioctl(vm, KVM_CREATE_IRQCHIP, 0) >= 0) && ioctl(vm, KVM_CREATE_VCPU, 0) >= 0;
}

int main(void) {
    const int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (!hold(kvm, 1) || !hold(kvm, 0)) {
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
