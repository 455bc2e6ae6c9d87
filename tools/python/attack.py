# SPDX-License-Identifier: Apache-2.0
"""Attacks locked guests, and tells which attempt was stopped, how, and on
which host. Each attack is first made without a lock, and has to succeed there.

Writes matrix.json, matrix.html (one page, no other file needed) and the logs
of every guest."""

import base64
import binascii
import fnmatch
import io
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

from command_line import Options, Usage, built

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tools"
HERE = ROOT / "tests/attacks"
sys.path.insert(0, str(HERE))
import judge  # noqa: E402
import page  # noqa: E402
import suite as table  # noqa: E402
from judge import ENDED, HUNG, LOST, Vm  # noqa: E402
from suite import DIE_ON_WRITE, LINUX, MAPPING, OFF, POLICIES, PROTECTIONS, READ_ONLY, host_of  # noqa: E402

LANES = ["native", *table.LANES]
DEFAULT_LANES = ["amd-npt", "amd-shadow"]
QUICK_LANES = ["amd-npt", "amd-shadow", "intel-noad"]
ATTACK_CONFIG = ROOT / "guest-kernel-patches/linux-6.12/attack.config"
LINUX_MEMORY = "128M"
# Forms of a payload in one guest: few enough that the monitor writes every violation one by one.
CHUNK = 24
# Seconds after which a guest that does not end counts as hung; a loaded machine may take ten times as long.
PATIENCE = {"amd": {"payload": 300, LINUX: 300}, "intel": {"payload": 1500, LINUX: 1500}}
BOOTS = 3  # of a host that ends before its work is done

EPILOG = """\
How much is run: under read_only everything, many store forms in one guest;
under die_on_write everything on amd-npt and native, a sample elsewhere, each in
a guest of its own. --quick runs less, --full all everywhere, each alone.
--protect attributes boots the host kernel that tools/host-kernel builds.

Exit status: 0 when every verdict is as tests/attacks/expectations.toml says;
1 otherwise, with a list; 2 for a bad option or file.

examples:
  tools/attack --lane amd-npt --only 1,10.movnti_8
  tools/attack --lane amd-npt --lane intel-noad --policy read_only
  tools/attack --protect attributes --protect mapping --protect slots --quick
"""


class Failure(Exception):
    """Something that the suite needs could not be made: one line, status 1."""


def parse_options(argv):
    p = Options(prog="tools/attack", description=__doc__, epilog=EPILOG)
    p.add_argument("--lane", action="append", choices=LANES, metavar="LANE", default=[],
                   help=f"of tools/kvm-host; repeat it for more (default {' '.join(DEFAULT_LANES)}; "
                        f"with --quick {' '.join(QUICK_LANES)})")
    p.add_argument("--protect", action="append", choices=PROTECTIONS, metavar="HOW", default=[],
                   help=f"how locks are held: {' '.join(PROTECTIONS)}; repeat it for more "
                        f"(default {MAPPING}, the best that a stock host has)")
    p.add_argument("--policy", choices=[*POLICIES, "both"], default="both")
    p.add_argument("--only", metavar="NUMBER[.NAME],...",
                   help="only these attacks; a name may have * in it; with --quick a number is a sample")
    p.add_argument("--quick", action="store_true", help="minutes: what continuous integration runs")
    p.add_argument("--full", action="store_true", help="hours in the intel lanes: everything everywhere")
    p.add_argument("--out", type=Path, default=ROOT / "build/attack", metavar="DIR", help="default build/attack")
    p.add_argument("--build", type=Path, default=ROOT / "build", metavar="DIR", help="default build")
    p.add_argument("--replay", type=Path, metavar="DIR", help="judge the logs of an earlier --out; run nothing")
    p.add_argument("--jobs", type=int, default=min(2, os.cpu_count()), metavar="N", help="lanes at a time")
    p.add_argument("--tap", action="store_true", help='print "ok NAME" or "not ok NAME - why" for each attack')
    p.add_argument("--list", action="store_true", help="list the attacks and what is expected of each")
    o = p.parse_args(argv)
    if o.quick and o.full:
        raise Usage("--quick and --full: choose one")
    if o.jobs < 1:
        raise Usage("--jobs: at least 1")
    o.lanes = list(dict.fromkeys(o.lane)) or (QUICK_LANES if o.quick else DEFAULT_LANES)
    o.protections = list(dict.fromkeys(o.protect)) or [MAPPING]
    o.policies = list(POLICIES) if o.policy == "both" else [o.policy]
    o.command = "tools/attack " + " ".join(argv)
    return o


