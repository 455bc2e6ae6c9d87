# SPDX-License-Identifier: Apache-2.0
"""Builds Casemate and runs all of its tests: on this machine what needs no
virtual machine, and the system tests in the emulated hosts of tools/kvm-host.
Ends with "N passed, N failed", and ", N skipped" if there were any."""

import argparse
import contextlib
import hashlib
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import cache as caches
from failures import find_program

ROOT = Path(__file__).resolve().parents[2]
LANES = ["intel-noad", "intel-ept", "amd-npt", "amd-shadow"]  # the slowest first: they fill two CPUs best
# What depends on how locks are held: stores from everywhere, the CPU's own and KVM's, devices, races, tables, roots;
# on how the guest's memory is paged; and on both.
BY_PROTECTION = ["--policy", "read_only", "--only", "1,4,8,10,11,12,14,15,20,32,33"]
BY_PAGING = ["--policy", "read_only", "--only", "1,4,8,10,11,15,20,21,22,23,24,25,32,35,36,41"]
BY_BOTH = ["--policy", "read_only", "--only", "4,8,10,20,35,36.idt_entry"]
# Of two layers the first stops what it alone would.
LAYERED = ["--policy", "read_only", "--only", "4,8,10.mov_*,20"]
# All attacks once, then what is different elsewhere; Bochs is too slow for a guest an attack.
ATTACKS = {
    "intel-noad": BY_BOTH, "intel-ept.attributes": BY_BOTH,
    "amd-npt": [], "amd-shadow": BY_PAGING,
    "amd-npt.attributes": BY_PROTECTION, "amd-shadow.attributes,mapping": LAYERED,
    "amd-npt.slots": BY_PROTECTION, "amd-shadow.mapping,slots": LAYERED,
}
MUTATIONS = ROOT / "tools/host-kernel-patches/linux-6.12/mutations/0001-KVM-Leave-out-a-check-on-demand.patch"
ATTACK_CONFIG = ROOT / "guest-kernel-patches/linux-6.12/attack.config"
SUITES = ["bookworm", "trixie"]
QUICK = ["build", "unit", "format", "shellcheck", "headers", "usage"]
WARNINGS = ["-std=c++23", "-Wall", "-Wextra", "-Wconversion", "-Wno-missing-field-initializers", "-Werror",
            "-D_GNU_SOURCE"]
# Options of g++ in build/ that clang-tidy stumbles over.
GCC_ONLY = ["-fno-tree-loop-distribute-patterns"]
SANITIZER_OPTIONS = {
    "ASAN_OPTIONS": "abort_on_error=0:detect_stack_use_after_return=1:strict_string_checks=1",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    "TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1",
}

EPILOG = """\
kinds: {kinds}
lanes: {lanes}

Logs are in build/test-logs. What was clean before is not looked at again: the
verdicts of clang-tidy and of the header check are kept by content in
CASEMATE_CACHE (or ~/.cache/casemate), where ccache, the guest kernels and the
emulated host's kernels are kept too.

example:
  tools/test --only unit --only amd-npt
"""


@dataclass
class Job:
    """One command. Its results are its "ok NAME" and "not ok NAME - why" lines,
    or its exit status. A job with a key is not run again once it was clean."""
    kind: str
    name: str
    command: list
    tap: bool = False
    key: str = ""
    timeout: float = 600
    environment: dict = field(default_factory=dict)


