"""Run folders with evaluations of known scores, made by hand."""

import json

from omegaconf import OmegaConf

BLEND = {"_target_": "diffusion_lab.diffusion.BlendSampler", "num_steps": 40}
HEUN = {"_target_": "diffusion_lab.diffusion.HeunSampler", "num_steps": 20}
CONFIG = {
    "seed": 0,
    "command": {"overrides": "${hydra:overrides.task}", "choices": "${hydra:runtime.choices}"},
    "paths": {"output_dir": "${hydra:runtime.output_dir}"},
    "model": {"_target_": "diffusion_lab.modules.DiffusionModule"},
    "data": {"name": "mnist", "data_dir": "${paths.data_dir}", "seed": "${seed}"},
    "optimizer": {"lr": 0.001, "betas": [0.9, 0.99]},
    "noise_schedule": {"beta_schedule": None},
    "logger": {"csv": {"name": "x"}},
}


def make_run(folder, fids, seed=0, config=None, choices=None, **evaluation):
    """A run folder by hand; FID of each sampling seed, and KID a thousandth of it."""
    (folder / ".hydra").mkdir(parents=True)
    saved = OmegaConf.merge(CONFIG, {"seed": seed}, config or {})
    OmegaConf.save(saved, folder / ".hydra" / "config.yaml")
    words = {
        "hydra": {"runtime": {"choices": {"model": "flow", "hydra/help": "x"} | (choices or {})}}
    }
    OmegaConf.save(OmegaConf.create(words), folder / ".hydra" / "hydra.yaml")
    record = {"status": "finished", "steps": 3, "wall_seconds": 120.0, "parameters": 1000}
    (folder / "metrics.json").write_text(json.dumps(record | {"metrics": {"val/loss": 0.25}}))
    (folder / "losses.csv").write_text("step,loss\n0,1.0\n1,0.5\n2,0.4\n")
    evaluate(folder, fids, **evaluation)
    return folder


def evaluate(folder, fids, name="2026-01-01_00-00-00_a", **changed):
    where = folder / "evaluation" / name
    where.mkdir(parents=True)
    content = {
        "run": str(folder),
        "weights": "ema",
        "sampler": BLEND,
        "num_calls": 40.0,
        "num_samples": 2000,
        "seeds": list(range(len(fids))),
        "labels": [],
        "guidance_scale": 1.0,
        "extractor": {"name": "mnist_v1", "sha256": "ab" * 32},
        "reference": {"data": "mnist", "n": 10000},
        "scores": [
            {"seed": i, "fid": fid, "kid": None if fid is None else fid / 1000}
            for i, fid in enumerate(fids)
        ],
        "floor": {"fid": {"mean": 1.5, "std": 0.1, "n": 3}, "num_samples": 2000},
    }
    (where / "evaluation.json").write_text(json.dumps(content | changed))
