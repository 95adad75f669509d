"""Write the triggers that keep every status on the tables of `lifecycle`; the migration holds their text."""

from __future__ import annotations

from treadle import lifecycle

BEGIN = "-- generated from lifecycle.py: begin"
FINISH = "-- generated from lifecycle.py: end"


def render() -> str:
    """Give the generated block of the first migration, marks included."""
    out = [BEGIN]
    for table, noun, moves in (
        ("runs", "run", lifecycle.RUN),
        ("steps", "run step", lifecycle.STEP),
        ("messages", "message", lifecycle.MESSAGE),
    ):
        pairs = ",\n  ".join(f"'{a}>{b}'" for a, b in lifecycle.moves(moves))
        statuses = ", ".join(f"'{s}'" for s in moves)
        born = f"'{lifecycle.START[noun]}'" if noun in lifecycle.START else statuses
        out += [
            "",
            f"CREATE TRIGGER {table}_birth BEFORE INSERT ON {table} WHEN NEW.status NOT IN ({born})",
            f"BEGIN SELECT RAISE(ABORT, 'treadle:status a {noun} cannot begin in that status'); END;",
            "",
            f"CREATE TRIGGER {table}_moves BEFORE UPDATE OF status ON {table}",
            "WHEN NEW.status <> OLD.status AND (OLD.status || '>' || NEW.status) NOT IN (",
            f"  {pairs})",
            f"BEGIN SELECT RAISE(ABORT, 'treadle:status a {noun} cannot make that move'); END;",
        ]
    return "\n".join([*out, "", FINISH])


def apply(migration: str) -> str:
    """Give the migration's text with the block brought up to date."""
    head, _, rest = migration.partition(BEGIN)
    _, _, tail = rest.partition(FINISH)
    return head + render() + tail
