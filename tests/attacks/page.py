# SPDX-License-Identifier: Apache-2.0
"""The matrix as one HTML page that needs nothing else, for any width, light or
dark, with and without colour. What guests wrote is text in it, never markup."""

import html
import json
from collections import Counter, defaultdict

from judge import number
from suite import KINDS, MAPPING, MEANING, POLICIES, PROTECTIONS, VERDICTS

MANY = 24  # variants that a section shows without being asked

STYLE = """
:root { color-scheme: light dark;
  --page: #fbfaf7; --card: #ffffff; --ink: #1d2127; --soft: #5b6470; --line: #d9d6cd; --link: #1f5fae;
  --stopped: #1d6b40; --stopped-b: #e3f3e8; --found: #5a6a12; --found-b: #f0f4d6; --not: #9a5b00;
  --harmless: #3d5a80; --harmless-b: #e6eef7; --not-b: #fdf0d8; --skipped: #5b6470; --skipped-b: #ececea;
  --bad: #a5182b; --bad-b: #fbe4e6;
  --text: #1f6fb2; --rodata: #3a8f5c; --page_table: #b4631a; --data: #8a4fb0; --ram: #e7e4db }
@media (prefers-color-scheme: dark) { :root {
  --page: #14171b; --card: #1c2026; --ink: #e6e8eb; --soft: #a2abb6; --line: #343a43; --link: #86b9f3;
  --stopped: #7fd6a3; --stopped-b: #173424; --found: #cfdc7e; --found-b: #2b3013; --not: #f0bd6a;
  --harmless: #a3c3ea; --harmless-b: #1d2b3d; --not-b: #3a2c10; --skipped: #a2abb6; --skipped-b: #2a2e34;
  --bad: #ff9aa5; --bad-b: #45161d;
  --text: #5aa7e6; --rodata: #66c48b; --page_table: #e79a55; --data: #c493e6; --ram: #2b3037 } }
* { box-sizing: border-box }
html { -webkit-text-size-adjust: 100% }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif }
main, header, footer { max-width: 92rem; margin: 0 auto; padding: 0 clamp(.8rem, 2.5vw, 2.5rem) }
header { padding-top: 1.6rem } footer { padding-bottom: 3rem; color: var(--soft) }
h1 { font-size: clamp(1.4rem, 4vw, 2.1rem); line-height: 1.2; margin: 0 0 .3rem }
h2 { font-size: 1.3rem; margin: 2.6rem 0 .6rem } h3 { font-size: 1.08rem; margin: 0 0 .2rem }
h4 { font-size: 1rem; margin: 1.2rem 0 .3rem }
p { margin: .3rem 0 .7rem; max-width: 75ch } .soft { color: var(--soft) }
a { color: var(--link) } a:focus-visible, summary:focus-visible { outline: 3px solid var(--link); outline-offset: 2px }
code, pre { font: .86em/1.45 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: .4rem 0; padding: .6rem .7rem; background: var(--page);
  border: 1px solid var(--line); border-radius: .4rem }
.verdict { border-left: .4rem solid; padding: .6rem .9rem; border-radius: .3rem; font-weight: 600; margin: 1rem 0 }
.verdict.good { color: var(--stopped); background: var(--stopped-b) }
.verdict.bad { color: var(--bad); background: var(--bad-b) }
.pill { display: inline-block; padding: .05rem .5rem; border-radius: 1rem; font-size: .86rem; line-height: 1.5;
  border: 1px solid; white-space: nowrap; margin: .1rem .2rem .1rem 0 }
.stopped { color: var(--stopped); background: var(--stopped-b) }
.found { color: var(--found); background: var(--found-b) }
.harmless { color: var(--harmless); background: var(--harmless-b) }
.not-stopped { color: var(--not); background: var(--not-b); border-style: dashed }
.skipped { color: var(--skipped); background: var(--skipped-b); border-style: dotted }
.unproven, .wrong { color: var(--bad); background: var(--bad-b); border-style: double; border-width: 3px }
.surprise { font-weight: 700; color: var(--bad) }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .35rem .5rem; border-bottom: 1px solid var(--line) }
thead th { font-size: .86rem; color: var(--soft); vertical-align: bottom }
tbody th { font-weight: 500 }
.num { font-variant-numeric: tabular-nums; color: var(--soft) }
.overview th:first-child { min-width: 15rem } .overview td { min-width: 8rem }
section.attack { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .9rem 1rem;
  margin: .9rem 0 }
.variants td { width: 1%; min-width: 9rem }
.variants th { min-width: 10rem; overflow-wrap: anywhere; font: .9rem ui-monospace, "DejaVu Sans Mono", monospace }
summary { cursor: pointer; padding: .1rem 0 } summary .pill { vertical-align: middle }
.evidence { font-size: .9rem; padding: .4rem 0 .6rem; overflow-wrap: anywhere; white-space: normal }
.evidence dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .1rem .8rem; margin: 0 }
.evidence dt { color: var(--soft) } .evidence dd { margin: 0 }
td:has(details[open]) { min-width: min(34rem, 86vw) }
svg { display: block; width: 100%; height: 3rem; background: var(--ram); border-radius: .2rem }
svg.zoom { height: 4.2rem }
.scale { display: flex; justify-content: space-between; font-size: .8rem; color: var(--soft); margin: .15rem 0 .9rem }
.key { display: inline-block; width: .9rem; height: .9rem; border-radius: .2rem; vertical-align: -.1rem;
  margin-right: .4rem; border: 1px solid var(--ink) }
.k-text { fill: var(--text); background: var(--text) } .k-rodata { fill: var(--rodata); background: var(--rodata) }
.k-page_table { fill: var(--page_table); background: var(--page_table) }
.k-data { fill: var(--data); background: var(--data) } .k-other { fill: var(--ink); background: var(--ink) }
.scroll { overflow-x: auto }
@media (max-width: 62rem) {
  .stack thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%) }
  .stack, .stack tbody, .stack tr, .stack th, .stack td { display: block; width: auto; min-width: 0 }
  .stack tr { border-bottom: 1px solid var(--line); padding: .5rem 0 }
  .stack th, .stack td { border: 0; padding: .12rem 0 }
  .stack td[data-at] { display: grid; grid-template-columns: 8rem minmax(0, 1fr); gap: 0 .6rem }
  .stack td[data-at]::before { content: attr(data-at); color: var(--soft); font-size: .82rem; padding-top: .15rem }
  .stack td[data-at]:has(details[open]) { grid-template-columns: minmax(0, 1fr); min-width: 0 } }
@media (max-width: 24rem) { .evidence dl { grid-template-columns: minmax(0, 1fr) } .evidence dt { margin-top: .3rem } }
@media print { details > * { display: block } section.attack { break-inside: avoid } }
"""