# --- what to run -------------------------------------------------------------


class Only:
    """--only, checked against the table."""

    def __init__(self, words, suite):
        self.wanted = []
        for word in words.split(",") if words else []:
            number, _, name = word.strip().partition(".")
            if not number.isdigit():
                raise Usage(f"--only {word}: not NUMBER or NUMBER.NAME")
            attack = next((a for a in suite.attacks if a.number == int(number)), None)
            if attack is None or attack.later:
                raise Usage(f"--only {word}: " + ("not made yet" if attack else "no such attack") + "; see --list")
            self.wanted.append((int(number), name))
            if not any(c.has(name) or set(name) & set("*?[") for c in attack.cases if name):
                if name:
                    raise Usage(f"--only {word}: attack {number} has no variant {name!r}; see --list")

    def names(self, case):
        """Those of its names that are asked for one by one."""
        return [name for number, name in self.wanted
                if number == case.number and name and case.has(name) and not set(name) & set("*?[")]

    def whole(self, number):
        return not self.wanted or (number, "") in self.wanted

    def number(self, number):
        return not self.wanted or any(at == number for at, _ in self.wanted)

    def has(self, number, name):
        return not self.wanted or any(at == number and fnmatch.fnmatchcase(name, pattern or "*")
                                      for at, pattern in self.wanted)

    def names_it(self, number, name):
        return any(at == number and pattern and fnmatch.fnmatchcase(name, pattern) for at, pattern in self.wanted)


@dataclass(frozen=True)
class At:
    """What expectations are told for."""
    lane: str
    protect: str
    policy: str


