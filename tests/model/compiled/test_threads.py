import os
import threading

import numpy as np
import pytest
import torch

from components.model.compiled.threads import arrays, in_parallel


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("jobs", [0, 1, 2, 3, 10])
def test_every_job_is_done_once_on_as_many_threads_as_torch_has(jobs: int) -> None:
    done, threads = np.zeros(jobs), set()
    together = threading.Barrier(max(1, min(jobs, 3)))

    def loop(first: int, last: int, add: int) -> None:
        together.wait(timeout=60)
        done[first:last] += add
        threads.add(threading.get_ident())

    in_parallel(loop, jobs, 2)
    assert (done == 2).all()
    assert len(threads) == max(1, min(jobs, 3))


@pytest.mark.usefixtures("three_threads")
def test_an_error_in_any_part_is_raised() -> None:
    def loop(first: int, last: int) -> None:
        if first <= 8 < last:
            raise ArithmeticError("in the last part")

    with pytest.raises(ArithmeticError, match="in the last part"):
        in_parallel(loop, 9)


@pytest.mark.usefixtures("three_threads")
def test_a_child_process_starts_threads_of_its_own() -> None:
    in_parallel(lambda first, last: None, 3)
    child = os.fork()
    if child == 0:
        done = np.zeros(3)

        def loop(first: int, last: int) -> None:
            done[first:last] = 1

        in_parallel(loop, 3)
        os._exit(int(done.sum()))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3


def test_arrays_share_memory_with_tensors_that_have_no_gaps() -> None:
    whole = torch.zeros(4, 3, requires_grad=True)
    shared, copied = arrays(whole, whole.T)
    shared[1, 2] = 7
    assert whole[1, 2] == 7
    assert copied.flags.c_contiguous
    assert not np.shares_memory(shared, copied)
