"""Order, bounds and failures of the runner; what runs at once is measured with events, never by waiting."""

import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl.execute import in_threads
from etl.model import Job, Receipt, Series, Window
from etl.ranges import TimeRange


def job(number: int, rows: int = 1) -> Job:
    window = Window(TimeRange(number, number + 1), 1, 1, 1, rows)
    return Job((Series("um", "klines", f"S{number}", "1m"),), (), ("rest",), (window,))


class Work:
    """Work whose every job stays until the test lets it go, and which knows what is under way."""

    def __init__(self) -> None:
        self.started: list[Job] = []
        self.now: set[Job] = set()
        self.most_at_once = self.most_rows = 0
        self._may_end: dict[Job, threading.Event] = {}
        self._changed = threading.Condition()

    def __call__(self, job: Job) -> Receipt:
        with self._changed:
            self.started.append(job)
            self.now.add(job)
            self.most_at_once = max(self.most_at_once, len(self.now))
            self.most_rows = max(self.most_rows, sum(one.rows for one in self.now) if len(self.now) > 1 else 0)
            gate = self._may_end.setdefault(job, threading.Event())
            self._changed.notify_all()
        assert gate.wait(30)
        with self._changed:
            self.now.discard(job)
        return Receipt(job, rows_written=job.rows)

    def let_go(self, job: Job) -> None:
        with self._changed:
            self._may_end.setdefault(job, threading.Event()).set()

    def wait_until_started(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.started) >= count, 30)


class Run:
    """A run in a thread of its own; its receipts in the order in which they came."""

    def __init__(self, work, jobs, **options) -> None:
        self._receipts: list[Receipt] = []
        self._changed = threading.Condition()
        self._thread = ThreadPoolExecutor(1)
        self._end = self._thread.submit(self._collect, in_threads(work, jobs, **options))

    def _collect(self, receipts) -> None:
        for receipt in receipts:
            with self._changed:
                self._receipts.append(receipt)
                self._changed.notify_all()

    def wait_for_receipts(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self._receipts) >= count, 30)

    def finish(self) -> list[Receipt]:
        self._end.result(30)
        self._thread.shutdown()
        return self._receipts


@given(st.lists(st.integers(0, 12), max_size=12), st.integers(1, 4), st.integers(1, 20))
@settings(max_examples=40)
def test_as_much_runs_at_once_as_the_bounds_allow_and_no_more(rows, workers, most):
    """The oldest job ends whenever the bounds forbid the next one by this model; were they tighter, that would not start."""
    jobs = [job(number, count) for number, count in enumerate(rows)]
    work = Work()
    run = Run(work, jobs, workers=workers, rows_in_flight=most)
    under_way: deque[int] = deque()
    for number, count in enumerate(rows):
        while under_way and (len(under_way) == workers or sum(rows[n] for n in under_way) + count > most):
            work.let_go(jobs[under_way.popleft()])
        under_way.append(number)
        work.wait_until_started(number + 1)
    for number in under_way:
        work.let_go(jobs[number])
    receipts = run.finish()
    assert work.most_at_once <= workers
    assert work.most_rows <= most
    assert sorted(receipt.job.series[0] for receipt in receipts) == sorted(one.series[0] for one in jobs)


def test_a_job_that_is_larger_than_the_bound_runs_alone():
    jobs = [job(0, 5), job(1, 1000), job(2, 5)]
    work = Work()
    run = Run(work, jobs, workers=4, rows_in_flight=10)
    for number, one in enumerate(jobs):
        work.wait_until_started(number + 1)
        assert work.now == {one}
        work.let_go(one)
        run.wait_for_receipts(number + 1)
    assert [receipt.rows_written for receipt in run.finish()] == [5, 1000, 5]


def test_jobs_start_in_order():
    started: list[Job] = []
    jobs = [job(number) for number in range(20)]

    def work(job: Job) -> Receipt:
        started.append(job)
        return Receipt(job)

    assert [receipt.job for receipt in in_threads(work, jobs, workers=1)] == jobs
    assert started == jobs


def test_receipts_come_as_jobs_are_done():
    jobs = [job(number) for number in range(3)]
    work = Work()
    run = Run(work, jobs, workers=3)
    work.wait_until_started(3)
    for count, number in enumerate((2, 0, 1), 1):
        work.let_go(jobs[number])
        run.wait_for_receipts(count)
    assert [receipt.job for receipt in run.finish()] == [jobs[2], jobs[0], jobs[1]]


def test_nothing_to_do():
    assert list(in_threads(Receipt, [], workers=2)) == []


def test_an_exception_in_the_work_comes_out_and_nothing_more_is_started():
    started: list[Job] = []

    def work(job: Job) -> Receipt:
        started.append(job)
        raise RuntimeError(f"no way to do {job.series[0]}")

    with pytest.raises(RuntimeError, match="no way to do um klines S0 1m"):
        list(in_threads(work, [job(number) for number in range(5)], workers=1))
    assert started == [job(0)]


def test_jobs_are_taken_from_their_source_only_when_they_may_start():
    taken: list[int] = []

    def source():
        for number in range(3):
            taken.append(number)
            yield job(number)

    work = Work()
    run = Run(work, source(), workers=1)
    work.wait_until_started(1)
    assert taken in ([0], [0, 1])  # one more may be at hand already
    for number in range(3):
        work.let_go(job(number))
    assert len(run.finish()) == 3
