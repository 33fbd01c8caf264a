"""What the commands that build sets do after their options were checked: verify, estimate, build a shard or a set."""
from pathlib import Path

from building import build, destination, estimate, plan, shards, state, verification
from building.options import BuildOptions, SequenceOptions


def run(options: BuildOptions | SequenceOptions, folder: Path, dry_run: bool, verify: bool) -> Path:
    """Do what the options ask for. folder: of the set. Returns it as it is on disk, with links followed. Raises
    UserError where the data set, the options or the folder are at fault."""
    shard = shards.parse_shard(options.shard)
    out = destination.resolve_out(folder)
    if verify:
        verification.verify(out, options.workers)
        return out
    if dry_run:
        estimate.estimate(options, out, shard)
        return out
    if not (out / "manifest.json").is_file():
        destination.check_destination(out, shards.shard_folder(out, *shard) if shard else out)
    build_plan = plan.make_plan(options)
    set_is_built = state.report_if_built(build_plan, out)
    if shard and not set_is_built:
        build.build_shard(build_plan, out, options.workers, shard)
    elif not set_is_built:
        build.build_set(build_plan, out, options.workers, shards.find_shards(out, options) if options.merge else ())
    elif options.merge:
        build.remove_merged_shards(build_plan, out)
    return out
