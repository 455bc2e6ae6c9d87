# SPDX-License-Identifier: Apache-2.0
"""From what VMs left behind (console, messages, events, status) to verdicts.

All of it may be hostile or cut off: nothing in here trusts a line's form."""

import json
import re
from collections import Counter
from dataclasses import asdict, dataclass, field

from suite import (ENFORCED, FOUND, HARMLESS, MAPPING, NOT_STOPPED, OFF, POLICIES, PROTECTIONS, SKIPPED, STOPPED,
                   TABLE_MODES, UNENFORCED, UNPROVEN, WRONG, host_of, met_first)

OUTCOMES = ("changed", "fault", "unchanged", "found", "skipped", "refused", "granted", "works", "misreported",
            "wrong", "WRONG")
CHANGED = {"changed": "locked memory changed", "wrong": "locked memory changed, otherwise than by this store",
           "WRONG": "the guest saw a wrong answer"}
# A kernel puts its time before a line, and other output may have begun it.
SAID = re.compile(r"(?:^|[\s\]:])(?:(try) (\d{1,3}) ([\w.+-]{1,64})"
                  r"|(attack) (\d{1,3}) ([\w.+-]{1,64}) (\w{1,16})(?: (.{0,300}))?)\s*$")
DONE = re.compile(r"(?:^|[\s\]:])(?:payload|attacks) done\s*$")
KIND_WORDS = {"text": r"\btext\b", "rodata": r"\brodata\b|read-only data", "page_table": r"page[_ ]table",
              "data": r"(?<!read-only )\bdata\b"}
HUNG, LOST, ENDED = "hung", "lost", "ended"
EVENT_LIMIT = 100000
ENDINGS = {0: "power-off or reboot", 1: "failure of the host or the monitor", 2: "wrong use", 10: "guest panic",
           11: "guest fault", 20: "die-on-write", 21: "root mismatch", 22: "unattributable fault", 23: "audit mismatch",
           24: "locks required but not taken", 25: "ended by the user"}


@dataclass
class Vm:
    """One run of casemate: what was asked, and what it left."""
    id: str
    lane: str
    policy: str
    source: str
    protect: str = MAPPING      # how its locks are held
    names: tuple = ()           # (number, name) asked for; empty: all that it has
    command: str = ""           # the kernel command line
    launch: tuple = ()          # needs, CPUs, memory
    memory_bytes: int = 0
    ended: str = ENDED          # or hung: killed after its time; lost: the lane's host went away
    status: int = -1
    seconds: float = 0
    console: bytes = b""
    messages: bytes = b""
    events: bytes = b""
    cut: bool = False           # its output was more than the limit

    @property
    def host(self):
        return host_of(self.lane, self.protect)

    def ending(self):
        if self.ended != ENDED:
            return {HUNG: "hung: killed after its time", LOST: "lost: the lane's host ended under it"}[self.ended]
        if self.status > 128:
            return f"the monitor was killed by signal {self.status - 128}"
        name = ENDINGS.get(self.status, "unknown")
        return f"status {self.status} ({name})"


@dataclass
class Result:
    lane: str
    policy: str
    source: str
    number: int
    name: str
    verdict: str
    why: str
    expected: str
    as_expected: bool
    baseline: str = ""          # the outcome without a lock
    outcome: str = ""
    detail: str = ""
    ending: str = ""
    seconds: float = 0
    vm: str = ""
    vm_attacks: int = 1         # how many shared the VM
    violation: dict = None      # the event that shows it
    violations: int = 0         # counted in the VM
    report: str = ""            # what the monitor said at the end
    not_reached: bool = False
    protect: str = MAPPING

    @property
    def host(self):
        return host_of(self.lane, self.protect)

    @property
    def key(self):
        return self.host, self.policy, self.source, self.number, self.name


# --- reading ---------------------------------------------------------------


def text_of(data):
    """Readable on any terminal and page: one character for each control byte."""
    text = data.decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n")
    return "".join(c if c in "\n\t" or c.isprintable() else "\ufffd" for c in text)


