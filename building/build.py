"""The order of a build: take the lock, make the chunks that are missing, finish, rename.

A set is built in `<out>.partial` and moves to `<out>` when it is complete. A build that is killed goes on from its
journals (journal.py) when the same command is given again, and ends with the same bytes.
"""
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from building.built_set import open_built_set
from building.chunks import Chunk, Job
from building.finishing import finish
from building.journal import damaged_file
from building.layout import cells_of_set, image_folders, partial_folder
from building.leftovers import first_names, remove_written, written_and_foreign
from building.options import command
from building.plan import Plan
from building.pool import run_all, worker_pool
from building.shards import Shard, finished_shards, shard_folder, take_chunk
from building.state import is_same_build, read_state, refuse_if_different, report_if_built
from building.summary import print_summary
from building.worker import make_chunk
from support.errors import UserError
from support.files import lock, write_text


def build_set(plan: Plan, out: Path, workers: int, shards: tuple[Path, ...] = ()) -> None:
    """Build the set `out`. shards: the folders of all shards, whose files are taken instead of made."""
    work = partial_folder(out)
    for folder in shards:
        refuse_if_different(read_state(folder), plan.state, folder)
    refuse_foreign_files(work, plan)
    job = Job(plan.root, work, plan.made_with, plan.keeps_images, shards)
    chunks = plan.chunks
    with explain_errors(plan, work, workers), lock(work, "building"):
        if report_if_built(plan, out):  # by another process, while this one read the sources
            return
        prepare_work_folder(work, plan)
        process_chunks(job, chunks, workers, take_chunk if shards else make_chunk)
        finish(plan, work, job, chunks)
        os.sync()  # flush before the rename: a folder with the final name is complete even after a power cut
        if out.exists():
            out.rmdir()  # it is empty: `check_destination` refuses everything else
        (work / "set").rename(out)
        for folder in (work, *shards):
            remove_written(folder, plan.ids)
    version = plan.facts["set_version"][:12]
    print(f"built {out}: {len(plan.frame)} images x {len(cells_of_set(plan.made_with))} forms, set version {version}")
    built = open_built_set(out)
    if not built.has_sequences:
        print_summary(built)


def build_shard(plan: Plan, out: Path, workers: int, shard: Shard) -> None:
    """Build one shard of the set `out`, in a folder next to it."""
    goal = shard_folder(out, *shard)
    work = partial_folder(goal)
    merge_command = command(plan.options, shard=None, merge=True)
    if (goal / "build.json").exists():
        refuse_if_different(read_state(goal), plan.state, goal)
        print(f"{goal} is already built with these settings; when all {shard.n} shards are there, join them into the "
              f"set: {merge_command}")
        return
    refuse_foreign_files(work, plan)
    job = Job(plan.root, work, plan.made_with, plan.keeps_images)
    chunks = plan.chunks[shard.i - 1::shard.n]
    with explain_errors(plan, work, workers), lock(work, "building"):
        if report_if_built(plan, out):
            return
        prepare_work_folder(work, plan)
        process_chunks(job, chunks, workers, make_chunk)
        os.sync()  # before the rename, as in `build_set`
        work.rename(goal)
    forms = len(cells_of_set(plan.made_with))
    image_count = sum(int(chunk.rows["in_set"].sum()) for chunk in chunks)
    print(f"built {goal}: {image_count} of {len(plan.frame)} images x {forms} forms; when all {shard.n} shards "
          f"are there, join them into the set: {merge_command}")


def remove_merged_shards(plan: Plan, out: Path) -> None:
    """Remove the shards of a finished set: the merge that made it may have been killed before it
    had removed them."""
    for folder in finished_shards(out):
        if is_same_build(folder, plan):
            remove_written(folder, plan.ids)


def refuse_foreign_files(work: Path, plan: Plan) -> None:
    """Raises UserError where the folder in which the set grows was made with other settings, or holds what this build
    does not write. Such files would become part of the set or be left over in the end."""
    if not work.exists():
        return
    if (work / "build.json").exists():
        refuse_if_different(read_state(work), plan.state, work)
    _, foreign = written_and_foreign(work, plan.ids)
    if foreign:
        raise UserError(f"{work}, where the set grows, holds {first_names(foreign)}, which no build wrote; "
                        f"move it away, then the same command goes on, or choose another --out")


@contextmanager
def explain_errors(plan: Plan, work: Path, workers: int) -> Iterator[None]:
    """A worker process that dies and an error of the file system become a UserError with the command that goes on."""
    try:
        yield
    except BrokenProcessPool:
        fewer_workers = command(plan.options, workers=max(1, workers // 2))
        raise UserError(f"a worker process died (out of memory?); what is done is kept in {work}: start again, perhaps "
                        f"with fewer workers: {fewer_workers}") from None
    except OSError as error:
        raise UserError(f"cannot write {error.filename or work}: {error.strerror or error}; what is done is kept in "
                        f"{work}: fix this and start again: {command(plan.options)}") from None


def prepare_work_folder(work: Path, plan: Plan) -> None:
    """Write build.json or compare it with the plan, and make all folders."""
    if (work / "build.json").exists():
        refuse_if_different(read_state(work), plan.state, work)
    else:
        write_text(work / "build.json", json.dumps(plan.state))
    (work / "journal").mkdir(parents=True, exist_ok=True)
    folders = image_folders(plan.made_with)
    for folder in folders if plan.keeps_images else folders[:1]:
        (work / "set" / folder).mkdir(parents=True, exist_ok=True)
    for temporary in (work / "set").glob(".*.tmp"):  # left by a build that was killed, see `leftovers.is_written`
        temporary.unlink()


def process_chunks(job: Job, chunks: Sequence[Chunk], workers: int, process: Callable[[Job, Chunk], None]) -> None:
    """Call `process(job, chunk)` for every chunk that is not done, and show how far it is."""
    with worker_pool(workers) as pool:
        damaged = run_all(pool, damaged_file, job, chunks)
        missing = [chunk for chunk, name in zip(chunks, damaged, strict=True) if name is not None]
        forms = len(cells_of_set(job.made_with))
        total = forms * sum(len(chunk.rows) for chunk in chunks)
        done = total - forms * sum(len(chunk.rows) for chunk in missing)
        with tqdm(total=total, initial=done, unit=" images", smoothing=0.05, disable=None,
                  desc=job.made_with["dataset"]) as bar:
            run_all(pool, process, job, missing, lambda chunk: bar.update(forms * len(chunk.rows)))
