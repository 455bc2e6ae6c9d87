# SPDX-License-Identifier: Apache-2.0
"""Runs a shell command inside a machine that has KVM: this one, or an
emulated one that boots Debian's stock kernel for it. See --help."""

import contextlib
import os
import posixpath
import re
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import termios
import time
import tty
from pathlib import Path

from command_line import Options, Usage
from failures import HostFailure, find_program, in_words, run_tool
from host_cache import cache_directory
from host_initramfs import base_archive, inside, payload_archive
from kernel_image import PVH_NOTE, flat_kernel, release, unpack_kernel
from kernel_modules import modules_beside
from stock_kernel import stock_kernel, stock_modules
from svm_probe import shadow_paging_problem

LANES = ["native", "amd-npt", "amd-shadow", "intel-ept", "intel-noad"]
BOOT_SECONDS = {"amd": 5, "intel": 15}
# With KVM's newer MMU, every seventh guest that exits a lot finds page tables that are not its own in
# emulated SVM (tools/kvm-host-init tells more); of 25 with the older one, none did.
LANE_OPTIONS = {"amd-npt": "kvm.tdp_mmu=0", "amd-shadow": "kvm_amd.npt=0", "intel-noad": "kvm_intel.eptad=0"}
# The host refines its TSC's frequency once KVM has taken the first one for its guests, whose timers stand
# still if the two differ by more than this allows.
KVM_OPTIONS = "kvm.tsc_tolerance_ppm=50000"
HOST_FAILED = 125
HOST_KERNEL = Path(__file__).resolve().parents[1] / "host-kernel"
SECTOR_BYTES = 512
MOST_DISKS = 20
CHANNELS = ["console", "stdout", "stderr", "status"]
# An emulated AMD host says every second that it is alive; QEMU may lose its interrupts.
SILENT_SECONDS = 60
ESCAPE = b"\x1d"  # Ctrl-]

EPILOG = """\
The command runs under /bin/sh in a fresh directory, which is also first in
PATH. --add and --get paths are relative to it. Programs bring their shared
libraries along. Standard input is empty unless --interactive is given; stdout
and stderr stay apart, unless both go to the same place here: then the command
writes them into one pipe, so their order is exact.

Exit status: the command's own; 2 for a bad option or file; 125 if the machine
crashed, hung or ran out of --timeout, or a --get file was not there.

Lanes: native (this machine's KVM and hardware); amd-npt, amd-shadow (QEMU
emulates SVM; kvm_amd npt=1 with kvm tdp_mmu=0, npt=0); intel-ept, intel-noad
(Bochs emulates VMX and EPT; kvm_intel eptad=1, eptad=0). The intel lanes' clock
follows instructions, not real time; they have one CPU, at most 2048 MiB, and no
interactive input; --get there brings out at most 512 MiB. Ctrl-] ends an
interactive machine.

examples:
  tools/kvm-host --lane amd-npt --add build/vmm/casemate --get report.json \\
      -- 'casemate check --json >report.json'

  # another kernel of Debian's; up to 6.18: linux-image-VERSION, boot/vmlinuz-VERSION
  apt-get download linux-binary-VERSION linux-modules-VERSION
  for package in linux-*.deb; do dpkg-deb -x "$package" tree; done
  tools/kvm-host --kernel tree/usr/lib/modules/VERSION/vmlinuz -- uname -a
"""


