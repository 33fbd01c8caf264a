"""Worker processes. They end when the main process ends, even when it is killed, and leave Ctrl-C to it."""
import multiprocessing
import os
import select
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from typing import TypeVar

import cv2

JobT = TypeVar("JobT")
ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


@contextmanager
def worker_pool(count: int) -> Iterator[Executor | None]:
    """A pool of `count` worker processes; None where `count` is 1: the work is then done in this
    process."""
    if count == 1:
        yield None
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["building.worker", "building.shards"])  # the functions that workers run
    with ProcessPoolExecutor(count, context, initializer=_start_worker, initargs=(os.getpid(),)) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _start_worker(main_process: int) -> None:
    """Set up a worker process. main_process: the process id of the process with which the worker ends."""
    def end_with_main_process() -> None:
        try:
            select.select([os.pidfd_open(main_process)], [], [])  # returns when the main process has ended
        finally:
            os._exit(1)

    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_main_process, daemon=True).start()


def run_all(pool: Executor | None, function: Callable[[JobT, ItemT], ResultT], job: JobT, items: Sequence[ItemT],
            on_done: Callable[[ItemT], None] | None = None) -> list[ResultT]:
    """`[function(job, item) for item in items]`, by the pool where there is one. on_done: called with each item when it
    is done, in any order. The first exception of a call is raised."""
    if pool is None:
        results = []
        for item in items:
            results.append(function(job, item))
            if on_done is not None:
                on_done(item)
        return results
    futures = [pool.submit(function, job, item) for item in items]
    item_of = dict(zip(futures, items, strict=True))
    for future in as_completed(futures):
        future.result()
        if on_done is not None:
            on_done(item_of[future])
    return [future.result() for future in futures]