class Plan:
    """Which VMs a host needs, given those that have run."""

    def __init__(self, o, suite, only, lane, protect=MAPPING):
        self.o, self.suite, self.only, self.lane, self.protect = o, suite, only, lane, protect
        self.host = host_of(lane, protect)
        self.cases = [c for c in suite.cases if only.number(c.number)]
        self.payloads = list(dict.fromkeys(c.source for c in self.cases if c.source != LINUX))
        self.count, self.tries, self.order = 0, Counter(), defaultdict(list)

    # --- one VM ---

    def launch(self, case):
        """Needs, CPUs and memory: a payload's attacks share a list, and so all that any of them needs."""
        cases = [case] if case.source == LINUX else self.suite.of(case.source)
        needs = dict.fromkeys(need for c in cases for need in c.needs)
        memory = LINUX_MEMORY if case.source == LINUX else max((c.memory for c in cases), key=mib)
        return ",".join(needs) or "-", max(c.cpus for c in cases), memory

    def vm(self, policy, case, names=(), start=0):
        self.count += 1
        label = ".".join(map(str, names[0])) if len(names) == 1 else case.source
        vm = Vm(id=f"{self.count:04}-{policy}-{re.sub(r'[^A-Za-z0-9._]+', '-', label)}", lane=self.lane,
                protect=self.protect, policy=policy, source=case.source, names=tuple(names), launch=self.launch(case))
        vm.memory_bytes = mib(vm.launch[2]) << 20
        words = self.linux(vm) if case.source == LINUX else self.payload(vm, start)
        rounds = [f"rounds={case.rounds // 3 if self.o.quick else case.rounds}"] if case.rounds else []
        vm.command = " ".join([words, *case.source.split()[1:], *rounds, *case.words_for(policy).split()])
        for key in names:
            self.tries[policy, case.source, key] += 1
        return vm

    def linux(self, vm):
        arguments = [self.suite.find(LINUX, *key).argument.get(vm.policy, "") for key in vm.names]
        names = ",".join(name + argument for (_, name), argument in zip(vm.names, arguments))
        case = self.suite.find(LINUX, *vm.names[0])
        locks = vm.policy if case.kernel_locks else OFF
        roots = OFF if locks == OFF else case.roots
        roots = f" casemate.roots={roots}" if roots else ""
        return f"console=ttyS0 quiet casemate.test=attacks casemate.locks={locks}{roots} casemate.attacks={names}"

    def payload(self, vm, start):
        words = f"policy={'none' if vm.policy == OFF else vm.policy}"
        if len(vm.names) == 1:
            return f"{words} only={vm.names[0][1]}"
        if vm.names and self.order[vm.source]:
            return f"{words} from={self.order[vm.source].index(vm.names[0])} count={len(vm.names)}"
        return f"{words} from={start}" if start else words

    # --- which ---

    def at(self, policy):
        return At(self.lane, self.protect, policy)

    def alone(self, policy, case):
        if case.alone or (policy == DIE_ON_WRITE and case.ends_vm(self.at(policy))) or (policy == READ_ONLY and self.o.full):
            return True
        return policy == READ_ONLY and case.source == LINUX and self.cheap() and not self.o.quick

    def cheap(self):
        return self.lane in ("native", "amd-npt")

    def chosen(self, policy, case, key):
        """Whether this one is run, where a VM costs too much for all."""
        if policy not in case.policies:
            return False
        if self.o.full or self.only.names_it(*key) or (not self.o.quick and (self.only.wanted or self.cheap())):
            return True
        if policy == READ_ONLY:
            return not (self.o.quick and self.lane.startswith("intel") and case.source != LINUX) or \
                key[1] in case.sample
        return key[1] in case.quick or (not self.o.quick and (key[1] in case.sample or not case.ends_vm(self.at(policy))))

    def names(self, source):
        """All that are known and asked for, in the payload's order."""
        exact = [(c.number, name) for c in self.cases if c.source == source
                 for name in [*c.exact_names(), *self.only.names(c)]]
        return [key for key in dict.fromkeys([*self.order[source], *exact])
                if self.only.has(*key) and (case := self.suite.find(source, *key)) and self.fits(case)]

    def fits(self, case):
        """Whether the lane's host has what the guest would check its roots with."""
        return case.roots != "arena" or table.TABLE_MODES.get(self.host) != table.UNENFORCED

    def discover(self, vms):
        """A payload tells its attacks by making them; one that ends early goes on behind where it ended."""
        for source in self.payloads:
            cases = [c for c in self.cases if c.source == source]
            if all(c.exact_names() == list(c.names) or self.only.names(c) for c in cases) and not cases[0].sequence:
                continue
            policy = READ_ONLY if cases[0].sequence else OFF
            told = [judge.read_console(vm.console) for vm in vms if vm.source == source and not vm.names]
            self.order[source] = list(dict.fromkeys(key for console in told for key in console.tried))
            if policy != OFF and policy not in self.o.policies:
                continue
            if not told or (told[-1].tried and not told[-1].done and len(told) < 20 and policy == OFF):
                yield self.vm(policy, cases[0], start=len(self.order[source]))

    def next(self, vms):
        """The VMs to run after these; none at the end."""
        wanted = list(self.discover(vms))
        proofs = judge.read_proofs(vms)
        have = {r.key for r in judge.judge(self.suite, vms).results if r.ending and not r.not_reached}
        for source in [LINUX, *self.payloads]:
            if any(vm.source == source for vm in wanted) or any(c.sequence for c in self.suite.of(source)):
                continue
            for policy in [OFF, *self.o.policies]:
                missing = []
                for key in self.names(source):
                    case = self.suite.find(source, *key)
                    done = (self.host, source, *key) in proofs or not case.proof if policy == OFF else \
                        (self.host, policy, source, *key) in have or not self.chosen(policy, case, key)
                    if not done:
                        missing.append((case, key))
                wanted += self.group(policy, source, missing)
        return wanted

    def group(self, policy, source, missing):
        together = []
        for case, key in missing:
            tries = self.tries[policy, source, key]
            if not self.alone(policy, case) and tries < 2:
                together.append((case, key))
            elif tries < 3:
                yield self.vm(policy, case, names=[key])
                self.tries[policy, source, key] = 3
        if source == LINUX:
            groups = defaultdict(list)
            for case, key in together:
                groups[self.launch(case), case.words_for(policy), case.kernel_locks,
                       case.roots if policy != OFF else ""].append((case, key))
            groups = groups.values()
        elif not self.order[source]:  # no list to count in: all of it, or one by one
            whole = all(self.only.whole(c.number) for c in self.suite.of(source)) and \
                all(self.tries[policy, source, key] == 0 for _, key in missing)
            groups = [together] if whole else [[item] for item in together]
        else:
            groups = []
            for item in together:
                at = self.order[source].index(item[1]) if item[1] in self.order[source] else -1
                if groups and at > 0 and len(groups[-1]) < CHUNK and groups[-1][-1][1] == self.order[source][at - 1]:
                    groups[-1].append(item)
                else:
                    groups.append([item])
        for group in groups:
            if group:
                yield self.vm(policy, group[0][0], names=[key for _, key in group])