def parse_options(argv):
    p = Options(prog="kvm-host", description=__doc__, epilog=EPILOG, usage="kvm-host [options] -- COMMAND...")
    p.add_argument("--lane", default="auto", choices=["auto", *LANES],
                   help="auto (the default) takes native where it can, else amd-npt")
    p.add_argument("--list", action="store_true",
                   help="list the lanes and whether each works here: yes; no, in the nature of this machine; "
                        "missing, what can be installed; failed, if that could not be found out")
    p.add_argument("--kernel", default="stock", metavar="stock|attributes|FILE",
                   help="host kernel; attributes is what tools/host-kernel builds; FILE is a bzImage or "
                        "vmlinux with the lane's devices and KVM built in or among its modules: in modules/ "
                        "beside it, or where Debian's packages have them in the same tree")
    p.add_argument("--add", action="append", default=[], metavar="FILE[:PATH]",
                   help="bring a file or directory in (repeatable)")
    p.add_argument("--get", action="append", default=[], metavar="PATH[:HOSTPATH]",
                   help="bring a file or directory out afterwards (repeatable)")
    p.add_argument("--out", default=".", metavar="DIR", help="where --get puts files")
    p.add_argument("--disk", action="append", default=[], metavar="FILE",
                   help="a disk of the machine, /dev/vda and on (repeatable; amd lanes); what is written to it is "
                        "gone afterwards, FILE stays as it is")
    p.add_argument("--timeout", type=float, default=900, metavar="S",
                   help="seconds for boot and command, 0 for no limit (default 900)")
    p.add_argument("--mem", type=int, metavar="MIB", help="default 3072 (amd), 1024 (intel)")
    p.add_argument("--cpus", type=int, metavar="N", help="default 2 (amd); intel has 1")
    p.add_argument("--awake", action="store_true",
                   help="let idle CPUs poll (amd lanes): to wake one up takes the emulator up to a millisecond, which "
                        "hides what a guest waits for")
    p.add_argument("--interactive", action="store_true",
                   help="connect this terminal to the command (native and amd lanes)")
    p.add_argument("--verbose", action="store_true",
                   help="show the emulator's and the kernel's messages on stderr")
    p.add_argument("--quiet", action="store_true", help="no progress lines")
    p.add_argument("--refresh", action="store_true", help="look for a newer stock kernel package")
    p.add_argument("--print-kernel", action="store_true", help="print the path of the stock bzImage")
    p.add_argument("--print-modules", action="store_true",
                   help="print the directory of its uncompressed modules")
    split = argv.index("--") if "--" in argv else len(argv)
    o = p.parse_args(argv[:split])
    o.command = " ".join(argv[split + 1:])
    return o


def say(o, message):
    if not o.quiet:
        print(f"kvm-host: {message}", file=sys.stderr, flush=True)


# --- lanes -----------------------------------------------------------------


def lane_problem(lane):
    """Why the lane cannot run here, or None: ("no", why) is in the nature of
    this machine, ("missing", what) can be installed, ("failed", how) was not
    found out."""
    if lane == "native":
        flags = Path("/proc/cpuinfo").read_text().split()
        if "vmx" not in flags and "svm" not in flags:
            return "no", "the CPU shows no vmx or svm"
        try:
            os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
        except OSError as e:
            return "no", f"/dev/kvm: {e.strerror}"
        return None
    needs = ["busybox", "gcc", "objcopy"]
    needs += ["qemu-system-x86_64"] if lane.startswith("amd") else ["bochs", "xorriso", *BOCHS_FILES]
    missing = [n for n in needs if not (Path(n).exists() if "/" in n else find_program(n))]
    if missing:
        return "missing", f"{' and '.join(missing)}: run tools/setup"
    if lane == "amd-shadow":
        try:
            problem = shadow_paging_problem(QEMU_CPU)
        except (HostFailure, OSError) as e:
            return "failed", in_words(e)
        return problem and ("no", problem)
    return None


BOCHS_BIOS = "/usr/share/bochs/BIOS-bochs-latest"
BOCHS_VGA = "/usr/share/vgabios/vgabios.bin"
ISOLINUX = ["/usr/lib/ISOLINUX/isolinux.bin", "/usr/lib/syslinux/modules/bios/ldlinux.c32"]
BOCHS_FILES = [BOCHS_BIOS, BOCHS_VGA, *ISOLINUX]


# --- the emulators ---------------------------------------------------------

DIE_WITH_US = ["setpriv", "--pdeathsig", "KILL"]

# Fewer messages and less work for a CPU that is emulated; none of it changes
# what KVM does for its guests.
COMMAND_LINE = ("console=ttyS0 quiet panic=-1 mitigations=off audit=0 cryptomgr.notests ima=off "
                "lsm=landlock,capability random.trust_cpu=on initcall_blacklist=jent_mod_init,trace_eval_init")

QEMU_CPU = "EPYC,+svm,+npt"


def qemu_command(o, work, kernel, initrd, arguments):
    command = [*DIE_WITH_US, "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-machine", "q35",
               "-cpu", QEMU_CPU, "-smp", str(o.cpus), "-m", str(o.mem),
               "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
               "-kernel", kernel, "-initrd", initrd, "-append", arguments,
               "-chardev", f"file,id=console,path={work}/console", "-serial", "chardev:console",
               "-chardev", f"file,id=files,path={work}/files", "-device", "virtio-serial-pci"]
    for name in ["stdout", "stderr", "status", "alive"]:
        command += ["-chardev", f"file,id={name},path={work}/{name}"]
    for name in ["stdout", "stderr", "status", "alive", "files"]:
        command += ["-device", f"virtserialport,chardev={name},name={name}"]
    for disk in o.disk:
        name = str(disk).replace(",", ",,")
        command += ["-drive", f"if=virtio,format=raw,snapshot=on,file={name}"]
    if o.interactive:
        command += ["-chardev", f"socket,id=terminal,fd={o.terminal.fileno()}",
                    "-device", "virtconsole,chardev=terminal,name=terminal"]
    return command