@dataclass
class Console:
    tried: list = field(default_factory=list)      # (number, name), in order
    outcomes: dict = field(default_factory=dict)   # (number, name) -> (outcome, detail)
    contradictions: dict = field(default_factory=dict)
    done: bool = False


def read_console(data):
    console = Console()
    for line in text_of(data).splitlines():
        if DONE.search(line):
            console.done = True
        found = SAID.search(line)
        if not found:
            continue
        if found[1]:
            key = int(found[2]), found[3]
            if key not in console.tried:
                console.tried.append(key)
            continue
        key = int(found[5]), found[6]
        said = found[7], (found[8] or "").strip()
        if console.outcomes.setdefault(key, said)[0] != said[0]:
            console.contradictions[key] = f"{console.outcomes[key][0]} and {said[0]}"
    return console


@dataclass
class Events:
    all: list = field(default_factory=list)
    problem: str = ""

    def of(self, name):
        return [e for e in self.all if e["event"] == name]

    def end(self):
        return (self.of("machine_ended") or [None])[-1]

    def violations(self):
        """How many there were, with those that were too many to be written one by one."""
        end = self.end() or {}
        counts = end.get("counts")
        told = (counts if isinstance(counts, dict) else end).get("violations")
        return max(number(told) or 0, sum(1 + (number(e.get("suppressed")) or 0) for e in self.of("violation")))


def read_events(data, cut=False):
    events = Events()
    lines = data.split(b"\n")
    if cut:
        lines.pop()
    for at, line in enumerate(lines[:EVENT_LIMIT], 1):
        if not line.strip():
            continue
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            event = None
        if not isinstance(event, dict) or not isinstance(event.get("event"), str):
            events.problem = events.problem or f"line {at} of the events is no event"
            continue
        events.all.append(event)
    return events