def mib(size):
    return int(size[:-1]) << {"M": 0, "G": 10}[size[-1]]


# --- running it in a lane ----------------------------------------------------


def output(*command):
    try:
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    except subprocess.CalledProcessError as e:
        raise Failure(f"{os.path.basename(command[0])} failed with status {e.returncode}") from None


class Inputs:
    """What goes into a lane, made once: name there -> file here."""

    def __init__(self, o, suite, only):
        sources = {c.source for c in suite.cases if only.number(c.number)}
        self.files = {"casemate": built(o.build, "vmm/casemate"), "attack-host": HERE / "host"}
        self.files |= {file_of(s): built(o.build, f"tests/payloads/{file_of(s)}") for s in sources if s != LINUX}
        if LINUX in sources:
            ring3 = built(o.build, "tests/attacks/ring3")
            kernel = Path(output(TOOLS / "guest-kernel", "--config-fragment", ATTACK_CONFIG))
            initramfs = output(TOOLS / "guest-initramfs", "--add", f"{HERE}/guest/attacks:/tests/attacks",
                               "--add", f"{ring3}:/tests/ring3")
            self.files |= {LINUX: kernel / "vmlinux", f"{LINUX}.map": kernel / "System.map", "initrd": initramfs}
        if "attributes" in map(table.met_first, o.protections) and set(o.lanes) - {"native"}:
            output(TOOLS / "host-kernel")
        # Hosts start again and again, and a build meanwhile must not change what they run.
        kept = o.out / "inputs"
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir()
        for name, file in self.files.items():
            self.files[name] = shutil.copy2(file, kept / name)


def file_of(source):
    return source.split()[0]


class Progress:
    """Which lane, which attack, how many of how many; a line that changes on a terminal."""

    def __init__(self):
        self.lock, self.started, self.terminal = threading.Lock(), time.monotonic(), sys.stderr.isatty()
        self.lanes, self.shown = {}, 0

    def plan(self, lane, count):
        with self.lock:
            self.lanes[lane] = [time.monotonic(), 0, count]

    def line(self, text):
        """A line that stays."""
        with self.lock:
            print(("\r\033[K" if self.terminal else "") + f"[{time.monotonic() - self.started:5.0f} s] {text}",
                  file=sys.stderr, flush=True)

    def step(self, lane, text, done=1):
        with self.lock:
            begin, before, total = self.lanes[lane]
            self.lanes[lane][1] = done = before + done
            now = time.monotonic()
            left = f", {(now - begin) / done * (total - done):.0f} s to go" if done and total > done else ""
            words = f"[{now - self.started:5.0f} s] {lane} {done}/{total}{left}: {text}"
            if self.terminal:
                columns = shutil.get_terminal_size().columns
                print("\r\033[K" + words[:columns - 1], end="", file=sys.stderr, flush=True)
            elif done == total or now - self.shown > 5:
                self.shown = now
                print(words, file=sys.stderr, flush=True)


@dataclass
class Running:
    """Children to end with us."""
    processes: list

    def stop(self, *_):
        for process in self.processes:
            process.terminate()
        raise KeyboardInterrupt


RUNNING = Running([])


