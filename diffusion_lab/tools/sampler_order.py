"""How fast samplers converge on a Gaussian, where the exact answer is known."""

from collections.abc import Sequence
from pathlib import Path

from diffusion_lab import figures
from diffusion_lab.config.groups import make_sampler, noise_schedules
from diffusion_lab.diffusion import NoiseSchedule, sample_steps
from diffusion_lab.diffusion.ideal_denoiser import GaussianOracle

MEAN, STD = -0.3, 0.4
STEPS = (8, 16, 32, 64, 128)
FIRST_ORDER = (
    ("blend", "blend_gaussian"),
    ("blend", "edm"),
    ("flow_euler", "blend_gaussian"),
    ("edm_euler", "edm"),
)
SECOND_ORDER = (
    ("heun", "blend_gaussian"),
    ("heun", "edm"),
    ("flow_heun", "blend_gaussian"),
    ("edm_dpm_solver", "edm"),
)


def errors(word: str, noise_schedule: NoiseSchedule, steps: Sequence[int]) -> list[float]:
    """Root mean square distance from the exact deterministic path's end, for each num_steps."""
    oracle = GaussianOracle(noise_schedule, MEAN, STD)
    found = []
    for num_steps in steps:
        walked = list(
            sample_steps(
                lambda x, t: oracle(x.double(), t.double()),
                noise_schedule,
                make_sampler(word, num_steps=num_steps),
                (1, 8, 8),
                num_images=4,
                seed=0,
            )
        )
        begin, end = walked[0], walked[-1]
        # the exact path from where this sampler began: (x - mean) keeps its share of the std
        t = begin.t.double()[None]
        alpha, sigma = noise_schedule.alpha(t), noise_schedule.sigma(t)
        spread = ((alpha * STD) ** 2 + sigma**2) ** 0.5
        exact = MEAN + STD / spread * (begin.x_t - alpha * MEAN)
        found.append((end.x_next - exact).square().mean().sqrt().item())
    return found


def plot_order(out: Path) -> Path:
    """Write the errors of the samplers over the number of steps, first order and second order."""
    curves = {
        f"{word} on {path}": (STEPS, errors(word, noise_schedules()[path], STEPS))
        for word, path in (*FIRST_ORDER, *SECOND_ORDER)
    }
    curves["1 / steps"] = (STEPS, [0.5 / n for n in STEPS])
    curves["1 / steps^2"] = (STEPS, [0.5 / n**2 for n in STEPS])
    figure = figures.line_plot(curves, "num_steps", "error of the end point", log=True)
    return figures.save_figure(figure, out)


if __name__ == "__main__":
    print(plot_order(Path("docs/sampler_order.png")))
