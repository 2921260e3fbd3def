"""Results as a table and as plots."""
from html import escape

COLOURS = {"syncline": "#1b6ca8", "rsync": "#8d99ae", "rsync-fsync": "#5c677d", "unison": "#c9a227", "rclone": "#7a9e7e", "syncthing": "#b5533c"}
BAR, GAP, LEFT, WIDTH = 18, 6, 110, 520


def order(stored):
    names = {result["workload"]: None for result in stored}
    return sorted(names, key=lambda name: (int(name[1:]) if name[1:].isdigit() else {"idle": 12.5, "hub13": 13.5}[name]))


def table(stored):
    found = {(result["workload"], result["system"]): result for result in stored}
    names = [name for name in COLOURS if any(name == system for _, system in found)]
    lines = ["| | workload | " + " | ".join(names) + " |", "|---|---|" + "---|" * len(names)]
    for work in order(stored):
        what = next(result["what"] for result in stored if result["workload"] == work)
        cells = []
        for name in names:
            result = found.get((work, name))
            if result is None:
                cells.append("")
                continue
            best = result["best"]
            cpu = sum(best["cpu"].values())
            cell = f"{best['seconds']:.2f} s, {amount(best['bytes']['a up'])} up, {amount(best['bytes']['b down'])} down, {cpu:.1f} CPU-s"
            cells.append(cell + ("" if result["equal"] else ", **not equal**"))
        lines.append(f"| {work.upper()} | {what} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def amount(count):
    for unit, size in (("MB", 1e6), ("KB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}" if count < 1e9 else f"{count / size:.0f} {unit}"
    return f"{count} B"


def plot(stored, directory):
    """One picture for each workload: seconds, a bar for each system."""
    if stored:
        directory.mkdir(exist_ok=True)
    for work in order(stored):
        results = sorted((result for result in stored if result["workload"] == work), key=lambda result: list(COLOURS).index(result["system"]))
        longest = max(result["best"]["seconds"] for result in results) or 1
        height = 40 + len(results) * (BAR + GAP)
        shapes = [f'<text x="8" y="20" font-weight="bold">{work.upper()}: {escape(results[0]["what"])}</text>']
        for at, result in enumerate(results):
            top, seconds = 34 + at * (BAR + GAP), result["best"]["seconds"]
            length = max(1, seconds / longest * (WIDTH - LEFT - 90))
            shapes.append(f'<text x="8" y="{top + 13}">{result["system"]}</text>')
            shapes.append(f'<rect x="{LEFT}" y="{top}" width="{length:.1f}" height="{BAR}" fill="{COLOURS[result["system"]]}"/>')
            shapes.append(f'<text x="{LEFT + length + 6:.1f}" y="{top + 13}">{seconds:.2f} s</text>')
        picture = (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="12">'
                   f'<rect width="100%" height="100%" fill="white"/>{"".join(shapes)}</svg>\n')
        (directory / f"{work}.svg").write_text(picture)