class Lane:
    """A lane with one way to hold locks."""

    def __init__(self, o, suite, only, lane, protect, inputs, progress):
        self.o, self.suite, self.lane, self.inputs, self.progress = o, suite, lane, inputs, progress
        self.protect, self.host = protect, host_of(lane, protect)
        self.plan = Plan(o, suite, only, lane, protect)
        self.vms, self.problems = [], []
        self.vendor = "intel" if lane.startswith("intel") else "amd"

    def run(self):
        while wanted := self.plan.next(self.vms):
            self.progress.plan(self.host, len(wanted))
            self.progress.line(f"{self.host}: {len(wanted)} guests to run")
            if not self.run_all(wanted):
                return

    def run_all(self, wanted):
        """In as many boots of the host as its crashes need; false if it does not work at all."""
        left, suspects = list(wanted), Counter()
        for _ in range(BOOTS + len(wanted)):
            before, under_way, status = len(left), None, 0
            for vm, over in self.boot(left):
                if not over:
                    under_way = vm
                    self.progress.step(self.host, f"{vm.policy} {what(vm)} ...", 0)
                    continue
                under_way = None
                left.remove(vm)
                self.keep(vm)
            if not left:
                return True
            self.progress.line(f"{self.host}: the host ended early, with {len(left)} VMs to go")
            suspect = under_way or left[0]
            suspects[suspect.id] += 1
            if suspects[suspect.id] >= 2 and under_way:
                suspect.ended = LOST
                left.remove(suspect)
                self.keep(suspect)
            elif len(left) == before and suspects[suspect.id] >= BOOTS:
                self.problems.append(f"{self.host}: the host does not start; "
                                     f"tools/kvm-host {' '.join(self.host_options())} -- true may tell why")
                return False
            else:  # next time after the others
                left.remove(suspect)
                left.append(suspect)
        return not left

    def host_options(self):
        own = table.met_first(self.protect) == "attributes" and self.lane != "native"
        return ["--lane", self.lane, *(["--kernel", "attributes"] if own else [])]

    def boot(self, wanted):
        """Runs VMs; yields each as it begins (False) and when it is over (True)."""
        byid = {vm.id: vm for vm in wanted}
        jobs = self.o.out / f"jobs-{self.host}"
        jobs.write_text("".join(self.job(vm) for vm in wanted))
        command = [TOOLS / "kvm-host", *self.host_options(), "--quiet", "--timeout", "0", "--add", f"{jobs}:jobs"]
        for name, file in self.inputs.files.items():
            command += ["--add", f"{file}:{name}"]
        process = subprocess.Popen([*command, "--", "./attack-host"], stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, text=True, errors="replace")
        RUNNING.processes.append(process)
        guard = threading.Timer(0, lambda: None)
        try:
            for line in process.stdout:
                guard.cancel()
                words = line.split()
                vm = byid.get(words[1]) if len(words) > 1 else None
                if vm and words[0] == "@begin":
                    # The lane kills a guest that hangs; if it does not, it hangs itself.
                    guard = threading.Timer(self.patience(vm) * 2 + 60, process.terminate)
                    guard.daemon = True
                    guard.start()
                    yield vm, False
                elif vm and words[0] == "@end" and len(words) == 6 and finish(vm, *words[2:]):
                    yield vm, True
        finally:
            guard.cancel()
            process.terminate()
            process.wait()
            RUNNING.processes.remove(process)

    def patience(self, vm):
        return PATIENCE[self.vendor][LINUX if vm.source == LINUX else "payload"]

    def job(self, vm):
        needs, cpus, memory = vm.launch
        initrd = "initrd" if vm.source == LINUX else "-"
        return f"{vm.id} {self.patience(vm)} {vm.protect} {needs} {cpus} {memory} {file_of(vm.source)} {initrd} " \
               f"{vm.command}\n"

    def keep(self, vm):
        if vm.status in (2, 126, 127):
            wrong = "does not take what it is told" if vm.status == 2 else "does not start"
            raise Failure(f"casemate {wrong}: {judge.hint(b'', judge.text_of(vm.messages))}")
        self.vms.append(vm)
        save(vm, self.o.out / "logs")
        self.progress.step(self.host, f"{vm.policy} {what(vm)}: {vm.ending()}")