def bochs_command(o, work, kernel, initrd, arguments):
    (work / "isolinux.cfg").write_text("DEFAULT host\nPROMPT 0\nLABEL host\n KERNEL vmlinuz\n"
                                       f" APPEND initrd=initrd {arguments}\n")
    files = {os.path.basename(f): f for f in [*ISOLINUX, work / "isolinux.cfg"]}
    files |= {"vmlinuz": kernel, "initrd": initrd}
    run_tool("xorriso", "-as", "mkisofs", "-quiet", "-o", work / "boot.iso", "-b", "isolinux.bin",
             "-c", "boot.cat", "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table",
             "-graft-points", *(f"{name}={file}" for name, file in files.items()))
    with open(work / "files", "wb") as disk:
        disk.truncate(BOCHS_DISK_BYTES)
    ports = "".join(f"com{n}: enabled=1, mode=file, dev={work}/{name}\n"
                    for n, name in enumerate(CHANNELS, 1))
    # ips only sets how much time passes per instruction: low enough that the
    # emulated baud rate and delays are short, high enough that the timer
    # interrupt leaves time for work.
    (work / "bochsrc").write_text(f"""\
display_library: rfb, options="timeout=0"
plugin_ctrl: speaker=0
sound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy
cpu: model=broadwell_ult, count=1, ips=50000000, reset_on_triple_fault=0
memory: guest={o.mem}, host={o.mem}
romimage: file={BOCHS_BIOS}
vgaromimage: file={BOCHS_VGA}
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=disk, path={work}/files, mode=flat, cylinders=0
ata1: enabled=1, ioaddr1=0x170, ioaddr2=0x370, irq=15
ata1-master: type=cdrom, path={work}/boot.iso, status=inserted
boot: cdrom
{ports}log: {work}/bochs.log
clock: sync=none, time0=local
panic: action=fatal
error: action=ignore
""")
    (work / "go").write_text("c\n")
    # Bochs' one display without X listens on every interface, and two of
    # them must not meet: each gets a network of its own.
    own_network = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--net"]
    return [*own_network, *DIE_WITH_US, "bochs", "-q", "-f", work / "bochsrc", "-rc", work / "go"]


BOCHS_DISK_BYTES = 512 << 20


ENDING_SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


class Interrupted(Exception):
    """SIGINT, SIGTERM or SIGHUP; or the escape key."""


class Emulator:
    """One run of an emulated machine."""

    def __init__(self, o, work):
        self.o, self.work = o, work
        self.status = b""
        self.heard = None  # when it last said that it is alive
        self.panicked = False
        self.console_tail = b""
        self.selector = selectors.DefaultSelector()
        self.log = open(work / "console.log", "wb")

    def channel(self, name, handle):
        os.mkfifo(self.work / name)
        # Open for writing too: the emulator may come late and leave early.
        fd = os.open(self.work / name, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self.selector.register(fd, selectors.EVENT_READ, handle)

    def on_console(self, data):
        self.log.write(data)
        self.log.flush()
        if self.o.verbose:
            write_all(2, data)
        self.console_tail = (self.console_tail + data)[-4096:]
        self.panicked = self.panicked or b"Kernel panic - not syncing" in self.console_tail

    def on_status(self, data):
        self.status += data

    def on_alive(self, _):
        self.heard = time.monotonic()

    def on_keyboard(self, data):
        if ESCAPE in data:
            raise Interrupted(signal.SIGINT)
        self.terminal.sendall(data)

    def drain(self, timeout):
        """Handles what has arrived; false if nothing had."""
        ready = self.selector.select(timeout)
        for key, _ in ready:
            try:
                data = os.read(key.fd, 1 << 16)
            except OSError:
                data = b""
            if data:
                key.data(data)
            else:
                self.selector.unregister(key.fileobj)
        return bool(ready)

    def run(self, command, **popen):
        """Returns the command's status, or raises HostFailure."""
        deadline = time.monotonic() + self.o.timeout if self.o.timeout else None
        with open(self.work / "emulator.log", "wb") as log:
            out = 2 if self.o.verbose else log
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                       start_new_session=True, **popen)
        try:
            while not self.status.endswith(b"\n") and not self.panicked:
                # The emulator's end makes no event; look now and then.
                self.drain(0.1)
                if process.poll() is not None:
                    break
                if self.heard and time.monotonic() > self.heard + SILENT_SECONDS:
                    raise HostFailure(f"the machine has hung: no sign of life for {SILENT_SECONDS} s")
                if deadline and time.monotonic() > deadline:
                    raise HostFailure(f"no end after {self.o.timeout:g} s")
            if self.panicked:
                time.sleep(1)  # the call trace comes after the first line
        finally:
            process.kill()
            process.wait()
            while self.drain(0):
                pass
        if self.panicked:
            raise HostFailure("the host kernel panicked")
        if not self.status.endswith(b"\n"):
            raise HostFailure(self.complaint() or "the emulated machine ended before the command did")
        return int(self.status)

    def complaint(self):
        """What the emulator, or who starts it, said was wrong."""
        lines = (self.work / "emulator.log").read_text(errors="replace").splitlines()
        said = [line for line in lines if re.match(r"(qemu|unshare|setpriv)[\w-]*: (?!warning)", line)]
        if said and said[-1].startswith("unshare"):
            return f"{said[-1]}: the intel lanes need a network of their own, so a user namespace, or root"
        return f"the emulator did not run: {said[-1]}" if said else None


