"""Find the row groups, or the blocks, of many layers at once, on any executor."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Executor, Future, as_completed
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from masktools.checks import BoolArray
from masktools.conversion.resume import Finished, key_of
from masktools.errors import MasktoolsError
from masktools.layout import BlockLayout
from masktools.partition.row_groups import RowGroups
from masktools.progress import bar

Result = TypeVar("Result", RowGroups, BlockLayout)


@dataclass(frozen=True, eq=False)
class Job(Generic[Result]):
    """A layer whose row groups, or blocks, are to be found; everything the result depends on.

    Parameters
    ----------
    layer : str
    work : callable
        `row_groups` or `regroup`.
    mask : ndarray of bool
        In the weight's own shape.
    saliency : ndarray of float32, shape (rows, columns)
    options : dict
        The other arguments of `work`; JSON can hold them.
    column_cost : ndarray of int64, shape (columns,), default None
        For `row_groups`: what a weight of each column costs.
    """

    layer: str
    work: Callable[..., Result]
    mask: BoolArray
    saliency: NDArray[np.float32] = field(repr=False)
    options: dict[str, Any]
    column_cost: NDArray[np.int64] | None = field(default=None, repr=False)

    def key(self) -> str:
        """Return the hash of all that the result depends on."""
        options = {"work": self.work.__name__, **self.options}
        return key_of(options, self.mask, self.saliency, self.column_cost)


@dataclass(frozen=True, eq=False)
class Found(Generic[Result]):
    """The result for a layer, and the seconds that it took; 0 where it was there."""

    result: Result
    seconds: float
    resumed: bool = False


def find(job: Job[Result]) -> Found[Result]:
    """Do the work on one layer; runs wherever the executor puts it."""
    start = time.perf_counter()
    arguments = dict(job.options)
    if job.column_cost is not None:
        arguments["column_cost"] = job.column_cost
    with _one_thread:
        result = job.work(job.mask, job.saliency.reshape(job.mask.shape), **arguments)
    return Found(result, time.perf_counter() - start)


def find_all(
    jobs: Sequence[Job[Result]], executor: Executor | None, finished: Finished, progress: bool
) -> dict[str, Found[Result]]:
    """Find the row groups, or the blocks, of every layer, the largest first.

    Parameters
    ----------
    jobs : sequence of Job
    executor : concurrent.futures.Executor or None
        Used, never shut down. None starts a process per core, or does without where one would
        do.
    finished : Finished
        Where layers that are done are kept, as they are done, and looked for.
    progress : bool
        Show a bar on standard error where that is a terminal.

    Returns
    -------
    dict of str to Found

    Raises
    ------
    MasktoolsError
        What a layer raised, with its name; layers that were done before are kept.
    """
    found: dict[str, Found[Result]] = {}
    keys = {job.layer: job.key() for job in jobs} if finished.folder else {}
    for job in jobs:
        before = finished.load(keys[job.layer], job.layer) if keys else None
        if before is not None:
            # Its key names the work, so that it is the result of the same.
            found[job.layer] = Found(cast("Result", before), 0.0, resumed=True)
    todo = sorted(
        (job for job in jobs if job.layer not in found),
        key=lambda job: -int(np.count_nonzero(job.mask)),
    )
    with (
        bar(len(jobs), "row groups", done=len(found), wanted=progress) as advance,
        closing(_results(todo, executor)) as results,
    ):
        for job, result in results:
            found[job.layer] = result
            if keys:
                finished.store(keys[job.layer], result.result)
            advance(job.layer)
    return found


def cores() -> int:
    """Return the number of cores that this process may use."""
    from loky import cpu_count

    return int(cpu_count())


def _results(
    jobs: Sequence[Job[Result]], executor: Executor | None
) -> Generator[tuple[Job[Result], Found[Result]], None, None]:
    """Yield each job with its result as it is done."""
    if executor is not None:
        futures = _submitted(jobs, executor)
        try:
            yield from _completed(futures)
        finally:
            for future in futures:
                future.cancel()
        return
    workers = min(cores(), len(jobs))
    if workers <= 1:
        for job in jobs:
            with _naming(job.layer):
                result = find(job)
            yield job, result
        return
    from loky import ProcessPoolExecutor

    # Unlike the standard pool's, these workers do not import the caller's script again, so a
    # notebook or a script without a main guard can use them.
    # Work that is abandoned is killed, never cancelled: loky's thread stumbles, with a traceback,
    # over a cancelled future when it kills. After a layer's error all is done, as without one.
    pool = ProcessPoolExecutor(workers, initializer=serve, initargs=(os.getpid(),))
    abandoned = True
    try:
        yield from _completed(_submitted(jobs, pool))
        abandoned = False
    except MasktoolsError:
        abandoned = False
        raise
    finally:
        pool.shutdown(wait=True, kill_workers=abandoned)


def _submitted(
    jobs: Sequence[Job[Result]], executor: Executor
) -> dict[Future[Found[Result]], Job[Result]]:
    return {executor.submit(find, job): job for job in jobs}


def _completed(
    futures: Mapping[Future[Found[Result]], Job[Result]],
) -> Iterator[tuple[Job[Result], Found[Result]]]:
    """Yield what comes back; raise a layer's error once those that were running are done."""
    failure: MasktoolsError | None = None
    for future in as_completed(futures):
        if future.cancelled():
            continue
        job = futures[future]
        try:
            with _naming(job.layer):
                result = future.result()
        except MasktoolsError as error:
            failure = failure or error
            for other in futures:
                other.cancel()
        else:
            yield job, result
    if failure:
        raise failure


@contextmanager
def _naming(layer: str) -> Iterator[None]:
    """Name the layer in whatever its work raises."""
    try:
        yield
    except MasktoolsError as error:
        raise type(error)(f"layer {layer!r}: {error}") from error
    except (Exception, CancelledError) as error:
        raise MasktoolsError(f"layer {layer!r}: {type(error).__name__}: {error}") from error


def serve(parent: int) -> None:
    """Let this worker leave interrupts to its parent, and end when that is gone.

    A parent that is killed ends none of its workers, which would wait for work for ever.

    Parameters
    ----------
    parent : int
        Its process number.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class _OneThread:
    """Hold numerical libraries to one thread while any layer is being worked on.

    One thread a layer does not oversubscribe the cores, and sums come out the same whatever the
    number of cores. Threads of one process share the limit: the first sets it, the last lifts it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._limit: Any = None

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                import scipy.linalg  # noqa: F401 - brings a BLAS of its own, to be limited too
                from threadpoolctl import threadpool_limits

                self._limit = threadpool_limits(1)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._limit.restore_original_limits()


_one_thread = _OneThread()


def _begin_anew() -> None:
    """Forget the work of the parent's other threads: none of them will leave in this process."""
    global _one_thread
    _one_thread = _OneThread()


if hasattr(os, "register_at_fork"):  # Windows does not fork.
    os.register_at_fork(after_in_child=_begin_anew)
