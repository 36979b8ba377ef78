"""BLAS has one thread while a fit runs, and afterwards what it had before."""

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from pendel.infer.threads import one_blas_thread


def blas_threads():
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def test_blas_has_one_thread_inside_and_its_own_number_after():
    inside = []

    @one_blas_thread
    def fit(fails):
        inside.extend(blas_threads())
        if fails:
            raise ValueError("no")

    with threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        fit(False)
        with pytest.raises(ValueError, match="no"):
            fit(True)
        assert blas_threads() == before
    assert inside
    assert set(inside) == {1}