def write_all(fd, data):
    while data:
        data = data[os.write(fd, data):]


@contextlib.contextmanager
def raw_terminal():
    saved = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSAFLUSH, saved)


def run_emulated(o, work):
    vendor = o.lane.split("-")[0]
    cache = cache_directory()
    if o.kernel == "stock":
        kernel = stock_kernel(lambda message: say(o, message), o.refresh)
        image = kernel / ("vmlinux" if vendor == "amd" else "bzimage-flat")
        modules = stock_modules(kernel)
    else:
        image, modules = kernel_file(Path(o.kernel).absolute(), vendor, work)
    initrd = work / "initrd"
    base = base_archive(cache, modules, vendor)
    with open(initrd, "wb") as out:
        for part in [base, payload_archive(o, work)]:
            with open(part, "rb") as f:
                shutil.copyfileobj(f, out, 1 << 20)
    arguments = COMMAND_LINE
    arguments += f" {KVM_OPTIONS}"
    if o.lane in LANE_OPTIONS:
        arguments += f" {LANE_OPTIONS[o.lane]}"
    if o.awake:
        arguments += " idle=poll"
    if vendor == "intel":
        arguments += " nokaslr tsc=reliable lpj=100000 no_timer_check"

    emulator = Emulator(o, work)
    for name, handle in [("console", emulator.on_console), ("stdout", lambda d: write_all(1, d)),
                         ("stderr", lambda d: write_all(2, d)), ("status", emulator.on_status),
                         ("alive", emulator.on_alive)]:
        emulator.channel(name, handle)
    popen = {"env": os.environ | {"TMPDIR": str(work)}}  # QEMU's files for what is written to disks
    with contextlib.ExitStack() as stack:
        if o.interactive:
            emulator.terminal, o.terminal = socket.socketpair()
            popen["pass_fds"] = [o.terminal.fileno()]
            emulator.selector.register(emulator.terminal, selectors.EVENT_READ, lambda d: write_all(1, d))
            emulator.selector.register(0, selectors.EVENT_READ, emulator.on_keyboard)
        prepare = qemu_command if vendor == "amd" else bochs_command
        command = prepare(o, work, image, initrd, arguments)
        if vendor == "intel" or os.isatty(2):
            say(o, f"booting the {o.lane} host (about {BOOT_SECONDS[vendor]} s)")
        if o.interactive:
            say(o, "Ctrl-] ends it")
            stack.enter_context(raw_terminal())
        try:
            status = emulator.run(command, **popen)
        except HostFailure as e:
            raise HostFailure(f"{e}; {save_log(cache, o.lane, work)}") from None
    return bring_out(o, work / "files", status)


