# SPDX-License-Identifier: Apache-2.0
"""The table of attacks, expectations.toml, checked and looked up."""

import fnmatch
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

TABLE = Path(__file__).resolve().parent / "expectations.toml"

STOPPED, FOUND, HARMLESS, NOT_STOPPED, SKIPPED, UNPROVEN, WRONG = VERDICTS = (
    "stopped", "found", "harmless", "not stopped", "skipped", "unproven", "wrong")
MEANING = {
    STOPPED: "memory unchanged, the attempt recorded, and the guest or the VM went on or ended as its policy says",
    FOUND: "it took effect for a while; then the monitor found it, recorded it, and put an end to it: it wrote the "
           "entry back, or the process or the VM ended",
    HARMLESS: "nothing to stop: no locked byte can change by it, and none did",
    NOT_STOPPED: "locked memory changed, or what had to be refused was granted",
    SKIPPED: "this host or guest cannot do it",
    UNPROVEN: "it does not succeed without a lock either, so nothing shows that the lock stopped it",
    WRONG: "a hang, a crash, a wrong report, or an end that nobody expects",
}
OFF, READ_ONLY, DIE_ON_WRITE = "off", "read_only", "die_on_write"
POLICIES = (READ_ONLY, DIE_ON_WRITE)
KINDS = ("text", "rodata", "page_table", "data", "register", "root")
ENFORCED, UNENFORCED = "enforced", "unenforced"
ROOTS = ("check", "compare", "arena")
# What attacks/host gives a VM or does to it.
NEEDS = ("disk", "disks", "net", "input", "unaudited", "ended")
MAPPING = "mapping"
PROTECTIONS = ("attributes", MAPPING, "slots", "attributes,mapping", "mapping,slots")  # of casemate run --protect
LANES = ("amd-npt", "amd-shadow", "intel-ept", "intel-noad")


def host_of(lane, protect):
    """A lane and how locks are held there: "amd-npt", "amd-npt.attributes". The mapping is what stock hosts do best."""
    return lane if protect == MAPPING else f"{lane}.{protect}"


def met_first(protect):
    """Of layers, the one that KVM meets first: what it does with a store is what comes of it."""
    return next(layer for layer in ("attributes", "slots", MAPPING) if layer in protect.split(","))


# Whether the host's page walker tolerates locked tables, and so an arena of roots; elsewhere it is seen when a guest
# locks one. Memory attributes come with a KVM that keeps EPT from writing to tables.
TABLE_MODES = {"amd-npt": UNENFORCED, "amd-shadow": ENFORCED, "intel-ept": UNENFORCED, "intel-noad": ENFORCED}
TABLE_MODES |= {host_of(lane, protect): ENFORCED if lane == "intel-ept" and met_first(protect) == "attributes" else mode
                for lane, mode in TABLE_MODES.items() for protect in PROTECTIONS}
LINUX = "linux"
END_STATUS = {OFF: [0], READ_ONLY: [0], DIE_ON_WRITE: [20]}


def hosts_of(at):
    """What an expectation for it may be told for: a lane's protection, a protection, a lane; the first counts."""
    protections = dict.fromkeys([at.protect, met_first(at.protect)])
    return [*(name for protect in protections for name in (f"{at.lane}.{protect}", protect)), at.lane]


def by_host(words, at):
    return next((words[host] for host in hosts_of(at) if words.get(host)), None)


# What an expectation may be told for.
HOSTS = (*LANES, *PROTECTIONS, *(f"{lane}.{protect}" for lane in LANES for protect in PROTECTIONS))


class BadTable(Exception):
    """expectations.toml is wrong."""


@dataclass(frozen=True)
class Case:
    """Attacks of one number that are started, and have to end, alike."""
    number: int
    source: str                 # "linux", or a payload's file with words that choose a group of its attacks
    names: tuple                # of a payload also patterns
    kind: tuple = ()            # of the lock that is hit, or "register", "root"
    register: tuple = ()        # those that a record or an audit may name
    expect: dict = field(default_factory=dict, hash=False)
    status: dict = field(default_factory=dict, hash=False)
    found: bool | str = False   # it takes effect before the monitor can know: what ends the VM then has found it;
                                # "enforced", "unenforced": on such hosts alone
    proof: str = "changed"      # the outcome that shows that it works without a lock; "" needs none
    record: str | dict = field(default="always", hash=False)  # a violation: always, never, maybe; or by host
    precise: tuple = ()         # hosts where the store has to raise #GP(0) at its instruction, not just not happen
    may_skip: bool = False
    alone: bool = False         # never together with others in one VM
    sequence: bool = False      # the payload's attempts follow on each other: all in one VM, under read_only
    policies: tuple = POLICIES  # under which it makes sense
    kernel_locks: bool = True   # whether a linux guest first locks and seals itself
    argument: dict = field(default_factory=dict, hash=False)    # of a linux attack, by policy
    words: str | dict = field(default="", hash=False)   # more of the kernel command line; may be by policy
    rounds: int = 0             # of a payload's race; --quick makes a third
    roots: str = ""             # how a linux guest has its roots checked, one of ROOTS; "" as it likes
    needs: tuple = ()           # of NEEDS
    cpus: int = 1
    memory: str = "64M"
    outcomes: tuple = ("unchanged", "granted")  # that are harmless where that is expected
    sample: tuple = ()          # names that stand for all where a VM costs much
    quick: tuple = ()           # names that --quick makes die

    def expected(self, at, mode):
        """`at` is a VM or a result: it has a lane, a protection and a policy."""
        words = self.expect
        if not isinstance(words, str):
            words = by_host(words, at) or (words.get(UNENFORCED) if mode == UNENFORCED else None) or words
        return words if isinstance(words, str) else words.get(at.policy, STOPPED)

    def statuses(self, at):
        words = self.status
        if isinstance(words, dict):
            words = by_host(words, at) or words
        return words.get(at.policy, END_STATUS[at.policy]) if isinstance(words, dict) else words

    def records(self, at):
        """Whether a violation is recorded: always, never, maybe."""
        words = self.record
        return words if isinstance(words, str) else by_host(words, at) or "always"

    def is_precise(self, at):
        return bool(set(hosts_of(at)) & set(self.precise))

    def words_for(self, policy):
        return self.words if isinstance(self.words, str) else self.words.get(policy, "")

    def ends_vm(self, at):
        return self.statuses(at) != [0]

    def may_end_silently(self, at):
        """Whether status 0 without an outcome is expected."""
        return bool(self.status) and 0 in self.statuses(at)

    def has(self, name):
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.names)

    def exact_names(self):
        return [name for name in self.names if not set(name) & set("*?[")]