class Report:
    """What passed, failed and was skipped, told as it happens."""

    def __init__(self, logs):
        self.logs, self.lock, self.started = logs, threading.Lock(), time.monotonic()
        self.passed, self.failed, self.skipped, self.times = 0, [], [], {}

    def say(self, text):
        print(f"[{time.monotonic() - self.started:5.0f} s] {text}", flush=True)

    def took(self, kind, begin):
        with self.lock:
            first, _, busy = self.times.get(kind, (begin, 0, 0))
            now = time.monotonic()
            self.times[kind] = (min(first, begin), now, busy + now - begin)

    def ok(self, name, shown=False):
        with self.lock:
            self.passed += 1
            if shown:
                self.say(f"ok {name}")

    def fail(self, name, why, log=None):
        with self.lock:
            self.failed.append((name, why, log))
            self.say(f"not ok {name} - {why}")

    def skip(self, name, why):
        with self.lock:
            self.skipped.append((name, why))
            self.say(f"skipped {name}: {why}")

    def end(self):
        print("\ntime of each stage (from its first job to its last; CPU slots times seconds):")
        for kind, (first, last, busy) in self.times.items():
            print(f"  {kind:18} {last - first:6.0f} s {busy:6.0f} s")
        for name, why in self.skipped:
            print(f"skipped: {name}: {why}")
        for name, why, log in self.failed:
            print(f"failed: {name}: {why}" + (f"; log: {log}" if log else ""))
            for line in excerpt(log, name.split(": ", 1)[1]) if log else []:
                print(f"  | {line[:200]}")
        print(f"all of it took {time.monotonic() - self.started:.0f} s")
        counts = f"{self.passed} passed, {len(self.failed)} failed"
        print(counts + (f", {len(self.skipped)} skipped" if self.skipped else ""), flush=True)
        return 1 if self.failed or not self.passed else 0


def is_telling(line):
    return line.startswith("not ok") or "error:" in line.lower()


def excerpt(log, name, most=12):
    """The log's lines from the failure of this name on, else from the first
    that tells of one, else its last."""
    if not log.exists():  # somebody removed build/ meanwhile
        return []
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    starts = [n for n, line in enumerate(lines) if line.split(" - ")[0] == f"not ok {name}"]
    starts += [n for n, line in enumerate(lines) if is_telling(line)]
    return lines[starts[0]:][:most] if starts else lines[-most:]


# --- finding and hashing sources -------------------------------------------


def tracked(*suffixes):
    """The project's files, new ones too."""
    listed = subprocess.run(["git", "-c", f"safe.directory={ROOT}", "-C", ROOT, "ls-files", "-co", "--exclude-standard"],
                            check=True, capture_output=True, text=True).stdout.splitlines()
    return [ROOT / f for f in sorted(listed) if f.endswith(suffixes) and (ROOT / f).is_file()]


def sources(*suffixes):
    return [f for f in tracked(*suffixes) if f.relative_to(ROOT).parts[0] in ("vmm", "tests", "firmware")]


def shell_scripts():
    for file in tracked(""):
        with open(file, "rb") as f:
            if re.match(rb"#! ?(/usr)?/bin/(env )?(ba)?sh\b", f.readline()):
                yield file


def digest(*parts):
    hashed = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else str(part).encode()
        hashed.update(b"%d:" % len(data) + data)
    return hashed.hexdigest()


def with_includes(file, directories, seen=None):
    """The file and the project's files it includes, however deep."""
    seen = {} if seen is None else seen
    if file in seen:
        return seen
    seen[file] = None
    for name in re.findall(r'^\s*#\s*include\s+"([^"]+)"', file.read_text(errors="replace"), re.M):
        for directory in [file.parent, *directories]:
            if (found := (directory / name).resolve()).is_file():
                with_includes(found, directories, seen)
                break
    return seen


def source_key(what, file, directories=(ROOT / "vmm", ROOT / "tests", ROOT)):
    files = with_includes(file, directories)
    return digest(what, *(p for f in files for p in (f.relative_to(ROOT), f)))


def version_of(program):
    return subprocess.run([program, "--version"], capture_output=True, text=True).stdout


# --- the kinds -------------------------------------------------------------


