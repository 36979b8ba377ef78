"""Numbers that decide how a run spends its time. They change no result beyond what a longer run would.

They are arguments with defaults for the sake of tests and studies, not settings of a user: what a folder holds is
resumed whatever they are.
"""

import dataclasses

from pendel.infer.chains.mclmc import MclmcTuning
from pendel.infer.chains.nuts import ChainTuning
from pendel.infer.chains.smc import SmcTuning
from pendel.infer.guide.svi import SviTuning


@dataclasses.dataclass(frozen=True, kw_only=True)
class Coarsening:
    """Which problems begin with few frames and beams, and with how many.

    worth: floating point operations of one simulation from which a coarse fit pays, about a second of a fast core.
        Near this border both ways take about as long; far above it, a direct fit spends minutes on steps far from its
        maximum.
    card: as many times as much on a graphics card, which spends more on compiling a coarse problem than that saves.
    frames: of the coarse fit, at least. Twice as many cost twice as much; half as many hold half of the measurements
        that determine the structure with which all frames are scanned.
    beams: share of sg_max; the cost goes with its square. Halved, the coarse fit leaves out beams that matter and ends
        farther from the maximum; doubled, it has all beams and saves nothing.
    errors: as many times the error that beams may cost, where that decides on them; with twice as much the coarse
        structure is as wrong as with half of `beams`, with half as much the coarse fit saves less than half.
    """

    worth: float = 1e11
    card: float = 60
    frames: int = 10
    beams: float = 0.5
    errors: float = 3.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batching:
    """How SVI goes through the frames of a problem whose simulation is costly.

    batches: of frames, one a step. With twice as many a step costs half as much and its gradient has twice the
        variance; with half as many the other way round.
    steps: of a cycle, in which the rate of learning rises and falls. Halved, the guide can move half as far in a
        cycle; doubled, the last cycle, which only shows that nothing is gained, costs twice as much.
    """

    batches: int = 8
    steps: int = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuning:
    """All numbers of a run; the samplers' are named as `--infer` names them."""

    coarse: Coarsening = Coarsening()
    batching: Batching = Batching()
    svi: SviTuning = SviTuning()
    nuts: ChainTuning = ChainTuning()
    mclmc: MclmcTuning = MclmcTuning()
    smc: SmcTuning = SmcTuning()
