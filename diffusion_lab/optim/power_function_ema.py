"""Power-function EMA and post-hoc EMA reconstruction.

Karras et al. 2024 (arXiv 2312.02696), section 3 and appendix C. After step t, the average of width
sigma_rel contains the network's weights of time tau in proportion to the profile

    p(tau) = (gamma + 1) tau^gamma / t^(gamma + 1),   0 <= tau <= t,

whose standard deviation is sigma_rel t. The weights are constant during a step, so all formulas
here are exact: the integral of p over step k is (k^(gamma+1) - (k-1)^(gamma+1)) / t^(gamma+1).
"""

from collections.abc import Sequence

import numpy as np

from diffusion_lab.errors import UserError

SNAPSHOTS = "checkpoints/posthoc"
"""Subfolder of a run folder with the stored averages, step_<number>.pt."""
MAX_WIDTH = 12**-0.5
"""Largest width, the plain mean of all weights (gamma = 0); wider profiles favour old weights."""

Profile = tuple[float, float]
"""(step t at which the average was taken, its width sigma_rel)."""


def check_width(sigma_rel: float, setting: str) -> None:
    """Raise UserError, which names `setting`, unless the width is from 0.001 to MAX_WIDTH."""
    if not 0.001 <= sigma_rel <= MAX_WIDTH:
        raise UserError(
            f"{setting}: {sigma_rel:g} is not a valid width of an average: expected a fraction of "
            f"the training from 0.001 to {MAX_WIDTH:.4f}, for example 0.1"
        )


def width_of(gamma: float) -> float:
    """Return the width sigma_rel (standard deviation / t) of the profile with exponent gamma."""
    return float(np.sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2))


def gamma_of(sigma_rel: float) -> float:
    """Return the exponent gamma of the average with width sigma_rel: the inverse of `width_of`.

    Gamma is the largest root of (gamma + 2)^2 (gamma + 3) = (gamma + 1) / sigma_rel^2, found from
    the coefficients of the expanded polynomial.
    """
    inverse = sigma_rel**-2
    return max(float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max()), 0.0)


def decay_of(gamma: float, step: int) -> float:
    """Return the decay d = (1 - 1/t)^(gamma + 1) of the average at step t = 1, 2, ...

    The update is average = d average + (1 - d) weights. At the first step d is 0 and the average
    becomes the weights, so the average needs no initial value and no warm-up.
    """
    return float((1 - 1 / step) ** (gamma + 1))


def overlaps(a: Sequence[Profile], b: Sequence[Profile]) -> np.ndarray:
    """Return the integral of p q for every profile p of `a` and q of `b`, (len(a), len(b)).

    With exponents g and h, steps t and s, and the earlier step m, the integral is
    (g+1)(h+1) / (g+h+1) m^(g+h+1) / (t^(g+1) s^(h+1)). The code takes powers of ratios of steps
    only, because powers of large steps overflow.
    """
    t, s = (np.array([step for step, _ in profiles], float) for profiles in (a, b))
    g, h = (np.array([gamma_of(width) for _, width in profiles]) for profiles in (a, b))
    t, g = t[:, None], g[:, None]
    earlier = np.minimum(t, s)
    shares = (earlier / t) ** g * (earlier / s) ** h / np.maximum(t, s)
    return np.asarray((g + 1) * (h + 1) / (g + h + 1) * shares)


def blend_weights(stored: Sequence[Profile], wanted: Profile) -> tuple[np.ndarray, float]:
    """Fit coefficients x (N,) of sum 1 that combine N stored averages into the wanted average.

    This is the least-squares fit of the profiles in algorithm 3 of the paper, min |sum_i x_i p_i -
    p|^2, with the condition sum_i x_i = 1 added by a Lagrange multiplier m: A x + m = b, where A
    and b are the `overlaps` of the stored profiles with one another and with the wanted one. The
    condition keeps parameters that never changed exact, even if the fit is poor. The solution of
    least norm is used, because neighbouring profiles are very similar, and large coefficients of
    both signs would amplify the rounding errors of the stored averages. Returns x and the relative
    error of the fit, |sum_i x_i p_i - p| / |p|.
    """
    # in units of the wanted profile, so that the condition and the fit have the same scale
    own = overlaps([wanted], [wanted]).item()
    fit, right = overlaps(stored, stored) / own, overlaps(stored, [wanted])[:, 0] / own
    count = len(stored)
    system = np.ones((count + 1, count + 1))
    system[:count, :count] = fit
    system[count, count] = 0
    solution = np.linalg.lstsq(system, np.append(right, 1), rcond=1e-10)[0]
    x = solution[:count] / solution[:count].sum()
    return x, float(np.sqrt(max(x @ fit @ x - 2 * x @ right + 1, 0)))
