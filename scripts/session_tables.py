"""Print the session tables of mesh/protocol/session.py as Markdown, for docs/protocol.md (--check compares)."""

import sys
from pathlib import Path

from mesh.protocol.header import Kind
from mesh.protocol.session import TABLES

DOCUMENT = Path(__file__).parent.parent / "docs" / "protocol.md"
START, END = "<!-- sessions -->\n", "<!-- /sessions -->\n"


def tables() -> str:
    """Return one table a role: state, what may arrive, the state after it."""
    lines = []
    for role, table in TABLES.items():
        lines += [f"**{role.value.replace('_', ' ')}**", "", "| state | may arrive | then |", "|---|---|---|"]
        for state, row in table.items():
            for after in dict.fromkeys(row.values()):
                kinds = ", ".join(Kind(kind).name for kind, then in row.items() if then is after)
                lines.append(f"| {state.value} | {kinds} | {after.value} |")
        lines.append("")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the tables into the document, or compare."""
    text = DOCUMENT.read_text()
    head, rest = text.split(START)
    new = head + START + tables() + END + rest.split(END)[1]
    if "--check" in sys.argv:
        return int(new != text)
    DOCUMENT.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
