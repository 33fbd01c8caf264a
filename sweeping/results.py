"""Whether the result of a job exists, so that the job can be skipped."""
from pathlib import Path

from support import run_folder
from support.errors import DamagedFile, UserError
from support.files import read_json
from sweeping.begun_runs import find_run_folder, read_values
from sweeping.jobs import Job


def option(words: tuple[str, ...], name: str) -> str | None:
    """The value of an option in a command, None where it is not given."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == name:
            return following
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return None


def is_finished(job: Job, jobs: dict[str, Job]) -> bool:
    """Whether the result of a job exists; the docstring of sweep.py says when. Always false for report.py, which runs
    each time, and for programs that are not the project's, whose results are not known."""
    if job.is_build:
        out = option(job.words, "--out")
        return out is not None and (Path(out) / "manifest.json").is_file()
    if job.is_training:
        folder = find_run_folder(job.words)
        return folder is not None and run_folder.is_finished(folder) and has_open_scores(folder, job.words)
    if job.is_scoring:
        trainings = [jobs[name] for name in job.after if name in jobs and jobs[name].is_training]
        if not trainings or not all(is_finished(training, jobs) for training in trainings):
            return False
        built_set = option(job.words, "--set")
        precision = option(job.words, "--precision") or "32"
        if built_set is None:
            return False
        folders = [find_run_folder(training.words) for training in trainings]
        return all(run_folder.is_scored(folder, Path(built_set), precision) for folder in folders)
    return False


def has_open_scores(folder: Path, words: tuple[str, ...]) -> bool:
    """Whether a run has all open scores that its command asks for. True for commands without --open, whose runs have
    none. folder: of the run."""
    asked, _ = read_values(words)
    if "open" not in asked:
        return True
    from training.open_set.scores import has_scores  # late: the import of pandas takes half a second

    pools, scorings, sets = (asked.get(name, run_folder.OPEN_SET_EXTRAS[name]) for name in ("pools", "scorings", "set"))
    versions = {}
    for path in map(Path, sets):
        try:
            versions[path.resolve().name] = str(read_json(path / "manifest.json").get("set_version"))
        except (OSError, UserError):
            return False
    return has_scores(folder, pools, scorings, versions)


def refuse_set_of_other_settings(job: Job) -> None:
    """Raises UserError where the set that a build makes exists with another image size or protocol: otherwise every
    run would be trained before the scoring refuses the set."""
    from datasets import RECIPES  # late: the import takes half a second

    out = Path(option(job.words, "--out") or "")
    if not (out / "manifest.json").is_file():
        return
    made = read_json(out / "manifest.json").get("made_with")
    if not isinstance(made, dict):
        raise DamagedFile(f"{out}/manifest.json is damaged (no made_with)")
    recipe = RECIPES.get(option(job.words, "--dataset") or "", {})
    size = option(job.words, "--image-size") or str(recipe.get("image_size", 224))
    protocol = option(job.words, "--protocol") or "paper"
    if (str(made.get("size")), made.get("protocol")) != (size, protocol):
        raise UserError(f"{out} has {made.get('size')} px and protocol {made.get('protocol')}; asked for are {size} px "
                        f"and {protocol}. Move the folder away, or ask for what is there (--image-size, --protocol)")