def kernel_file(file, vendor, work):
    """What the emulator boots for --kernel FILE, and where its modules are."""
    image = file.read_bytes()
    try:
        unpacked = unpack_kernel(image)
    except Usage as e:
        raise Usage(f"--kernel {file}: {e}") from None
    version = release(image, unpacked)
    modules = modules_beside(file, version) if version else None
    if vendor == "intel":
        if unpacked is image:
            raise Usage(f"--kernel {file}: the intel lanes boot a bzImage, this is a vmlinux")
        flat = work / "bzimage-flat"
        flat.write_bytes(flat_kernel(image, unpacked))
        return flat, modules
    if PVH_NOTE not in unpacked:
        return file, modules
    vmlinux = work / "vmlinux"
    vmlinux.write_bytes(unpacked)
    return vmlinux, modules


def save_log(cache, lane, work):
    logs = cache / "logs"
    logs.mkdir(exist_ok=True)
    saved = logs / f"{lane}-{os.getpid()}.log"
    with open(saved, "wb") as f:
        for name in ["emulator.log", "bochs.log", "console.log"]:
            if (work / name).exists():
                f.write((work / name).read_bytes()[-(1 << 20):])
    lines = [line.strip() for line in (work / "console.log").read_text(errors="replace").split("\n")]
    telling = [line for line in lines if "Kernel panic" in line] or [line for line in lines if line]
    last = telling[-1] if telling else "nothing on its console"
    return f"last words: {last[:120]!r}; log: {saved}"


def bring_out(o, tar, status):
    """Unpacks what --get asked for; what is not there makes a success a failure."""
    if not o.get:
        return status
    try:
        with tarfile.open(tar, "r:") as archive:
            members = archive.getmembers()
            missing = [p for p, to in o.get if not extract(archive, members, inside(p)[1:], to)]
    except tarfile.ReadError:
        missing = [p for p, _ in o.get]
    return report_missing(missing, status)


def report_missing(missing, status):
    for path in missing:
        print(f"kvm-host: --get {path}: the command left no such file", file=sys.stderr)
    return status or (HOST_FAILED if missing else 0)


def extract(archive, members, root, to):
    """Writes one requested tree to `to`; false if it is not in the archive.

    What ran in there may be hostile: nothing is written through a link."""
    found = False
    for m in members:
        name = m.name.rstrip("/")
        if name != root and not name.startswith(root + "/"):
            continue
        found = True
        target = Path(to, *name[len(root):].strip("/").split("/")) if name != root else to
        target.parent.mkdir(parents=True, exist_ok=True)
        if ".." in name.split("/") or (target != to and not is_below(target.parent, to)):
            raise HostFailure(f"--get: {name!r} would leave {to}")
        if m.isdir():
            target.mkdir(exist_ok=True)
            continue
        with contextlib.suppress(FileNotFoundError):
            target.unlink()
        if m.issym():
            target.symlink_to(m.linkname)
        elif m.isreg() or m.islnk():
            with archive.extractfile(m) as source, open(target, "wb") as out:
                shutil.copyfileobj(source, out, 1 << 20)
            target.chmod(m.mode & 0o777)
    return found


def is_below(path, root):
    return path.resolve().is_relative_to(root.resolve())


def run_native(o, work):
    scratch = work / "work"
    scratch.mkdir()
    for source, path in o.add:
        target = scratch / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
        else:
            shutil.copy2(source, target)
    environment = os.environ | {"PATH": f"{scratch}:{os.environ['PATH']}", "KVM_HOST_LANE": "native"}
    if o.interactive:
        signal.signal(signal.SIGINT, lambda *_: None)  # the command's to handle
    process = subprocess.Popen(["sh", "-c", o.command], cwd=scratch, env=environment,
                               stdin=None if o.interactive else subprocess.DEVNULL,
                               process_group=None if o.interactive else 0)
    try:
        status = process.wait(o.timeout or None)
    except subprocess.TimeoutExpired:
        raise HostFailure(f"no end after {o.timeout:g} s") from None
    finally:
        if not o.interactive:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.wait()
    missing = []
    for path, to in o.get:
        source = scratch / path
        if source.is_dir():
            shutil.copytree(source, to, symlinks=True, dirs_exist_ok=True)
        elif source.exists():
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, to)
        else:
            missing.append(path)
    return report_missing(missing, status if status >= 0 else 128 - status)


# --- the command line ------------------------------------------------------