class Plan:
    """Makes each kind's jobs. A method is a kind; its needs are the programs
    without which it cannot run."""

    NEEDS = {
        "build": ["meson", "ninja", "g++"], "unit": ["meson"], "sanitize": ["clang++-19"],
        "threads": ["g++"], "headers": ["g++"], "fuzz": ["clang++-19"], "format": ["clang-format-19"],
        "tidy": ["clang-tidy-19"], "shellcheck": ["shellcheck"], "tools": [], "usage": ["busybox"],
        "attacks": ["qemu-system-x86_64", "bochs", "busybox"],
        "host-selftest": ["qemu-system-x86_64", "bochs", "busybox"], "fresh": ["mmdebstrap", "unshare"],
        "systems": ["qemu-system-x86_64", "busybox", "mmdebstrap", "unshare", "mkfs.ext4", "mkfs.xfs", "mkfs.btrfs"],
        **{lane: ["qemu-system-x86_64" if lane[0] == "a" else "bochs", "busybox", "mkfs.ext4"] for lane in LANES},
    }

    def __init__(self, options, report, cache):
        self.o, self.report, self.cache = options, report, cache
        self.build_dir = ROOT / "build"
        self.refused = {}  # lane -> why this machine cannot have it, whatever is installed

    # Builds use all CPUs, so they come before the jobs, one by one.
    def prepare(self, kinds):
        if kinds & {*LANES, "attacks", "host-selftest"}:
            listed = subprocess.run([ROOT / "tools/kvm-host", "--list"], capture_output=True, text=True).stdout
            self.refused = dict(re.findall(r"^(\S+) +no: (.*)", listed, re.M))
        if kinds - {"format", "shellcheck", "host-selftest", "fresh"}:
            self.configure("build", self.build_dir, {}, ["-Dwerror=true"])
        if kinds & {"sanitize", "fuzz"}:
            # Meson puts ccache before the compilers that it finds, not before those that it is given.
            ccache = "ccache " if shutil.which("ccache") else ""
            clang = {"CC": f"{ccache}clang-19", "CXX": f"{ccache}clang++-19"}
            self.configure("sanitize", ROOT / "build/sanitize", clang, ["-Dwerror=true", "-Dfuzz=true"])
        if "threads" in kinds:
            self.configure("threads", ROOT / "build/threads", {}, ["-Db_sanitize=thread"])
        if kinds & {*LANES, "systems", "usage"}:
            self.step("guest-kernel", ["tools/guest-kernel"], 2400)
        if "attacks" in kinds:
            self.step("attack guest-kernel", ["tools/guest-kernel", "--config-fragment", ATTACK_CONFIG], 2400)
        if kinds & {"attacks", "host-selftest"}:
            self.step("host-kernel of ours", ["tools/host-kernel"], 3600)
        if "host-selftest" in kinds:
            self.step("host-kernel that can leave out checks", ["tools/host-kernel", "--extra-patch", MUTATIONS], 3600)
        if kinds & {*LANES, "systems", "attacks"}:
            self.step("host-kernel", ["tools/kvm-host", "--print-kernel"], 900)

    def configure(self, kind, directory, environment, options):
        setup = ["meson", "setup", *options, directory, ROOT]
        if (directory / "build.ninja").exists():
            setup.insert(2, "--reconfigure")
        if self.step(f"{kind}: meson setup", setup, 300, environment):
            self.step(f"{kind}: build", ["ninja", "-k", "0", "-C", directory], 1800)

    def step(self, name, command, timeout, environment=None):
        self.report.say(f"{name} ...")
        return run_job(Job("prepare", name, command, timeout=timeout, environment=environment or {}), self.report)

    def build(self):
        return []

    def meson_tests(self, kind, directory, wrapper=(), arguments=()):
        if not (directory / "build.ninja").exists():
            return
        listed = subprocess.run(["meson", "introspect", "--tests", directory], capture_output=True, text=True)
        for test in json.loads(listed.stdout or "[]"):
            yield Job(kind, test["name"], [*wrapper, *test["cmd"], *arguments], timeout=600,
                      environment=SANITIZER_OPTIONS | test["env"])

    def unit(self):
        return self.meson_tests("unit", self.build_dir)

    def sanitize(self):
        return self.meson_tests("sanitize", ROOT / "build/sanitize")

    def threads(self):
        # g++ 12's ThreadSanitizer wants the address layout of older kernels, and learns nothing from one thread.
        return self.meson_tests("threads", ROOT / "build/threads", ["setarch", "-R"], ["--test-suite-exclude=exhaustive"])

    def headers(self):
        compiler = version_of("g++")
        for header in sources(".hpp", ".h"):
            directories = ["-I", ROOT / "vmm", "-I", ROOT / "tests", "-I", header.parent]
            yield Job("headers", str(header.relative_to(ROOT)),
                      ["g++", *WARNINGS, *directories, "-fsyntax-only", "-include", header, "-xc++", "/dev/null"],
                      key=source_key(compiler + str(WARNINGS), header))

    def fuzz(self):
        directory = ROOT / "build/sanitize/tests/fuzz"
        targets = [f for f in sorted(directory.glob("fuzz*")) if f.is_file() and os.access(f, os.X_OK)]
        for target in targets:
            corpus = ROOT / "build/test-logs/corpus" / target.name
            corpus.mkdir(parents=True, exist_ok=True)
            yield Job("fuzz", target.name,
                      [target, f"-max_total_time={self.o.fuzz_seconds}", "-timeout=20", "-rss_limit_mb=1024",
                       f"-artifact_prefix={corpus.parent}/{target.name}-", "-print_final_stats=1", corpus],
                      timeout=self.o.fuzz_seconds + 120, environment=SANITIZER_OPTIONS)

    def format(self):
        for file in sources(".cpp", ".hpp", ".h"):
            yield Job("format", str(file.relative_to(ROOT)), ["clang-format-19", "--dry-run", "-Werror", file])

    def tidy(self):
        file = self.build_dir / "compile_commands.json"
        if not file.exists():
            return  # meson setup failed, and is told
        database = json.loads(file.read_text())
        tool = version_of("clang-tidy-19") + "".join(f.read_text() for f in [ROOT / ".clang-tidy", ROOT / "tests/.clang-tidy"])
        wanted = set(sources(".cpp"))
        for entry in database:
            for option in GCC_ONLY:
                entry["command"] = entry["command"].replace(option, "")
        commands = self.report.logs / "tidy"
        commands.mkdir(exist_ok=True)
        (commands / "compile_commands.json").write_text(json.dumps(database))
        for entry in database:
            file = Path(entry["directory"], entry["file"]).resolve()
            if file not in wanted:
                continue
            wanted.discard(file)
            flags = entry["command"].replace(str(ROOT), "")
            yield Job("tidy", str(file.relative_to(ROOT)),
                      ["clang-tidy-19", "--quiet", "-p", commands, file], key=source_key(tool + flags, file))

    def shellcheck(self):
        for file in shell_scripts():
            yield Job("shellcheck", str(file.relative_to(ROOT)), ["shellcheck", "-x", file])

    def tools(self):
        for file in sorted((ROOT / "tests/tools").glob("*")):
            if os.access(file, os.X_OK) and file.is_file():
                yield Job("tools", file.name, [file], timeout=1800)

    def usage(self):
        try:
            os.close(os.open("/dev/kvm", os.O_RDWR))
        except OSError as e:
            return self.report.skip("usage", f"/dev/kvm: {e.strerror}; the amd-npt lane runs these too")
        kernel = subprocess.run([ROOT / "tools/guest-kernel", "--print"], capture_output=True, text=True)
        files = [self.build_dir / "vmm/casemate", *(Path(kernel.stdout.strip(), f) for f in ["vmlinux", "bzImage"]),
                 self.build_dir / "tests/payloads/hostile.elf"]
        return [Job("usage", "usage", [ROOT / "tests/system/usage", *files], tap=True)]

    def can_have(self, kind, lane, name=""):
        if lane in self.refused:
            self.report.skip(f"{kind}: {name or lane}", self.refused[lane])
        return lane not in self.refused

    def lane(self, lane):
        if self.can_have(lane, lane):
            yield Job(lane, lane, [ROOT / "tests/system/run", "--build", self.build_dir, "--lane", lane],
                      tap=True, timeout=3500)

    def systems(self):
        yield Job("systems", "amd-npt", [ROOT / "tests/system/run", "--build", self.build_dir, "--lane", "amd-npt",
                                         "--suite", "systems"], tap=True, timeout=3500)

    def attacks(self):
        for host, words in ATTACKS.items():
            lane, _, protect = host.partition(".")
            if not self.can_have("attacks", lane, host):
                continue
            yield Job("attacks", host, [ROOT / "tools/attack", "--quick", "--tap", "--lane", lane,
                                        "--protect", protect or "mapping", *words, "--build", self.build_dir,
                                        "--out", self.report.logs / f"attack-{host}"], tap=True, timeout=1800)

    def host_selftest(self):
        for lane in filter(lambda lane: self.can_have("host-selftest", lane), LANES):
            yield Job("host-selftest", lane, [ROOT / "tests/host/selftest", "--lane", lane], tap=True, timeout=1500)

    def fresh(self):
        for suite in SUITES:
            yield Job("fresh", suite, [ROOT / "tests/fresh/run", "--suite", suite], tap=True, timeout=3000)

    def names(self, kind):
        """For --list; what is not built yet is not known."""
        if missing := self.missing(kind):
            return [f"{missing}, to know them"]
        if kind in LANES:
            command = [ROOT / "tests/system/run", "--list", "--lane", kind]
            return subprocess.run(command, capture_output=True, text=True).stdout.split()
        if kind in ("systems", "host-selftest"):
            commands = [[*job.command, "--list"] for job in self.method(kind)()]
            return [t for c in commands for t in subprocess.run(c, capture_output=True, text=True).stdout.split()]
        return [job.name for job in self.method(kind)()] or [kind]

    def method(self, kind):
        return getattr(self, kind.replace("-", "_"))

    def missing(self, kind):
        programs = [p for p in self.NEEDS[kind] if not find_program(p)]
        return f"{' and '.join(programs)} not installed: run tools/setup" if programs else None

    def jobs(self, kind):
        if missing := self.missing(kind):
            self.report.fail(kind, missing)
            return []
        jobs = list((self.lane(kind) if kind in LANES else self.method(kind)()) or [])
        # A kind without a test would pass for ever.
        if not jobs and kind not in ("build", "usage", *self.refused):
            self.report.fail(kind, "no test found")
        return jobs