def what(vm):
    return f"{vm.names[0][0]}.{vm.names[0][1]}" if len(vm.names) == 1 else vm.source


def finish(vm, status, seconds, cut, data):
    """Takes what the lane sent; false if it is not whole."""
    try:
        with tarfile.open(fileobj=io.BytesIO(base64.b64decode(data, validate=True)), mode="r:gz") as archive:
            files = {m.name: archive.extractfile(m).read() for m in archive if m.isreg()}
        vm.console, vm.messages, vm.events = files["console"], files["messages"], files["events"]
        vm.seconds, vm.cut = float(seconds), cut == "yes"
        vm.ended, vm.status = (HUNG, -1) if status == HUNG else (ENDED, int(status))
    except (binascii.Error, tarfile.TarError, OSError, EOFError, KeyError, ValueError):
        return False
    return True


STREAMS = ("console", "messages", "events")


def save(vm, logs):
    directory = logs / vm.host / vm.id
    directory.mkdir(parents=True, exist_ok=True)
    for stream in STREAMS:
        (directory / stream).write_bytes(getattr(vm, stream))
    facts = {k: v for k, v in asdict(vm).items() if k not in STREAMS}
    (directory / "vm.json").write_text(json.dumps(facts, indent=1) + "\n")


def load(directory):
    """The VMs of an earlier run."""
    vms = []
    for file in sorted(directory.glob("logs/*/*/vm.json")):
        try:
            facts = json.loads(file.read_text())
            facts["names"] = tuple((int(number), str(name)) for number, name in facts["names"])
            vms.append(Vm(**facts, **{s: (file.parent / s).read_bytes() for s in STREAMS}))
        except (OSError, ValueError, TypeError, KeyError) as e:
            raise Usage(f"--replay: {file}: {e}") from None
    if not vms:
        raise Usage(f"--replay {directory}: no logs/HOST/VM/vm.json there")
    return vms