class Markup(str):
    """Text that is HTML already."""


VOID = {"meta", "rect", "link", "br"}


def tag(element, *children, **attributes):
    """Everything but Markup is escaped. A trailing _ of an attribute is dropped, others become -."""
    words = "".join(f' {name.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
                    for name, value in attributes.items() if value is not None)
    if element in VOID and not children:
        return Markup(f"<{element}{words}{'/' if element == 'rect' else ''}>")
    return Markup(f"<{element}{words}>{join(children)}</{element}>")


def join(children):
    return Markup("".join(c if isinstance(c, Markup) else html.escape(readable(c)) for c in children))


def readable(value):
    """No control and no text direction characters, which would disguise what follows."""
    return "".join(c if c in "\n\t" or c.isprintable() else "\ufffd" for c in str(value))


def name_of_class(verdict):
    return verdict.replace(" ", "-")


def pill(verdict, text=None):
    return tag("span", text or verdict, class_=f"pill {name_of_class(verdict)}")


def cell(host, policy, *children, **attributes):
    """On a narrow screen it tells its column."""
    return tag("td", tag("div", *children), role="cell", data_at=f"{host} {policy}", **attributes)


def size(count):
    for unit, name in [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")]:
        if count >= unit:
            return f"{count / unit:.4g} {name}"
    return f"{count} B"


# --- the matrix --------------------------------------------------------------


class Page:
    def __init__(self, suite, matrix, meta):
        self.suite, self.matrix, self.meta = suite, matrix, meta
        self.columns = list(dict.fromkeys((r.host, r.policy) for r in sorted(
            matrix.results, key=lambda r: (PROTECTIONS.index(r.protect), list(matrix.modes).index(r.host),
                                           POLICIES.index(r.policy)))))
        self.head_of = {r.host: (r.protect, tag("br"), r.lane) for r in matrix.results}
        self.cells = defaultdict(list)
        for result in matrix.results:
            self.cells[result.number, result.host, result.policy].append(result)

    def attacks(self):
        return [a for a in self.suite.attacks if any(number == a.number for number, _, _ in self.cells)]

    def known(self, number, host):
        """How many variants there are, wherever they were found."""
        return len({(source, name) for (_, source), names in self.matrix.known.items()
                    for at, name in names if at == number})

    def head(self):
        return tag("head", tag("meta", charset="utf-8"), tag("title", "Casemate: attack matrix"),
                   tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
                   tag("meta", http_equiv="Content-Security-Policy",
                       content="default-src 'none'; style-src 'unsafe-inline'"),
                   tag("style", Markup(STYLE)))

    def column_heads(self, first):
        return tag("thead", tag("tr", *(tag("th", word, scope="col", role="columnheader") for word in first),
                                *(tag("th", *self.head_of[host], tag("br"), policy, scope="col", role="columnheader")
                                  for host, policy in self.columns), role="row"), role="rowgroup")

    def table(self, class_, heads, rows, label):
        body = tag("tbody", *rows, role="rowgroup")
        return tag("table", heads, body, class_=f"stack {class_}", role="table", aria_label=label)

    def overview_cell(self, attack, host, policy):
        found = self.cells.get((attack.number, host, policy), [])
        if not found:
            return cell(host, policy, "not run", class_="soft")
        counts = Counter(r.verdict for r in found)
        known = self.known(attack.number, host)
        parts = [pill(v, f"{v} {counts[v]}") for v in VERDICTS if counts[v]]
        if known > len(found):
            parts.append(tag("span", f"{len(found)} of {known} run", class_="soft"))
        if wrong := sum(not r.as_expected for r in found):
            parts.append(tag("span", f" {wrong} unexpected", class_="surprise"))
        return cell(host, policy, *parts)

    def overview(self):
        rows = [tag("tr", tag("th", tag("a", f"{a.number} {a.title}", href=f"#a{a.number}"), scope="row",
                              role="rowheader"),
                    *(self.overview_cell(a, *column) for column in self.columns), role="row")
                for a in self.attacks()]
        return tag("div", self.table("overview", self.column_heads(["attack"]), rows, "verdicts of each attack"),
                   class_="scroll")

    def evidence(self, result):
        facts = [("verdict", f"{result.verdict}: {result.why}")]
        if not result.as_expected:
            facts.append(("expected", result.expected))
        facts += [("without a lock", result.baseline or "not needed"), ("outcome", f"{result.outcome or 'none told'} "
                  f"{result.detail}"), ("the VM", f"{result.ending}, after {result.seconds:.2f} s" + (
                      f"; shared by {result.vm_attacks} attacks" if result.vm_attacks > 1 else "")),
                  ("violations", f"{result.violations} recorded in the VM")]
        items = [item for name, value in facts for item in (tag("dt", name), tag("dd", value))]
        parts = [tag("dl", *items)]
        if result.violation:
            shown = {k: v for k, v in result.violation.items() if k != "event"}
            first = "one of its violations that fits" if result.vm_attacks > 1 else "the record"
            parts += [tag("p", f"{first}:", class_="soft"),
                      tag("pre", "\n".join(f"{k}: {v if isinstance(v, str) else json.dumps(v)}"
                                           for k, v in shown.items()))]
        if result.report:
            parts += [tag("p", "what the monitor said last:", class_="soft"), tag("pre", result.report)]
        protect = "" if result.protect == MAPPING else f" --protect {result.protect}"
        parts += [tag("p", "Again: ", tag("code", f"tools/attack --lane {result.lane}{protect} --policy {result.policy} "
                                                  f"--only {result.number}.{result.name}"))]
        return tag("div", *parts, class_="evidence")

    def variant_cell(self, found, host, policy):
        if found is None:
            return cell(host, policy, "not run", class_="soft")
        mark = "" if found.as_expected else tag("span", " unexpected", class_="surprise")
        return cell(host, policy, tag("details", tag("summary", pill(found.verdict), mark), self.evidence(found)))

    def attack(self, attack):
        found = {(r.source, r.name, r.host, r.policy): r for column in self.columns
                 for r in self.cells.get((attack.number, *column), [])}
        variants = sorted({key[:2] for key in found})
        rows = [tag("tr", tag("th", name, scope="row", role="rowheader"), tag("td", source, class_="soft", role="cell"),
                    *(self.variant_cell(found.get((source, name, *column)), *column) for column in self.columns),
                    role="row") for source, name in variants]
        table = tag("div", self.table("variants", self.column_heads(["variant", "guest"]), rows,
                                      f"variants of attack {attack.number}"), class_="scroll")
        if len(variants) > MANY:
            table = tag("details", tag("summary", f"all {len(variants)} variants"), table)
        who = {"A": "an arbitrary kernel write", "B": "code in ring 0", "R": "root in the guest", "U": "user space",
               "D": "a device, or the monitor acting for the guest"}.get(attack.by, attack.by)
        return tag("section", tag("h3", f"{attack.number}. {attack.title}"),
                   tag("p", f"By {who}. Expected: {attack.expected}.", class_="soft"), table,
                   class_="attack", id=f"a{attack.number}")

    # --- where the locks lie ---------------------------------------------------

    def memory_map(self, at):
        locks = sorted(((number(e.get("gpa")), number(e.get("bytes")), str(e.get("kind")), str(e.get("policy")))
                        for e in at["locks"] if number(e.get("gpa")) is not None and number(e.get("bytes"))))
        if not locks:
            return Markup("")
        end = max(start + length for start, length, _, _ in locks)
        memory = max(at["memory_bytes"], end)
        totals = Counter()
        ranges = Counter()
        for _, length, kind, _ in locks:
            totals[kind] += length
            ranges[kind] += 1
        label = "; ".join(f"{size(totals[k])} of {k} in {ranges[k]} ranges" for k in sorted(totals))
        parts = [tag("h4", f"{at['lane']}, {at['source']}"),
                 tag("p", f"{size(sum(totals.values()))} of {size(memory)} locked, in {len(locks)} ranges."),
                 self.bar(locks, 0, memory, f"guest-physical memory: {label}", "")]
        for name, start, stop in clusters(locks, memory):
            parts += [tag("p", f"{name}, {size(stop - start)}:", class_="soft"),
                      self.bar(locks, start, stop, f"{name}: {start:#x} to {stop:#x}", "zoom")]
        legend = [tag("tr", tag("th", tag("span", class_=f"key {kind_class(k)}"), k, scope="row", role="rowheader"),
                      *(tag("td", text, role="cell", data_at=head) for text, head in
                        [(str(ranges[k]), "ranges"), (size(totals[k]), "size")]), role="row")
                  for k in sorted(totals)]
        heads = tag("thead", tag("tr", *(tag("th", w, scope="col", role="columnheader")
                                         for w in ["kind", "ranges", "size"]), role="row"), role="rowgroup")
        listed = "\n".join(f"{start:#014x}..{start + length - 1:#014x}  {size(length):>10}  {policy}  {kind}"
                           for start, length, kind, policy in locks[:2000])
        parts += [self.table("legend", heads, legend, f"locked memory by kind, {label}"),
                  tag("details", tag("summary", f"all {len(locks)} ranges"), tag("pre", listed))]
        return tag("section", *parts, class_="attack")

    @staticmethod
    def bar(locks, start, stop, label, class_):
        span = stop - start
        boxes = []
        for begin, length, kind, _ in locks:
            low, high = max(begin, start), min(begin + length, stop)
            if low < high:
                boxes.append(tag("rect", tag("title", f"{kind} {begin:#x}, {size(length)}"), y=0, height=10,
                                 x=f"{(low - start) / span * 1000:.3f}",
                                 width=f"{max((high - low) / span * 1000, 1):.3f}", class_=kind_class(kind)))
        drawing = tag("svg", tag("title", label), *boxes, viewBox="0 0 1000 10", preserveAspectRatio="none", role="img",
                      aria_label=label, class_=class_ or None)
        ticks = [start, start + span // 2, stop]
        return join([drawing, tag("div", *(tag("span", f"{t:#x}") for t in ticks), class_="scale")])

    # --- all of it ---------------------------------------------------------------

    def summary(self):
        counts = self.matrix.counts()
        total = sum(counts.values())
        surprises = len(self.matrix.surprises()) + len(self.matrix.problems)
        words = f"All {total} verdicts are as expected." if self.matrix.good() else \
            f"{surprises} of {total} verdicts are not as expected." if total else "Nothing was run."
        return [tag("p", words, class_=f"verdict {'good' if self.matrix.good() else 'bad'}", role="status"),
                tag("p", *(pill(v, f"{v} {counts[v]}") for v in VERDICTS if counts[v]))]

    def surprises(self):
        if self.matrix.good():
            return []
        items = [tag("li", tag("a", f"{r.number}.{r.name}", href=f"#a{r.number}"),
                     f" in {r.host} under {r.policy}: {r.verdict} instead of {r.expected}: {r.why}")
                 for r in self.matrix.surprises()]
        items += [tag("li", problem) for problem in self.matrix.problems]
        return [tag("h2", "Not as expected"), tag("ul", *items)]

    def html(self):
        modes = "; ".join(f"{host}: {mode}" for host, mode in self.matrix.modes.items())
        facts = ", ".join(f"{name} {value}" for name, value in self.meta.items() if value)
        maps = [self.memory_map(at) for at in self.matrix.locks]
        meanings = [item for v in VERDICTS for item in (tag("dt", pill(v)), tag("dd", MEANING[v]))]
        body = [
            tag("header", tag("h1", "Casemate: attack matrix"),
                tag("p", f"Which injected write was stopped, how, and on which host. {facts}.", class_="soft"),
                *self.summary()),
            tag("main", *self.surprises(), tag("h2", "Overview"), self.overview(),
                tag("details", tag("summary", "What the words mean"), tag("div", tag("dl", *meanings),
                                                                          class_="evidence")),
                tag("p", "Each attack is first made without a lock, and has to succeed there. Under read_only a locked "
                         "page's store faults and the guest goes on; under die_on_write the VM ends with status 20, or with "
                         "21 for a page-table root. "
                         f"Locked page tables, by host: {modes}."),
                tag("h2", "Each attack"), *(self.attack(a) for a in self.attacks()),
                *([tag("h2", "What was locked"),
                   tag("p", "Guest-physical memory to scale; a range too small to see is drawn a thousandth wide.",
                       class_="soft"), *maps] if any(maps) else [])),
            tag("footer", tag("p", f"{self.matrix.vms} VMs were run. Again: ",
                              tag("code", str(self.meta.get("command", "tools/attack"))))),
        ]
        page = tag("html", self.head(), tag("body", *body), lang="en")
        return "<!doctype html>\n" + page + "\n"


def kind_class(kind):
    return f"k-{kind}" if kind in KINDS else "k-other"


def clusters(locks, memory, most=4):
    """Parts of memory where locks lie close together: (name, start, end)."""
    gap = max(1 << 20, memory >> 6)
    found = []
    for start, length, kind, _ in locks:
        if found and start - found[-1][1] <= gap:
            found[-1][1] = max(found[-1][1], start + length)
            found[-1][2].add(kind)
        else:
            found.append([start, start + length, {kind}, 0])
        found[-1][3] += 1
    found = [f for f in found if f[1] - f[0] < memory // 2 and f[3] > 1]
    found.sort(key=lambda f: (-len(f[2] & {"text", "rodata"}), f[0] - f[1]))
    found = sorted(found[:most], key=lambda f: f[0])
    return [("The kernel image" if {"text", "rodata"} <= kinds else f"At {start:#x}", start, stop)
            for start, stop, kinds, _ in found]
