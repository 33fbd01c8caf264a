"""Tables: Markdown to read, CSV to go on with."""
import re

import cli
from reporting.runs import DOMAINS, LOSSES, Block, Row, blocks_of, in_block, plain, rank, wanted_rows

TABLE1 = {"macro_f1": "macro-F1", "ece": "ECE"}
DEMO = "demo data: shows function, not findings"
LEGEND = """Percent; mean ± standard deviation over seeds. Corrupted: mean over the 17 x 5 cells (the reliability
diagrams pool all cells, and ECE of the pool is another number). —: see Missing.
The ECE floor is what a perfectly calibrated model with the same confidences scores by chance at this N (simulated;
lowest to highest of the rows). Corrupted images are scored against soft labels: there the floor is an upper bound,
because the soft accuracy has less noise than drawn hard labels."""


def escape(text):
    """Text of others in a Markdown table."""
    return re.sub(r"([\\|<`*])", r"\\\1", plain(text))


def percent(stat):
    if stat is None:
        return "—"
    return f"{100 * stat.mean:.1f}" + (f" ± {100 * stat.sd:.1f}" if stat.seeds > 1 else "")


def grid(header, rows):
    """A Markdown table, its columns aligned for reading as it is."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)


def render_block(block, rows, stats, seen, noisy):
    """Title, what the numbers stand for, and the table of one block."""
    found = {(*Row(s.algorithm, s.loss, s.noise), s.domain, s.metric): s for s in in_block(stats, block).itertuples()}
    wanted = [(domain, metric) for domain in DOMAINS for metric in TABLE1]
    lines = []
    for row in rows:
        cells = [found.get((*row, *column)) for column in wanted]
        seeds = "/".join(map(str, sorted({cell.seeds if cell else 0 for cell in cells}, reverse=True)))
        loss = f"{row.loss} ({LOSSES[row.loss]})" if row.loss in LOSSES else row.loss
        lines.append([escape(row.algorithm), escape(loss), *([f"{row.noise:.0%}"] if noisy else []), seeds,
                      *map(percent, cells)])
    header = ["algorithm", "loss", *(["label noise"] if noisy else []), "seeds"]
    header += [f"{TABLE1[metric]} {domain}" for domain, metric in wanted]
    floors = ", ".join(f"{domain} {100 * min(values):.1f} to {100 * max(values):.1f}" if values else f"{domain} unknown"
                       for domain, values in seen.floors.items())
    return (f"## {escape(block.set)}{f' — {DEMO}' if seen.demo else ''}\n\n"
            f"Trained on {escape(block.dataset)}. N = {block.n} images, protocol {escape(block.protocol)}, "
            f"{block.image_size} px, set_version {escape(block.set_version[:8])}. "
            f"ECE floor: {floors}.\n\n{grid(header, lines)}\n")


def render_markdown(title, runs, stats, seen):
    """All blocks of one table. `runs`, evaluated or not, say which rows there should be."""
    noisy = any(run.row.noise for run in runs)
    parts = [f"# {title}\n"]
    for block in blocks_of(stats):
        rows = wanted_rows([run for run in runs if run.trained == block[:3]])
        parts.append(render_block(block, rows, stats, seen[block], noisy))
    if len(parts) == 1:
        return f"{parts[0]}\nNo evaluated run yet.\n"
    return "\n".join([*parts, f"{LEGEND}\n"])


def write_csv(path, stats):
    columns = ["dataset", "protocol", "image_size", "set_version", "algorithm", "loss", "noise", "domain", "metric",
               "mean", "sd", "seeds", "n"]
    order = sorted(stats.index, key=lambda i: (*stats.loc[i, list(Block._fields)], *rank(stats.loc[i])))
    cli.write_text(path, stats.loc[order, columns].to_csv(index=False, lineterminator="\n"))
