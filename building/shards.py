"""A build divided over several machines.

shard  one of n parts of a build: shard i makes every n-th chunk, in the folder <out>.shard-<i>-of-<n>, which is laid
       out as an unfinished set. `--merge` checks the files of all shards and joins them into the set.
"""
import os
import re
import shutil
from pathlib import Path
from typing import NamedTuple

from building.chunks import Chunk, Job, kept_files
from building.journal import damaged_file, read_journal, write_journal
from building.layout import journal_path, partial_folder
from building.options import SourceOptions, command
from building.worker import advice_on_folder, checked_record
from support.errors import UserError


class Shard(NamedTuple):
    """Shard i of n, counted from 1."""

    i: int
    n: int


def parse_shard(text: str | None) -> Shard | None:
    """The value of --shard: "2/8" is `Shard(2, 8)`; None stays None. Raises UserError on anything else."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(f"--shard takes i/n with i from 1 to n, for example 2/8, not {text!r}")
    return Shard(int(match[1]), int(match[2]))


def shard_folder(out: Path, i: int, n: int) -> Path:
    """The folder of shard i of n, next to the set."""
    return out.with_name(f"{out.name}.shard-{i}-of-{n}")


def finished_shards(out: Path) -> list[Path]:
    """The folders of all finished shards next to `out`, whatever their n."""
    return [out.with_name(match[0]) for match in _shard_names(out) if not match[3]]


def _shard_names(out: Path) -> list[re.Match[str]]:
    """The names next to `out` that are those of its shards, as matches: [1] is i, [2] is n, [3] is ".partial" for a
    shard that is not finished."""
    pattern = re.compile(re.escape(out.name) + r"\.shard-(\d+)-of-(\d+)(\.partial)?")
    if not out.parent.exists():
        return []
    return [match for match in map(pattern.fullmatch, os.listdir(out.parent)) if match]


def find_shards(out: Path, options: SourceOptions) -> tuple[Path, ...]:
    """The folders of all n shards next to `out`, in order. Raises UserError naming the shards that are missing and the
    command that builds the first of them."""
    counts = sorted({int(match[2]) for match in _shard_names(out)})
    if len(counts) != 1:
        problem = "no shards"
        if counts:
            problem = f"shards of different n ({', '.join(map(str, counts))})"
        raise UserError(f"--merge found {problem} in {out.parent}, named {out.name}.shard-<i>-of-<n>; it needs all n "
                        f"shards of one and the same n. The first of two is built by: "
                        f"{command(options, merge=False, shard='1/2')}")
    n = counts[0]
    folders = {i: shard_folder(out, i, n) for i in range(1, n + 1)}
    missing = [i for i, folder in folders.items() if not (folder / "build.json").exists()]
    if missing:
        names = []
        for i in missing[:20]:
            begun = " (begun)" if partial_folder(folders[i]).exists() else ""
            names.append(f"{i}/{n}{begun}")
        raise UserError(f"--merge: {len(missing)} of {n} shards are missing: {', '.join(names)}. Build them: "
                        f"{command(options, merge=False, shard=f'{missing[0]}/{n}')}")
    return tuple(folders.values())


def take_chunk(job: Job, chunk: Chunk) -> None:
    """Hash and measure the files of a chunk again in the shard that made it, link or copy them into the set, then write
    the chunk's journal. Raises UserError where a file is missing or not as it was built."""
    shard = job.shards[chunk.number % len(job.shards)]
    damaged = damaged_file(job, chunk, shard, first_release=True)
    if damaged:
        raise UserError(f"{shard}: {damaged} is missing or not as built; {advice_on_folder(shard)}")
    shard_records = read_journal(journal_path(shard, chunk.number), job, chunk.rows, first_release=True)
    records = {}
    for row in chunk.rows.itertuples():
        records[row.id] = checked_record(job, row, shard_records[row.id], shard)
    for row in chunk.rows.itertuples():
        for name in kept_files(job, row):
            _link_or_copy(shard / "set" / name, job.work / "set" / name)
    write_journal(journal_path(job.work, chunk.number), records)


def _link_or_copy(source: Path, target: Path) -> None:
    """Make `target` the file `source`: a hard link, which takes no room, or a copy where none can be made."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