def number(value):
    """Of a member that is a number or "0x...": addresses are strings."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        return None
    try:
        return int(value, 0) if isinstance(value, str) else value
    except ValueError:
        return None


# --- one VM ----------------------------------------------------------------


def why_not_this(event, case, vm, locks):
    """Why the violation cannot be the record of this attack, or nothing."""
    policy = vm.policy
    if event.get("source") == "emulated_store" and (
            met_first(vm.protect) == "attributes" or case.is_precise(vm)):
        return "the record tells of an emulated store: this host has to refuse it before it happens"
    if event.get("source") == "unattributable":
        return ""
    if case.register and (event.get("register") or case.kind == ("register",)):
        return "" if event.get("register") in case.register else \
            f"the record names {event.get('register') or 'no register'} instead of {' or '.join(case.register)}"
    if event.get("source") == "root":
        if "root" not in case.kind:
            return f"the record tells of a root instead of {' or '.join(case.kind) or 'a lock'}"
        if event.get("policy") != policy:
            return f"the record tells of {event.get('policy')} roots, not {policy}"
        return "" if isinstance(event.get("mismatch"), str) else "the record lacks the mismatch"
    if event.get("policy") != policy:
        return f"the record tells of a {event.get('policy')} lock, not {policy}"
    if case.kind and event.get("kind") not in case.kind:
        return f"the record names a lock of {event.get('kind')} instead of {' or '.join(case.kind)}"
    at, start, length = (number(event.get(member)) for member in ("gpa", "lock_start", "lock_bytes"))
    if None in (at, start, length):
        return "the record lacks gpa, lock_start or lock_bytes"
    if not start <= at < start + length:
        return f"the record's address {at:#x} is not in the lock it names"
    if not any(covers(lock, at) and lock.get("kind") == event.get("kind") for lock in locks):
        return f"the record names {at:#x}, where no {event.get('kind')} was locked"
    return ""


def covers(lock, at):
    start, length = number(lock.get("gpa")), number(lock.get("bytes"))
    return start is not None and length is not None and start <= at < start + length


def hint(console, messages):
    """Why a guest or its monitor ended, in the words of one of them."""
    lines = text_of(console).splitlines() + messages.splitlines()
    telling = [line for line in lines if line.startswith("not ok") or "Kernel panic" in line] or lines[-1:]
    return telling[-1][:200] if telling else "no message"


def tail(text, lines=40, characters=4000):
    return "\n".join(text.strip().splitlines()[-lines:])[-characters:]


class VmJudge:
    """Judges the attacks of one VM; `proofs` are the outcomes without a lock."""

    def __init__(self, suite, vm, proofs, mode):
        self.suite, self.vm, self.proofs, self.mode = suite, vm, proofs, mode
        self.console = read_console(vm.console)
        self.events = read_events(vm.events, vm.cut)
        self.locks = self.events.of("lock") + [e | {"kind": "page_table"} for e in self.events.of("root_arena")]
        self.records = self.events.of("violation")
        self.messages = text_of(vm.messages)
        self.keys = list(vm.names) or self.console.tried
        self.problems = []
        # Which record is whose cannot be told in a shared VM: each kind of lock needs enough of them.
        self.short = {}

    def case(self, key):
        return self.suite.find(self.vm.source, *key)

    def results(self):
        """{key: Result} of all that were tried; what was not, needs another VM."""
        found = {}
        if self.vm.policy == OFF:
            return found
        self.find_shortage()
        for key in self.keys:
            if self.case(key) is None:
                self.problems.append(f"the console tells of {key[0]}.{key[1]}, which the table does not have")
            elif result := self.judge(key):
                found[key] = result
        return found

    def leaves_record(self, key):
        case, outcome = self.case(key), self.console.outcomes.get(key, ("",))[0]
        return case is not None and case.records(self.vm) == "always" and outcome in ("fault", "unchanged", "found")

    def find_shortage(self):
        if len(self.keys) <= 1:
            return
        needed = Counter(self.case(key).kind for key in self.keys if self.leaves_record(key))
        spare = self.events.violations() - len(self.records)
        for kinds, count in needed.items():
            fitting = [e for e in self.records if e.get("source") == "unattributable" or not kinds or
                       e.get("kind") in kinds or (e.get("source") == "root" and "root" in kinds)]
            if len(fitting) + spare < count:
                self.short[kinds] = f"{len(fitting)} violations of {' or '.join(kinds) or 'any kind'} recorded " \
                                    f"for {count} attacks"

    def judge(self, key):
        """None if the VM ended before it came to this attack."""
        case, vm = self.case(key), self.vm
        baseline = self.proofs.get((vm.host, vm.source, *key), "")
        outcome, detail = self.console.outcomes.get(key, ("", ""))
        if not outcome and key not in self.console.tried and vm.ended != LOST and len(self.keys) > 1:
            return None
        verdict, why = self.verdict(key, case, baseline, outcome, detail)
        expected = case.expected(vm, self.mode)
        event = self.record(key, case)
        return Result(
            lane=vm.lane, protect=vm.protect, policy=vm.policy, source=vm.source, number=key[0], name=key[1], verdict=verdict, why=why,
            expected=expected, as_expected=verdict in expected.split(" or ") or (verdict == SKIPPED and case.may_skip),
            baseline=baseline, outcome=outcome, detail=detail, ending=vm.ending(), seconds=vm.seconds, vm=vm.id,
            vm_attacks=max(1, len(self.keys)), violation=event, violations=self.events.violations(),
            report=tail(self.messages) if vm.status != 0 or vm.ended != ENDED else "")

    def record(self, key, case):
        """The violation that shows it: in a shared VM the one at its place if each attack has one, else the first
        that fits."""
        stopped = [k for k in self.console.tried if self.leaves_record(k)]
        if key in stopped and len(self.records) == len(stopped) == self.events.violations():
            return self.records[stopped.index(key)]
        fitting = [e for e in self.records if not why_not_this(e, case, self.vm, self.locks)]
        return (fitting or self.records or [None])[0]

    def verdict(self, key, case, baseline, outcome, detail):
        vm = self.vm
        if key in self.console.contradictions:
            return WRONG, f"the guest told two outcomes: {self.console.contradictions[key]}"
        if outcome and outcome not in OUTCOMES:
            return WRONG, f"the guest told an unknown outcome: {outcome}"
        harmless = HARMLESS in case.expected(vm, self.mode).split(" or ") and outcome in case.outcomes
        if outcome in CHANGED and not harmless:
            return NOT_STOPPED, detail or CHANGED[outcome]
        if outcome == "skipped":
            return SKIPPED, detail or "no reason given"
        if outcome == "misreported":
            return WRONG, f"nothing changed, but the exception is another one or elsewhere: {detail}"
        if vm.ended != ENDED:
            if not outcome:
                return WRONG, vm.ending()
            if key == self.console.tried[-1]:
                return WRONG, f"afterwards: {vm.ending()}"
        if self.events.problem:
            return WRONG, self.events.problem
        allowed = case.statuses(vm)
        if not outcome:
            return self.verdict_of_end(key, case, baseline, allowed)
        if key == self.console.tried[-1] and vm.status not in {0, *allowed}:
            return WRONG, f"afterwards the VM ended with {vm.ending()}: {hint(vm.console, self.messages)}"
        if len(self.keys) == 1 and vm.status not in allowed:
            return WRONG, f"memory did not change, but the VM went on and ended with {vm.ending()}, " \
                          f"not {' or '.join(map(str, allowed))}"
        if case.records(self.vm) == "never" and len(self.keys) == 1 and self.events.violations():
            return WRONG, "a violation was recorded, and nothing was stored"
        if harmless:
            return HARMLESS, detail or {"granted": "granted, as it may be", "works": "it works"}.get(
                outcome, "nothing changed")
        if outcome in ("granted", "works"):
            return NOT_STOPPED, detail or "granted"
        if case.proof == "unchanged" and outcome != "fault":
            return NOT_STOPPED, "it stores what is there, and no fault shows that it was stopped"
        return self.proven(case, baseline) or self.recorded(key, case) or self.imprecise(case, outcome) or \
            self.stopped(case, outcome, detail)

    def verdict_of_end(self, key, case, baseline, allowed):
        """The guest told no outcome: the VM's end has to tell it."""
        vm = self.vm
        last = self.console.tried[-1] if self.console.tried else None
        if last != key:
            said = "before it was tried" if key not in self.console.tried else "and no outcome was told"
            return WRONG, f"{vm.ending()} {said}: {hint(vm.console, self.messages)}"
        if vm.status not in allowed or (vm.status == 0 and not case.may_end_silently(vm)):
            return WRONG, f"{vm.ending()} instead of {' or '.join(map(str, allowed))}: " \
                          f"{hint(vm.console, self.messages)}"
        end = self.events.end()
        if not end:
            return WRONG, "the events do not tell of the machine's end"
        if "status" in end and number(end["status"]) != vm.status:
            return WRONG, f"the events tell of status {end['status']}, and it was {vm.status}"
        if HARMLESS in case.expected(vm, self.mode).split(" or "):
            return HARMLESS, f"the VM ended with {vm.ending()}"
        return self.proven(case, baseline) or self.recorded(key, case) or self.reported(key, case) or \
            (FOUND if self.was_found(key, case) else STOPPED, f"the VM ended with {vm.ending()}")

    def was_found(self, key, case):
        """Whether it took effect before it ended the VM: a root that was in use, or a change of a table. Who changes
        one to get at something else, and does not get at it, is stopped."""
        return case.found in (True, self.mode) or (case.kind == ("page_table",) and
                              (self.record(key, case) or {}).get("source") == "changed_table")

    @staticmethod
    def proven(case, baseline):
        if not case.proof or baseline == case.proof:
            return None
        return UNPROVEN, f"without a lock: {baseline or 'no outcome'}"

    def imprecise(self, case, outcome):
        if outcome == "unchanged" and case.is_precise(self.vm):
            return WRONG, "memory did not change, but the store did not fault: it was dropped"
        return None

    def recorded(self, key, case):
        if case.records(self.vm) != "always":
            return None
        if self.vm.status == 23:
            audits = self.events.of("audit")
            if not audits:
                return WRONG, "status 23, and no record of an audit"
            # Else it ended another attack in this VM, or found what this one had changed on its way.
            if case.register:
                why = why_not_this(audits[-1], case, self.vm, self.locks)
                return (WRONG, why) if why else None
        if self.events.violations() == 0:
            return WRONG, "no violation was recorded"
        if case.kind in self.short:
            return WRONG, self.short[case.kind]
        own = self.record(key, case)
        shown = [own] if own and len(self.keys) > 1 and len(self.records) == self.events.violations() else self.records
        reasons = [why_not_this(e, case, self.vm, self.locks) for e in shown]
        if reasons and all(reasons):
            return WRONG, reasons[-1]
        if self.vm.status == 21 and not any(e.get("source") == "root" for e in self.records):
            return WRONG, "status 21, and no record of a root"
        found = self.console.outcomes.get(key, ("",))[0] == "found"
        if found and not any(e.get("source") in ("changed_table", "root") for e in self.records):
            return WRONG, "no record of a changed table or a root"
        if self.vm.status == 22 and not any(e.get("source") == "unattributable" for e in self.records):
            return WRONG, "status 22, and no record of an unattributable fault"
        return None

    def reported(self, key, case):
        """The exit report has to name what the events name."""
        if case.records(self.vm) == "never":
            return None
        if not self.messages.strip():
            return WRONG, "there is no exit report"
        if self.vm.status == 21:
            root = number((self.record(key, case) or {}).get("root"))
            told = "page-table root" in self.messages and root is not None and f"{root:x}" in self.messages.lower()
            return None if told else (WRONG, "the exit report does not name the root")
        if self.vm.status == 11:  # whatever it was, it tells whose doing
            return None if re.search(r"\bguest\b", self.messages) else \
                (WRONG, "the exit report does not tell of the guest's fault")
        if self.vm.status == 22:  # it tells of that fault, not of a store before it
            return None if "no operand of an instruction explains" in self.messages else \
                (WRONG, "the exit report does not tell of a fault that nothing explains")
        if self.vm.status == 23:
            named = re.search(r"register {2,}(\S+)", self.messages)
            registers = case.register or [e.get("register") for e in self.events.of("audit")]
            return None if named and named[1] in registers else \
                (WRONG, f"the exit report does not name {' or '.join(case.register) or 'a register'}")
        event = self.record(key, case) or {}
        at = number(event.get("gpa"))
        if at is not None and f"{at:x}" not in self.messages.lower():
            return WRONG, f"the exit report does not name the address {at:#x}"
        if event.get("kind") in KIND_WORDS and not re.search(KIND_WORDS[event["kind"]], self.messages):
            return WRONG, f"the exit report does not name the kind of lock, {event['kind']}"
        return None

    def stopped(self, case, outcome, detail):
        how = {"fault": "the instruction faulted", "unchanged": "memory did not change", "refused": "refused",
               "found": "it was found"}[outcome]
        return FOUND if outcome == "found" else STOPPED, f"{how}; {detail}" if detail else how


