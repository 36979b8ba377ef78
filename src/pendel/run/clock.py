"""Time that passes, and how much of it the compiler takes for how many programs."""

import time

import jax

LOWERING = "/jax/core/compile/jaxpr_to_mlir_module_duration"
COMPILING = "/jax/core/compile/backend_compile_duration"  # or reading from the cache of compiled programs
READING = "/jax/compilation_cache/cache_retrieval_time_sec"


class CompileClock:
    """Seconds since it was made, and what was compiled inside its `with` block."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._seconds = {LOWERING: 0.0, COMPILING: 0.0, READING: 0.0}
        self._programs = dict.fromkeys(self._seconds, 0)

    def __enter__(self) -> "CompileClock":
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def __exit__(self, *exception: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._listen)

    def add_elapsed(self, seconds: float) -> None:
        """Count time of an earlier session."""
        self._began -= seconds

    def read(self) -> dict[str, float]:
        """elapsed_s and compile_s."""
        compiled = self._seconds[LOWERING] + self._seconds[COMPILING]
        return {"elapsed_s": round(time.monotonic() - self._began, 2), "compile_s": round(compiled, 2)}

    def compilation(self) -> dict[str, float | int]:
        """`programs`, those of them that came `from_cache`, seconds of lowering, compiling, reading the cache."""
        return {
            "programs": self._programs[COMPILING],
            "from_cache": self._programs[READING],
            "lowering_s": round(self._seconds[LOWERING], 2),
            "compiling_s": round(self._seconds[COMPILING] - self._seconds[READING], 2),
            "reading_s": round(self._seconds[READING], 2),
        }

    def _listen(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        del kwargs
        if event in self._seconds:
            self._seconds[event] += duration_secs
            self._programs[event] += 1