# --- running jobs ----------------------------------------------------------

running = set()  # process groups


def interrupt(*_):
    raise KeyboardInterrupt


def progress(line):
    """How far a build is, as ninja or a tool of ours says."""
    if found := re.match(r"\[(\d+)/(\d+)\]", line):
        return f"{int(found[1]) * 100 // int(found[2])}%"
    return found[1] if (found := re.match(r"[a-z-]+: building: (.*)", line)) else None


def run_job(job, report):
    """Runs it and reports its results; true if all are good."""
    begin = time.monotonic()
    log = report.logs / (re.sub(r"[^\w.-]+", "-", f"{job.kind}-{job.name}") + ".log")
    results, status = [], None
    with open(log, "w") as out:
        try:
            process = subprocess.Popen([str(c) for c in job.command], cwd=ROOT, stdin=subprocess.DEVNULL,
                                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                       errors="replace", start_new_session=True, env=os.environ | job.environment)
        except FileNotFoundError as e:
            report.fail(f"{job.kind}: {job.name}", f"{e.filename} is missing: not built, or run tools/setup")
            return False
        running.add(process.pid)
        timer = threading.Timer(job.timeout, lambda: os.killpg(process.pid, 9))
        timer.daemon = True
        timer.start()
        told = begin
        for line in process.stdout:
            out.write(line)
            out.flush()
            if job.kind == "prepare" and time.monotonic() > told + 30 and (done := progress(line)):
                told = time.monotonic()
                report.say(f"{job.name}: {done}")
            if job.tap and (found := re.match(r"(not )?ok (\S+)(?: - (.*))?", line)):
                bad, name, why = found.groups()
                results.append(not bad)
                name = f"{job.kind}: {name}"
                if bad:
                    report.fail(name, why or "failed", log)
                elif "# SKIP" in line:
                    report.skip(name, line.split("# SKIP")[1].strip())
                else:
                    report.ok(name, shown=True)
        status = process.wait()
        running.discard(process.pid)
        hung = not timer.is_alive()
        timer.cancel()
    why = f"no end after {job.timeout:g} s" if hung else f"exit status {status}"
    if job.tap:
        if status != 0 and all(results) or not results:
            report.fail(f"{job.kind}: {job.name}", f"{why}, {len(results)} results", log)
    elif status != 0:
        lines = excerpt(log, job.name) or ["no output"]
        telling = lines[0] if is_telling(lines[0]) else lines[-1]
        report.fail(f"{job.kind}: {job.name}", f"{why}: {telling[:200]}", log)
    elif job.kind != "prepare":  # no test
        report.ok(f"{job.kind}: {job.name}", shown=job.timeout > 600)
    report.took(job.kind if job.kind != "prepare" else job.name, begin)
    return status == 0