# --- all of them -----------------------------------------------------------


@dataclass
class Matrix:
    results: list = field(default_factory=list)
    problems: list = field(default_factory=list)    # of VMs, not of one attack
    locks: list = field(default_factory=list)       # of the VM that locked most, of each host and source
    modes: dict = field(default_factory=dict)
    known: dict = field(default_factory=dict)       # (host, source) -> [(number, name)]
    vms: int = 0

    def surprises(self):
        return [r for r in self.results if not r.as_expected]

    def counts(self):
        return Counter(r.verdict for r in self.results)

    def good(self):
        return bool(self.results) and not self.surprises() and not self.problems

    def to_json(self):
        return {"results": [asdict(r) for r in self.results], "problems": self.problems, "locks": self.locks,
                "table_modes": self.modes, "vms": self.vms, "counts": self.counts(), "as_expected": self.good()}


def not_reached(suite, vm, key, proofs, mode):
    return Result(lane=vm.lane, protect=vm.protect, policy=vm.policy, source=vm.source, number=key[0], name=key[1], verdict=WRONG,
                  why=f"not tried: {vm.ending()} before it", as_expected=False, not_reached=True, vm=vm.id, ending=vm.ending(),
                  expected=suite.find(vm.source, *key).expected(vm, mode),
                  baseline=proofs.get((vm.host, vm.source, *key), ""))


