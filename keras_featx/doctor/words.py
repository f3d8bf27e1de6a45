"""What was found, in words for people."""

from collections.abc import Sequence

from keras_featx.doctor.findings import KINDS, NOTE, Finding, Part, bad, counts

_EXAMPLES = 3


def summary(parts: Sequence[Part], findings: Sequence[Finding]) -> str:
    """A text of some lines: the lists, then each kind of finding with its first examples."""
    lines = [_list_line(part) for part in parts]
    number = counts(findings)
    if not number:
        return "\n".join([*lines, "nothing to complain of"])
    stopping = bad(number)
    head = f"{_several(stopping, 'finding')} that would stop or spoil training or evaluation"
    lines += ["", head if stopping else "nothing that would stop or spoil training or evaluation"]
    by_kind = {kind: [f for f in findings if f.kind == kind] for kind in number}
    told_notes = False
    for kind, found in by_kind.items():
        if KINDS[kind].weight == NOTE and not told_notes:
            lines += ["", "to take note of"]
            told_notes = True
        lines.append(f"  {KINDS[kind].title}: {len(found)} ({kind})")
        lines += [f"      {_example(finding)}" for finding in found[:_EXAMPLES]]
        if len(found) > _EXAMPLES:
            lines.append(f"      and {len(found) - _EXAMPLES} more")
    return "\n".join(lines)


def _list_line(part: Part) -> str:
    facts = part.facts
    spread = facts["images_per_identity"]
    return (
        f"{part.name}: {part.samples.source}: {_several(len(part.samples), 'image')} of "
        f"{facts['identities']} identities ({spread['min']} to {spread['max']} each, median "
        f"{spread['median']:g}), {facts['decodable']} can be decoded"
    )


def _example(finding: Finding) -> str:
    image = finding.image
    place = f"{image.part}:{image.row}" if image.row else image.part
    about = image.path if finding.kind not in ("label_gaps", "shared_identities") else image.label
    text = f"{place}: {about}: {finding.what}" if about else f"{place}: {finding.what}"
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _several(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
