"""Rewrite the table in benchmarks/README.md from the files in benchmarks/results."""

import argparse
import json
from pathlib import Path

HERE = Path(__file__).resolve().parent
START, END = "<!-- table: start -->", "<!-- table: end -->"
COLUMNS = ("what", "ours", "peer", "theirs", "ratio", "goal", "command")


def make_table(results: list[dict]) -> str:
    """The rows of all results as one Markdown table, with the machines they were measured on."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    for result in results:
        for row in result["rows"]:
            ours, theirs = (f"{row[key]:g} {row['unit']}" for key in ("ours", "theirs"))
            ratio = f"{row['ratio']:.2f}"
            goal = "" if row["goal"] is None else f"{row['goal']:g}"
            command = f"`{result['command']}`"
            cells = (row["what"], ours, row["peer"], theirs, ratio, goal, command)
            lines.append("| " + " | ".join(cells) + " |")
    machines = sorted({result["machine"] for result in results})
    return "\n".join([f"Machine: {'; '.join(machines) or 'nothing measured yet'}.", "", *lines])


def main() -> None:
    """Replace what stands between the two markers."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    files = sorted((HERE / "results").glob("*.json"))
    table = make_table([json.loads(file.read_text()) for file in files])
    readme = HERE / "README.md"
    before, rest = readme.read_text().split(START)
    _, after = rest.split(END)
    readme.write_text(f"{before}{START}\n{table}\n{END}{after}")


if __name__ == "__main__":
    main()