def read_proofs(vms):
    """{(host, source, number, name): outcome without a lock}"""
    proofs = {}
    for vm in vms:
        if vm.policy != OFF:
            continue
        console = read_console(vm.console)
        for key in console.tried:
            at = vm.host, vm.source, *key
            outcome = console.outcomes.get(key, ("", ""))[0]
            if key in console.contradictions:
                proofs[at] = f"two outcomes, {console.contradictions[key]}"
            elif outcome:
                proofs.setdefault(at, outcome)
            else:
                proofs.setdefault(at, f"no outcome: {vm.ending()}")
    return proofs


def table_mode(host, vms):
    if host in TABLE_MODES:
        return TABLE_MODES[host]
    locked = any(e.get("kind") == "page_table" for vm in vms if vm.host == host
                 for e in read_events(vm.events, vm.cut).of("lock"))
    return ENFORCED if locked else UNENFORCED


def known_names(vms):
    """{(host, source): [(number, name)]}: a payload's names are known by running it."""
    known = {}
    for vm in vms:
        names = known.setdefault((vm.host, vm.source), {})
        names.update(dict.fromkeys([*vm.names, *read_console(vm.console).tried]))
    return {at: list(names) for at, names in known.items()}


def doubtful_lists(suite, vms, known):
    """Payloads whose names may not all be known, as none came to the end of its list; and samples that no
    payload has."""
    found = {}
    for vm in vms:
        if not vm.names:
            found[vm.host, vm.source] = read_console(vm.console).done
    for (host, source), done in found.items():
        if not done:
            yield f"{host}: {source} never came to its end: attacks may be missing"
            continue
        for case in suite.of(source):
            for name in [*case.sample, *case.quick]:
                if (case.number, name) not in known[host, source]:
                    yield f"{host}: {source} has no {case.number}.{name}, which the table takes for a sample"