@dataclass(frozen=True)
class Attack:
    number: int
    by: str
    title: str
    expected: str
    cases: tuple = ()

    @property
    def later(self):
        return not self.cases


class Suite:
    def __init__(self, attacks):
        self.attacks = attacks
        self.cases = [case for attack in attacks for case in attack.cases]

    def find(self, source, number, name):
        """The first of the table that fits."""
        return next((c for c in self.cases
                     if c.source == source and c.number == number and c.has(name)), None)

    def of(self, source):
        return [case for case in self.cases if case.source == source]


def check(what, good, wrong):
    if not good:
        raise BadTable(f"{what}: {wrong}")


def check_expectation(what, words):
    if isinstance(words, str):
        check(what, set(words.split(" or ")) <= set(VERDICTS), f"{words!r} is not one of {', '.join(VERDICTS)}")
        return
    check(what, isinstance(words, dict), "not a verdict and not a table of them")
    for key, value in words.items():
        check(what, key in (*POLICIES, *HOSTS, UNENFORCED), f"{key!r} is no policy, no lane and no protection")
        check_expectation(f"{what}.{key}", value)


def read_case(number, entry):
    what = f"attack {number}"
    fields = {f for f in Case.__dataclass_fields__ if f != "number"}
    check(what, not set(entry) - fields, f"unknown: {', '.join(sorted(set(entry) - fields))}")
    for key in ("source", "names"):
        check(what, entry.get(key), f"has no {key}")
    check(what, isinstance(entry["names"], list), "names is no list")
    records = entry.get("record", "always")
    records = records if isinstance(records, dict) else {"": records}
    check(what, set(records) <= {"", *HOSTS}, f"record for {', '.join(records)}")
    check(what, set(records.values()) <= {"always", "never", "maybe"}, f"record {entry.get('record')!r}")
    check(what, set(entry.get("precise", ())) <= set(HOSTS), f"precise {entry.get('precise')}")
    check(what, not isinstance(entry.get("status"), dict) or set(entry["status"]) <= {*POLICIES, *HOSTS},
          f"status for {entry.get('status')}")
    kinds = entry.get("kind", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    check(what, set(kinds) <= set(KINDS), f"kind {kinds} is not one of {', '.join(KINDS)}")
    registers = entry.get("register", [])
    registers = [registers] if isinstance(registers, str) else registers
    check(what, ("register" in kinds) == bool(registers), "kind \"register\" and the registers go together")
    check(what, entry.get("found", False) in (False, True, ENFORCED, UNENFORCED), f"found {entry.get('found')!r}")
    check_expectation(f"{what}: expect", entry.get("expect", STOPPED))
    case = Case(number=number, **{key: tuple(value) if isinstance(value, list) and key != "status" else value
                                  for key, value in entry.items()} | {"kind": tuple(kinds), "register": tuple(registers)})
    check(what, case.source == LINUX or case.source.split()[0].endswith(".elf"), f"source {case.source!r}")
    check(what, set(case.policies) <= set(POLICIES), f"policies {case.policies}")
    check(what, case.source != LINUX or case.exact_names() == list(case.names), "linux has no patterns")
    check(what, set(case.needs) <= set(NEEDS), f"needs {case.needs}")
    check(what, case.rounds >= 0 and (case.source != LINUX or not case.rounds), f"rounds {case.rounds}")
    check(what, case.roots in ("", *ROOTS), f"roots {case.roots!r}")
    check(what, isinstance(case.words, str) or set(case.words) <= {OFF, *POLICIES}, f"words {case.words}")
    check(what, case.proof in ("", "changed", "unchanged"), f"proof {case.proof!r}")
    for name in (*case.sample, *case.quick):
        check(what, case.has(name), f"the sample {name!r} is none of its names")
    return case


def load(file=TABLE):
    try:
        table = tomllib.loads(Path(file).read_text())
    except (OSError, tomllib.TOMLDecodeError) as e:
        raise BadTable(f"{file}: {e}") from None
    attacks, seen = [], set()
    for entry in table.get("attack", []):
        number = entry.get("number")
        check(file, isinstance(number, int) and number not in seen, f"number {number} is missing or twice there")
        seen.add(number)
        for key in ("by", "title", "expected"):
            check(f"attack {number}", isinstance(entry.get(key), str), f"has no {key}")
        attacks.append(Attack(number, entry["by"], entry["title"], entry["expected"],
                              tuple(read_case(number, case) for case in entry.get("case", []))))
    check(file, attacks, "no attack in it")
    return Suite(sorted(attacks, key=lambda a: a.number))