def check_options(o):
    if not o.command.strip():
        raise Usage("no command: put it after -- (--help explains)")
    problem = lane_problem("native")
    if o.lane == "auto":
        o.lane = "amd-npt" if problem else "native"
    problem = lane_problem(o.lane)
    if problem:
        kind, why = problem
        raise (HostFailure if kind == "failed" else Usage)(
            f"the {o.lane} lane cannot run here: {'missing: ' if kind == 'missing' else ''}{why}")
    intel = o.lane.startswith("intel")
    o.cpus = o.cpus or (1 if intel else 2)
    o.mem = o.mem or (1024 if intel else 3072)
    if intel and o.cpus != 1:
        raise Usage("--cpus: the intel lanes have one CPU")
    if o.awake and not o.lane.startswith("amd"):
        raise Usage(f"--awake: not in the {o.lane} lane; take an amd lane")
    if not 256 <= o.mem <= (2048 if intel else 1 << 20):
        raise Usage(f"--mem {o.mem}: 256 to {2048 if intel else 1 << 20} MiB")
    if o.interactive and intel:
        raise Usage("--interactive: the intel lanes have no interactive input; take an amd lane")
    if o.interactive and not os.isatty(0):
        raise Usage("--interactive: standard input is not a terminal")
    if o.kernel == "attributes":
        o.kernel = os.path.join(run_tool(HOST_KERNEL, "--print").decode().strip(), "bzImage")
        if not os.path.isfile(o.kernel):
            raise Usage("--kernel attributes: not built yet; tools/host-kernel builds it")
    if o.kernel != "stock" and not os.path.isfile(o.kernel):
        raise Usage(f"--kernel {o.kernel}: no such file")
    if o.kernel != "stock" and not os.access(o.kernel, os.R_OK):
        raise Usage(f"--kernel {o.kernel}: not readable")
    o.add = [(Path(source), path or os.path.basename(source.rstrip("/")))
             for source, _, path in (a.partition(":") for a in o.add)]
    for source, path in o.add:
        if not source.exists():
            raise Usage(f"--add {source}: no such file or directory")
        if not os.access(source, os.R_OK):
            raise Usage(f"--add {source}: not readable")
    o.disk = [Path(d).absolute() for d in o.disk]
    if o.disk and not o.lane.startswith("amd"):
        raise Usage(f"--disk: the {o.lane} lane has no disks; take an amd lane")
    if len(o.disk) > MOST_DISKS:
        raise Usage(f"--disk: {MOST_DISKS} at most")
    for disk in o.disk:
        check_disk(disk)
    o.get = [(path, Path(o.out, to or posixpath.basename(path.rstrip("/"))))
             for path, _, to in (g.partition(":") for g in o.get)]
    for path in [p for _, p in o.add] + [p for p, _ in o.get]:
        if o.lane == "native" and (path.startswith("/") or ".." in path.split("/")):
            raise Usage(f"{path}: the native lane takes only paths below its own directory")
        if "\n" in path:
            raise Usage("a path must not contain a newline")


def check_disk(disk):
    try:
        with open(disk, "rb") as f:
            size = f.seek(0, os.SEEK_END)
    except OSError as e:
        raise Usage(f"--disk {disk}: {e.strerror}") from None
    if not size or size % SECTOR_BYTES:
        raise Usage(f"--disk {disk}: {size} bytes, and a disk has whole sectors of {SECTOR_BYTES}: "
                    f"truncate -s %{SECTOR_BYTES} makes a file's copy one")


def main(argv):
    o = parse_options(argv)
    if o.list:
        for lane in LANES:
            print(f"{lane:11} {': '.join(lane_problem(lane) or ['yes'])}")
        return 0
    if o.print_kernel or o.print_modules:
        kernel = stock_kernel(lambda message: say(o, message), o.refresh)
        print(kernel / "vmlinuz" if o.print_kernel else stock_modules(kernel))
        return 0
    check_options(o)
    with tempfile.TemporaryDirectory(prefix="kvm-host.") as work:
        return (run_native if o.lane == "native" else run_emulated)(o, Path(work))


def on_signal(number, _frame):
    for n in ENDING_SIGNALS:  # one is enough, and cleaning up takes a moment
        signal.signal(n, signal.SIG_IGN)
    raise Interrupted(number)


if __name__ == "__main__":
    for ending in ENDING_SIGNALS:
        signal.signal(ending, on_signal)
    try:
        sys.exit(main(sys.argv[1:]))
    except Interrupted as e:
        sys.exit(128 + e.args[0])
    except BrokenPipeError:
        sys.exit(128 + signal.SIGPIPE)
    except (Usage, HostFailure, OSError) as e:
        print(f"kvm-host: {in_words(e)}", file=sys.stderr)
        sys.exit(2 if isinstance(e, Usage) else HOST_FAILED)