def run_lanes(o, suite, only):
    inputs, progress = Inputs(o, suite, only), Progress()
    lanes = [Lane(o, suite, only, lane, protect, inputs, progress) for protect in o.protections for lane in o.lanes]
    waiting, errors = queue.Queue(), []
    for lane in lanes:
        waiting.put(lane)

    def work():
        while not waiting.empty() and not errors:
            try:
                waiting.get_nowait().run()
            except queue.Empty:
                return
            except Exception as e:  # pylint: disable=broad-except # told by the main thread
                errors.append(e)

    workers = [threading.Thread(target=work, daemon=True) for _ in range(min(o.jobs, len(lanes)))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if errors:
        raise errors[0]
    if progress.terminal:
        print("\r\033[K", end="", file=sys.stderr)
    return [vm for lane in lanes for vm in lane.vms], [p for lane in lanes for p in lane.problems]


# --- telling -------------------------------------------------------------------


def cell(results, known):
    if not results:
        return "-"
    counts = Counter(r.verdict for r in results)
    text = ", ".join(f"{verdict} {counts[verdict]}" for verdict in table.VERDICTS if counts[verdict])
    if known > len(results):
        text += f" of {known}"
    return text + (" !" if any(not r.as_expected for r in results) else "")


def print_matrix(suite, matrix):
    shown = page.Page(suite, matrix, {})
    width = shutil.get_terminal_size((100, 24)).columns
    rows = {a.number: (f"{a.number:2} {a.title}",
                       [cell(shown.cells.get((a.number, *c), []), shown.known(a.number, c[0]))
                        for c in shown.columns]) for a in shown.attacks()}
    widths = [max([len(host), len(policy), *(len(cells[i]) for _, cells in rows.values())])
              for i, (host, policy) in enumerate(shown.columns)]
    title = max(24, min(max([len(t) for t, _ in rows.values()], default=0), width - sum(widths) - 2 * len(widths)))
    for head in (0, 1):
        print(("" if head else "attack").ljust(title) +
              "".join(f"  {column[head]:{w}}" for column, w in zip(shown.columns, widths)).rstrip())
    for name, cells in rows.values():
        name = name if len(name) <= title else name[:title - 3] + "..."
        print(f"{name:{title}}" + "".join(f"  {c:{w}}" for c, w in zip(cells, widths)).rstrip())


def print_end(matrix, out):
    counts = matrix.counts()
    print("\n" + ", ".join(f"{counts[v]} {v}" for v in table.VERDICTS if counts[v]) + f"; {matrix.vms} VMs")
    for result in matrix.surprises()[:60]:
        print(f"unexpected: {result.host} {result.policy} {result.number}.{result.name}: {result.verdict} instead of "
              f"{result.expected}: {result.why}")
    if len(matrix.surprises()) > 60:
        print(f"... and {len(matrix.surprises()) - 60} more")
    for problem in matrix.problems[:20]:
        print(f"problem: {problem}")
    if len(matrix.problems) > 20:
        print(f"... and {len(matrix.problems) - 20} more problems")
    print(f"{out}/matrix.html has the evidence")


def print_tap(matrix):
    """A test for each attack, host and policy."""
    tests = defaultdict(list)
    for result in matrix.results:
        tests[f"{result.host}.{result.policy}.{result.number}"].append(result)
    for name, results in tests.items():
        bad = [r for r in results if not r.as_expected]
        if bad:
            more = f" (and {len(bad) - 1} more of {len(results)})" if len(bad) > 1 else ""
            print(f"not ok {name} - {bad[0].name}: {bad[0].verdict} instead of {bad[0].expected}: {bad[0].why}{more}")
        elif all(r.verdict == table.SKIPPED for r in results):
            print(f"ok {name} # SKIP {results[0].why}")
        else:
            print(f"ok {name}")
    for at, problem in enumerate(matrix.problems):
        print(f"not ok problem.{at + 1} - {problem}")


def list_attacks(suite):
    for attack in suite.attacks:
        print(f"{attack.number:2} by {attack.by}: {attack.title}: " + ("not yet" if attack.later else attack.expected))
        for case in attack.cases:
            expected = case.expect if isinstance(case.expect, str) else json.dumps(case.expect) if case.expect else table.STOPPED
            print(f"     {case.source}: {', '.join(case.names)}: {expected}")


def write(o, suite, matrix):
    tier = "quick" if o.quick else "full" if o.full else ""
    meta = {"made on": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), "set": tier, "command": o.command}
    attacks = [{"number": a.number, "by": a.by, "title": a.title, "expected": a.expected, "later": a.later}
               for a in suite.attacks]
    o.out.mkdir(parents=True, exist_ok=True)
    (o.out / "matrix.json").write_text(json.dumps({"version": 1, **meta, "attacks": attacks} | matrix.to_json(),
                                                  indent=1, default=str) + "\n")
    (o.out / "matrix.html").write_text(page.Page(suite, matrix, meta).html(), encoding="utf-8", errors="replace")


def main(argv):
    o = parse_options(argv)
    suite = table.load()
    if o.list:
        list_attacks(suite)
        return 0
    only = Only(o.only, suite)
    problems = []
    if o.replay:
        vms = [vm for vm in load(o.replay)
               if (not o.lane or vm.lane in o.lane) and (not o.protect or vm.protect in o.protect)]
    else:
        o.out.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(o.out / "logs", ignore_errors=True)
        signal.signal(signal.SIGTERM, RUNNING.stop)
        vms, problems = run_lanes(o, suite, only)
    matrix = judge.judge(suite, vms)
    matrix.results = [r for r in matrix.results if only.has(r.number, r.name) and r.policy in o.policies]
    matrix.problems += problems
    write(o, suite, matrix)
    if o.tap:
        print_tap(matrix)
    else:
        print_matrix(suite, matrix)
        print_end(matrix, o.out)
    return 0 if matrix.good() else 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        RUNNING.processes and [process.terminate() for process in RUNNING.processes]
        sys.exit(130)
    except (Usage, table.BadTable) as e:
        print(f"attack: {e}", file=sys.stderr)
        sys.exit(2)
    except (Failure, OSError) as e:
        print(f"attack: {e}", file=sys.stderr)
        sys.exit(1)