def run_all(jobs, report, cache, cpus):
    waiting = queue.Queue()
    for job in jobs:
        waiting.put(job)

    def work():
        while True:
            try:
                job = waiting.get_nowait()
            except queue.Empty:
                return
            verdict = cache / "clean" / job.kind / job.key if job.key else None
            if verdict and verdict.exists():
                report.ok(f"{job.kind}: {job.name}")
                continue
            if run_job(job, report) and verdict:
                verdict.parent.mkdir(parents=True, exist_ok=True)
                verdict.touch()

    workers = [threading.Thread(target=work) for _ in range(cpus)]
    for worker in workers:
        worker.start()
    try:
        for worker in workers:
            worker.join()
    except KeyboardInterrupt:
        while not waiting.empty():
            waiting.get_nowait()
        raise


def main():
    kinds = list(Plan.NEEDS)
    p = argparse.ArgumentParser(prog="tools/test", description=__doc__, allow_abbrev=False,
                                formatter_class=argparse.RawDescriptionHelpFormatter,
                                epilog=EPILOG.format(kinds=" ".join(k for k in kinds if k not in LANES),
                                                     lanes=" ".join(LANES)))
    p.add_argument("--quick", action="store_true", help=f"only {', '.join(QUICK)}")
    p.add_argument("--only", action="append", choices=kinds, metavar="KIND|LANE", help="only this (repeatable)")
    p.add_argument("--list", action="store_true", help="list the tests without running them")
    p.add_argument("--fuzz-seconds", type=int, default=5, metavar="S", help="for each fuzz target (default 5)")
    p.add_argument("--jobs", type=int, default=os.cpu_count(), metavar="N", help="default: the number of CPUs")
    o = p.parse_args()
    chosen = o.only or (QUICK if o.quick else kinds)

    cache = caches.directory()
    # Meson uses ccache where there is one; a clone elsewhere shall hit too.
    for name, value in {"CCACHE_DIR": cache / "ccache", "CCACHE_BASEDIR": ROOT, "CCACHE_NOHASHDIR": "1"}.items():
        os.environ.setdefault(name, str(value))
    logs = ROOT / "build/test-logs"
    logs.mkdir(parents=True, exist_ok=True)
    report = Report(logs)
    plan = Plan(o, report, cache)
    if o.list:
        for kind in chosen:
            print("\n".join(f"{kind}: {name}" for name in plan.names(kind)))
        return 0

    signal.signal(signal.SIGTERM, interrupt)
    try:
        plan.prepare(set(chosen))
        # The lanes are the longest jobs: they start first, the many small ones fill up.
        slow = ["attacks", *LANES, "systems", "host-selftest", "fresh"]
        order = sorted(chosen, key=lambda k: slow.index(k) if k in slow else len(slow))
        run_all([job for kind in order for job in plan.jobs(kind)], report, cache, o.jobs)
    except KeyboardInterrupt:
        report.fail("tools/test", "interrupted")
        for group in list(running):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGTERM)
        time.sleep(1)
        for group in list(running):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
