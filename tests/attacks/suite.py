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
ROOTS = ("check", "arena")
# Whether the host's page walker tolerates locked tables, and so an arena of roots; elsewhere it is seen when a guest
# locks one.
TABLE_MODES = {"amd-npt": UNENFORCED, "amd-shadow": ENFORCED, "intel-ept": UNENFORCED, "intel-noad": ENFORCED}
LINUX = "linux"
END_STATUS = {OFF: [0], READ_ONLY: [0], DIE_ON_WRITE: [20]}


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
    found: bool = False         # it takes effect before the monitor can know: what ends the VM then has found it
    proof: str = "changed"      # the outcome that shows that it works without a lock; "" needs none
    record: str = "always"      # a violation: always, never, maybe
    may_skip: bool = False
    alone: bool = False         # never together with others in one VM
    sequence: bool = False      # the payload's attempts follow on each other: all in one VM, under read_only
    policies: tuple = POLICIES  # under which it makes sense
    kernel_locks: bool = True   # whether a linux guest first locks and seals itself
    argument: dict = field(default_factory=dict, hash=False)    # of a linux attack, by policy
    words: str | dict = field(default="", hash=False)   # more of the kernel command line; may be by policy
    roots: str = ""             # how a linux guest has its roots checked: check or arena; "" as it likes
    needs: tuple = ()           # of disk, net, input, unaudited
    cpus: int = 1
    memory: str = "64M"
    outcomes: tuple = ("unchanged", "granted")  # that are harmless where that is expected
    sample: tuple = ()          # names that stand for all where a VM costs much
    quick: tuple = ()           # names that --quick makes die

    def expected(self, policy, mode, lane):
        words = self.expect
        if not isinstance(words, str):
            words = words.get(lane) or (words.get(UNENFORCED) if mode == UNENFORCED else None) or words
        return words if isinstance(words, str) else words.get(policy, STOPPED)

    def statuses(self, policy):
        words = self.status
        return words.get(policy, END_STATUS[policy]) if isinstance(words, dict) else words

    def words_for(self, policy):
        return self.words if isinstance(self.words, str) else self.words.get(policy, "")

    def ends_vm(self, policy):
        return self.statuses(policy) != [0]

    def may_end_silently(self, policy):
        """Whether status 0 without an outcome is expected."""
        return bool(self.status) and 0 in self.statuses(policy)

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
        check(what, key in (*POLICIES, *TABLE_MODES, UNENFORCED), f"{key!r} is no policy and no lane")
        check_expectation(f"{what}.{key}", value)


def read_case(number, entry):
    what = f"attack {number}"
    fields = {f for f in Case.__dataclass_fields__ if f != "number"}
    check(what, not set(entry) - fields, f"unknown: {', '.join(sorted(set(entry) - fields))}")
    for key in ("source", "names"):
        check(what, entry.get(key), f"has no {key}")
    check(what, isinstance(entry["names"], list), "names is no list")
    check(what, entry.get("record", "always") in ("always", "never", "maybe"), f"record {entry.get('record')!r}")
    kinds = entry.get("kind", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    check(what, set(kinds) <= set(KINDS), f"kind {kinds} is not one of {', '.join(KINDS)}")
    registers = entry.get("register", [])
    registers = [registers] if isinstance(registers, str) else registers
    check(what, (kinds == ["register"]) == bool(registers), "kind \"register\" and the registers go together")
    check_expectation(f"{what}: expect", entry.get("expect", STOPPED))
    case = Case(number=number, **{key: tuple(value) if isinstance(value, list) and key != "status" else value
                                  for key, value in entry.items()} | {"kind": tuple(kinds), "register": tuple(registers)})
    check(what, case.source == LINUX or case.source.split()[0].endswith(".elf"), f"source {case.source!r}")
    check(what, set(case.policies) <= set(POLICIES), f"policies {case.policies}")
    check(what, case.source != LINUX or case.exact_names() == list(case.names), "linux has no patterns")
    check(what, set(case.needs) <= {"disk", "net", "input", "unaudited"}, f"needs {case.needs}")
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