def judge(suite, vms):
    matrix = Matrix(vms=len(vms))
    proofs, known = read_proofs(vms), known_names(vms)
    matrix.modes = {host: table_mode(host, vms) for host in dict.fromkeys(vm.host for vm in vms)}
    matrix.known, matrix.problems = known, list(doubtful_lists(suite, vms, known))
    found, maps = {}, {}
    for vm in vms:
        one = VmJudge(suite, vm, proofs, matrix.modes[vm.host])
        results = one.results()
        for result in results.values():
            # A VM of its own tells more than a shared one, and a later one more than an earlier one.
            old = found.get(result.key)
            if old is None or result.vm_attacks <= old.vm_attacks:
                found[result.key] = result
        matrix.problems += [f"{vm.host} {vm.policy} {vm.id}: {p}" for p in one.problems]
        if not one.console.tried:
            matrix.problems.append(f"{vm.host} {vm.policy} {vm.id}: nothing was tried: {vm.ending()}: "
                                   f"{hint(vm.console, one.messages)}")
        covered = sum(number(lock.get("bytes")) or 0 for lock in one.locks)
        if covered > maps.get((vm.host, vm.source), (0,))[0]:
            maps[vm.host, vm.source] = covered, {"lane": vm.host, "source": vm.source, "vm": vm.id,
                                                 "memory_bytes": vm.memory_bytes, "locks": one.locks}
    for vm in vms:
        if vm.policy != OFF:
            for key in vm.names:
                at = vm.host, vm.policy, vm.source, *key
                if at not in found and suite.find(vm.source, *key):
                    found[at] = not_reached(suite, vm, key, proofs, matrix.modes[vm.host])
    matrix.results = sorted(found.values(), key=lambda r: (r.number, r.source, r.name, r.lane,
                                                          PROTECTIONS.index(r.protect), POLICIES.index(r.policy)))
    matrix.locks = [found for _, found in maps.values()]
    return matrix
