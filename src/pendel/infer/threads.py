"""BLAS on one thread while JAX works.

OpenBLAS lets its threads spin for a while after every call. A Cholesky factor of 85 by 85 numbers in a log density
took a third of both cores from the simulation beside it (quartz, 17 frames: gradient 0.16 s, with one thread 0.12 s).
"""

from collections.abc import Callable
from functools import wraps

from threadpoolctl import threadpool_limits


def one_blas_thread[**P, R](function: Callable[P, R]) -> Callable[P, R]:
    """The same function, during which NumPy, SciPy and JAX's linear algebra use one thread; the simulator uses all."""

    @wraps(function)
    def limited(*args: P.args, **kwargs: P.kwargs) -> R:
        with threadpool_limits(1, user_api="blas"):
            return function(*args, **kwargs)

    return limited
