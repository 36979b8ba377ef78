"""Time that passes, and how much of it the compiler takes."""

import time

import jax

EVENTS = ("/jax/core/compile/jaxpr_to_mlir_module_duration", "/jax/core/compile/backend_compile_duration")


class CompileClock:
    """Seconds since it was made, and seconds spent compiling inside its `with` block."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._compiled = 0.0

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
        return {"elapsed_s": round(time.monotonic() - self._began, 2), "compile_s": round(self._compiled, 2)}

    def _listen(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        del kwargs
        if event in EVENTS:
            self._compiled += duration_secs
